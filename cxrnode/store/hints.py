"""Wake-ups between machines: a hint without content over PostgreSQL's LISTEN and NOTIFY. SQLite has one machine.

Losing one costs a poll interval, nothing else: neither side ever fails for it, and no row depends on it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, cast

import sqlalchemy as sa

from cxrnode.store.database import Database

if TYPE_CHECKING:
    import psycopg

_CHANNEL = "cxrnode"
_NOTIFY = sa.text("SELECT pg_notify(:channel, :role)")
#: Seconds between looks at whether to stop, and before another connection is tried.
_LOOK_SECONDS, _AGAIN_SECONDS = 1.0, 15.0


def hint(database: Database, role: str) -> None:
    """Tell the nodes on the same store that there is something for a role. Never fails."""
    if database.is_sqlite:
        return
    # Not in the transaction that made the work: commits that notify pass one at a time on PostgreSQL.
    with contextlib.suppress(sa.exc.SQLAlchemyError), database.engine.connect() as connection:
        alone = connection.execution_options(isolation_level="AUTOCOMMIT")
        alone.execute(_NOTIFY, {"channel": _CHANNEL, "role": role})


class Ear:
    """Calls `heard` in a thread of its own for each hint about a role; on SQLite there is nothing to hear."""

    def __init__(self, database: Database, role: str, heard: Callable[[], None]) -> None:
        self._database = database
        self._role = role
        self._heard = heard
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not self._database.is_sqlite:
            self._thread = threading.Thread(target=self._run, name=f"hints-{self._role}", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10 * _LOOK_SECONDS)

    def _run(self) -> None:
        import psycopg  # an extra, which a node on SQLite does without

        while not self._stopping.is_set():
            # A database that is away, or a pooler between that knows no LISTEN: every wait is a poll until then.
            with contextlib.suppress(sa.exc.SQLAlchemyError, psycopg.Error, OSError):
                self._listen()
            self._stopping.wait(_AGAIN_SECONDS)

    def _listen(self) -> None:
        pooled = self._database.engine.raw_connection()
        raw = cast("psycopg.Connection[Any]", pooled.driver_connection)
        pooled.detach()  # not the pool's any more: it goes on listening
        with contextlib.closing(raw):
            raw.autocommit = True
            raw.execute(f"LISTEN {_CHANNEL}")
            self._hear(raw)

    def _hear(self, raw: psycopg.Connection[Any]) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            for told in raw.notifies(timeout=_LOOK_SECONDS):
                if told.payload == self._role:
                    self._heard()
                if self._stopping.is_set():
                    return
            if time.monotonic() - began < _LOOK_SECONDS / 10:  # it does not wait: it is no connection any more
                return
