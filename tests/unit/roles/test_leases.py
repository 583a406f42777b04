"""Leases that are kept alive: how long who holds them may believe in them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cxrnode.roles.leases import LeaseKeeper


def test_a_lease_runs_from_before_the_claim() -> None:
    """A sender that was held up between its claim and the next line took it for good when it was over."""
    keeper = LeaseKeeper[str](len, lease=60.0)
    asked = time.monotonic() - 59.9
    keeper.hold(["a"], asked=asked)
    assert keeper.good
    time.sleep(0.2)
    assert not keeper.good


def test_what_somebody_else_has_by_now_is_not_good_any_more() -> None:
    """A sender that was held up for longer than a lease went on sending what another sender sent, too."""
    with LeaseKeeper[str](lambda _: 0, lease=0.6) as keeper:
        keeper.hold(["a"], asked=time.monotonic())
        time.sleep(1.0)
        assert not keeper.good


def test_what_is_dropped_while_the_rest_is_renewed_is_not_missed() -> None:
    def renew(held: Sequence[str]) -> int:
        keeper.drop("a")  # settled meanwhile
        return sum(one != "a" for one in held)

    with LeaseKeeper[str](renew, lease=0.6) as keeper:
        keeper.hold(["a", "b"], asked=time.monotonic())
        time.sleep(1.0)
        assert keeper.good
