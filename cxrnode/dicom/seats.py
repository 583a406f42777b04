"""Seats for associations, shared by all processes that listen on one socket: `max_associations` is one number.

A seat is a record lock on one byte of a file (fcntl(2)): the kernel gives it back when its process ends, however.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

from cxrnode.errors import Transient


class Seats:
    """So many seats in a file. Locks of one process do not exclude each other: it knows its own."""

    def __init__(self, path: Path, count: int) -> None:
        """Open the file, made where it is missing. Raises Transient where its folder does not take it."""
        try:
            # Never opened a second time: closing any descriptor of a file ends all locks that a process has on it.
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Transient(
                f"{path} cannot be written to ({error.strerror}); give it to the service's user, or mount its folder "
                "for writing"
            ) from None
        self._count = count
        self._mine: set[int] = set()
        self._lock = threading.Lock()

    def take(self) -> int | None:
        """Take a seat; None where all are taken."""
        with self._lock:
            for seat in range(self._count):
                if seat in self._mine:
                    continue
                try:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, seat)
                except OSError:
                    continue
                self._mine.add(seat)
                return seat
            return None

    def give(self, seat: int) -> None:
        """Give a seat back."""
        with self._lock:
            if seat in self._mine:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, seat)
                self._mine.discard(seat)
