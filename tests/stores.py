"""What the tests of the store share: films to receive, reports to settle, and a database clock that a test turns."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.core.findings import Decision, Finding, Outcome, Reader, Report, Thresholds
from cxrnode.core.kept import Kept
from cxrnode.core.lifecycle import job_after
from cxrnode.store import audit, deliveries, guards, jobs, receipt, rejections, reports, settlements
from cxrnode.store.audit import EventFilter
from cxrnode.store.database import Database
from cxrnode.store.deliveries import DeliveryClaim
from cxrnode.store.disputes import Policy, known_film
from cxrnode.store.jobs import Claim, Limits
from cxrnode.store.receipt import Arrival, Order, Receipt
from cxrnode.store.reports import StoredOutput
from cxrnode.store.schema import event, job, metadata
from cxrnode.store.settlements import Answer
from cxrnode.store.together import Finished
from cxrnode.store.upgrade import upgrade
from tests.peers import Postgres

LIMITS = Limits(attempts=3, losses=4)
MODELS = {"chest": "b" * 64}
LEASE = 60.0
#: When the turned clock starts: seconds since 1970.
START = 1_800_000_000.0

#: What must never stand in an event, a log line or an exception's text.
IDENTITY = {
    "patient_id": "PID-4711-SECRET",
    "issuer": "ISSUER-SECRET",
    "patient_name": "Mustermann^Erika",
    "birth_date": "19610812",
    "sex": "F",
    "accession": "ACC-0815-SECRET",
    "study_instance_uid": "1.2.826.0.1.3680043.10.1.7777",
    "series_instance_uid": "1.2.826.0.1.3680043.10.1.8888",
}


class Clock:
    """Takes the place of the database's clock for one `Database`; `now` is in seconds since 1970."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.now = START
        self.turn(0.0)

    def turn(self, seconds: float) -> None:
        """Move the time; backwards too, as a corrected clock does."""
        self.now += seconds
        self._database._clock = sa.text(f"SELECT CAST({self.now!r} AS DOUBLE PRECISION)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded, empty SQLite file to copy."""
    path = tmp_path_factory.mktemp("template") / "cxrnode.sqlite"
    open_store(f"sqlite+pysqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgres_store(postgres: Postgres) -> str:
    """The URL of an upgraded PostgreSQL database that the tests of one process use one after the other."""
    url = postgres.new_database()
    open_store(url).close()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an upgraded, empty store, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        copy = tmp_path / "cxrnode.sqlite"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), copy)
        return f"sqlite+pysqlite:///{copy}"
    url = str(request.getfixturevalue("postgres_store"))
    opened = Database(url)
    empty(opened)
    opened.close()
    return url


@pytest.fixture
def database(store_url: str) -> Iterator[Database]:
    """An empty store, once on SQLite and once on PostgreSQL."""
    opened = open_store(store_url)
    yield opened
    opened.close()


def empty(database: Database) -> None:
    """Remove every row, and count ids from 1 again."""
    with database.write() as transaction:
        guards.remove(transaction.connection)
        if database.is_sqlite:
            for table in reversed(metadata.sorted_tables):
                transaction.connection.execute(sa.delete(table))
        else:
            names = ", ".join(table.name for table in metadata.sorted_tables)
            transaction.connection.execute(sa.text(f"TRUNCATE {names} RESTART IDENTITY CASCADE"))
        guards.install(transaction.connection)


@pytest.fixture
def clock(database: Database) -> Clock:
    return Clock(database)


def open_store(url: str) -> Database:
    """An upgraded store. SQLite does not wait for the disk here: the tests kill processes, never the machine."""
    opened = Database(url)
    if opened.is_sqlite:
        sa.event.listen(opened.engine, "connect", _hurry)
    upgrade(opened)
    return opened


def _hurry(dbapi: sqlite3.Connection, _record: object) -> None:
    dbapi.execute("PRAGMA synchronous=OFF")


def digest(text: object) -> str:
    """The SHA-256 of any value's text."""
    return hashlib.sha256(str(text).encode()).hexdigest()


