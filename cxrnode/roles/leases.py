"""Keeping leases alive while work is under way, from a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

import structlog

from cxrnode.errors import Transient

log = structlog.get_logger()

HeldT = TypeVar("HeldT")


class LeaseKeeper(Generic[HeldT]):
    """Renews what is held at every third of the lease. Losing one is no error here: the settle will say so."""

    def __init__(self, renew: Callable[[Sequence[HeldT]], int], *, lease: float) -> None:
        """Call `renew` with everything held every `lease` / 3 seconds; it returns how many of them still are ours."""
        self._renew = renew
        self._lease = lease
        self._every = lease / 3
        self._good_until = 0.0
        self._held: list[HeldT] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    @property
    def held(self) -> tuple[HeldT, ...]:
        """What is kept at the moment."""
        with self._lock:
            return tuple(self._held)

    def hold(self, claims: Sequence[HeldT], *, asked: float) -> None:
        """Keep these from now on; `asked`: `time.monotonic()` before they were claimed, when their lease began."""
        with self._lock:
            self._held.extend(claims)
            self._good_until = asked + self._lease

    @property
    def good(self) -> bool:
        """Whether the leases still run, as far as this process can know: a database that is away renews none."""
        return time.monotonic() < self._good_until

    def drop(self, claim: HeldT) -> None:
        """Keep this one no longer: it is settled or lost."""
        with self._lock:
            if claim in self._held:
                self._held.remove(claim)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            held = self.held
            if not held:
                continue
            asked = time.monotonic()
            try:
                renewed = self._renew(held)
                if renewed >= sum(one in held for one in self.held):  # else somebody else has some of them by now
                    self._good_until = asked + self._lease
            except Transient as fault:
                log.warning("leases_not_renewed", reason=str(fault), held=len(held))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
