"""The audit trail: paged, chained, and free of identifiers."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from cxrnode.store import audit, circuits, guards, jobs, resend, retention, settlements
from cxrnode.store.audit import EventFilter, link_hash, note, query
from cxrnode.store.database import Database
from cxrnode.store.retention import Periods
from cxrnode.store.schema import event, job
from tests.stores import (
    IDENTITY,
    LEASE,
    LIMITS,
    Clock,
    claim,
    claim_one,
    delivered,
    enqueue,
    names,
    receive,
    report,
    reported,
    settle,
    take_one,
    taken,
)


@pytest.mark.parametrize("page", [1, 2, 3, 7, 1000])
def test_pages_give_every_event_once_in_order(database: Database, page: int) -> None:
    for number in range(4):
        enqueue(database, number)
    everything = list(query(database, EventFilter(), limit=1000))
    assert len(everything) == 12
    assert everything == list(query(database, EventFilter(), limit=1000, page=page))
    assert everything[:5] == list(query(database, EventFilter(), limit=5, page=page))
    assert list(query(database, EventFilter(), limit=0, page=page)) == []


def test_events_are_chosen_by_job_instance_name_and_time(database: Database, clock: Clock) -> None:
    start = clock.now
    first = receive(database, 1)
    clock.turn(10.0)
    second = receive(database, 2)
    whole = list(query(database, EventFilter(), limit=100))
    assert names(database, second.job_ids[0]) == ["enqueued"]
    assert whole[:3] == list(query(database, EventFilter(instance_id=first.instance_id), limit=100))
    assert [whole[0], whole[3]] == list(query(database, EventFilter(name="received"), limit=100))
    assert whole[3:] == list(query(database, EventFilter(since=start + 10.0), limit=100))
    assert whole[:3] == list(query(database, EventFilter(until=start + 10.0), limit=100))
    assert list(query(database, EventFilter(since=start + 1, until=start + 9), limit=100)) == []


def test_an_untouched_chain_has_no_broken_link(database: Database) -> None:
    assert audit.broken_link(database, delivered(database)) is None


TAMPERINGS = {
    "detail": {"detail": '{"owner":"nobody"}'},
    "time": {"at": 1.5},
    "name": {"name": "given_back"},
    "delivery": {"delivery_id": None},
    "hash": {"hash": "0" * 64},
}


@pytest.mark.parametrize("change", TAMPERINGS.values(), ids=TAMPERINGS)
def test_a_changed_event_breaks_the_chain_where_it_stands(database: Database, change: dict[str, object]) -> None:
    job_id = delivered(database)
    with database.write() as transaction:
        guards.remove(transaction.connection)
        victim = transaction.scalar(
            sa.select(event.c.id).where(event.c.job_id == job_id, event.c.name == "delivery_claimed")
        )
        transaction.connection.execute(sa.update(event).where(event.c.id == victim).values(**change))
    assert victim == audit.broken_link(database, job_id)


def test_a_removed_event_breaks_the_chain_at_the_next(database: Database) -> None:
    job_id = delivered(database)
    with database.write() as transaction:
        guards.remove(transaction.connection)
        ids = [one.id for one in transaction.rows(sa.select(event.c.id).where(event.c.job_id == job_id))]
        transaction.connection.execute(sa.delete(event).where(event.c.id == ids[2]))
    assert ids[3] == audit.broken_link(database, job_id)


def test_a_removed_last_event_shows_in_the_head(database: Database) -> None:
    job_id = delivered(database)
    with database.write() as transaction:
        guards.remove(transaction.connection)
        last = sa.select(sa.func.max(event.c.id)).where(event.c.job_id == job_id).scalar_subquery()
        transaction.connection.execute(sa.delete(event).where(event.c.id == last))
    assert audit.broken_link(database, job_id) == 0


def test_an_event_and_its_change_stand_or_fall_together(database: Database) -> None:
    job_id = enqueue(database)
    before = names(database, job_id)
    with pytest.raises(ZeroDivisionError), database.write() as transaction:
        transaction.connection.execute(sa.update(job).values(state="withdrawn"))
        note(transaction, "withdrawn", job_id=job_id)
        _ = 1 / 0
    assert before == names(database, job_id)
    assert len(claim(database)) == 1


def test_a_link_covers_everything_that_its_event_says() -> None:
    base = {"at": 1.0, "job_id": 1, "delivery_id": 2, "name": "sent", "detail": "{}"}
    links = {link_hash("", **base)}  # type: ignore[arg-type]
    for name, other in (("at", 1.0000001), ("job_id", 2), ("delivery_id", None), ("name", "park"), ("detail", "[]")):
        links.add(link_hash("", **{**base, name: other}))  # type: ignore[arg-type]
    links.add(link_hash("before", **base))  # type: ignore[arg-type]
    assert len(links) == 7


def test_no_event_holds_an_identifier(database: Database, clock: Clock) -> None:
    """Every kind of event that the store writes happens here, with a film whose identity is known."""
    first = delivered(database, 1)
    receive(database, 1)
    resend.resend(database, first, reason="lost")
    held = take_one(database)
    settlements.settle_faulted(database, held, (), "busy", pause=0.0)
    held = take_one(database)
    settlements.give_back(database, held, (), "aborted")
    held = take_one(database)
    clock.turn(LEASE + 1)
    settlements.settle_parked(database, take_one(database), (), "no")
    circuits.open_circuit(database, "PACS", "down", base=1.0, cap=1.0)
    circuits.close_circuit(database, "PACS")
    jobs.retry(database, first, reason="again")
    settle(database, claim_one(database))
    enqueue(database, 2)
    settle(database, claim_one(database), pixels="instance 1", identity="another")
    enqueue(database, 3)
    settle(database, claim_one(database), pixels="instance 1")
    lost = enqueue(database, 4)
    held_job = claim_one(database)
    jobs.give_back(database, held_job)
    jobs.fault(database, claim_one(database), "busy", pause=0.0, limits=LIMITS, counts=False)
    claim_one(database)
    clock.turn(LEASE + 1)
    jobs.park(database, claim_one(database), "no")
    jobs.retry(database, lost, reason="again")
    settle(database, claim_one(database))
    reported(database, 5, mode="shadow")
    clock.turn(1e6)
    retention.retire(database, Periods(accepted=1.0, ignored=1.0, failed=1.0), limit=10)
    with database.read() as transaction:
        rows = transaction.rows(sa.select(event.c.name, event.c.detail))
        said = "\n".join(one.detail for one in rows)
        told = "\n".join(one[0] for one in transaction.rows(sa.select(job.c.report)) if one[0])
    assert {
        "received", "received_again", "accepted", "enqueued", "claimed", "reported", "duplicate_found", "faulted",
        "given_back", "lease_expired", "parked", "delivered", "undelivered", "resent", "retried", "superseded",
        "delivery_ordered", "delivery_created", "delivery_claimed", "delivery_sent", "delivery_faulted",
        "delivery_given_back", "delivery_lease_expired", "delivery_parked", "delivery_resent",
        "circuit_opened", "circuit_closed", "identity_changed", "revision_asked", "bytes_removed",
    } == {one.name for one in rows}  # fmt: skip
    secrets = [value for value in IDENTITY.values() if len(value) > 1]
    assert [value for value in secrets if value in said or value in told] == []


def test_the_event_of_a_report_carries_its_digest(database: Database) -> None:
    job_id = enqueue(database)
    held = claim_one(database)
    settle(database, held)
    (found,) = query(database, EventFilter(job_id=job_id, name="reported"), limit=2)
    assert report(held).sha256 == found.detail["report_sha256"]


def test_the_event_of_a_delivery_counts_the_statuses(database: Database) -> None:
    job_id = reported(database)
    held = take_one(database)
    settlements.settle_sent(database, held, taken(held))
    (found,) = query(database, EventFilter(job_id=job_id, name="delivery_sent"), limit=2)
    assert json.loads(json.dumps(found.detail)) == {"statuses": {"0x0000": 2}, "warnings": []}


def test_events_of_a_name_are_found_among_many_by_windows_and_by_the_index_of_the_unusual(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_WINDOW", 7)
    with database.write() as transaction:
        for number in range(60):
            audit.note(
                transaction, "received" if number % 20 == 3 else "alert_raised" if number % 9 == 0 else "logged_in"
            )
    for name, expected in (("received", 3), ("alert_raised", 7), ("circuit_opened", 0), ("accepted", 0)):
        found = list(audit.query(database, EventFilter(name=name), limit=100, page=2))
        assert (name, len(found)) == (name, expected)
        assert [one.id for one in found] == sorted({one.id for one in found})
    assert len(list(audit.query(database, EventFilter(name="received"), limit=2))) == 2
