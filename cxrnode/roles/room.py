"""Room for another object: what `receive` asks before it takes one, and what `tend` writes down when it changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from cxrnode.errors import Transient
from cxrnode.readiness import Look, disk, queue
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


def queue_of(context: Context) -> Look:
    """Room in the queue, which all nodes share."""
    return queue(context.config, context.database)


def disk_of(context: Context) -> Look:
    """Room on this node's own disk."""
    return disk(context.config, context.spool)


class RoomWatch:
    """A duty of `tend`: each change between refusing and receiving is an event, and refusing a line again and again."""

    def __init__(self, look: Callable[[Context], Look]) -> None:
        """Watch what `look` tells. Nothing is known yet: what is short at the first look counts as new."""
        self._look = look
        self._short = False

    def __call__(self, context: Context) -> None:
        """Look, and write down what changed. Raises Transient where spool or database are away."""
        seen = self._look(context)
        if not seen.ok:
            _say(seen)
        if self._short == (not seen.ok):
            return
        node = context.config.node_name
        with context.database.write() as transaction:
            if seen.ok:
                note(transaction, "receiving_resumed", what=seen.name, node=node)
            else:
                note(transaction, "receiving_refused", what=seen.name, node=node, seen=seen.detail, remedy=seen.remedy)
        self._short = not seen.ok
