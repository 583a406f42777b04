"""Receipt: the same bytes count once, and what was decided stands beside them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cxrnode.core.lifecycle import JobState
from cxrnode.store import audit, receipt
from cxrnode.store.audit import EventFilter
from cxrnode.store.database import Database
from cxrnode.store.schema import identity, instance, job
from tests.stores import IDENTITY, Clock, arrival, assert_sound, count, names, receive, row


def test_a_film_becomes_an_instance_its_identity_and_one_job_for_each_model(database: Database, clock: Clock) -> None:
    made = receive(database, 1, models=("chest", "second"), send_to=("PACS", "MINI"))
    assert made.new
    assert len(made.job_ids) == 2
    stored = row(database, instance, made.instance_id)
    assert ("accepted", clock.now) == (stored.verdict, stored.received_at)
    with database.read() as transaction:
        who = transaction.row(identity.select())
    assert who is not None
    assert {"instance_id": made.instance_id, **IDENTITY, "header": b""} == dict(who._mapping)
    jobs = [row(database, job, job_id) for job_id in made.job_ids]
    assert [one.model for one in jobs] == ["chest", "second"]
    assert [one.state for one in jobs] == [JobState.QUEUED, JobState.QUEUED]
    assert json.loads(jobs[0].wanted) == {"outputs": ["sr"], "send_to": ["PACS", "MINI"]}
    assert_sound(database)


def test_the_same_bytes_again_are_one_event_and_nothing_more(database: Database) -> None:
    first, second = receive(database, 1), receive(database, 1)
    assert (first.instance_id, False, ()) == (second.instance_id, second.new, second.job_ids)
    assert (count(database, instance), count(database, identity), count(database, job)) == (1, 1, 1)
    events = audit.query(database, EventFilter(instance_id=first.instance_id), limit=10)
    assert [one.name for one in events] == ["received", "accepted", "enqueued", "received_again"]


def test_other_bytes_under_the_same_uid_are_another_instance(database: Database) -> None:
    first = receive(database, 1)
    other = dataclasses.replace(arrival(1), dataset_digest="f" * 64)
    second = receipt.record(database, other, [], ageing=60.0, config_digest="")
    assert second.new
    assert first.instance_id != second.instance_id


def test_an_ignored_film_has_its_reason_and_no_job(database: Database) -> None:
    made = receipt.record(database, arrival(1, accepted=False), [], ageing=60.0, config_digest="")
    stored = row(database, instance, made.instance_id)
    assert (stored.verdict, stored.reason) == ("ignored", "no rule wants it")
    assert count(database, job) == 0


@pytest.mark.parametrize("kept", [True, False])
def test_a_film_that_was_ignored_is_read_when_it_comes_again_and_the_rules_want_it(
    database: Database, clock: Clock, kept: bool
) -> None:
    first = receipt.record(database, arrival(1, accepted=False), [], ageing=60.0, config_digest="")
    again = receipt.record(database, arrival(1, accepted=False), [], ageing=60.0, config_digest="")
    assert (again.new, again.job_ids) == (False, ())  # nothing has changed
    if not kept:  # retention took the bytes meanwhile
        with database.write() as transaction:
            transaction.connection.execute(instance.update().values(spool_key=None))
    clock.turn(7 * 86400.0)
    wanted = dataclasses.replace(arrival(1), spool_key="9" * 32, kept_header=b"header")
    order = receipt.Order(model="chest", mode="active", outputs=["sr"], send_to=["PACS"])
    now = receipt.record(database, wanted, [order], ageing=60.0, config_digest="")
    assert (now.instance_id, now.new, len(now.job_ids)) == (first.instance_id, False, 1)
    stored = row(database, instance, first.instance_id)
    assert (stored.verdict, stored.reason, stored.received_at) == ("accepted", wanted.reason, clock.now)
    assert stored.spool_key == now.spool_key == (first.spool_key if kept else wanted.spool_key)
    with database.read() as transaction:
        who = transaction.row(identity.select())
    assert who is not None and who.header == b"header"
    events = list(audit.query(database, EventFilter(instance_id=first.instance_id), limit=10))
    told = ["received", "ignored", "received_again", "received_again", "accepted", "enqueued"]
    assert [one.name for one in events] == told
    assert events[4].detail["ignored_before"] == "no rule wants it"
    once_more = receipt.record(database, wanted, [order], ageing=60.0, config_digest="")
    assert once_more.job_ids == () and count(database, job) == 1
    assert_sound(database)


def test_priority_is_time_already_waited(database: Database, clock: Clock) -> None:
    made = receive(database, 1, priority=2, ageing=60.0)
    assert clock.now - 120.0 == row(database, job, made.job_ids[0]).rank


def test_a_jobs_first_event_is_that_it_was_enqueued(database: Database) -> None:
    assert names(database, receive(database).job_ids[0]) == ["enqueued"]
