"""Who watches a run: the command line in a terminal, a search, a test."""

from __future__ import annotations

from typing import Protocol

from cxrnode.training.course import Course
from cxrnode.training.epochs import Epoch


class Watcher(Protocol):
    """Who is told how far a run is."""

    def planned(self, course: Course, steps: int) -> None:
        """The films of a network are listed; this many steps lie ahead of it where it starts anew."""

    def opened(self, count: int) -> None:
        """So many more films were opened or read."""

    def stepped(self, phase: int, epoch: int, share: float, loss: float) -> None:
        """A step is over; `share` of the epoch is done, `loss` is its mean so far."""

    def ended(self, line: Epoch) -> None:
        """An epoch is over."""

    def said(self, what: str) -> None:
        """What follows takes a while."""
