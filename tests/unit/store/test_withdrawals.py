"""Withdrawals: what was sent is taken back from whoever has it, what was not is never sent."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.errors import LeaseLost, Rejected
from cxrnode.store import deliveries, jobs, rejections, reports, resend, retention, settlements
from cxrnode.store.database import Database
from cxrnode.store.deliveries import DeliveryClaim
from cxrnode.store.jobs import Reader
from cxrnode.store.listing import JobFilter, list_jobs
from cxrnode.store.rejections import Order
from cxrnode.store.reports import PredecessorSent
from cxrnode.store.retention import Periods
from cxrnode.store.schema import delivery, delivery_output, instance, job, output
from cxrnode.store.settlements import Answer
from cxrnode.store.withdrawals import Cause, TakenBack, withdraw
from tests.stores import (
    LEASE,
    Clock,
    assert_sound,
    claim,
    claim_one,
    count,
    delivered,
    enqueue,
    names,
    note_of,
    outputs,
    report,
    reported,
    row,
    settle,
    take,
    take_one,
    taken,
)

CAUSE = Cause(rejection="quality", note="a bad result", by="a person")
NODES = ("MINI", "PACS")


def due(database: Database) -> list[Order]:
    return rejections.due(database, NODES, limit=10)


def made(database: Database) -> list[str]:
    """Make what is due; the keys that no row has."""
    return [
        key for one in due(database) for key in rejections.record(database, one, note_of(one) if one.objects else ())
    ]


def states(database: Database, job_id: int) -> dict[tuple[str, str], str]:
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(delivery.c.destination, delivery.c.act, delivery.c.state).where(delivery.c.job_id == job_id)
        )
    return {(one.destination, one.act): one.state for one in rows}


def under_way(database: Database, job_id: int, destination: str = "PACS") -> DeliveryClaim:
    """The delivery of a job whose first object is on its way."""
    (held,) = [one for one in take(database, destination) if one.job_id == job_id]
    assert deliveries.begin(database, held)
    return held


def test_what_was_sent_is_withdrawn_and_what_was_not_is_cancelled(database: Database) -> None:
    job_id = reported(database, 1, send_to=("PACS", "MINI"))
    held = under_way(database, job_id)
    settlements.settle_sent(database, held, taken(held))
    assert withdraw(database, job_id, CAUSE) == TakenBack(cancelled=1, ordered=1)
    assert states(database, job_id) == {
        ("PACS", "report"): "sent",
        ("MINI", "report"): "cancelled",
        ("PACS", "withdrawal"): "waiting",
    }
    (order,) = due(database)
    assert (order.rejection, order.note, order.replaced) == ("quality", "a bad result", False)
    assert [one.sop_instance_uid for one in order.objects] == ["2.25.1.1.1", "2.25.1.1.2"]
    assert made(database) == []
    note = take_one(database)
    assert [one.kind for one in note.parcels] == ["rejection"]
    assert deliveries.begin(database, note)
    settlements.settle_sent(database, note, taken(note))
    assert states(database, job_id)["PACS", "withdrawal"] == "sent"
    stored = row(database, job, job_id)
    assert (stored.state, stored.rejection, stored.rejected_at) == ("withdrawn", "quality", order.at)
    assert take(database) == take(database, "MINI") == []
    assert_sound(database)


def test_nothing_is_sent_where_nothing_arrived(database: Database) -> None:
    job_id = reported(database)
    for _ in range(3):  # the archive is down: it is probed, and every probe comes back
        settlements.give_back(database, take_one(database), (), "not sent")
    assert withdraw(database, job_id, CAUSE) == TakenBack(cancelled=1, ordered=0)
    assert due(database) == []
    assert states(database, job_id) == {("PACS", "report"): "cancelled"}


def test_what_was_refused_is_not_withdrawn_and_what_never_got_an_answer_is(database: Database) -> None:
    job_id = reported(database)
    held = under_way(database, job_id)
    first, second = (one.output_id for one in held.parcels)
    refused = [Answer(output_id=first, status=0xA900, done=False)]
    settlements.settle_faulted(database, held, refused, "a time-out", pause=0.0, unsure=second)
    assert withdraw(database, job_id, CAUSE) == TakenBack(cancelled=1, ordered=1)
    (order,) = due(database)
    assert [one.sop_instance_uid for one in order.objects] == ["2.25.1.1.2"]


def test_what_a_destination_may_have_stays_so_when_it_is_refused_later(database: Database) -> None:
    job_id = reported(database)
    held = under_way(database, job_id)
    settlements.settle_faulted(database, held, (), "a time-out", pause=0.0, unsure=held.parcels[0].output_id)
    held = under_way(database, job_id)
    assert [one.had for one in held.parcels] == [True, False]
    refused = [Answer(output_id=one.output_id, status=0xC000, done=False) for one in held.parcels]
    settlements.settle_parked(database, held, refused, "refused")
    withdraw(database, job_id, CAUSE)
    (order,) = due(database)
    assert [one.sop_instance_uid for one in order.objects] == ["2.25.1.1.1"]


def test_what_was_sent_again_in_vain_is_withdrawn_all_the_same(database: Database) -> None:
    job_id = delivered(database)
    resend.resend(database, job_id, reason="lost")
    settlements.give_back(database, take_one(database), (), "not sent")
    assert withdraw(database, job_id, CAUSE) == TakenBack(cancelled=1, ordered=1)
    assert [len(one.objects) for one in due(database)] == [2]


@pytest.mark.parametrize("ends", ["sent", "lost", "refused"])
def test_a_withdrawal_waits_for_the_sender_that_is_busy(database: Database, clock: Clock, ends: str) -> None:
    job_id = reported(database)
    held = under_way(database, job_id)
    assert withdraw(database, job_id, CAUSE) == TakenBack(cancelled=0, ordered=1)
    assert due(database) == []
    if ends == "sent":
        settlements.settle_sent(database, held, taken(held))
    elif ends == "lost":  # kill -9: nobody knows how far it came
        clock.turn(LEASE + 1)
        assert take(database) == []
    else:
        settlements.settle_parked(
            database, held, [Answer(output_id=one.output_id, status=0xA900, done=False) for one in held.parcels], "no"
        )
    (order,) = due(database)
    assert len(order.objects) == (0 if ends == "refused" else 2)
    assert made(database) == []
    expected = "cancelled" if ends == "refused" else "pending"
    assert states(database, job_id)["PACS", "withdrawal"] == expected
    assert_sound(database)


def test_a_delivery_that_was_claimed_and_not_begun_does_not_go_once_its_job_is_withdrawn(database: Database) -> None:
    job_id = reported(database)
    held = take_one(database)
    withdraw(database, job_id, CAUSE)
    assert not deliveries.begin(database, held)
    assert states(database, job_id)["PACS", "report"] == "cancelled"
    made(database)
    assert states(database, job_id)["PACS", "withdrawal"] == "cancelled"
    with pytest.raises(LeaseLost):
        settlements.settle_sent(database, held, taken(held))
    assert_sound(database)


def test_a_film_is_withdrawn_before_or_while_it_is_read(database: Database) -> None:
    waiting = enqueue(database, 1)
    assert withdraw(database, waiting, CAUSE) == TakenBack(cancelled=0, ordered=0)
    assert claim(database) == []
    reading = enqueue(database, 2)
    held = claim_one(database)
    withdraw(database, reading, CAUSE)
    with pytest.raises(LeaseLost):
        settle(database, held)
    assert [row(database, job, one).state for one in (waiting, reading)] == ["withdrawn", "withdrawn"]
    assert count(database, output) == 0
    assert_sound(database)


def test_a_result_is_withdrawn_once(database: Database) -> None:
    job_id = delivered(database)
    withdraw(database, job_id, CAUSE)
    with pytest.raises(Rejected, match=f"job {job_id}: its result is withdrawn already"):
        withdraw(database, job_id, CAUSE)
    with pytest.raises(Rejected, match="there is no job 99"):
        withdraw(database, 99, CAUSE)
    with pytest.raises(ValueError, match="a rejection is one of quality"):
        withdraw(database, job_id, dataclasses.replace(CAUSE, rejection="whim"))


def told(database: Database) -> list[str]:
    """Send the withdrawals that are due; the UIDs that went."""
    assert made(database) == []
    sent = []
    for held in take(database):
        assert deliveries.begin(database, held)
        settlements.settle_sent(database, held, taken(held))
        sent += [one.sop_instance_uid for one in held.parcels]
    return sent


GRAVER = Cause(rejection="patient-safety", note="it may do harm", by="a person")


@pytest.mark.parametrize("moment", ["asked", "made", "sent", "refused"])
def test_a_withdrawal_is_made_graver_and_all_that_were_told_are_told_anew(database: Database, moment: str) -> None:
    job_id = delivered(database)
    withdraw(database, job_id, CAUSE)
    first: list[str] = []
    if moment == "made":
        assert made(database) == []
    elif moment == "sent":
        first = told(database)
        assert len(first) == 1
    elif moment == "refused":
        made(database)
        note = take_one(database)
        assert deliveries.begin(database, note)
        refused = [Answer(output_id=one.output_id, status=0xA900, done=False) for one in note.parcels]
        settlements.settle_parked(database, note, refused, "refused")
    assert withdraw(database, job_id, GRAVER) == TakenBack(cancelled=0, ordered=1)
    (order,) = due(database)
    assert (order.rejection, order.note) == ("patient-safety", "it may do harm")
    assert [one.sop_instance_uid for one in order.objects] == ["2.25.1.1.1", "2.25.1.1.2"]
    # One note alone goes: of the milder one nothing that did not go before.
    second = told(database)
    assert len(second) == 1 and second != first
    assert (row(database, job, job_id).rejection, due(database), take(database)) == ("patient-safety", [], [])
    for mild in (CAUSE, GRAVER):
        with pytest.raises(Rejected, match="its result is withdrawn already, for patient-safety"):
            withdraw(database, job_id, mild)
    assert names(database, job_id).count("withdrawal_asked") == 1
    assert_sound(database)


def test_a_withdrawal_is_not_made_graver_while_its_note_goes(database: Database) -> None:
    job_id = delivered(database)
    withdraw(database, job_id, CAUSE)
    made(database)
    note = take_one(database)
    assert deliveries.begin(database, note)
    with pytest.raises(Rejected, match="its note goes to PACS at this moment"):
        withdraw(database, job_id, GRAVER)
    assert row(database, job, job_id).rejection == "quality"
    settlements.settle_sent(database, note, taken(note))
    assert withdraw(database, job_id, GRAVER).ordered == 1
    assert_sound(database)


def test_what_a_revision_took_the_place_of_can_be_withdrawn_for_a_graver_cause(database: Database) -> None:
    first = delivered(database)
    jobs.retry(database, first, reason="a new model")
    held = claim_one(database)
    assert settle(database, held)
    told(database)
    assert withdraw(database, first, GRAVER).ordered == 1
    assert [(one.job_id, one.rejection, one.replaced) for one in due(database)] == [(first, "patient-safety", True)]
    assert row(database, job, first).state == "superseded"
    assert_sound(database)


def test_a_withdrawal_made_graver_as_another_patients_stops_the_revision_that_was_asked_for(database: Database) -> None:
    first = delivered(database)
    withdraw(database, first, CAUSE)
    second = jobs.retry(database, first, reason="again")
    withdraw(database, first, dataclasses.replace(CAUSE, rejection="worklist"))
    assert [row(database, job, one).state for one in (first, second)] == ["withdrawn", "withdrawn"]
    assert claim(database) == []
    assert_sound(database)


def test_a_duplicate_is_not_withdrawn_in_place_of_what_was_sent(database: Database) -> None:
    first = enqueue(database, 1)
    settle(database, claim_one(database), pixels="film")
    second = enqueue(database, 2)
    settle(database, claim_one(database), pixels="film")
    with pytest.raises(Rejected, match=f"job {second} is a duplicate and sent nothing; withdraw job {first}"):
        withdraw(database, second, CAUSE)


@pytest.mark.parametrize("reading", [False, True])
def test_a_revision_of_another_patients_film_is_not_read(database: Database, reading: bool) -> None:
    first = delivered(database)
    second = jobs.retry(database, first, reason="a new model")
    held = claim_one(database) if reading else None
    withdraw(database, first, dataclasses.replace(CAUSE, rejection="worklist"))
    assert [row(database, job, one).state for one in (first, second)] == ["withdrawn", "withdrawn"]
    if held is not None:
        with pytest.raises(LeaseLost):
            settle(database, held)
    assert claim(database) == []
    assert_sound(database)


def test_a_bad_result_is_withdrawn_and_its_revision_read_all_the_same(database: Database) -> None:
    first = delivered(database)
    second = jobs.retry(database, first, reason="a new model")
    withdraw(database, first, CAUSE)
    assert settle(database, claim_one(database))
    assert row(database, job, second).state == "reported"


def test_who_withdrew_it_when_and_why_stands_in_the_chain(database: Database, clock: Clock) -> None:
    from cxrnode.store import audit
    from cxrnode.store.audit import EventFilter

    job_id = delivered(database)
    withdraw(database, job_id, CAUSE)
    found = {one.name: one for one in audit.query(database, EventFilter(job_id=job_id), limit=100)}
    assert found["withdrawn"].detail == {"rejection": "quality", "reason": "a bad result", "by": "a person"}
    assert (found["withdrawn"].at, found["delivery_ordered"].detail) == (clock.now, {"destination": "PACS"})
    assert audit.broken_link(database, job_id) is None


def test_a_revision_withdraws_what_its_predecessor_sent(database: Database) -> None:
    first = delivered(database)
    second = jobs.retry(database, first, reason="a new model", by="a person")
    settle(database, claim_one(database))
    assert (row(database, job, first).state, row(database, job, second).revision) == ("superseded", 2)
    (order,) = due(database)
    assert (order.job_id, order.rejection, order.note, order.replaced) == (
        first,
        "quality",
        "read again, revision 2",
        True,
    )
    assert_sound(database)


def test_a_revision_leaves_what_its_predecessor_sent_where_the_site_says_so(database: Database) -> None:
    first = delivered(database)
    jobs.retry(database, first, reason="a new model")
    held = claim_one(database)
    before = reports.predecessor_sent(database, held.job_id)
    said = dataclasses.replace(report(held), revision=2)
    reports.settle_report(
        database,
        held,
        said,
        outputs(held),
        saliency=None,
        preview=None,
        predecessors=before,
        withdraw_superseded=False,
    )
    assert (row(database, job, first).state, due(database)) == ("superseded", [])
    assert withdraw(database, first, CAUSE) == TakenBack(cancelled=0, ordered=1)
    assert (row(database, job, first).state, len(due(database))) == ("superseded", 1)
    assert "withdrawal_asked" in names(database, first)
    with pytest.raises(Rejected, match="withdrawn already"):
        withdraw(database, first, CAUSE)
    assert_sound(database)


@pytest.mark.parametrize("rejection", ["worklist", "quality"])
def test_a_wrong_patients_film_leaves_no_earlier_revision_behind(database: Database, rejection: str) -> None:
    jobs_of_film = [delivered(database)]
    for revision in (2, 3):
        jobs_of_film.append(jobs.retry(database, jobs_of_film[-1], reason="a new model"))
        held = claim_one(database)
        before = reports.predecessor_sent(database, held.job_id)
        said = dataclasses.replace(report(held), revision=revision)
        how = {"saliency": None, "preview": None, "predecessors": before, "withdraw_superseded": False}
        reports.settle_report(database, held, said, outputs(held), **how)  # type: ignore[arg-type]
        sending = take_one(database)
        assert deliveries.begin(database, sending)
        settlements.settle_sent(database, sending, taken(sending))
    withdraw(database, jobs_of_film[-1], dataclasses.replace(CAUSE, rejection=rejection))
    told = jobs_of_film if rejection == "worklist" else jobs_of_film[-1:]
    found = sorted((one.job_id, one.rejection, one.replaced) for one in due(database))
    assert found == [(one, rejection, False) for one in told]
    assert_sound(database)


# SQLite has one writer at a time, and so no such race.
@pytest.mark.parametrize("store_url", [pytest.param("postgresql", marks=pytest.mark.peers)], indirect=True)
def test_what_settles_while_its_withdrawal_waits_for_it_is_withdrawn(
    database: Database, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = enqueue(database, 1)
    held = claim_one(database)
    looked: list[int] = []

    def slow(*whose: Any) -> Any:
        found = deliveries.lock_deliveries(*whose)
        if not looked:
            looked.append(len(found))
            settle(database, held)
            under_way(database, job_id)
        return found

    monkeypatch.setattr("cxrnode.store.withdrawals.lock_deliveries", slow)
    assert withdraw(database, job_id, CAUSE) == TakenBack(cancelled=0, ordered=1)
    assert (looked, row(database, job, job_id).state) == ([0], "withdrawn")


def test_a_revision_names_all_that_was_sent_of_its_predecessor_or_is_built_again(database: Database) -> None:
    first = reported(database)
    jobs.retry(database, first, reason="a new model")
    held = claim_one(database)
    assert reports.predecessor_sent(database, held.job_id) == ()
    sending = take_one(database)
    deliveries.begin(database, sending)
    with pytest.raises(PredecessorSent):
        reports.settle_report(database, held, report(held), outputs(held), saliency=None, preview=None)
    before = reports.predecessor_sent(database, held.job_id)
    assert [one.sop_instance_uid for one in before] == ["2.25.1.1.1", "2.25.1.1.2"]
    assert settle(database, held)
    settlements.settle_sent(database, sending, taken(sending))
    assert [one.job_id for one in due(database)] == [first]


def test_what_was_withdrawn_is_read_again_and_names_no_predecessor(database: Database) -> None:
    first = delivered(database)
    withdraw(database, first, CAUSE)
    second = jobs.retry(database, first, reason="the model was mended")
    held = claim_one(database)
    assert reports.predecessor_sent(database, held.job_id) == ()
    assert settle(database, held)
    assert (row(database, job, first).state, row(database, job, second).state) == ("withdrawn", "reported")
    with pytest.raises(Rejected, match="has a later revision"):
        jobs.retry(database, first, reason="again")


def test_a_film_of_another_patient_is_not_read_again(database: Database) -> None:
    job_id = delivered(database)
    withdraw(database, job_id, dataclasses.replace(CAUSE, rejection="worklist"))
    with pytest.raises(Rejected, match="send the corrected film"):
        jobs.retry(database, job_id, reason="again")


def test_another_model_can_take_the_place_of_a_reading(database: Database) -> None:
    first = delivered(database)
    second = jobs.retry(database, first, reason="better", reader=Reader(model="better", mode="active"))
    made_of = row(database, job, second)
    assert (made_of.model, made_of.revision, made_of.predecessor) == ("better", 2, first)
    with pytest.raises(Rejected, match="it is under way already"):
        jobs.retry(database, second, reason="again")


def test_a_second_model_does_not_read_a_film_twice(database: Database) -> None:
    enqueue(database, 1, models=("chest", "better"))
    settle(database, claim_one(database))
    with pytest.raises(Rejected, match="better reads this film already, as job 2"):
        jobs.retry(database, 1, reason="better", reader=Reader(model="better", mode="active"))


def test_a_shadow_takes_the_place_of_nothing_that_was_sent(database: Database) -> None:
    first = delivered(database)
    with pytest.raises(Rejected, match="is a shadow now, and nothing would take the place"):
        jobs.retry(database, first, reason="x", reader=Reader(model="chest", mode="shadow"))


def test_two_destinations_with_the_same_objects_get_the_same_note(database: Database) -> None:
    job_id = reported(database, 1, send_to=("PACS", "MINI"))
    for destination in ("PACS", "MINI"):
        held = under_way(database, job_id, destination)
        settlements.settle_sent(database, held, taken(held))
    withdraw(database, job_id, CAUSE)
    assert len(made(database)) == 1  # the second file is spare
    notes = [take_one(database, name).parcels for name in ("PACS", "MINI")]
    assert notes[0] == notes[1]


def test_a_withdrawal_is_made_by_one_node_of_many(database: Database) -> None:
    withdraw(database, delivered(database), CAUSE)
    (order,) = due(database)
    assert rejections.record(database, order, note_of(order)) == []
    late = note_of(order)
    assert rejections.record(database, order, late) == [late[0].file.key]
    assert count(database, delivery_output, delivery_output.c.delivery_id == order.delivery_id) == 1


def test_a_withdrawal_that_cannot_be_made_waits_and_stops_no_other(database: Database, clock: Clock) -> None:
    first, second = delivered(database, 1), delivered(database, 2)
    for one in (first, second):
        withdraw(database, one, CAUSE)
    rejections.postpone(database, due(database)[0], "the identity was erased", pause=60.0)
    assert [one.job_id for one in due(database)] == [second]
    clock.turn(61.0)
    assert [one.job_id for one in due(database)] == [first, second]


def test_the_note_goes_again_when_a_person_asks(database: Database) -> None:
    job_id = delivered(database)
    withdraw(database, job_id, CAUSE)
    with pytest.raises(Rejected, match="their withdrawal is on its way"):
        resend.resend(database, job_id, reason="x")
    made(database)
    note = take_one(database)
    settlements.settle_parked(database, note, (), "no such class")
    assert row(database, job, job_id).state == "withdrawn"
    assert resend.resend(database, job_id, reason="it was configured") == 1
    again = take_one(database)
    assert (again.delivery_id, again.parcels) == (note.delivery_id, note.parcels)
    assert_sound(database)


def test_the_bytes_stay_until_the_withdrawal_has_gone(database: Database, clock: Clock) -> None:
    withdraw(database, delivered(database), CAUSE)
    short = Periods(accepted=5.0, ignored=5.0, failed=5.0)
    clock.turn(100.0)
    assert retention.retire(database, short, limit=10) == []
    made(database)
    assert retention.retire(database, short, limit=10) == []
    note = take_one(database)
    settlements.settle_sent(database, note, taken(note))
    assert len(retention.retire(database, short, limit=10)) == 6  # film, map, preview, two outputs, the note


def test_a_note_made_after_the_film_had_gone_goes_in_its_time_too(database: Database, clock: Clock) -> None:
    job_id = delivered(database)
    short = Periods(accepted=5.0, ignored=5.0, failed=5.0)
    clock.turn(100.0)
    assert len(retention.retire(database, short, limit=10)) == 5
    withdraw(database, job_id, CAUSE)
    made(database)
    clock.turn(100.0)
    assert retention.retire_notes(database, short, limit=10) == []
    note = take_one(database)
    settlements.settle_sent(database, note, taken(note))
    assert retention.retire_notes(database, short, limit=10) == [note.parcels[0].spool_key]
    assert retention.retire_notes(database, short, limit=10) == []
    assert count(database, instance, instance.c.spool_key.is_not(None)) == 0


def test_a_listing_tells_revision_predecessor_and_withdrawal(database: Database) -> None:
    first = delivered(database)
    jobs.retry(database, first, reason="x")
    settle(database, claim_one(database))
    newer, older = list_jobs(database, JobFilter(), limit=10)
    assert (newer.revision, newer.predecessor, newer.withdrawals) == (2, first, {})
    assert (older.state, older.rejection, older.withdrawals) == ("superseded", "quality", {"PACS": "waiting"})
