"""Asking for storage commitment: what is asked for here, nobody else asks for meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from cxrnode.dicom.commitment import Asking
from cxrnode.dicom.destination import Destination
from cxrnode.roles.commit import Committer
from cxrnode.roles.destinations import destination_of
from cxrnode.store import commitments, settlements
from cxrnode.store.database import Database
from tests.stores import Clock, reported, take_one, taken
from tests.unit.roles.conftest import MakeContext


def test_what_an_archive_takes_long_over_is_asked_for_by_one_node(
    database: Database, clock: Clock, make_context: MakeContext
) -> None:
    """The second node asked for the last of a batch too, and said that the archive does not report."""
    for number in range(3):
        reported(database, number)
        held = take_one(database)
        settlements.settle_sent(database, held, taken(held), to_commit=True)
    context = make_context(send={"lease": "120s"})
    due: list[bool] = []

    class Slow:
        def ask(self, _uid: str, _references: Sequence[tuple[str, str]]) -> None:
            clock.turn(50.0)
            due.append(commitments.due(database, "PACS"))

        def linger(self, _seconds: float, _done: Callable[[], bool]) -> None:
            pass

    destination = cast(Destination, destination_of(context.config, "PACS"))
    Committer(context, destination)._ask(cast(Asking, Slow()))
    assert due == [False, False, False]
