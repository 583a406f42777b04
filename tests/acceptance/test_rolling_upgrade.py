"""Two machines go from the version before the last migration to this one, one after the other, while films come in.

Whole daemons of both versions (receive, infer, send, tend, web) work on one PostgreSQL and one shared folder.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from cxrnode.phantom.dicom import write_phantoms
from cxrnode.store import fleet, upgrade
from cxrnode.store.database import Database
from cxrnode.store.schema import event, instance, output
from tests.acceptance.site import Site
from tests.earlier import earlier_tree, schema_of
from tests.peers import REPOSITORY, Orthanc, Postgres

pytestmark = pytest.mark.peers

#: Films that come in at a time.
_EACH = 6


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return earlier_tree(tmp_path_factory.mktemp("before"))


@pytest.fixture
def machines(tmp_path: Path, before: Path, postgres: Postgres, orthanc: Orthanc) -> Iterator[tuple[Site, Site]]:
    """Machines `a` and `b` with the version before, not yet started."""
    url = postgres.new_database()
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made.append(
            Site(
                tmp_path / name,
                pacs=(orthanc.aet, orthanc.dicom_port),
                url=url,
                phantoms=True,
                web=True,
                lease="30s",
                settings={
                    "node": {"name": name},
                    "spool": {"url": str(tmp_path / "shared")},
                    "reading": {"batch": 1},  # so that both have a share of a few films
                },
                tree=before,
            )
        )
        made[-1].environment = {"OMP_NUM_THREADS": "1"}
    yield made[0], made[1]
    for one in made:
        if one._process is not None:
            one.stop()
        one.database.close()


@contextlib.contextmanager
def coming_in(films: Sequence[Path], machines: Sequence[Site]) -> Iterator[None]:
    """Send films to both machines in turn, each to the other where the first does not take it, until all are taken."""
    failed: list[Path] = []

    def send() -> None:
        for number, film in enumerate(films):
            until, turn = time.monotonic() + 300, number
            while not machines[turn % 2].storescu(film, "-to", "3", "-ta", "20", "-td", "30"):
                turn += 1
                time.sleep(0.2)
                if time.monotonic() > until:
                    failed.append(film)
                    break

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    yield
    thread.join(400)
    assert not thread.is_alive() and failed == []


def claims(database: Database, machine: Site, *, since: int = 0) -> int:
    """How many jobs a machine claimed, past this event."""
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(event.c.detail).where(event.c.name == "claimed", event.c.id > since).order_by(event.c.id)
        )
    return sum(f'"owner":"{machine.folder.name}/' in row.detail for row in rows)


def schemas(database: Database) -> dict[str, set[str]]:
    """For which schema the code of each machine's processes was written, as they say it."""
    return {one.node: set(one.revisions) for one in fleet.members(database)}


def last_event(database: Database) -> int:
    with database.read() as transaction:
        return int(transaction.scalar(sa.select(sa.func.max(event.c.id))) or 0)


def console_answers(machine: Site) -> bool:
    with urllib.request.urlopen(f"http://127.0.0.1:{machine.web}/healthz", timeout=20) as answer:
        return bool(answer.status == 200)


def with_version(machine: Site, tree: Path) -> None:
    """Drain a machine and start it with another version, or with the same one anew."""
    assert machine.stop() == 0
    machine.tree = tree
    machine.start(wait_for="infer")


@pytest.mark.timeout(900)
def test_two_machines_are_upgraded_one_after_the_other_and_nothing_is_lost(
    machines: tuple[Site, Site], before: Path, orthanc: Orthanc, tmp_path: Path
) -> None:
    a, b = machines
    films = write_phantoms(tmp_path / "films", range(9 * _EACH), rows=640, cols=530)
    rest = iter(films)
    sent: list[Path] = []

    def some() -> list[Path]:
        taken = list(itertools.islice(rest, _EACH))
        sent.extend(taken)
        return taken

    old, database = schema_of(before), a.database
    assert upgrade.OLDEST <= old < upgrade.HEAD
    a.start(wait_for="infer")
    b.start(wait_for="infer")

    with coming_in(some(), machines):
        pass
    assert upgrade.current(database) == old

    with coming_in(some(), machines):
        with_version(a, REPOSITORY)
    assert upgrade.current(database) == upgrade.HEAD
    assert schemas(database) == {"a": {upgrade.HEAD}, "b": {old}}

    # Beside the new one, on its schema, the version before goes on, and starts again.
    with coming_in(some(), machines):
        with_version(b, before)
    since = last_event(database)
    while claims(database, b, since=since) == 0:  # films go to whoever is quicker
        assert len(sent) < len(films) - _EACH, "the version before claims nothing on the new schema"
        with coming_in(some(), machines):
            pass
        a.wait_at_rest(120)
    assert all(console_answers(one) for one in machines)

    with coming_in(some(), machines):
        with_version(b, REPOSITORY)
    a.wait_at_rest(300)
    assert schemas(database) == {name: {upgrade.HEAD} for name in "ab"}

    jobs = a.jobs()
    assert Counter(row.state for row in jobs) == {"delivered": len(sent)}
    uids = a.rows(sa.select(instance.c.sop_instance_uid))
    assert len(uids) == len({row[0] for row in uids}) == len(sent)
    reported = Counter(row[0] for row in a.rows(sa.select(event.c.job_id).where(event.c.name == "reported")))
    assert reported == {row.id: 1 for row in jobs}
    made = Counter(row[0] for row in a.rows(sa.select(output.c.sop_instance_uid)))
    stored = [str(one["MainDicomTags"]["SOPInstanceUID"]) for one in orthanc.json("/instances?expand")]
    assert Counter(stored) == made and len(made) >= 2 * len(sent)
    for one in machines:
        one.check_audit()
        assert [one.logged(name) for name in ("bug", "receive_failed", "sender_failed")] == [[], [], []]
    counts = {one.folder.name: claims(database, one) for one in machines}
    assert min(counts.values()) > 0
    print(f"schema {old} to {upgrade.HEAD}: {len(sent)} films, {len(made)} objects, each once; claims {counts}")


@pytest.mark.timeout(600)
def test_a_version_that_cannot_work_beside_the_one_before_says_so_and_touches_nothing(
    machines: tuple[Site, Site], before: Path, tmp_path: Path
) -> None:
    a, b = machines
    breaking = tmp_path / "breaking"
    for name in ("cxrnode", "config"):
        shutil.copytree(REPOSITORY / name, breaking / name, ignore=shutil.ignore_patterns("__pycache__"))
    module = breaking / "cxrnode" / "store" / "upgrade.py"
    text = module.read_text()
    module.write_text(re.sub(r'^OLDEST = "\d+"$', f'OLDEST = "{upgrade.HEAD}"', text, flags=re.MULTILINE))
    b.start(wait_for="infer")

    a.tree = breaking
    a.start(wait_for="")
    a.gone(120)
    said = a.log.read_text()
    assert "the nodes b, which still run an older version: stop cxrnode there first" in said
    assert upgrade.current(b.database) == schema_of(before)

    assert b.stop() == 0
    a.start(wait_for="infer")
    b.start(wait_for="")
    b.gone(120)
    assert f"has schema {upgrade.HEAD}, newer than this version's {schema_of(before)}" in b.log.read_text()
