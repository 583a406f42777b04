"""Receipt: the same bytes count once, and what was decided stands beside them."""

from __future__ import annotations

import json

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
    import dataclasses

    first = receive(database, 1)
    other = dataclasses.replace(arrival(1), dataset_sha256="f" * 64)
    second = receipt.record(database, other, [], ageing=60.0, config_digest="")
    assert second.new
    assert first.instance_id != second.instance_id


def test_an_ignored_film_has_its_reason_and_no_job(database: Database) -> None:
    made = receipt.record(database, arrival(1, accepted=False), [], ageing=60.0, config_digest="")
    stored = row(database, instance, made.instance_id)
    assert (stored.verdict, stored.reason) == ("ignored", "no rule wants it")
    assert count(database, job) == 0


def test_priority_is_time_already_waited(database: Database, clock: Clock) -> None:
    made = receive(database, 1, priority=2, ageing=60.0)
    assert clock.now - 120.0 == row(database, job, made.job_ids[0]).rank


def test_a_jobs_first_event_is_that_it_was_enqueued(database: Database) -> None:
    assert names(database, receive(database).job_ids[0]) == ["enqueued"]
