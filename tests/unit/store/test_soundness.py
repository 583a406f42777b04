"""What no code of ours writes, written by hand here: it is found, put right, and an event."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryState
from cxrnode.store import deliveries, jobs, soundness
from cxrnode.store.database import Database
from cxrnode.store.schema import delivery, delivery_output, event, job
from tests import stores
from tests.stores import LIMITS, Clock, assert_sound, count, delivered, enqueue, names, reported, row, take


def change(database: Database, table: sa.Table, row_id: int, **values: object) -> None:
    with database.write() as transaction:
        transaction.connection.execute(sa.update(table).where(table.c.id == row_id).values(**values))


def heal(database: Database) -> dict[str, int]:
    page = soundness.reported_after(database, 0)
    return {
        "leases": soundness.end_endless(database),
        "unclosed": soundness.close_unclosed(database, page),
        "undelivered": soundness.deliver_undelivered(database, page),
        "pointless": soundness.cancel_pointless(database),
    }


NOTHING = {"leases": 0, "unclosed": 0, "undelivered": 0, "pointless": 0}


def test_a_store_in_order_is_left_alone(database: Database, clock: Clock) -> None:
    delivered(database, 1)
    reported(database, 2)
    reported(database, 3, mode="shadow")
    reported(database, 4, send_to=())
    enqueue(database, 5)
    stores.settle(database, stores.claim_one(database), pixels="instance 1")  # a duplicate
    take(database)
    enqueue(database, 6)
    stores.claim(database)
    before = count(database, event)
    assert heal(database) == NOTHING
    assert count(database, event) == before


def test_a_lease_without_an_end_is_ended_and_the_work_is_taken_up(database: Database, clock: Clock) -> None:
    job_id = enqueue(database, 1)
    stores.claim(database)
    sent = reported_delivery(database, 2)
    take(database)
    change(database, job, job_id, lease_until=None)
    change(database, delivery, sent, lease_until=None)
    clock.turn(1e6)
    with database.write() as transaction:
        assert (jobs.expire(transaction, LIMITS), deliveries.expire(transaction)) == (0, 0)  # for ever
    assert heal(database) == {**NOTHING, "leases": 2}
    with database.write() as transaction:
        assert deliveries.expire(transaction) == 1
    with database.write() as transaction:
        assert jobs.expire(transaction, LIMITS) == 1
    assert (row(database, job, job_id).state, row(database, delivery, sent).state) == ("queued", "pending")
    assert_sound(database)


def reported_delivery(database: Database, number: int) -> int:
    job_id = reported(database, number)
    with database.read() as transaction:
        return int(transaction.scalar(sa.select(delivery.c.id).where(delivery.c.job_id == job_id)))


@pytest.mark.parametrize(("state", "ends"), [("sent", "delivered"), ("failed", "failed")])
def test_a_job_all_of_whose_deliveries_rest_is_closed(database: Database, clock: Clock, state: str, ends: str) -> None:
    job_id = reported(database, 1)
    (held,) = take(database)
    change(database, delivery, held.delivery_id, state=state, lease_until=None, lease_owner=None)
    assert heal(database) == {**NOTHING, "unclosed": 1}
    assert row(database, job, job_id).state == ends
    assert names(database, job_id)[-1] == "healed"
    assert heal(database) == NOTHING
    assert_sound(database)


def test_a_report_without_a_delivery_gets_those_that_its_rule_asked_for(database: Database, clock: Clock) -> None:
    job_id = reported(database, 1, send_to=("PACS", "ARCHIVE"))
    with database.write() as transaction:
        lost = sa.select(delivery.c.id).where(delivery.c.destination == "ARCHIVE")
        lost_id = transaction.scalar(lost)
        transaction.connection.execute(sa.delete(delivery_output).where(delivery_output.c.delivery_id == lost_id))
        # Its events point to it: it becomes one that has nothing to do with the report.
        other = sa.update(delivery).where(delivery.c.id == lost_id).values(act="study-99", destination="NOWHERE")
        transaction.connection.execute(other)
    assert heal(database) == {**NOTHING, "undelivered": 1}
    (held,) = take(database, "ARCHIVE")
    assert (held.job_id, len(held.parcels)) == (job_id, 2)
    assert names(database, job_id)[-3:-1] == ["delivery_created", "healed"]
    assert heal(database) == NOTHING
    assert_sound(database)


def test_a_report_whose_bytes_retention_took_gets_none(database: Database, clock: Clock) -> None:
    job_id = reported(database, 1)
    with database.write() as transaction:
        transaction.connection.execute(sa.text("UPDATE output SET spool_key = NULL"))
        transaction.connection.execute(sa.text("UPDATE delivery SET destination = 'OTHER'"))
    assert heal(database) == NOTHING
    assert row(database, job, job_id).state == "reported"


def test_a_delivery_of_a_superseded_report_is_cancelled(database: Database, clock: Clock) -> None:
    sent = reported_delivery(database, 1)
    change(database, job, row(database, delivery, sent).job_id, state="superseded")
    assert heal(database) == {**NOTHING, "pointless": 1}
    assert row(database, delivery, sent).state == "cancelled"
    assert take(database) == []


def test_a_delivery_without_its_job_is_cancelled(tmp_path: Path) -> None:
    """Only hands that switch the guards of the database off can make one; PostgreSQL lets nobody."""
    file = tmp_path / "cxrnode.sqlite"
    database = stores.open_store(f"sqlite+pysqlite:///{file}")
    sent = reported_delivery(database, 1)
    with sqlite3.connect(file) as hand:
        hand.execute("UPDATE delivery SET job_id = 4711")
    hand.close()
    assert heal(database) == {**NOTHING, "pointless": 1, "undelivered": 1}  # its former job has none any more
    assert row(database, delivery, sent).state == DeliveryState.CANCELLED
    assert count(database, event, event.c.name == "healed") == 2
    assert [held.delivery_id != sent for held in take(database)] == [True]
    database.close()


def test_many_reported_jobs_are_walked_a_page_at_a_time(database: Database, clock: Clock) -> None:
    ids = [reported(database, number) for number in range(5)]
    pages, after = [], 0
    for _ in range(4):
        page = soundness.reported_after(database, after, limit=2)
        pages.append(page)
        after = page[-1] if page else 0
    assert pages == [ids[:2], ids[2:4], ids[4:], []]
