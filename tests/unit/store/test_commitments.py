"""What is asked of a destination, what it reports, and what becomes of the delivery: on both databases."""

from __future__ import annotations

from typing import Any

import pytest

from cxrnode.store import commitments, resend, retention, settlements, withdrawals
from cxrnode.store.clock import mend
from cxrnode.store.commitments import Heard, Request, Told
from cxrnode.store.database import Database
from cxrnode.store.schema import delivery, delivery_output, instance, job
from cxrnode.store.withdrawals import Cause
from tests.stores import LEASE, Clock, assert_sound, count, names, reported, row, take_one, taken

PERIODS = retention.Periods(accepted=0.0, ignored=0.0, failed=0.0)


def sent(database: Database, number: object = 1) -> int:
    """A job whose one destination has everything and is to commit to it."""
    job_id = reported(database, number)
    held = take_one(database)
    assert held.job_id == job_id
    settlements.settle_sent(database, held, taken(held), to_commit=True)
    return job_id


def prepare(database: Database, *, max_age: float = 1000.0) -> list[Request]:
    return commitments.prepare(database, "PACS", hold=60.0, max_age=max_age, limit=10)[0]


def told(request: Request, *, failed: dict[int, int] | None = None, left_out: int | None = None, **how: Any) -> Told:
    """A report: `failed` maps the index of a reference to its reason, `left_out` is one that it does not mention."""
    uids = [uid for _, uid in request.references]
    refused = {uids[index]: reason for index, reason in (failed or {}).items()}
    committed = {uid for index, uid in enumerate(uids) if uid not in refused and index != left_out}
    return Told(transaction_uid=request.transaction_uid, committed=frozenset(committed), failed=refused, **how)


def hear(database: Database, report: Told, of: set[str] | None = None) -> Heard:
    return commitments.hear(database, report, of=of or {"PACS"}, max_attempts=3, pause=5.0)[0]


def test_a_job_waits_for_commitment_and_is_delivered_by_it(database: Database) -> None:
    job_id = sent(database)
    assert (row(database, job, job_id).state, row(database, delivery, 1).state) == ("reported", "sent")
    [request] = prepare(database)
    assert prepare(database) == []
    assert hear(database, told(request)) is Heard.COMMITTED
    assert (row(database, job, job_id).state, row(database, delivery, 1).state) == ("delivered", "committed")
    assert count(database, delivery_output, delivery_output.c.committed.is_(True)) == 2
    assert not commitments.due(database, "PACS")
    assert_sound(database)


def test_what_is_not_committed_to_goes_again_alone(database: Database, clock: Clock) -> None:
    sent(database)
    [request] = prepare(database)
    assert hear(database, told(request, failed={1: 0x0112})) is Heard.PARTLY
    assert row(database, delivery, 1).state == "pending"
    clock.turn(6.0)
    held = take_one(database)
    assert [one.sop_instance_uid for one in held.parcels] == [request.references[1][1]]
    settlements.settle_sent(database, held, taken(held), to_commit=True)
    [again] = prepare(database)
    assert again.references == request.references[1:]
    assert hear(database, told(again)) is Heard.COMMITTED
    assert_sound(database)


def test_a_transaction_that_is_known_already_is_asked_again_and_nothing_is_sent(
    database: Database, clock: Clock
) -> None:
    sent(database)
    [request] = prepare(database)
    again = frozenset(uid for _, uid in request.references)
    assert hear(database, told(request, failed={0: 0x0131, 1: 0x0131}, again=again)) is Heard.PARTLY
    assert row(database, delivery, 1).state == "sent"
    clock.turn(6.0)
    [other] = prepare(database)
    assert other.transaction_uid != request.transaction_uid
    assert_sound(database)


def test_an_object_that_a_report_leaves_out_is_asked_for_again_in_time(database: Database, clock: Clock) -> None:
    sent(database)
    [request] = prepare(database)
    commitments.await_report(database, request, wait=100.0)
    assert hear(database, told(request, left_out=0)) is Heard.PARTLY
    assert (row(database, delivery, 1).state, prepare(database)) == ("sent", [])
    clock.turn(101.0)
    [again] = prepare(database)
    assert again.references == request.references[:1]
    assert again.again


def test_a_report_of_an_earlier_sending_says_nothing_of_the_later_one(database: Database, clock: Clock) -> None:
    job_id = sent(database)
    [request] = prepare(database)
    resend.resend(database, job_id, reason="a test")
    held = take_one(database)
    settlements.settle_sent(database, held, taken(held), to_commit=True)
    assert hear(database, told(request)) is Heard.LATE
    assert row(database, job, job_id).state == "reported"
    assert count(database, delivery_output, delivery_output.c.committed.is_(True)) == 0
    assert_sound(database)