def new_key() -> str:
    """A spool key that nothing else has."""
    return os.urandom(16).hex()


def arrival(number: object = 1, *, accepted: bool = True) -> Arrival:
    """The film of this number, as it is received."""
    return Arrival(
        sop_instance_uid=f"1.2.3.{number}",
        dataset_digest=digest(number),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_aet="MODALITY",
        called_aet="CXRNODE",
        accepted=accepted,
        reason="a frontal chest film" if accepted else "no rule wants it",
        rule="frontal chest films" if accepted else "",
        header={"Modality": "DX"},
        identity=IDENTITY,
        spool_key=new_key(),
        size=1000,
    )


def receive(
    database: Database,
    number: object = 1,
    *,
    send_to: Sequence[str] = ("PACS",),
    mode: str = "active",
    priority: int = 0,
    ageing: float = 60.0,
    models: Sequence[str] = ("chest",),
) -> Receipt:
    """Receive an accepted film, with one job for each model."""
    orders = [Order(model=m, mode=mode, outputs=("sr",), send_to=send_to, priority=priority) for m in models]
    return receipt.record(database, arrival(number), orders, ageing=ageing, config_digest="c" * 64)


def enqueue(database: Database, number: object = 1, **how: Any) -> int:
    """Receive an accepted film and return its job."""
    return receive(database, number, **how).job_ids[0]


def claim(database: Database, *, owner: str = "w1", limit: int = 10, lease: float = LEASE) -> list[Claim]:
    """Claim as a worker with the model `chest`."""
    return jobs.claim(database, owner=owner, models=MODELS, engine="test", limit=limit, lease=lease, limits=LIMITS)


def claim_one(database: Database, *, owner: str = "w1") -> Claim:
    """Claim exactly one job."""
    (held,) = claim(database, owner=owner, limit=1)
    return held


def report(
    held: Claim, *, pixels: object = None, identity: object = "same", outcome: Outcome = Outcome.ANALYSED
) -> Report:
    """A report of the claimed film: its pixels are its own unless said otherwise."""
    chosen = f"instance {held.instance_id}" if pixels is None else pixels
    return Report(
        outcome=outcome,
        reason="",
        read_at=held.claimed_at,
        revision=held.revision,
        reader=Reader(
            name="chest",
            version="1",
            bundle_digest="b" * 64,
            weights_digest="e" * 64,
            calibration="none",
            demonstration=True,
            engine="test",
        ),
        findings=(
            Finding(
                label="Effusion",
                index=0,
                score=0.75,
                decision=Decision.PRESENT,
                thresholds=Thresholds(rule_out=0.25, rule_in=0.5),
            ),
        ),
        pixel_digest=digest(chosen),
        identity_digest=digest(identity),
    )


def outputs(held: Claim, count: int = 2) -> list[StoredOutput]:
    """Some outputs of the job; their UIDs are unique to job and revision."""
    return [
        StoredOutput(
            kind="sr" if number == 1 else "heatmap",
            label="",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33",
            sop_instance_uid=f"2.25.{held.job_id}.{held.revision}.{number}",
            series_instance_uid=f"2.25.{held.job_id}.{held.revision}.0",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            instance_number=number,
            file=Kept(key=new_key(), digest=digest(number), size=10),
        )
        for number in range(1, count + 1)
    ]


def note_of(order: rejections.Order) -> list[StoredOutput]:
    """What the role `tend` would have made: its UID hangs on what is withdrawn."""
    said = digest((order.job_id, order.at, [one.sop_instance_uid for one in order.objects]))
    uid = f"2.25.{int(said[:20], 16)}"
    return [
        StoredOutput(
            kind="rejection",
            label="",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.59",
            sop_instance_uid=uid,
            series_instance_uid=f"{uid}.1",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            instance_number=1,
            file=Kept(key=new_key(), digest=said, size=10),
        )
    ]


