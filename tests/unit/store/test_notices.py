"""Notices: who is told that a film has no result, once; and what becomes of it when the result still comes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Reader, Report
from cxrnode.core.kept import Kept
from cxrnode.store import deliveries, jobs, notices, receipt, reports, retention, settlements
from cxrnode.store.database import Database
from cxrnode.store.notices import Cause, Due
from cxrnode.store.receipt import Order
from cxrnode.store.reports import PredecessorSent, StoredOutput
from cxrnode.store.retention import Periods
from cxrnode.store.schema import delivery, job, notice, output
from tests.stores import (
    IDENTITY,
    LIMITS,
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
    receive,
    report,
    row,
    settle,
    take,
    take_one,
    taken,
)

LATE = 1800.0
READER = Reader(
    name="demo",
    version="1.0",
    bundle_digest="b" * 64,
    weights_digest="e" * 64,
    calibration="none",
    demonstration=True,
    engine="test",
)


def film(
    database: Database, number: object = 1, *, mode: str = "active", send_to: tuple[str, ...] = ("PACS",), **who: str
) -> int:
    """Receive a film whose header is kept; return its job. `who` changes the identity."""
    film = dataclasses.replace(arrival(number), kept_header=b"kept", identity={**IDENTITY, **who})
    order = Order(model="chest", mode=mode, outputs=("sr", "heatmap"), send_to=send_to)
    (job_id,) = receipt.record(database, film, [order], ageing=60.0, config_digest="c" * 64).job_ids
    return job_id


def copy(database: Database, number: object, *, of: object, **who: str) -> int:
    """Receive the film again in other bytes: the same SOP Instance UID, another data set."""
    film = dataclasses.replace(
        arrival(number),
        sop_instance_uid=arrival(of).sop_instance_uid,
        kept_header=b"kept",
        identity={**IDENTITY, **who},
    )
    order = Order(model="chest", mode="active", outputs=("sr", "heatmap"), send_to=("PACS",))
    (job_id,) = receipt.record(database, film, [order], ageing=60.0, config_digest="c" * 64).job_ids
    return job_id


def parked(database: Database, number: object = 1, **how: Any) -> int:
    """A job that is parked."""
    job_id = film(database, number, **how)
    (held,) = [one for one in claim(database) if one.job_id == job_id]
    jobs.park(database, held, "an internal fault")
    return job_id


def due(database: Database, *, limit: int = 10) -> list[Due]:
    return notices.due(database, late_after=LATE, limit=limit)


def made(one: Due, *, uid: str = "") -> list[StoredOutput]:
    """What is sent as a notice."""
    return [
        StoredOutput(
            kind=kind,
            label="",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.33",
            sop_instance_uid=f"2.25.{uid or one.job_id}.9{number}",
            series_instance_uid="2.25.77",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            instance_number=1,
            file=Kept(key=new_key(), digest=digest(number), size=10),
        )
        for number, kind in enumerate(("sr", "notice"))
    ]


def said(one: Due) -> Report:
    return Report(outcome=Outcome.NOT_ANALYSED, reason=one.reason or "late", read_at=one.at, revision=1, reader=READER)


def say(database: Database, one: Due, *, uid: str = "") -> bool:
    return notices.record(database, one, said(one), made(one, uid=uid), late_after=LATE)


def deliver(database: Database) -> None:
    """Send what is due, as the role does."""
    for held in take(database):
        if deliveries.begin(database, held):
            settlements.settle_sent(database, held, taken(held))


def acts(database: Database, job_id: int) -> dict[str, str]:
    """The state of each delivery of a job, by its act."""
    with database.read() as transaction:
        rows = transaction.rows(sa.select(delivery.c.act, delivery.c.state).where(delivery.c.job_id == job_id))
    return {one.act: one.state for one in rows}


def test_a_parked_film_is_noticed_once_with_its_reason(database: Database, clock: Clock) -> None:
    notices.loaded(database, "chest", READER)
    job_id = parked(database)
    parked_at = clock.now
    clock.turn(5.0)
    (one,) = due(database)
    assert (one.job_id, one.cause, one.reason, one.at) == (job_id, Cause.PARKED, "an internal fault", parked_at)
    assert (one.header, one.outputs, one.send_to, one.reader) == (b"kept", ("sr", "heatmap"), ("PACS",), READER)
    assert say(database, one)
    assert due(database) == []
    assert not say(database, one, uid="another")
    assert (count(database, output), acts(database, job_id)) == (2, {"notice": "pending"})
    assert names(database, job_id)[-3:] == ["parked", "not_analysed_said", "delivery_created"]
    deliver(database)
    assert acts(database, job_id) == {"notice": "sent"}
    assert row(database, job, job_id).state == "failed"  # a person is needed all the same
    assert_sound(database)


def test_a_film_is_late_when_its_time_is_over_and_nobody_reads_it_just_now(database: Database, clock: Clock) -> None:
    job_id = film(database)
    received = clock.now
    clock.turn(LATE - 1.0)
    assert due(database) == []
    claim_one(database)
    clock.turn(2.0)
    assert due(database) == []  # a worker took it three seconds ago: it may be done any moment
    clock.turn(notices.GRACE)
    (one,) = due(database)
    assert (one.job_id, one.cause, one.reason, one.at) == (job_id, Cause.LATE, "", received + LATE)
    assert one.reader is None  # no worker ever loaded the model
    assert say(database, one)
    assert due(database) == []


def test_a_film_that_is_read_while_its_notice_is_made_gets_none(database: Database, clock: Clock) -> None:
    job_id = film(database)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert settle(database, claim_one(database))
    assert not say(database, one)
    assert (acts(database, job_id), count(database, notice)) == ({"report": "pending"}, 0)


def test_a_retried_film_is_not_noticed_by_a_duty_that_looked_before(database: Database) -> None:
    job_id = parked(database)
    (one,) = due(database)
    jobs.retry(database, job_id, reason="again")
    assert not say(database, one)
    assert count(database, notice) == 0


def test_nothing_is_said_of_shadow_jobs_of_rules_without_destinations_and_of_revisions(database: Database) -> None:
    parked(database, 1, mode="shadow")
    assert due(database) == []
    parked(database, 2, send_to=())
    (one,) = due(database)
    assert not say(database, one)
    assert due(database) == []  # and it is looked at no more
    first = film(database, 3)
    assert settle(database, claim_one(database))
    second = jobs.retry(database, first, reason="again")
    (held,) = claim(database)
    assert held.job_id == second
    jobs.park(database, held, "no")
    assert due(database) == []  # what its predecessor said stands


def test_a_film_without_a_kept_header_is_passed_over(database: Database) -> None:
    receive(database)
    jobs.park(database, claim_one(database), "no")
    assert due(database) == []


def test_a_copy_of_a_film_that_was_analysed_for_the_same_patient_needs_no_notice(database: Database) -> None:
    film(database, "a")
    assert settle(database, claim_one(database))
    twin = copy(database, "b", of="a")
    jobs.park(database, claim_one(database), "no")
    stranger = copy(database, "c", of="a", accession="ANOTHER")
    jobs.park(database, claim_one(database), "no")
    told = {one.job_id: say(database, one) for one in due(database)}
    assert told == {twin: False, stranger: True}
    assert row_of(database, twin).cause == "covered"
    assert due(database) == []


def test_two_copies_of_a_film_are_noticed_once(database: Database) -> None:
    first = parked(database, "a")
    second = copy(database, "b", of="a")
    jobs.park(database, claim_one(database), "no")
    told = {one.job_id: say(database, one) for one in due(database)}
    assert told == {first: True, second: False}


def test_two_films_whose_notices_would_be_the_same_objects_give_one(database: Database) -> None:
    first, second = parked(database, 1), parked(database, 2)
    told = {one.job_id: say(database, one, uid="4711") for one in due(database)}
    assert told == {first: True, second: False}


def row_of(database: Database, job_id: int) -> sa.Row[*tuple[str, ...]]:
    with database.read() as transaction:
        found = transaction.row(sa.select(notice).where(notice.c.job_id == job_id))
    assert found is not None
    return found


def test_a_notice_that_did_not_go_out_is_cancelled_by_the_result(database: Database, clock: Clock) -> None:
    job_id = film(database)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert say(database, one)
    assert settle(database, claim_one(database))
    assert acts(database, job_id) == {"notice": "cancelled", "report": "pending"}
    deliver(database)
    assert (acts(database, job_id)["report"], row(database, job, job_id).state) == ("sent", "delivered")
    assert_sound(database)


def test_a_notice_that_a_sender_holds_is_given_up_before_it_goes(database: Database, clock: Clock) -> None:
    job_id = film(database)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert say(database, one)
    sender = take_one(database)
    assert settle(database, claim_one(database))
    assert not deliveries.begin(database, sender)
    assert acts(database, job_id) == {"notice": "cancelled", "report": "pending"}
    assert_sound(database)


def test_a_notice_that_comes_back_to_the_queue_after_the_result_is_cancelled(database: Database, clock: Clock) -> None:
    job_id = film(database)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert say(database, one)
    sender = take_one(database)
    assert deliveries.begin(database, sender)
    settled(database, job_id)
    settlements.give_back(database, sender, (), "the association failed")
    assert acts(database, job_id) == {"notice": "cancelled", "report": "pending"}


def settled(database: Database, job_id: int) -> None:
    """Read the film, and name what was said before."""
    (held,) = claim(database)
    before = reports.predecessor_sent(database, job_id)
    assert reports.settle_report(
        database, held, report(held), outputs(held), saliency=None, preview=None, predecessors=before
    ).stands


def test_a_result_names_the_notice_that_was_sent_and_may_not_overlook_it(database: Database, clock: Clock) -> None:
    job_id = film(database)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert say(database, one)
    (held,) = claim(database)
    assert reports.predecessor_sent(database, job_id) == ()
    deliver(database)
    before = reports.predecessor_sent(database, job_id)
    assert [named.kind for named in before] == ["sr", "notice"]
    how = {"saliency": None, "preview": None}
    with pytest.raises(PredecessorSent):
        reports.settle_report(database, held, report(held), outputs(held), **how)  # type: ignore[arg-type]
    assert row(database, job, job_id).state == "reading"  # nothing of it stands: it is built again
    made_anew = reports.settle_report(
        database,
        held,
        report(held),
        outputs(held),
        predecessors=before,
        **how,  # type: ignore[arg-type]
    )
    assert made_anew.stands
    assert acts(database, job_id) == {"notice": "sent", "report": "pending"}
    deliver(database)
    assert row(database, job, job_id).state == "delivered"
    assert_sound(database)


def test_a_parked_film_that_is_retried_and_read_names_its_notice(database: Database) -> None:
    job_id = parked(database)
    (one,) = due(database)
    assert say(database, one)
    deliver(database)
    assert jobs.retry(database, job_id, reason="the spool is back") == job_id
    settled(database, job_id)
    assert acts(database, job_id) == {"notice": "sent", "report": "pending"}
    assert_sound(database)


def test_a_film_that_is_parked_again_is_not_noticed_again(database: Database) -> None:
    job_id = parked(database)
    (one,) = due(database)
    assert say(database, one)
    jobs.retry(database, job_id, reason="again")
    jobs.park(database, claim_one(database), "once more")
    assert due(database) == []


def test_a_notice_that_no_destination_takes_closes_nothing(database: Database, clock: Clock) -> None:
    job_id = film(database)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert say(database, one)
    sender = take_one(database)
    assert deliveries.begin(database, sender)
    settled(database, job_id)
    settlements.settle_parked(database, sender, (), "refused for good")
    assert row(database, job, job_id).state == "reported"
    deliver(database)
    assert row(database, job, job_id).state == "delivered"
    assert_sound(database)


def test_the_bytes_of_a_noticed_duplicate_have_their_time_like_others(database: Database, clock: Clock) -> None:
    first = film(database, 1)
    assert settle(database, claim_one(database), pixels="same")
    deliver(database)
    second = film(database, 2)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert say(database, one)
    deliver(database)
    (held,) = claim(database)
    assert (
        reports.settle_duplicate(database, held, pixel_digest=digest("same"), identity_digest=digest("same")) == first
    )
    assert acts(database, second) == {"notice": "sent"}
    assert row(database, job, second).state == "reported"
    clock.turn(40 * 86400.0)
    periods = Periods(accepted=30 * 86400.0, ignored=86400.0, failed=90 * 86400.0)
    assert len(retention.retire(database, periods, limit=10)) > 2
    with database.read() as transaction:
        assert transaction.rows(sa.select(output.c.id).where(output.c.spool_key.is_not(None))) == []


def test_those_behind_a_film_are_found(database: Database) -> None:
    first, second = parked(database, 1), parked(database, 2)
    assert [one.job_id for one in due(database, limit=1)] == [first]
    assert [one.job_id for one in notices.due(database, late_after=LATE, limit=1, after=first)] == [second]


def test_limits_and_history(database: Database, clock: Clock) -> None:
    ids = [parked(database, number) for number in range(3)]
    assert [one.job_id for one in due(database, limit=2)] == ids[:2]
    clock.turn(31 * 86400.0)
    assert due(database) == []


def test_a_film_that_loses_its_workers_is_noticed_when_it_is_parked(database: Database, clock: Clock) -> None:
    film(database)
    for _ in range(LIMITS.losses):
        claim(database)
        clock.turn(61.0)
    claim(database)
    (one,) = due(database)
    assert (one.cause, "workers were lost" in one.reason) == (Cause.PARKED, True)


def test_a_receiver_of_messages_gets_the_message_and_nothing_else(database: Database) -> None:
    film = dataclasses.replace(arrival(1), kept_header=b"kept")
    order = Order(model="chest", mode="active", outputs=("sr", "hl7"), send_to=("PACS",), messages_to=("RIS",))
    (job_id,) = receipt.record(database, film, [order], ageing=60.0, config_digest="c" * 64).job_ids
    jobs.park(database, claim_one(database), "no")
    (one,) = due(database)
    message = dataclasses.replace(made(one)[0], kind="hl7", sop_instance_uid="2.25.4712")
    assert notices.record(database, one, said(one), [*made(one), message], late_after=LATE)
    (held,) = take(database, "RIS")
    assert ([parcel.kind for parcel in held.parcels], held.job_id) == (["hl7"], job_id)
    (held,) = take(database, "PACS")
    assert [parcel.kind for parcel in held.parcels] == ["sr", "notice"]


def test_the_next_revision_names_the_result_and_not_the_notice_before_it(database: Database, clock: Clock) -> None:
    job_id = film(database)
    clock.turn(LATE + 1.0)
    (one,) = due(database)
    assert say(database, one)
    deliver(database)
    settled(database, job_id)
    deliver(database)
    again = jobs.retry(database, job_id, reason="a new model")
    assert [named.kind for named in reports.predecessor_sent(database, again)] == ["sr", "heatmap"]
