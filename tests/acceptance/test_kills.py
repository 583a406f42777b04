"""kill -9: whatever role dies at whatever moment, an acknowledged film is reported once and nothing is lost."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa

from cxrnode.store.schema import event, identity, instance
from tests.acceptance.conftest import MakeSite
from tests.acceptance.site import Site
from tests.peers import RecordingScp

ROLES = ("receive", "infer", "send", "tend")
FILMS = 50


@dataclasses.dataclass(slots=True)
class Gate:
    """How many films each modality may have sent by now: so that some are left when the last kill falls."""

    films: int


class Modality(threading.Thread):
    """Sends films one after the other; one that gets no Success is sent again, as a modality's queue does."""

    def __init__(self, site: Site, films: tuple[Path, ...], pause: float, gate: Gate) -> None:
        super().__init__(daemon=True)
        self.site = site
        self.films = films
        self.pause = pause
        self.gate = gate
        self.acknowledged: set[Path] = set()
        self.tries = 0

    def run(self) -> None:
        for number, film in enumerate(self.films):
            until = time.monotonic() + 300
            while number >= self.gate.films and time.monotonic() < until:
                time.sleep(0.05)
            until = time.monotonic() + 120
            while film not in self.acknowledged and time.monotonic() < until:
                self.tries += 1
                if self.site.storescu(film):
                    self.acknowledged.add(film)
                else:
                    time.sleep(0.1)
            time.sleep(self.pause)


def moment_of(site: Site, role: str) -> list[str]:
    """The states that are under way for this role right now: what a kill at this moment interrupts."""
    if role == "receive":
        return ["receiving"] if any((site.data_dir / "spool" / "incoming").iterdir()) else []
    wanted = {"infer": ("job reading",), "send": ("delivery sending",)}.get(role, ())
    return [state for state in wanted if site.states()[state]]


def kill_when_busy(site: Site, role: str, seconds: float, gate: Gate) -> list[str]:
    """SIGKILL the role at a moment when it has something in its hands, or after `seconds` whatever it does.

    Where nothing is left to strike another film may come, once a second.
    """
    until, more = time.monotonic() + seconds, time.monotonic() + 1.0
    hit: list[str] = []
    while time.monotonic() < until and not hit:
        hit = moment_of(site, role)
        if time.monotonic() > more and (role == "receive" or site.at_rest()):
            gate.films += 1
            more += 1.0
    pid = site.pid(role)
    if pid is None:
        return []
    os.kill(pid, signal.SIGKILL)
    return [*hit, *(state for state, count in site.states().items() if count)]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
def test_kills_lose_nothing_and_report_nothing_twice(
    make_site: MakeSite, recording_scp: RecordingScp, phantoms: tuple[Path, ...], seed: int
) -> None:
    chance = random.Random(seed)
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    site.start(wait_for="infer")
    gate = Gate(4)
    modalities = [Modality(site, phantoms[:25], 0.8, gate), Modality(site, phantoms[25:FILMS], 0.9, gate)]
    for one in modalities:
        one.start()
    hits: Counter[str] = Counter()
    kills: Counter[str] = Counter()
    # Every role at least once, in an order of its own, then whatever the seed says while films are under way.
    for role in (*chance.sample(ROLES, len(ROLES)), *(chance.choice(ROLES) for _ in range(4))):
        time.sleep(chance.uniform(0.2, 1.5))
        # `tend` has no moment of its own; the others soon have something in hand, but on a loaded machine not at once.
        hits.update(kill_when_busy(site, role, 4.0 if role == "tend" else 20.0, gate))
        kills[role] += 1
        gate.films += 2
    gate.films = FILMS
    for one in modalities:
        one.join(300)
    acknowledged = modalities[0].acknowledged | modalities[1].acknowledged
    site.wait_at_rest(300)
    print(f"seed {seed}: kills {dict(kills)}, states hit {dict(hits)}, tries {sum(m.tries for m in modalities)}")

    assert acknowledged == set(phantoms[:FILMS])
    check_accounting(site, recording_scp, phantoms[:FILMS])
    for state in ("receiving", "job reading", "delivery sending"):
        assert hits[state] >= 1, f"no kill hit {state}"
    assert {s for s in hits if s.startswith("job ")} >= {"job queued", "job reading", "job reported", "job delivered"}
    assert site.stop() == 0


def check_accounting(site: Site, archive: RecordingScp, films: tuple[Path, ...]) -> None:
    """One set of UIDs a film, repeats identical to the byte, one `reported` event, the source's patient and study."""
    sources = {str(d.SOPInstanceUID): d for d in (pydicom.dcmread(f, stop_before_pixels=True) for f in films)}
    jobs = site.jobs()
    assert Counter(row.sop_instance_uid for row in jobs) == Counter(sources.keys())
    assert {row.state for row in jobs} == {"delivered"}
    reported = site.rows(
        sa.select(event.c.job_id, sa.func.count()).where(event.c.name == "reported").group_by(event.c.job_id)
    )
    assert {row[0]: row[1] for row in reported} == {row.id: 1 for row in jobs}
    expected: dict[str, str] = {}
    for row in jobs:
        expected |= {one.sop_instance_uid: row.sop_instance_uid for one in site.outputs(row.id)}
    kept = archive.by_uid()
    assert set(kept) == set(expected)
    repeats = 0
    for uid, copies in kept.items():
        assert len({one.sha256 for one in copies}) == 1
        repeats += len(copies) - 1
        ours, source = copies[0].dataset(), sources[expected[uid]]
        assert (ours.PatientID, ours.PatientName, ours.StudyInstanceUID) == (
            source.PatientID,
            source.PatientName,
            source.StudyInstanceUID,
        )
    assert {one.sop_instance_uid for one in archive.stored} == set(expected)
    assert len(site.rows(sa.select(identity.c.instance_id))) == len(site.rows(sa.select(instance.c.id))) == len(films)
    site.check_audit()
    print(f"{len(jobs)} jobs, {len(kept)} objects, {repeats} sent again with the same bytes")
