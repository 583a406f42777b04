"""A database clock that goes back by hours: leases, pauses, probes and duties go on."""

from __future__ import annotations

from cxrnode.store import circuits, duties, jobs, rejections, settlements
from cxrnode.store.clock import mend
from cxrnode.store.database import Database
from cxrnode.store.withdrawals import Cause, withdraw
from tests.stores import LEASE, LIMITS, Clock, claim, claim_one, delivered, enqueue, reported, take, take_one

HOURS = 3 * 3600.0


def _mend(database: Database) -> int:
    return mend(database, reading_lease=LEASE, sending_lease=LEASE, longest_pause=900.0, longest_wait=3600.0)


def test_a_lost_workers_job_comes_back_although_the_clock_went_back(database: Database, clock: Clock) -> None:
    job_id = enqueue(database, 1)
    claim_one(database)
    clock.turn(-HOURS)
    assert _mend(database) == 1
    clock.turn(LEASE + 1)
    assert [one.job_id for one in claim(database, owner="w2")] == [job_id]


def test_a_pause_does_not_last_until_the_clock_has_caught_up(database: Database, clock: Clock) -> None:
    job_id = enqueue(database, 1)
    jobs.fault(database, claim_one(database), "a test", pause=2.0, limits=LIMITS, counts=False)
    clock.turn(-HOURS)
    assert claim(database) == []
    assert _mend(database) == 1
    assert [one.job_id for one in claim(database)] == [job_id]


def test_deliveries_and_circuits_go_on_after_the_clock_went_back(database: Database, clock: Clock) -> None:
    reported(database, 1)
    held = take_one(database)
    settlements.settle_faulted(database, held, (), "a test", pause=5.0)
    circuits.open_circuit(database, "PACS", "down", base=1.0, cap=30.0)
    clock.turn(-HOURS)
    assert take(database) == []
    assert _mend(database) == 2
    assert len(take(database)) == 1


def test_a_withdrawal_that_could_not_be_made_is_tried_again_after_the_clock_went_back(
    database: Database, clock: Clock
) -> None:
    withdraw(database, delivered(database), Cause(rejection="quality", note="no", by="test"))
    (order,) = rejections.due(database, ["PACS"], limit=10)
    rejections.postpone(database, order, "a test", pause=300.0)
    clock.turn(-HOURS)
    assert _mend(database) == 1
    assert len(rejections.due(database, ["PACS"], limit=10)) == 1


def test_what_is_within_its_time_is_left_alone(database: Database, clock: Clock) -> None:
    enqueue(database, 1)
    claim_one(database)
    reported(database, 2)
    settlements.settle_faulted(database, take_one(database), (), "a test", pause=900.0)
    assert _mend(database) == 0


def test_a_duty_is_taken_over_from_an_owner_of_the_future(database: Database, clock: Clock) -> None:
    assert duties.take(database, "sweep", owner="one", seconds=60.0)
    clock.turn(-HOURS)
    assert duties.take(database, "sweep", owner="other", seconds=60.0)
