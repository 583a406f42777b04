"""Duties: one node does each at a time, however long it takes."""

from __future__ import annotations

import dataclasses
import threading
import time

from cxrnode.roles import tend
from cxrnode.roles.context import Context
from tests.unit.roles.conftest import MakeContext


def test_a_duty_that_takes_longer_than_its_period_is_done_by_one_node_at_a_time(make_context: MakeContext) -> None:
    """Its lease ended meanwhile, and another node told the same server the same."""
    context = make_context()
    at_work: list[str] = []
    together: list[list[str]] = []

    def slow(by: Context) -> None:
        at_work.append(by.owner)
        together.append(list(at_work))
        time.sleep(4.0)
        at_work.remove(by.owner)

    def perform(owner: str) -> None:
        tend.perform(dataclasses.replace(context, owner=owner), "slow", slow, 2.0)

    first = threading.Thread(target=perform, args=("a",))
    first.start()
    time.sleep(2.5)
    perform("b")
    first.join()
    assert together == [["a"]]