def test_who_may_not_report_changes_nothing(database: Database) -> None:
    sent(database)
    [request] = prepare(database)
    assert hear(database, told(request), of={"OTHER"}) is Heard.STRANGER
    unknown = Told(transaction_uid="2.25.1", committed=frozenset({"2.25.1.1.1"}), failed={})
    assert hear(database, unknown) is Heard.UNKNOWN
    assert hear(database, told(request)) is Heard.COMMITTED
    assert hear(database, told(request, failed={0: 0x0112})) is Heard.KNOWN
    assert row(database, delivery, 1).state == "committed"


def test_what_no_try_will_mend_parks_at_once_and_a_person_can_send_it_again(database: Database) -> None:
    job_id = sent(database)
    [request] = prepare(database)
    lasting = frozenset({request.references[0][1]})
    assert hear(database, told(request, failed={0: 0x0122}, lasting=lasting)) is Heard.PARKED
    assert (row(database, job, job_id).state, row(database, delivery, 1).state) == ("failed", "failed")
    assert "0x0122" in row(database, delivery, 1).reason
    resend.resend(database, job_id, reason="the archive was mended")
    assert len(take_one(database).parcels) == 2
    assert_sound(database)


def test_a_destination_that_is_silent_for_the_whole_age_is_given_up(database: Database, clock: Clock) -> None:
    job_id = sent(database)
    assert len(prepare(database)) == 1
    clock.turn(1001.0)
    requests, given_up = commitments.prepare(database, "PACS", hold=60.0, max_age=1000.0, limit=10)
    assert (requests, given_up) == ([], 1)
    assert row(database, job, job_id).state == "failed"
    assert "did not commit to them in 1 requests" in row(database, delivery, 1).reason
    assert_sound(database)


def test_an_old_delivery_that_was_never_asked_for_is_asked_for_first(database: Database, clock: Clock) -> None:
    sent(database)
    clock.turn(1001.0)
    assert len(prepare(database)) == 1


@pytest.mark.parametrize("when", ["before the request", "before the report"])
def test_a_withdrawn_result_is_committed_to_no_more(database: Database, when: str) -> None:
    job_id = sent(database)
    requests = prepare(database) if when == "before the report" else []
    withdrawals.withdraw(database, job_id, Cause(rejection="quality", note="a test", by="me"))
    if requests:
        assert hear(database, told(requests[0], failed={0: 0x0112})) is Heard.LATE
    else:
        assert prepare(database) == []
    assert row(database, delivery, 1).commit_at is None
    assert names(database, job_id)[-1] == "commitment_waived"
    assert_sound(database)


def test_bytes_stay_until_they_are_committed_to(database: Database, clock: Clock) -> None:
    sent(database)
    clock.turn(10.0)
    assert retention.retire(database, PERIODS, limit=10) == []
    [request] = prepare(database)
    hear(database, told(request))
    clock.turn(1.0)
    # Film, preview, saliency, two outputs.
    assert len(retention.retire(database, PERIODS, limit=10)) == 5
    assert row(database, instance, 1).spool_key is None


def test_commitment_that_is_configured_no_more_closes_the_jobs(database: Database) -> None:
    job_ids = [sent(database, number) for number in (1, 2)]
    assert commitments.awaited(database) == {"PACS": 2}
    assert commitments.waive(database, ["PACS"], limit=10) == 2
    assert {row(database, job, job_id).state for job_id in job_ids} == {"delivered"}
    assert commitments.awaited(database) == {}
    assert_sound(database)


def test_a_request_that_was_not_made_is_made_soon_unless_its_report_came(database: Database, clock: Clock) -> None:
    sent(database)
    [request] = prepare(database)
    commitments.ask_later(database, request, pause=5.0)
    clock.turn(5.0)
    [again] = prepare(database)
    hear(database, told(again))
    commitments.await_report(database, again, wait=0.0)
    assert prepare(database) == []


def test_a_clock_that_went_back_leaves_no_request_for_later(database: Database, clock: Clock) -> None:
    clock.turn(50_000.0)
    sent(database)
    clock.turn(-50_000.0)
    assert prepare(database) == []
    assert mend(database, reading_lease=LEASE, sending_lease=LEASE, longest_pause=900.0, longest_wait=3600.0) >= 1
    assert len(prepare(database)) == 1


def test_the_requests_of_two_senders_are_never_for_the_same(database: Database) -> None:
    for number in range(6):
        sent(database, number)
    some, _ = commitments.prepare(database, "PACS", hold=60.0, max_age=1000.0, limit=4)
    rest, _ = commitments.prepare(database, "PACS", hold=60.0, max_age=1000.0, limit=4)
    assert (len(some), len(rest)) == (4, 2)
    assert len({one.delivery_id for one in (*some, *rest)}) == 6
    uids = [one.transaction_uid for one in (*some, *rest)]
    assert len(set(uids)) == 6
    assert all(len(uid) <= 64 for uid in uids)
