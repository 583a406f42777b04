"""The timers of an association (ARTIM and network time-out, PS3.8 section 9.1.5) by a clock that nobody sets."""

from __future__ import annotations

import time

from pynetdicom.timer import Timer


class SteadyTimer(Timer):
    """As pynetdicom's, which takes the time of day: a step of the clock ended every association, or none ever."""

    @property
    def remaining(self) -> float:
        """Seconds until it expires; 1 where it never does."""
        if self.timeout is None:
            return 1
        if self._start_time is None:
            return self.timeout
        until = time.monotonic() if self._end_time is None else self._end_time
        return self.timeout - (until - self._start_time)

    def start(self) -> None:
        """Begin, or begin again."""
        self._start_time, self._end_time = time.monotonic(), None

    def stop(self) -> None:
        """Stand still."""
        self._end_time = time.monotonic()
