"""Room for another object: what `receive` asks before it takes one, and what `tend` writes down when it changes."""

from __future__ import annotations

import threading
import time

import structlog

from cxrnode.errors import Transient
from cxrnode.readiness import Look, room
from cxrnode.roles.context import Context
from cxrnode.store.audit import note

log = structlog.get_logger()

#: How long an answer holds, in seconds: a disk cannot fill meanwhile that has `spool.min_free` left.
_HOLDS = 1.0


def _say(short: Look) -> None:
    if short.name == "disk":
        log.error("spool_full", seen=short.detail, remedy=short.remedy)
    else:
        log.error("queue_full", seen=short.detail, remedy=short.remedy)


class Room:
    """Whether another object may be taken; asked from many threads, looked up once a second."""

    def __init__(self, context: Context) -> None:
        """Look at this node's spool and queue."""
        self._context = context
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._why = ""

    def shortage(self) -> str:
        """Why no object may be taken now, in a few words for its sender; "" where there is room."""
        with self._lock:
            if time.monotonic() - self._looked < _HOLDS:
                return self._why
            self._looked = time.monotonic()
            try:
                looks = room(self._context.config, self._context.database, self._context.spool)
            except Transient:
                self._why = "spool or database away; send again later"
                return self._why
            short = [one for one in looks if not one.ok]
            before, self._why = self._why, f"no room ({short[0].name}); send again later" if short else ""
        for one in short if not before else ():
            _say(one)
        return self._why


class RoomWatch:
    """A duty of `tend`: each change between refusing and receiving is an event, and refusing a line again and again."""

    def __init__(self) -> None:
        """Nothing is known yet: what is short at the first look counts as new."""
        self._short: frozenset[str] = frozenset()

    def __call__(self, context: Context) -> None:
        """Look, and write down what changed. Raises Transient where spool or database are away."""
        short = {one.name: one for one in room(context.config, context.database, context.spool) if not one.ok}
        for one in short.values():
            _say(one)
        now = frozenset(short)
        if now == self._short:
            return
        with context.database.write() as transaction:
            for name in sorted(now - self._short):
                look: Look = short[name]
                note(transaction, "receiving_refused", what=name, seen=look.detail, remedy=look.remedy)
            for name in sorted(self._short - now):
                note(transaction, "receiving_resumed", what=name)
        self._short = now
