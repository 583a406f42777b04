"""What pynetdicom logs, without what came from a peer, and without a peer deciding how much."""

from __future__ import annotations

import logging
import re
import threading
import time


class NoIdentifiers(logging.Filter):
    """Takes values and tracebacks out of pynetdicom's records: they may quote the objects that pass through.

    One line of a kind a second is enough of what a broken peer can cause a thousand times.
    """

    _QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
    _NUMBERS = re.compile(r"\d+")

    def __init__(self) -> None:
        super().__init__()
        self._said = Throttle(period=1.0)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is logged; it is clean then."""
        self._clean(record)
        return self._said.admits((record.name, self._NUMBERS.sub("", str(record.msg)))) is not None

    def _clean(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, BaseException):
            record.msg = type(record.msg).__name__
            record.args = ()
        else:
            record.msg, record.args = self._QUOTED.sub("...", record.getMessage()), ()
        if record.exc_info:
            kind = record.exc_info[0]
            record.msg = f"{record.msg} ({kind.__name__ if kind else 'exception'})"
            record.exc_info = record.exc_text = None


class Throttle:
    """Lets one line a key through in each period and counts the rest; remembers at most `keys` keys."""

    def __init__(self, *, period: float = 60.0, keys: int = 256) -> None:
        self._period = period
        self._keys = keys
        self._lock = threading.Lock()
        self._seen: dict[object, tuple[float, int]] = {}

    def admits(self, key: object) -> int | None:
        """Return how many lines of this key were held back since the last one, or None to hold this one back too."""
        now = time.monotonic()
        with self._lock:
            since, held = self._seen.get(key, (float("-inf"), 0))
            if now - since < self._period:
                self._seen[key] = (since, held + 1)
                return None
            if key not in self._seen and len(self._seen) >= self._keys:
                self._seen = {k: v for k, v in self._seen.items() if now - v[0] < self._period}
                if len(self._seen) >= self._keys:
                    return None  # someone makes up keys; the log must not be theirs to fill
            self._seen[key] = (now, 0)
            return held
