"""The queue of deliveries: leases, answers, closing the job, circuits, and sending again."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.errors import LeaseLost, Rejected
from cxrnode.store import changes, circuits, deliveries, jobs, resend, retention, settlements
from cxrnode.store.database import Database, Transaction
from cxrnode.store.deliveries import DeliveryClaim
from cxrnode.store.retention import Periods
from cxrnode.store.schema import circuit, delivery, delivery_output, event, job
from cxrnode.store.settlements import Answer
from tests.stores import (
    LEASE,
    Clock,
    assert_sound,
    claim_one,
    count,
    delivered,
    names,
    reported,
    row,
    settle,
    take,
    take_one,
    taken,
)


def test_a_delivery_carries_every_object_of_its_job(database: Database, clock: Clock) -> None:
    job_id = reported(database)
    clock.turn(3.0)
    held = take_one(database, owner="host:2")
    assert (job_id, "PACS", 1, 0, 3.0) == (held.job_id, held.destination, held.token, held.attempts, held.age)
    assert [one.kind for one in held.parcels] == ["sr", "heatmap"]
    stored = row(database, delivery, held.delivery_id)
    assert ("sending", "host:2", clock.now + LEASE) == (stored.state, stored.lease_owner, stored.lease_until)


def test_what_one_sender_holds_no_other_takes(database: Database) -> None:
    reported(database)
    assert len(take(database, owner="s1")) == 1
    assert take(database, owner="s2") == []


def test_a_destination_gets_only_its_own(database: Database) -> None:
    reported(database, 1, send_to=("PACS", "MINI"))
    assert take(database, "OTHER") == []
    assert [one.destination for one in take(database, "MINI")] == ["MINI"]
    assert [one.destination for one in take(database, "PACS")] == ["PACS"]


def test_the_last_delivery_closes_the_job(database: Database, clock: Clock) -> None:
    job_id = reported(database, 1, send_to=("PACS", "MINI"))
    first, second = take_one(database, "PACS"), take_one(database, "MINI")
    settlements.settle_sent(database, first, taken(first))
    assert row(database, job, job_id).state == "reported"
    clock.turn(1.0)
    settlements.settle_sent(database, second, taken(second))
    stored = row(database, job, job_id)
    assert ("delivered", clock.now) == (stored.state, stored.settled_at)
    assert_sound(database)


@pytest.mark.parametrize("order", [("PACS", "MINI"), ("MINI", "PACS")])
def test_a_job_with_one_delivery_that_failed_failed_once_all_rest(database: Database, order: tuple[str, str]) -> None:
    job_id = reported(database, 1, send_to=("PACS", "MINI"))
    for number, destination in enumerate(order):
        held = take_one(database, destination)
        if destination == "PACS":
            settlements.settle_sent(database, held, taken(held))
        else:
            settlements.settle_parked(database, held, (), "refused for good")
        assert ("reported", "failed")[number] == row(database, job, job_id).state
    assert names(database, job_id)[-1] == "undelivered"
    assert_sound(database)


def test_each_objects_answer_is_recorded(database: Database) -> None:
    reported(database)
    held = take_one(database)
    said = [
        Answer(output_id=held.parcels[0].output_id, status=0xB000, done=True, comment="coerced " * 40),
        Answer(output_id=held.parcels[1].output_id, status=0xA900, done=False, comment="no"),
    ]
    settlements.settle_parked(database, held, said, "heatmap answered 0xA900")
    with database.read() as transaction:
        rows = transaction.rows(sa.select(delivery_output).order_by(delivery_output.c.output_id))
    assert [(one.status, one.done) for one in rows] == [(0xB000, True), (0xA900, False)]
    assert len(rows[0].comment) == 128


def test_a_passing_fault_comes_again_after_its_pause_with_what_is_left(database: Database, clock: Clock) -> None:
    reported(database)
    held = take_one(database)
    said = [Answer(output_id=held.parcels[0].output_id, status=0, done=True)]
    settlements.settle_faulted(database, held, said, "heatmap answered 0xA700", pause=30.0)
    assert take(database) == []
    clock.turn(30.0)
    again = take_one(database)
    assert (again.attempts, again.token) == (1, 2)
    assert [held.parcels[1]] == list(again.parcels)


def test_a_delivery_given_back_keeps_what_was_taken_and_costs_no_attempt(database: Database) -> None:
    reported(database)
    held = take_one(database)
    said = [Answer(output_id=held.parcels[0].output_id, status=0, done=True)]
    settlements.give_back(database, held, said, "the association was aborted")
    again = take_one(database)
    assert again.attempts == 0
    assert [held.parcels[1]] == list(again.parcels)
    assert_sound(database)


def test_the_deliveries_of_a_lost_sender_go_again(database: Database, clock: Clock) -> None:
    job_id = reported(database)
    lost = take_one(database, owner="lost")
    clock.turn(LEASE + 1)
    again = take_one(database, owner="s2")
    assert (lost.delivery_id, 2, lost.parcels) == (again.delivery_id, again.token, again.parcels)
    assert names(database, job_id)[-3:] == ["delivery_claimed", "delivery_lease_expired", "delivery_claimed"]


SETTLES: dict[str, Callable[[Database, DeliveryClaim], None]] = {
    "sent": lambda database, held: settlements.settle_sent(database, held, taken(held)),
    "parked": lambda database, held: settlements.settle_parked(database, held, taken(held), "late"),
    "faulted": lambda database, held: settlements.settle_faulted(database, held, taken(held), "late", pause=1.0),
    "give_back": lambda database, held: settlements.give_back(database, held, taken(held), "late"),
}


@pytest.mark.parametrize("settle_late", SETTLES.values(), ids=SETTLES)
def test_a_sender_that_lost_its_lease_writes_nothing(
    database: Database, clock: Clock, settle_late: Callable[[Database, DeliveryClaim], None]
) -> None:
    reported(database)
    late = take_one(database, owner="s1")
    clock.turn(LEASE + 1)
    take_one(database, owner="s2")
    before = [row(database, delivery, late.delivery_id), count(database, event)]
    with pytest.raises(LeaseLost, match="no longer held under token 1"):
        settle_late(database, late)
    assert before == [row(database, delivery, late.delivery_id), count(database, event)]
    assert count(database, delivery_output, delivery_output.c.done.is_(True)) == 0


def test_a_renewed_lease_holds_on_and_a_lost_one_is_not_renewed(database: Database, clock: Clock) -> None:
    reported(database)
    held = take_one(database)
    clock.turn(LEASE - 1)
    assert deliveries.renew(database, [held], lease=LEASE) == 1
    clock.turn(LEASE - 1)
    assert take(database, owner="s2") == []
    clock.turn(2.0)
    take_one(database, owner="s2")
    assert deliveries.renew(database, [held], lease=LEASE) == 0


def test_the_leases_of_a_sender_known_to_be_dead_end_at_once(database: Database) -> None:
    reported(database)
    take_one(database, owner="dead")
    assert deliveries.release_owner(database, "dead") == 1
    assert len(take(database, owner="s2")) == 1


# ------------------------------------------------------------------------------------------------ circuits


def test_an_open_circuit_lets_one_probe_through_when_it_is_due(database: Database, clock: Clock) -> None:
    for number in range(3):
        reported(database, number)
    assert circuits.open_circuit(database, "PACS", "connection refused", base=2.0, cap=60.0) == 2.0
    assert take(database) == []
    clock.turn(2.0)
    assert len(take(database, owner="s1")) == 1
    assert take(database, owner="s2") == []


def test_a_probe_that_was_lost_is_made_again_after_its_lease(database: Database, clock: Clock) -> None:
    reported(database)
    circuits.open_circuit(database, "PACS", "connection refused", base=2.0, cap=60.0)
    clock.turn(2.0)
    take_one(database, owner="lost")
    clock.turn(LEASE + 1)
    assert len(take(database, owner="s2")) == 1


def test_a_look_that_took_nothing_uses_no_probe_up(database: Database, clock: Clock) -> None:
    reported(database, 1, send_to=("MINI",))
    take_one(database, "MINI", owner="lost")
    circuits.open_circuit(database, "PACS", "connection refused", base=2.0, cap=60.0)
    clock.turn(LEASE + 1)
    assert take(database, "PACS") == []  # the lost lease of MINI made it look
    reported(database, 2)
    assert len(take(database, "PACS")) == 1


def test_an_open_circuit_delays_no_other_destination(database: Database, clock: Clock) -> None:
    reported(database, 1, send_to=("PACS", "MINI"))
    circuits.open_circuit(database, "PACS", "connection refused", base=2.0, cap=60.0)
    assert (take(database, "PACS"), len(take(database, "MINI"))) == ([], 1)


def test_the_pause_of_a_circuit_doubles_up_to_its_cap(database: Database, clock: Clock) -> None:
    pauses = [circuits.open_circuit(database, "PACS", "down", base=1.0, cap=5.0) for _ in range(5)]
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0]
    with database.read() as transaction:
        way = transaction.row(sa.select(circuit))
    assert way is not None
    assert (True, 5, clock.now + 5.0) == (way.open, way.faults, way.next_probe_at)
    assert count(database, event, event.c.name == "circuit_opened") == 1


def test_two_nodes_that_fail_together_for_the_first_time_open_a_circuit_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsert = Transaction.upsert

    def held_up(transaction: Transaction, *given: Any, **how: Any) -> None:
        time.sleep(1.0)
        upsert(transaction, *given, **how)

    monkeypatch.setattr(Transaction, "upsert", held_up)
    with ThreadPoolExecutor(2) as nodes:
        asked = [nodes.submit(circuits.open_circuit, database, "PACS", "down", base=1.0, cap=5.0) for _ in range(2)]
        assert sorted(one.result() for one in asked) == [1.0, 2.0]
    assert count(database, event, event.c.name == "circuit_opened") == 1


def test_a_circuit_closes_once_and_starts_afresh(database: Database) -> None:
    assert not circuits.close_circuit(database, "PACS")
    circuits.open_circuit(database, "PACS", "down", base=1.0, cap=5.0)
    circuits.open_circuit(database, "PACS", "down", base=1.0, cap=5.0)
    assert [circuits.close_circuit(database, "PACS") for _ in range(2)] == [True, False]
    assert count(database, event, event.c.name == "circuit_closed") == 1
    reported(database)
    assert len(take(database)) == 1
    assert circuits.open_circuit(database, "PACS", "down", base=1.0, cap=5.0) == 1.0


def test_faults_of_an_association_cost_a_delivery_nothing(database: Database, clock: Clock) -> None:
    reported(database)
    for _ in range(20):
        held = take_one(database)
        settlements.give_back(database, held, (), "connection refused")
        clock.turn(circuits.open_circuit(database, "PACS", "down", base=1.0, cap=5.0))
    stored = row(database, delivery, held.delivery_id)
    assert (stored.state, stored.attempts, stored.not_before) == ("pending", 0, 0.0)


# ---------------------------------------------------------------------------------------------- sending again


def test_a_delivered_job_is_sent_again_whole(database: Database) -> None:
    job_id = delivered(database)
    assert resend.resend(database, job_id, reason="the archive lost it") == 1
    assert row(database, job, job_id).state == "reported"
    again = take_one(database)
    assert len(again.parcels) == 2
    settlements.settle_sent(database, again, taken(again))
    assert row(database, job, job_id).state == "delivered"
    assert_sound(database)


def test_a_failed_delivery_is_sent_again_from_its_first_attempt(database: Database, clock: Clock) -> None:
    job_id = reported(database)
    held = take_one(database)
    settlements.settle_faulted(database, held, (), "busy", pause=0.0)
    settlements.settle_parked(database, take_one(database), (), "no")
    clock.turn(1000.0)
    assert resend.resend(database, job_id, reason="it was configured") == 1
    again = take_one(database)
    assert (again.attempts, again.age) == (0, 0.0)
    assert row(database, job, job_id).state == "reported"
    assert_sound(database)


def test_what_is_held_is_released_by_a_resend(database: Database) -> None:
    job_id = reported(database)
    with database.write() as transaction:
        transaction.connection.execute(sa.update(delivery).values(held=True, reason="held"))
    assert take(database) == []
    assert resend.resend(database, job_id, reason="the patient was merged") == 1
    assert len(take(database)) == 1
    assert "delivery_released" in names(database, job_id)


def test_what_is_under_way_is_not_sent_again(database: Database) -> None:
    job_id = reported(database)
    with pytest.raises(Rejected, match="under way already"):
        resend.resend(database, job_id, reason="impatience")


def test_a_job_without_deliveries_or_without_a_row_cannot_be_sent_again(database: Database) -> None:
    job_id = reported(database, 1, mode="shadow")
    with pytest.raises(Rejected, match="has nothing to send"):
        resend.resend(database, job_id, reason="")
    with pytest.raises(Rejected, match="there is no job 99"):
        resend.resend(database, 99, reason="")


def test_outputs_that_retention_took_cannot_be_sent_again(database: Database, clock: Clock) -> None:
    job_id = delivered(database)
    clock.turn(10.0)
    retention.retire(database, Periods(accepted=5.0, ignored=5.0, failed=5.0), limit=10)
    with pytest.raises(Rejected, match="retention removed its outputs"):
        resend.resend(database, job_id, reason="")


def test_what_was_superseded_is_not_sent_again(database: Database) -> None:
    first = delivered(database)
    jobs.retry(database, first, reason="again")
    settle(database, claim_one(database))
    with pytest.raises(Rejected, match=f"job {first} is superseded"):
        resend.resend(database, first, reason="")


@pytest.mark.parametrize("how", ["given back", "faulted", "lost"])
def test_a_delivery_under_way_while_its_job_is_superseded_does_not_go_again(
    database: Database, clock: Clock, how: str
) -> None:
    first = reported(database)
    held = take_one(database)
    jobs.retry(database, first, reason="again")
    settle(database, claim_one(database))
    if how == "given back":
        settlements.give_back(database, held, (), "aborted")
    elif how == "faulted":
        settlements.settle_faulted(database, held, (), "busy", pause=0.0)
    else:
        clock.turn(LEASE + 1)
    assert [one.job_id for one in take(database, owner="s2")] == [2]
    assert row(database, delivery, held.delivery_id).state == "cancelled"
    assert names(database, first)[-1] == "delivery_cancelled"
    assert_sound(database)


def test_a_delivery_that_went_through_after_its_job_was_superseded_is_recorded_as_sent(database: Database) -> None:
    first = reported(database)
    held = take_one(database)
    jobs.retry(database, first, reason="again")
    settle(database, claim_one(database))
    settlements.settle_sent(database, held, taken(held))
    assert (row(database, delivery, held.delivery_id).state, row(database, job, first).state) == ("sent", "superseded")


def test_what_was_claimed_before_sending_was_stopped_is_given_back_and_goes_later(database: Database) -> None:
    for number in (1, 2):
        reported(database, number)
    first, second = take(database)
    assert deliveries.begin(database, first)
    for value, goes in (("paused", False), ("running", True)):
        changes.ask(database, {changes.SENDING: value}, configured={}, reason="a test", by="anna", consent=False)
        if goes:
            (second,) = take(database)
        assert deliveries.begin(database, second) is goes
    with database.read() as transaction:
        said = transaction.rows(
            sa.select(event.c.detail).where(event.c.delivery_id == second.delivery_id, event.c.name.like("%given_back"))
        )
    assert ["sending was stopped meanwhile" in one.detail for one in said] == [True]
