"""Seals and guards: what was changed, removed or made anew is found, and named where it can be."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.errors import Transient
from cxrnode.store import audit, guards, seals
from cxrnode.store.audit import EventFilter, link_hash
from cxrnode.store.database import Database
from cxrnode.store.schema import event, job, seal
from cxrnode.store.seals import Exported
from tests.stores import delivered, receive


@contextmanager
def unguarded(database: Database) -> Iterator[sa.Connection]:
    """What somebody with all rights on the database could do: the guards go, and come back."""
    with database.write() as transaction:
        guards.remove(transaction.connection)
        yield transaction.connection
        guards.install(transaction.connection)


#: What SQLite says, and what `store.database` makes of what PostgreSQL says.
REFUSED = r"never changed or removed|RaiseException"


@pytest.mark.parametrize("table", [event, seal], ids=["event", "seal"])
def test_rows_of_the_trail_cannot_be_changed_or_removed(database: Database, table: sa.Table) -> None:
    delivered(database)
    seals.take(database)
    acts: list[Any] = [sa.update(table).values(id=table.c.id + 1000), sa.delete(table)]
    acts += [] if database.is_sqlite else [sa.text(f"TRUNCATE {table.name} CASCADE")]
    for act in acts:
        with pytest.raises((sa.exc.DBAPIError, Transient), match=REFUSED), database.write() as transaction:
            transaction.connection.execute(act)
    assert seals.verify(database) == ()


def test_the_guards_are_missed_where_they_are_gone(database: Database) -> None:
    with database.write() as transaction:
        guards.remove(transaction.connection)
    assert len(guards.missing(database)) == (4 if database.is_sqlite else 6)
    assert "the guard event_no_delete of the database is missing" in [f.text for f in seals.verify(database)]
    with database.write() as transaction:
        guards.install(transaction.connection)
    assert guards.missing(database) == ()


def test_a_seal_covers_all_events_so_far_and_follows_from_the_one_before(database: Database) -> None:
    assert seals.take(database) is None
    delivered(database, 1)
    first = seals.take(database)
    assert first is not None and (first.first_event, first.before) == (1, "")
    delivered(database, 2)
    second = seals.take(database)
    assert second is not None and second.first_event == first.last_event + 1 and second.before == first.digest
    assert [one.name for one in audit.query(database, EventFilter(name="sealed"), limit=9)] == ["sealed"] * 2
    assert seals.every(database) == (first, second)
    assert seals.verify(database) == ()
    exported = [seals.export(database, one) for one in (first, second)]
    assert [sorted(one.heads) for one in exported] == [[1], [2]]
    for one in exported:
        assert Exported.from_json(one.to_json()) == one
        assert seals.compare(database, one) == ()
        assert seals.compare_digest(database, one.seal.digest) == ()


def test_a_job_that_goes_on_after_a_seal_is_no_fault_of_it(database: Database) -> None:
    receive(database, 1)
    first = seals.take(database)
    assert first is not None
    kept = seals.export(database, first)
    job_id = 1
    with database.write() as transaction:
        audit.note(transaction, "noted", job_id=job_id)
    second = seals.take(database)
    assert second is not None
    assert seals.export(database, second).heads[job_id][0] == kept.heads[job_id][0] + 1
    assert seals.compare(database, kept) == () == seals.verify(database)


def remove_one(connection: sa.Connection, job_id: int) -> None:
    middle = sa.select(event.c.id).where(event.c.job_id == job_id).order_by(event.c.id).offset(2).limit(1)
    connection.execute(sa.delete(event).where(event.c.id == connection.scalar(middle)))


def change_one(connection: sa.Connection, job_id: int) -> None:
    chosen = sa.select(event.c.id).where(event.c.job_id == job_id, event.c.name == "reported")
    connection.execute(sa.update(event).where(event.c.id == connection.scalar(chosen)).values(detail="{}"))


def remove_last(connection: sa.Connection, job_id: int) -> None:
    last = sa.select(sa.func.max(event.c.id)).where(event.c.job_id == job_id)
    connection.execute(sa.delete(event).where(event.c.id == connection.scalar(last)))


def change_an_instances_event(connection: sa.Connection, _job_id: int) -> None:
    first = sa.select(sa.func.min(event.c.id)).where(event.c.job_id.is_(None))
    connection.execute(sa.update(event).where(event.c.id == connection.scalar(first)).values(name="ignored"))


FOUND: dict[str, tuple[Callable[[sa.Connection, int], None], str]] = {
    "changed": (change_one, r"event \d+ of job 2 \(reported\) does not follow"),
    "removed": (remove_one, r"event \d+ of job 2 \(\w+\) does not follow"),
    "last removed": (remove_last, r"the last events of job 2 are missing"),
    "of an instance": (change_an_instances_event, r"event 1 \(ignored\) does not follow"),
}


@pytest.mark.parametrize(("act", "said"), FOUND.values(), ids=FOUND)
def test_a_changed_or_removed_row_is_named_without_any_seal(
    database: Database, act: Callable[[sa.Connection, int], None], said: str
) -> None:
    delivered(database, 1)
    job_id = delivered(database, 2)
    delivered(database, 3)
    with unguarded(database) as connection:
        act(connection, job_id)
    (fault,) = seals.verify(database)
    assert re.search(said, fault.text)


def delete_whole(connection: sa.Connection, job_id: int) -> None:
    """As somebody who knows the schema: nothing is left that could break."""
    connection.execute(sa.delete(event).where(event.c.job_id == job_id))
    connection.execute(sa.update(job).where(job.c.id == job_id).values(chain_head=""))


def chain_anew(connection: sa.Connection, job_id: int) -> None:
    """As somebody who knows how links are made: another story, with hashes that fit."""
    before = ""
    rows = connection.execute(sa.select(event).where(event.c.job_id == job_id).order_by(event.c.id)).all()
    for row in rows:
        name = "given_back" if row.name == "claimed" else row.name
        link = link_hash(before, at=row.at, job_id=job_id, delivery_id=row.delivery_id, name=name, detail=row.detail)
        connection.execute(sa.update(event).where(event.c.id == row.id).values(name=name, hash=link))
        before = link
    connection.execute(sa.update(job).where(job.c.id == job_id).values(chain_head=before))


FORGED: dict[str, tuple[Callable[[sa.Connection, int], None], str]] = {
    "deleted whole": (delete_whole, "job 2 is gone: the seal knows"),
    "chain anew": (chain_anew, "the chain of job 2 was made anew"),
}


@pytest.mark.parametrize(("act", "said"), FORGED.values(), ids=FORGED)
def test_what_fits_by_itself_is_found_against_a_seal_that_was_kept_elsewhere(
    database: Database, act: Callable[[sa.Connection, int], None], said: str
) -> None:
    delivered(database, 1)
    job_id = delivered(database, 2)
    delivered(database, 3)
    taken = seals.take(database)
    assert taken is not None
    kept = seals.export(database, taken)
    delivered(database, 4)
    with unguarded(database) as connection:
        act(connection, job_id)
    # The seals of the database itself still say that something is wrong ...
    assert [one.text.startswith("seal 1 does not cover events 1 to ") for one in seals.verify(database)] == [True]
    # ... and once they are forged, too, only the one that was kept elsewhere does, and names the job.
    with unguarded(database) as connection:
        connection.execute(sa.delete(seal))
    assert seals.verify(database) == ()
    (fault,) = seals.compare(database, kept)
    assert fault.job_id == job_id and fault.text.startswith(said)
    assert len(seals.compare_digest(database, kept.seal.digest)) == 1


def test_a_missing_event_of_no_job_is_found_against_a_seal(database: Database) -> None:
    delivered(database, 1)
    taken = seals.take(database)
    assert taken is not None
    kept = seals.export(database, taken)
    with unguarded(database) as connection:
        connection.execute(sa.delete(event).where(event.c.id == 1))
        connection.execute(sa.delete(seal))
    (fault,) = seals.compare(database, kept)
    assert "none of a job" in fault.text
    assert dataclasses.asdict(fault)["job_id"] is None
