"""How often somebody may try to log in: a few failures for each address and name, then a pause that grows.

Kept in memory: a restart forgives, and only the administrator restarts.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Hashable

#: Failures that cost nothing, the first pause in seconds, and the longest.
FREE, FIRST, LONGEST = 5, 5.0, 900.0
_MOST_KEYS = 10_000


@dataclasses.dataclass(slots=True)
class _Tried:
    failures: int = 0
    until: float = 0.0
    last: float = 0.0


class Throttle:
    """Failures by key. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tried: dict[Hashable, _Tried] = {}

    def wait(self, *keys: Hashable) -> float:
        """The seconds until the next try, 0 for none."""
        now = self._clock()
        with self._lock:
            return max((self._tried[key].until - now for key in keys if key in self._tried), default=0.0)

    def failed(self, *keys: Hashable) -> None:
        """Count a failure; after the free ones the pause doubles."""
        now = self._clock()
        with self._lock:
            if len(self._tried) >= _MOST_KEYS:  # somebody makes up names: the oldest are forgotten
                kept = sorted(self._tried.items(), key=lambda pair: pair[1].last)[_MOST_KEYS // 2 :]
                self._tried = dict(kept)
            for key in keys:
                one = self._tried.setdefault(key, _Tried())
                if now - one.last > 2 * LONGEST:
                    one.failures = 0
                one.failures += 1
                one.last = now
                if one.failures >= FREE:
                    one.until = now + min(LONGEST, FIRST * 2.0 ** (one.failures - FREE))

    def succeeded(self, *keys: Hashable) -> None:
        """Forget the failures."""
        with self._lock:
            for key in keys:
                self._tried.pop(key, None)
