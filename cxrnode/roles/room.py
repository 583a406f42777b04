"""Room for another object: what `receive` asks before it takes one, and what `tend` writes down when it changes."""

from __future__ import annotations

import threading
import time

import structlog

from cxrnode.errors import Transient
from cxrnode.readiness import Look, disk, queue, room
from cxrnode.roles.context import Context
from cxrnode.store.audit import note

log = structlog.get_logger()

#: How long an answer about the queue holds, in seconds: it costs a query.
_HOLDS = 1.0


def _say(short: Look) -> None:
    if short.name == "disk":
        log.error("spool_full", seen=short.detail, remedy=short.remedy)
    else:
        log.error("queue_full", seen=short.detail, remedy=short.remedy)


class Room:
    """Whether another object may be taken; asked from many threads.

    The disk is looked at for each object, in microseconds: within the second for which an answer about the queue holds
    a fast sender fills ten megabytes and more.
    """

    def __init__(self, context: Context) -> None:
        """Look at this node's spool and queue."""
        self._context = context
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._queue: Look | None = None
        self._short: frozenset[str] = frozenset()

    def shortage(self) -> str:
        """Why no object may be taken now, in a few words for its sender; "" where there is room."""
        with self._lock:
            try:
                if time.monotonic() - self._looked >= _HOLDS:
                    # None first: a database that is away is not asked again at once.
                    self._looked, self._queue = time.monotonic(), None
                    self._queue = queue(self._context.config, self._context.database)
                looks = [disk(self._context.config, self._context.spool), self._queue]
            except Transient:
                looks = [None]
            short = [one for one in looks if one is not None and not one.ok]
            new = [one for one in short if one.name not in self._short]
            self._short = frozenset(one.name for one in short)
        for one in new:
            _say(one)
        if None in looks:
            return "spool or database away; send again later"
        return f"no room ({short[0].name}); send again later" if short else ""


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
