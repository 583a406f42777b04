"""Poison (design, rule 7): a film that takes its process down, a model without numbers, a device without memory."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import structlog.testing
import torch

from cxrnode.dicom.pixels import decode_film
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.reading.engine import NotFinite, Reading
from cxrnode.roles import infer
from cxrnode.roles.infer import FilmReader
from cxrnode.roles.models import Loaded
from cxrnode.store import jobs
from cxrnode.store.schema import event, job
from tests.integration.test_faults import MakeSite, Site, make_site, reading
from tests.torture.node import make_bundle

__all__ = ["make_site"]  # the fixture

Film = np.ndarray[Any, Any]


class WorkerKilled(BaseException):
    """The end of the process: nothing of the role's own runs after it, and nothing is settled."""


@dataclasses.dataclass(slots=True)
class Fake:
    """An engine that does what a test wants of it, and else what the real one does."""

    inner: Any
    before: Callable[[Sequence[Film]], None]
    sizes: list[int] = dataclasses.field(default_factory=list)
    name: str = "fake"

    def read(self, films: Sequence[Film]) -> list[Reading]:
        self.sizes.append(len(films))
        self.before(films)
        found: list[Reading] = self.inner.read(films)
        return found


def put(reader: FilmReader, before: Callable[[Sequence[Film]], None]) -> Fake:
    whole = reader._models["chest"]
    fake = Fake(whole.engine, before)
    reader._models["chest"] = Loaded(bundle=whole.bundle, engine=fake)
    return fake


def due_now(site: Site) -> None:
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(job).values(not_before=0.0))


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("eight")
    return list(write_phantoms(folder, range(8), rows=560, cols=512))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of two layers: what is tested here is not what it says."""
    return str(make_bundle(tmp_path_factory.mktemp("bundle") / "small"))


def names_of(site: Site, job_id: int) -> list[str]:
    return [row[0] for row in site.all(sa.select(event.c.name).where(event.c.job_id == job_id).order_by(event.c.id))]


def test_a_film_that_kills_its_worker_is_isolated_and_parked_and_no_innocent_one_is(
    make_site: MakeSite, eight: list[Path], small: str
) -> None:
    site = make_site(bundle=small)
    for film in eight[:5]:
        site.receive(film)

    poison = decode_film(eight[2]).display

    def killed_by_the_third(films: Sequence[Film]) -> None:
        if any(np.array_equal(film, poison) for film in films):
            raise WorkerKilled

    deaths = 0
    with reading(site) as (reader, keeper):
        put(reader, killed_by_the_third)
        for _ in range(30):
            try:
                reader.turn(keeper)
            except WorkerKilled:
                deaths += 1
                jobs.release_owner(site.database, "test")  # as the supervisor does for its dead children
            due_now(site)
            if not {"queued", "reading"} & set(site.states()):
                break
    assert site.states() == ["reported", "reported", "failed", "reported", "reported"]
    assert deaths == 6
    rows = site.all(sa.select(job.c.losses, job.c.attempts, job.c.reason).order_by(job.c.id))
    # Who was under way with it at the first death lost one worker; from then on the poison was alone with its own.
    assert rows[2].losses == 6
    assert all(row.losses <= 1 for row in rows if row is not rows[2])
    assert {row.attempts for row in rows} == {0}
    assert "6 workers were lost while they read this film" in rows[2].reason
    for innocent in (1, 2, 4, 5):
        assert "parked" not in names_of(site, innocent)
        assert names_of(site, innocent).count("lease_expired") <= 1


def test_a_model_that_gives_no_number_parks_the_film_and_says_so(
    make_site: MakeSite, eight: list[Path], small: str
) -> None:
    site = make_site(bundle=small)
    for film in eight[:3]:
        site.receive(film)
    poison: list[Film] = []

    def no_number_for_the_first(films: Sequence[Film]) -> None:
        if not poison:
            poison.append(films[0])
        if any(film is poison[0] for film in films):
            raise NotFinite

    with reading(site) as (reader, keeper), structlog.testing.capture_logs() as said:
        put(reader, no_number_for_the_first)
        reader.turn(keeper)
    assert site.states() == ["failed", "reported", "reported"]
    alerts = [line for line in said if line["event"] == "model_fault"]
    assert [(line["log_level"], line["job"]) for line in alerts] == [("error", 1)]
    assert "finite" in alerts[0]["reason"]
    assert names_of(site, 1)[-1] == "parked"
    assert "finite" in site.one(sa.select(job.c.reason).where(job.c.id == 1))[0]


def test_weights_that_overflow_give_no_finding(make_site: MakeSite, eight: list[Path], small: str) -> None:
    """The real engine, whose network gives NaN for one film."""
    site = make_site(bundle=small)
    for film in eight[:2]:
        site.receive(film)
    with reading(site) as (reader, keeper):
        engine: Any = reader._models["chest"].engine
        run = engine._network.run
        spoilt: list[float] = []

        def spoils_the_first(inputs: torch.Tensor) -> Any:
            done = run(inputs)
            sums = [float(one.sum()) for one in inputs]
            spoilt.append(sums[0]) if not spoilt else None
            for number, total in enumerate(sums):
                if abs(total - spoilt[0]) < 1e-3:
                    done.logits[number, 0] = float("nan")
            return done

        engine._network.run = spoils_the_first
        with torch.inference_mode():
            reader.turn(keeper)
    assert site.states() == ["failed", "reported"]


def test_few_films_are_taken_at_first_and_more_while_some_are_under_way(
    make_site: MakeSite, eight: list[Path], small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the first is drawn and sent while the next are decoded."""
    site = make_site(bundle=small)
    for film in eight:
        site.receive(film)
    monkeypatch.setattr(infer, "_FIRST", 1)
    with reading(site) as (reader, _):
        assert [len(reader._claim(held)) for held in (0, 8)] == [
            1,
            3,
        ]  # the second is a third of the seven that are left


def test_a_device_without_memory_reads_half_as_many_films_at_a_time_and_goes_on(
    make_site: MakeSite, eight: list[Path], small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(infer, "_FIRST", 8)
    site = make_site(bundle=small)
    for film in eight:
        site.receive(film)

    def room_for_one(films: Sequence[Film]) -> None:
        if len(films) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with reading(site) as (reader, keeper), structlog.testing.capture_logs() as said:
        fake = put(reader, room_for_one)
        reader.turn(keeper)
        assert site.states() == ["reported"] * 8
        assert reader._most == 1  # it does not run into the wall again
    split = [(line["films"], line["into"]) for line in said if line["event"] == "batch_split"]
    assert split[:2] == [(3, 2), (2, 1)]
    assert fake.sizes[:4] == [3, 2, 1, 1]
    assert all(into == (films + 1) // 2 for films, into in split)
    assert {row[0] for row in site.all(sa.select(job.c.attempts))} == {0}


def test_a_single_film_for_which_the_device_has_no_memory_waits_and_is_not_parked(
    make_site: MakeSite, eight: list[Path], small: str
) -> None:
    site = make_site(bundle=small)
    site.receive(eight[0])
    crowded = True

    def no_room_at_first(films: Sequence[Film]) -> None:
        nonlocal crowded
        if crowded:
            crowded = False
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with reading(site) as (reader, keeper):
        put(reader, no_room_at_first)
        with contextlib.suppress(Exception):
            reader.turn(keeper)
        assert site.states() == ["queued"]
        due_now(site)
        reader.turn(keeper)
    assert site.states() == ["reported"]
    assert site.one(sa.select(job.c.attempts))[0] == 0
