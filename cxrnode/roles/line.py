"""The line that batches pass along in `infer`: one is read while the one before is settled and the next looked at.

Each step has one thread, so that batches stay in order and an engine sees one at a time. Nothing here knows a film.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

LookedT = TypeVar("LookedT")
ReadT = TypeVar("ReadT")

#: Batches that may be past the first step: more would only hold films in memory.
_DEEP = 2


class Line(Generic[LookedT, ReadT]):
    """Two steps, each in a thread of its own; what `read` gives for a batch goes to `settle`."""

    def __init__(self, read: Callable[[LookedT], ReadT], settle: Callable[[ReadT], None]) -> None:
        """Whatever `read` or `settle` raises comes out of `put` or `drain`; batches behind it are dropped unread."""
        self._read = read
        self._settle = settle
        self._reading = ThreadPoolExecutor(1, "read")
        self._settling = ThreadPoolExecutor(1, "settle")
        self._under_way: deque[Future[None]] = deque()
        self._failed = False

    def put(self, batch: LookedT) -> None:
        """Send a batch along; waits while the line is full."""
        read = self._reading.submit(self._watched, self._read, batch)
        self._under_way.append(self._settling.submit(lambda: self._settle(read.result())))
        while len(self._under_way) > _DEEP:
            self._under_way.popleft().result()

    def drain(self) -> None:
        """Wait until everything is settled. Raises what the first batch that failed met."""
        first: BaseException | None = None
        while self._under_way:
            fault = self._under_way.popleft().exception()
            first = first or fault
        self._failed = False
        if first is not None:
            raise first

    def run(self, step: Callable[[], Any]) -> Any:
        """Run something in the reading thread, as the first pass of an engine: threads have pools of their own."""
        return self._reading.submit(step).result()

    def close(self) -> None:
        """End the threads; nothing may be under way."""
        self._reading.shutdown()
        self._settling.shutdown()

    def _watched(self, step: Callable[[LookedT], ReadT], batch: LookedT) -> ReadT:
        if self._failed:
            raise _Dropped
        try:
            return step(batch)
        except BaseException:  # whatever it was, the batches behind it are dropped; it goes on to who waits for it
            self._failed = True
            raise


class _Dropped(Exception):
    """The batch stood behind one that failed."""
