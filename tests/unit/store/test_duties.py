"""Duties: of many nodes one does each, and another takes over from one that is gone."""

from __future__ import annotations

from cxrnode.store import duties
from cxrnode.store.database import Database
from tests.stores import Clock


def test_a_duty_is_done_by_one_node_at_a_time(database: Database, clock: Clock) -> None:
    assert duties.take(database, "retire", owner="a", seconds=10.0)
    assert not duties.take(database, "retire", owner="b", seconds=10.0)
    assert duties.take(database, "sweep", owner="b", seconds=10.0)


def test_its_owner_may_take_a_duty_again(database: Database, clock: Clock) -> None:
    assert duties.take(database, "retire", owner="a", seconds=10.0)
    clock.turn(9.0)
    assert duties.take(database, "retire", owner="a", seconds=10.0)
    clock.turn(9.0)
    assert not duties.take(database, "retire", owner="b", seconds=10.0)


def test_a_duty_whose_owner_is_gone_is_taken_over(database: Database, clock: Clock) -> None:
    duties.take(database, "retire", owner="a", seconds=10.0)
    clock.turn(10.0)
    assert duties.take(database, "retire", owner="b", seconds=10.0)
    assert not duties.take(database, "retire", owner="a", seconds=10.0)
