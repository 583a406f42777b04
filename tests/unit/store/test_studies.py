"""Summaries of studies: when one is due, what it lists, and how one takes the place of another."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import sqlalchemy as sa

from cxrnode.core.kept import Kept
from cxrnode.store import (
    deliveries,
    disputes,
    jobs,
    receipt,
    rejections,
    reports,
    retention,
    settlements,
    studies,
    withdrawals,
)
from cxrnode.store.database import Database
from cxrnode.store.receipt import Order
from cxrnode.store.reports import StoredOutput
from cxrnode.store.retention import Periods
from cxrnode.store.schema import delivery, job, study_summary
from cxrnode.store.studies import Due, Key, Look
from cxrnode.store.withdrawals import Cause
from tests.stores import (
    IDENTITY,
    Clock,
    arrival,
    assert_sound,
    claim,
    claim_one,
    count,
    digest,
    names,
    new_key,
    outputs,
    report,
    row,
    settle,
    take,
)

QUIET = 60.0
KEY = Key(
    study_instance_uid=IDENTITY["study_instance_uid"],
    patient_id=IDENTITY["patient_id"],
    issuer=IDENTITY["issuer"],
    model="chest",
)
_numbers = itertools.count(1)


def film(database: Database, **who: str) -> int:
    """Receive a film of the study."""
    one = dataclasses.replace(arrival(next(_numbers)), kept_header=b"kept", identity={**IDENTITY, **who})
    order = Order(model="chest", mode="active", outputs=("sr", "heatmap"), send_to=("PACS",))
    return receipt.record(database, one, [order], ageing=60.0, config_digest="c" * 64).job_ids[0]


def deliver(database: Database) -> None:
    """Send what is due, as the role does."""
    for held in take(database):
        if deliveries.begin(database, held):
            answers = [settlements.Answer(output_id=one.output_id, status=0, done=True) for one in held.parcels]
            settlements.settle_sent(database, held, answers)


def read(database: Database, **who: str) -> int:
    """Receive, read and deliver a film."""
    job_id = film(database, **who)
    assert settle(database, claim_one(database), pixels=job_id)
    deliver(database)
    return job_id


def look(database: Database) -> Look:
    return studies.look(database, KEY, quiet=QUIET)


def due(database: Database) -> Due:
    found = look(database).due
    assert found is not None
    return found


def made(one: Due) -> list[StoredOutput]:
    return [
        StoredOutput(
            kind=kind,
            label="",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.11",
            sop_instance_uid=f"2.25.{one.revision}.8{number}",
            series_instance_uid="2.25.78",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            instance_number=1,
            file=Kept(key=new_key(), digest=digest(number), size=10),
        )
        for number, kind in enumerate(("study_sr", "study"))
    ]


def acts(database: Database) -> dict[str, str]:
    """The state of each delivery of a summary, by its act."""
    with database.read() as transaction:
        rows = transaction.rows(sa.select(delivery.c.act, delivery.c.state).where(delivery.c.act.like("study-%")))
    return {one.act: one.state for one in rows}


def test_a_study_of_two_films_is_due_when_it_is_quiet_and_all_is_delivered(database: Database, clock: Clock) -> None:
    first = read(database)
    clock.turn(QUIET + 1.0)
    assert look(database) == Look()  # one film: its own summary says all
    second = film(database)
    received = clock.now
    assert look(database) == Look()  # not read
    assert settle(database, claim_one(database))
    assert look(database) == Look()  # not delivered
    deliver(database)
    assert look(database) == Look(wait=True)  # not quiet
    clock.turn(QUIET)
    one = due(database)
    assert (one.revision, one.job_id, one.at, one.send_to) == (1, second, received + QUIET, ("PACS",))
    assert [film.job_id for film in one.films] == [first, second]
    assert [film.report is not None for film in one.films] == [True, True]
    assert (one.predecessors, one.act) == ((), "study-1")
    assert studies.record(database, one, made(one))
    assert look(database) == Look()
    assert not studies.record(database, one, made(one))
    assert (count(database, study_summary), acts(database)) == (1, {"study-1": "pending"})
    deliver(database)
    assert (acts(database), row(database, job, second).state) == ({"study-1": "sent"}, "delivered")
    assert names(database, second).count("study_summarised") == 1
    assert_sound(database)


def test_films_of_other_studies_patients_and_models_are_not_listed(database: Database, clock: Clock) -> None:
    read(database)
    read(database, study_instance_uid="1.2.3.4")
    read(database, patient_id="ANOTHER")
    clock.turn(QUIET + 1.0)
    assert look(database) == Look()
    assert studies.look(database, dataclasses.replace(KEY, model="other"), quiet=QUIET) == Look()


def test_a_film_more_makes_a_revision_that_names_its_predecessor(database: Database, clock: Clock) -> None:
    read(database)
    read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert studies.record(database, one, made(one))
    deliver(database)
    third = read(database)
    assert look(database) == Look(wait=True)
    clock.turn(QUIET + 1.0)
    two = due(database)
    assert (two.revision, two.job_id, len(two.films)) == (2, third, 3)
    assert [sent.sop_instance_uid for sent in two.predecessors] == ["2.25.1.80", "2.25.1.81"]
    assert studies.record(database, two, made(two))
    deliver(database)
    assert acts(database) == {"study-1": "sent", "study-2": "sent"}
    assert look(database) == Look()
    assert_sound(database)


def test_a_summary_that_did_not_go_out_is_cancelled_and_not_named(database: Database, clock: Clock) -> None:
    read(database)
    read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert studies.record(database, one, made(one))
    third = film(database)
    assert settle(database, claim_one(database))
    (sender,) = [held for held in take(database) if held.job_id == third]
    settlements.settle_sent(database, sender, ())
    release(database)
    clock.turn(QUIET + 1.0)
    two = due(database)
    assert two.predecessors == ()
    assert studies.record(database, two, made(two))
    assert acts(database) == {"study-1": "cancelled", "study-2": "pending"}
    assert_sound(database)


def release(database: Database) -> None:
    """Let the deliveries that a sender took and did not begin go back to the queue."""
    with database.write() as transaction:
        transaction.connection.execute(sa.update(delivery).where(delivery.c.state == "sending").values(lease_until=0.0))
        deliveries.expire(transaction)


def test_a_summary_that_a_sender_holds_is_given_up_before_it_goes(database: Database, clock: Clock) -> None:
    read(database)
    read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert studies.record(database, one, made(one))
    (sender,) = take(database)
    read(database)
    clock.turn(QUIET + 1.0)
    two = due(database)
    assert studies.record(database, two, made(two))
    assert not deliveries.begin(database, sender)
    assert acts(database) == {"study-1": "cancelled", "study-2": "pending"}


def test_a_summary_that_goes_out_while_the_next_is_made_is_named_after_all(database: Database, clock: Clock) -> None:
    read(database)
    read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert studies.record(database, one, made(one))
    (sender,) = take(database)
    read(database)
    clock.turn(QUIET + 1.0)
    two = due(database)
    assert deliveries.begin(database, sender)
    assert not studies.record(database, two, made(two))
    again = due(database)
    assert len(again.predecessors) == 2
    assert studies.record(database, again, made(again))


def test_a_parked_film_is_listed_with_its_reason_and_a_withdrawn_one_without_a_finding(
    database: Database, clock: Clock
) -> None:
    read(database)
    second = read(database)
    parked = film(database)
    jobs.park(database, claim_one(database), "an internal fault")
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert [(film.job_id == parked, film.report is None) for film in one.films][2] == (True, True)
    assert one.films[2].reason == "an internal fault"
    assert one.job_id == parked
    assert studies.record(database, one, made(one))
    deliver(database)
    withdrawals.withdraw(database, second, Cause(rejection="quality", note="wrong film", by="test"))
    two = due(database)
    assert (two.films[1].report, "withdrawn" in two.films[1].reason, two.films[1].preview_key) == (None, True, None)
    assert studies.record(database, two, made(two))
    assert acts(database) == {"study-1": "sent", "study-2": "pending"}
    assert_sound(database)


def test_a_film_read_again_is_listed_once_by_its_newest_reading(database: Database, clock: Clock) -> None:
    first = read(database)
    read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert studies.record(database, one, made(one))
    deliver(database)
    again = jobs.retry(database, first, reason="a new model")
    (held,) = claim(database)
    assert reports.settle_report(
        database,
        held,
        report(held),
        outputs(held),
        saliency=None,
        preview=None,
        predecessors=reports.predecessor_sent(database, again),
    ).stands
    deliver(database)
    two = due(database)
    assert (two.revision, two.job_id, [film.job_id for film in two.films][-1]) == (2, again, again)
    assert first not in [film.job_id for film in two.films]


@pytest.mark.parametrize("end", ["parked", "withdrawn before"])
def test_a_film_is_listed_once_whatever_became_of_its_revision(database: Database, clock: Clock, end: str) -> None:
    first, second = read(database), read(database)
    if end == "withdrawn before":
        withdrawals.withdraw(database, first, Cause(rejection="quality", note="no", by="test"))
    again = jobs.retry(database, first, reason="a new model")
    held = claim_one(database)
    if end == "parked":
        jobs.park(database, held, "an internal fault")
    else:
        assert settle(database, held, pixels=first)
        deliver(database)
    clock.turn(QUIET + 1.0)
    listed = {film.job_id: film.report is not None for film in due(database).films}
    assert listed == ({first: True, second: True} if end == "parked" else {second: True, again: True})


def test_nothing_is_said_of_a_study_whose_film_is_in_dispute(database: Database, clock: Clock) -> None:
    read(database)
    second = read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    film(database, study_instance_uid="1.2.99")
    assert settle(database, claim_one(database), pixels=second, identity="another")
    assert not studies.record(database, one, made(one))
    assert look(database) == Look(wait=True)
    disputes.decide(database, second, reason="x", by="me")
    one = due(database)
    assert studies.record(database, one, made(one))


def test_a_film_withdrawn_while_the_summary_is_made_or_waits_is_not_told_of(database: Database, clock: Clock) -> None:
    first, second, _ = read(database), read(database), read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    withdrawals.withdraw(database, first, Cause(rejection="worklist", note="no", by="test"))
    assert not studies.record(database, one, made(one))
    clock.turn(1.0)
    two = due(database)
    assert studies.record(database, two, made(two))
    clock.turn(1.0)
    withdrawals.withdraw(database, second, Cause(rejection="worklist", note="no", by="test"))
    deliver(database)
    assert acts(database) == {"study-1": "cancelled"}
    clock.turn(1.0)
    three = due(database)
    assert studies.record(database, three, made(three))
    deliver(database)
    assert acts(database) == {"study-1": "cancelled", "study-2": "sent"}
    assert_sound(database)


def test_a_film_that_was_never_read_takes_back_the_summary_that_it_sent(database: Database, clock: Clock) -> None:
    read(database)
    parked = film(database)
    jobs.park(database, claim_one(database), "an internal fault")
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert studies.record(database, one, made(one))
    deliver(database)
    withdrawals.withdraw(database, parked, Cause(rejection="quality", note="no", by="test"))
    (order,) = rejections.due(database, ["PACS"], limit=10)
    assert (order.job_id, order.report.outcome, order.report.reason) == (parked, "not_analysed", "an internal fault")
    assert [sent.kind for sent in order.objects] == ["study_sr", "study"]


def test_a_summary_made_after_its_films_had_gone_goes_in_its_time_too(database: Database, clock: Clock) -> None:
    short = Periods(accepted=5.0, ignored=5.0, failed=5.0)
    read(database)
    read(database)
    clock.turn(QUIET + 1.0)
    assert len(retention.retire(database, short, limit=10)) == 10
    one = due(database)
    assert studies.record(database, one, made(one))
    clock.turn(4.0)
    deliver(database)
    assert retention.retire_notes(database, short, limit=10) == []
    clock.turn(2.0)
    assert len(retention.retire_notes(database, short, limit=10)) == 2


def test_a_duplicate_is_not_listed_and_a_study_without_a_result_that_stands_has_no_summary(
    database: Database, clock: Clock
) -> None:
    first = read(database)
    film(database)
    assert not settle(database, claim_one(database), pixels=first)
    clock.turn(QUIET + 1.0)
    assert look(database) == Look()
    second = read(database)
    clock.turn(QUIET + 1.0)
    one = due(database)
    assert studies.record(database, one, made(one))
    for job_id in (first, second):
        withdrawals.withdraw(database, job_id, Cause(rejection="quality", note="no", by="test"))
    assert look(database) == Look()  # the summary was withdrawn with the job under which it went


def test_studies_are_found_by_what_settled_since_by_pages(database: Database, clock: Clock) -> None:
    ids = [read(database, study_instance_uid=f"1.2.{number % 3}") for number in range(7)]
    found, now = studies.touched(database, since=None, back=3600.0, page=2)
    assert (len(found), now) == (3, clock.now)
    assert len(ids) == 7
    clock.turn(600.0)
    assert studies.touched(database, since=now + 300.0, back=0.0, page=2) == ([], clock.now)
    assert len(studies.touched(database, since=now, back=0.0)[0]) == 3  # a little further back than it says
    read(database)
    assert [key.study_instance_uid for key in studies.touched(database, since=clock.now, back=0.0)[0]] == [
        IDENTITY["study_instance_uid"]
    ]


@pytest.mark.parametrize("shown", [repr(KEY), repr(Look())], ids=["key", "look"])
def test_a_key_tells_nobody_whose_study_it_is(shown: str) -> None:
    assert not any(value in shown for value in IDENTITY.values() if len(value) > 1)
