"""Retention: bytes go when their time is over, rows never, and no file goes that a row knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.store import jobs, receipt, retention, settlements
from cxrnode.store.database import Database
from cxrnode.store.retention import Periods
from cxrnode.store.schema import delivery, event, instance, job, output
from tests.stores import (
    Clock,
    arrival,
    assert_sound,
    claim_one,
    count,
    delivered,
    enqueue,
    new_key,
    reported,
    row,
    settle,
    take_one,
    taken,
)

PERIODS = Periods(accepted=100.0, ignored=10.0, failed=1000.0)


def _keys(database: Database) -> set[str]:
    """Every key that a row has."""
    with database.read() as transaction:
        found: set[str] = set()
        for column in (instance.c.spool_key, output.c.spool_key, job.c.saliency_key, job.c.preview_key):
            found |= {one[0] for one in transaction.rows(column.table.select().with_only_columns(column)) if one[0]}
    return found


def test_the_bytes_of_a_delivered_film_go_after_their_time_and_the_rows_stay(database: Database, clock: Clock) -> None:
    job_id = delivered(database)
    kept = _keys(database)
    assert len(kept) == 5  # the film, two outputs, the maps, the preview
    clock.turn(99.0)
    assert retention.retire(database, PERIODS, limit=10) == []
    clock.turn(1.0)
    assert kept == set(retention.retire(database, PERIODS, limit=10))
    assert set() == _keys(database)
    assert row(database, job, job_id).state == "delivered"
    assert count(database, event, event.c.name == "bytes_removed") == 1
    assert retention.retire(database, PERIODS, limit=10) == []
    assert_sound(database)


def test_an_ignored_film_goes_after_its_own_time(database: Database, clock: Clock) -> None:
    made = receipt.record(database, arrival(1, accepted=False), [], ageing=60.0, config_digest="")
    clock.turn(9.0)
    assert retention.retire(database, PERIODS, limit=10) == []
    clock.turn(1.0)
    key = row(database, instance, made.instance_id).spool_key
    assert [key] == retention.retire(database, PERIODS, limit=10)


def _queued(database: Database) -> None:
    enqueue(database)


def _reading(database: Database) -> None:
    enqueue(database)
    claim_one(database)


def _reported(database: Database) -> None:
    reported(database)


def _one_model_of_two(database: Database) -> None:
    enqueue(database, 1, models=("chest", "other"))
    settle(database, claim_one(database))


@pytest.mark.parametrize("prepare", [_queued, _reading, _reported, _one_model_of_two])
def test_the_bytes_of_a_film_under_way_stay(
    database: Database, clock: Clock, prepare: Callable[[Database], None]
) -> None:
    prepare(database)
    clock.turn(1e9)
    assert retention.retire(database, PERIODS, limit=10) == []


def test_the_bytes_stay_until_the_archive_has_committed_to_what_it_was_sent(database: Database, clock: Clock) -> None:
    job_id = reported(database)
    held = take_one(database)
    settlements.settle_sent(database, held, taken(held), to_commit=True)
    clock.turn(1e9)
    assert retention.retire(database, PERIODS, limit=10) == []
    with database.write() as transaction:
        transaction.connection.execute(sa.update(delivery).values(state="committed", commit_at=None))
        settlements.close_job(transaction, job_id)
    assert retention.retire(database, PERIODS, limit=10) == []  # its time begins when the job rests
    clock.turn(PERIODS.accepted)
    assert len(retention.retire(database, PERIODS, limit=10)) == 5
    assert_sound(database)


def test_every_removal_is_an_event_of_its_film(database: Database, clock: Clock) -> None:
    delivered(database, 1)
    ignored = receipt.record(database, arrival(2, accepted=False), [], ageing=60.0, config_digest="").instance_id
    enqueue(database, 3)
    jobs.park(database, claim_one(database), "no")
    clock.turn(1e9)
    keys = retention.retire(database, PERIODS, limit=10)
    with database.read() as transaction:
        told = transaction.rows(
            sa.select(event.c.instance_id, event.c.detail).where(event.c.name == "bytes_removed").order_by(event.c.id)
        )
    assert sorted(row.instance_id for row in told) == [1, ignored, 3]
    assert sum(json.loads(row.detail)["files"] for row in told) == len(keys) == 7
    assert count(database, instance) == 3


def test_the_bytes_of_a_failed_film_stay_longer(database: Database, clock: Clock) -> None:
    enqueue(database)
    jobs.park(database, claim_one(database), "no")
    clock.turn(999.0)
    assert retention.retire(database, PERIODS, limit=10) == []
    clock.turn(1.0)
    assert len(retention.retire(database, PERIODS, limit=10)) == 1


@pytest.mark.parametrize("how", ["shadow", "no destination", "duplicate"])
def test_what_is_never_sent_rests_as_reported_and_goes(database: Database, clock: Clock, how: str) -> None:
    if how == "duplicate":
        delivered(database, 1)
        second = enqueue(database, 2)
        settle(database, claim_one(database), pixels=f"instance {row(database, job, second).instance_id - 1}")
        assert row(database, job, second).outcome == "duplicate"
    elif how == "shadow":
        reported(database, 1, mode="shadow")
    else:
        reported(database, 1, send_to=())
    clock.turn(100.0)
    kept = _keys(database)
    assert kept
    assert kept == set(retention.retire(database, PERIODS, limit=10))


def test_a_held_delivery_keeps_its_bytes(database: Database, clock: Clock) -> None:
    first = reported(database, 1)
    enqueue(database, 2)
    settle(database, claim_one(database), pixels=f"instance {row(database, job, first).instance_id}", identity="other")
    clock.turn(1e9)
    assert retention.retire(database, PERIODS, limit=10) == []


def test_an_accepted_film_without_a_job_stays_for_its_time(database: Database, clock: Clock) -> None:
    receipt.record(database, arrival(1), [], ageing=60.0, config_digest="")
    assert retention.retire(database, PERIODS, limit=10) == []
    clock.turn(100.0)
    assert len(retention.retire(database, PERIODS, limit=10)) == 1


def test_no_more_films_go_at_once_than_the_limit(database: Database, clock: Clock) -> None:
    for number in range(3):
        delivered(database, number)
    clock.turn(100.0)
    assert [len(retention.retire(database, PERIODS, limit=2)) for _ in range(3)] == [10, 5, 0]


def test_a_file_that_any_row_has_is_known(database: Database) -> None:
    delivered(database, 1)
    sent_later = reported(database, 2)
    settlements.settle_parked(database, take_one(database), (), "no")
    assert sent_later
    orphan, kept = new_key(), sorted(_keys(database))
    assert [orphan] == retention.unknown_keys(database, [*kept, orphan])
    assert retention.unknown_keys(database, []) == []


def test_a_look_at_what_is_over_goes_through_what_has_bytes_and_not_through_every_film(database: Database) -> None:
    if (
        database.engine.dialect.name != "sqlite"
    ):  # PostgreSQL plans by what it counted of the rows, and the table is empty here
        return
    asked: list[tuple[str, Any]] = []

    def told(connection: object, cursor: object, text: str, given: Any, *rest: object) -> None:
        asked.append((text, given))

    sa.event.listen(database.engine, "before_cursor_execute", told)
    for pass_ in (retention.retire, retention.retire_notes):
        pass_(database, Periods(accepted=1.0, ignored=1.0, failed=1.0), limit=10)
    looks = [(text, given) for text, given in asked if "spool_key >" in text]
    assert len(looks) == 2
    with database.read() as transaction:
        plans = [
            [row[3] for row in transaction.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", given)]
            for text, given in looks
        ]
    assert [steps[0].split(" (")[0] for steps in plans] == [
        "SEARCH instance USING INDEX ix_instance_spool_key",
        "SEARCH output USING INDEX ix_output_spool_key",
    ]
    assert not [step for steps in plans for step in steps if step.startswith(("SCAN", "USE TEMP"))]