def _revised(database: Database, held: Claim, said: Report) -> Report:
    """The report in the revision that its outputs are to have."""
    digests = {"pixel_digest": said.pixel_digest, "identity_digest": said.identity_digest}
    with database.read() as transaction:
        known = known_film(transaction, model=held.model, instance_id=held.instance_id, **digests)
    return dataclasses.replace(said, revision=reports.revision_of(held, known))


def settle(
    database: Database,
    held: Claim,
    *,
    count: int = 2,
    pixels: object = None,
    identity: object = "same",
    policy: Policy = "hold",
) -> bool:
    """Settle the claimed job with a report; False where it was a duplicate."""
    made = outputs(held, count) if held.mode == "active" else []
    said = _revised(database, held, report(held, pixels=pixels, identity=identity))
    kept = Kept(key=new_key(), digest=digest("maps"), size=10)
    preview = Kept(key=new_key(), digest=digest("preview"), size=10)
    before = reports.predecessor_sent(database, held.job_id)
    return reports.settle_report(
        database, held, said, made, saliency=kept, preview=preview, predecessors=before, on_identity_change=policy
    ).stands


def finished(
    database: Database, held: Claim, *, count: int = 2, pixels: object = None, identity: object = "same"
) -> Finished:
    """A reading of the claimed job that is ready to be settled, as `settle` settles it."""
    said = _revised(database, held, report(held, pixels=pixels, identity=identity))
    return Finished(
        held=held,
        report=said,
        outputs=outputs(held, count) if held.mode == "active" else [],
        saliency=Kept(key=new_key(), digest=digest("maps"), size=10),
        preview=Kept(key=new_key(), digest=digest("preview"), size=10),
    )


def reported(database: Database, number: object = 1, **how: Any) -> int:
    """A job that is reported; its deliveries are pending."""
    job_id = enqueue(database, number, **how)
    (held,) = [one for one in claim(database) if one.job_id == job_id]
    assert settle(database, held)
    return job_id


def take(database: Database, destination: str = "PACS", *, owner: str = "s1", limit: int = 10) -> list[DeliveryClaim]:
    """Claim deliveries as a sender."""
    return deliveries.claim(database, destination=destination, owner=owner, limit=limit, lease=LEASE)


def take_one(database: Database, destination: str = "PACS", *, owner: str = "s1") -> DeliveryClaim:
    """Claim exactly one delivery."""
    (held,) = take(database, destination, owner=owner, limit=1)
    return held


def taken(held: DeliveryClaim) -> list[Answer]:
    """Success for every object."""
    return [Answer(output_id=one.output_id, status=0, done=True) for one in held.parcels]


def delivered(database: Database, number: object = 1) -> int:
    """A job whose one destination has everything."""
    job_id = reported(database, number)
    (held,) = [one for one in take(database) if one.job_id == job_id]
    settlements.settle_sent(database, held, taken(held))
    return job_id


def row(database: Database, table: sa.Table, row_id: int) -> Any:
    """One row by its id."""
    with database.read() as transaction:
        return transaction.row(sa.select(table).where(table.c.id == row_id))


def count(database: Database, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    """How many rows there are."""
    with database.read() as transaction:
        return int(transaction.scalar(sa.select(sa.func.count()).select_from(table).where(*where)))


def names(database: Database, job_id: int) -> list[str]:
    """The names of a job's events, oldest first."""
    return [one.name for one in audit.query(database, EventFilter(job_id=job_id), limit=10_000)]


def assert_sound(database: Database) -> None:
    """Every job's events are a legal life that ends in its state, and its chain of hashes is whole."""
    with database.read() as transaction:
        states = {one.id: one.state for one in transaction.rows(sa.select(job.c.id, job.c.state))}
        lives: dict[int, list[str]] = {job_id: [] for job_id in states}
        chosen = sa.select(event.c.job_id, event.c.name).where(event.c.job_id.is_not(None)).order_by(event.c.id)
        for one in transaction.rows(chosen):
            lives[one.job_id].append(one.name)
    assert states == {job_id: job_after(life) for job_id, life in lives.items()}
    assert {job_id: None for job_id in states} == {job_id: audit.broken_link(database, job_id) for job_id in states}
