"""The connection to SQLite or PostgreSQL, and the one kind of transaction that cxrnode makes.

It never decides anything about jobs: it opens transactions, tells the database's time and speaks the dialect.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

from cxrnode.errors import ConfigError, Transient

#: First SQLite release whose WAL mode is safe with several writing processes.
_SAFE_WAL = (3, 51, 3)
#: A connection that rested so long, in seconds, is asked whether it still stands: PostgreSQL may have been restarted.
_RESTED_SECONDS = 1.0
#: How long PostgreSQL may take to answer a new connection, unless the URL says otherwise.
_CONNECT_SECONDS = 10

#: What PostgreSQL is asked of each connection: a lock that is waited for, and a worker that stops or vanishes in the
#: middle of a transaction, must not hold the others for ever.
_POSTGRES_LIMITS = ("SET lock_timeout = '30s'", "SET idle_in_transaction_session_timeout = '60s'")
#: libpq: a server that went without a word is noticed within half a minute rather than a quarter of an hour.
_POSTGRES_LINK = {
    "connect_timeout": _CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}

Row = sa.Row[*tuple[Any, ...]]


class CommitUnknown(Transient):
    """The database was lost at the commit: the transaction may stand or not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Transaction:
    """An open transaction.

    `heads`: the ends of the chains of jobs whose rows it has locked (store.audit): nobody else can move them.
    """

    connection: sa.Connection
    _clock: sa.TextClause
    heads: dict[int, str] = dataclasses.field(default_factory=dict)
    _moment: list[float] = dataclasses.field(default_factory=list)

    @property
    def now(self) -> float:
        """The database's time, seconds since 1970 in UTC: one for the whole transaction, asked for by the first use."""
        if not self._moment:
            self._moment.append(float(self.connection.execute(self._clock).scalar_one()))
        return self._moment[0]

    def rows(self, statement: sa.Executable, **values: Any) -> Sequence[Row]:
        """Execute, with values for what a statement made before leaves open, and fetch everything."""
        return self.connection.execute(statement, values).all()

    def row(self, statement: sa.Executable, **values: Any) -> Row | None:
        """Execute as `rows` does and fetch the first row, or None."""
        return self.connection.execute(statement, values).first()

    def scalar(self, statement: sa.Executable, **values: Any) -> Any:
        """Execute as `rows` does and fetch the first column of the first row, or None."""
        return self.connection.execute(statement, values).scalar()

    def count(self, statement: sa.Executable, **values: Any) -> int:
        """Execute a change, as `rows` does, and return the number of rows that it met."""
        return self.connection.execute(statement, values).rowcount

    def insert_new(self, table: sa.Table, values: Mapping[str, Any], *, unique: Sequence[str]) -> Row | None:
        """Insert unless a row with the same unique columns stands; return the new row, or None."""
        return self.row(_insert_new(self.connection.dialect.name, table, tuple(unique)), **values)

    def upsert(self, table: sa.Table, values: Mapping[str, Any], *, key: Sequence[str]) -> None:
        """Insert, or overwrite the row with the same key."""
        make = sqlite.insert if self.connection.dialect.name == "sqlite" else postgresql.insert
        change = {name: value for name, value in values.items() if name not in key}
        self.connection.execute(
            make(table).values(**values).on_conflict_do_update(index_elements=list(key), set_=change)
        )


@functools.cache
def _insert_new(dialect: str, table: sa.Table, unique: tuple[str, ...]) -> sa.Executable:
    make = sqlite.insert if dialect == "sqlite" else postgresql.insert
    return make(table).on_conflict_do_nothing(index_elements=list(unique)).returning(*table.c)


class _Hinted(SQLiteCompiler):
    """Writes `with_hint(table, "INDEXED BY ...", "sqlite")` after the table's name; SQLAlchemy leaves it out.

    SQLite keeps no statistics here, and takes an equality before a range whatever they hold.
    """

    def get_from_hint_text(self, table: sa.FromClause, text: str | None) -> str | None:
        return text


def parse_url(url: str) -> sa.URL:
    """Read a database's URL. Raises ConfigError, whose text has nothing of it: it may hold a password."""
    try:
        parsed = sa.make_url(url)
        parsed.get_dialect()
        known = parsed.get_backend_name() in {"sqlite", "postgresql"}
    except sa.exc.ArgumentError:
        known = False
    if not known:
        raise ConfigError(
            "database.url is no URL of a database; write it like postgresql+psycopg://user@host/cxrnode, or leave it "
            "empty for SQLite"
        )
    return parsed


def _engine(url: sa.URL, **connecting: Any) -> sa.Engine:
    try:
        return sa.create_engine(url, connect_args=connecting, hide_parameters=True, pool_size=8, max_overflow=8)
    except ImportError as error:
        shown = url.render_as_string(hide_password=True)
        raise ConfigError(
            f"database.url {shown} needs the package {error.name}; pip install 'cxrnode[postgres]' brings psycopg"
        ) from None


class Database:
    """An engine for SQLite or PostgreSQL; safe to share between threads, never across a fork."""

    def __init__(self, url: str) -> None:
        """Connect lazily to `url`. Raises ConfigError where it is none, or its driver is not installed."""
        parsed = parse_url(url)
        self.url = parsed.render_as_string(hide_password=True)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        #: The file of SQLite; None for a server, and for a database in memory.
        self.file = Path(parsed.database) if self.is_sqlite and parsed.database not in (None, "", ":memory:") else None
        # SQLite's own wait for the writer's lock is a sleep, under which some threads of a busy process starve.
        self._turn: contextlib.AbstractContextManager[object] = (
            threading.RLock() if self.is_sqlite else contextlib.nullcontext()
        )
        if self.is_sqlite:
            self.engine = _engine(parsed, timeout=30)
            self.engine.dialect.statement_compiler = _Hinted
            sa.event.listen(self.engine, "connect", _on_sqlite_connect)
            sa.event.listen(self.engine, "begin", _on_sqlite_begin)
            self._clock = sa.text("SELECT (julianday('now') - 2440587.5) * 86400.0")
        else:
            limits = {name: value for name, value in _POSTGRES_LINK.items() if name not in parsed.query}
            self.engine = _engine(parsed, **limits)
            sa.event.listen(self.engine, "connect", _on_postgres_connect)
            sa.event.listen(self.engine, "checkin", _on_postgres_checkin)
            sa.event.listen(self.engine, "checkout", self._look_whether_it_stands)
            self._clock = sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)")

    def _look_whether_it_stands(self, dbapi: Any, record: Any, _proxy: object) -> None:
        """Have a connection that rested replaced where it is none any more; the pool's own ping asks every time."""
        if time.monotonic() - record.info.get("used", float("inf")) < _RESTED_SECONDS:
            return
        dialect = self.engine.dialect
        try:
            stands = dialect.do_ping(dbapi)
        except dialect.loaded_dbapi.Error:
            stands = False
        if not stands:
            raise sa.exc.DisconnectionError

    @contextlib.contextmanager
    def write(self) -> Iterator[Transaction]:
        """One short writing transaction. Raises Transient where the database cannot be reached or stays busy.

        After Transient nothing stands, unless it is CommitUnknown.
        """
        with self._turn, self._open(readonly=False) as transaction:
            yield transaction

    @contextlib.contextmanager
    def read(self) -> Iterator[Transaction]:
        """One reading transaction; keep it under 50 ms (design, rule 13). Raises Transient as `write` does."""
        with self._open(readonly=True) as transaction:
            yield transaction

    @contextlib.contextmanager
    def _open(self, *, readonly: bool) -> Iterator[Transaction]:
        committing = False
        try:
            with self._connect().execution_options(cxrnode_readonly=readonly) as connection, connection.begin():
                yield Transaction(connection, self._clock)
                committing = not readonly
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError) as error:
            # The statement and its parameters may hold identifiers: only the driver's class is told, and SQLite's code.
            kind = CommitUnknown if committing else Transient
            code = getattr(error.orig, "sqlite_errorname", "")
            said = f"{type(error.orig).__name__}{f' ({code})' if code else ''}"
            raise kind(f"the database {self.url} does not answer: {said}") from None
        except sa.exc.TimeoutError:
            raise Transient(f"the database {self.url} has no connection free") from None

    def _connect(self) -> sa.Connection:
        try:
            return self.engine.connect()
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError) as error:
            # No statement was made yet: the driver names the server, the user and the database at most.
            said = f"{type(error.orig).__name__} ({' '.join(str(error.orig).split())})"
            remedy = "start it, and check database.url and its rights"
            raise Transient(f"the database {self.url} does not answer: {said}; {remedy}") from None

    def close(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


def _on_postgres_connect(dbapi: Any, _record: object) -> None:
    with dbapi.cursor() as cursor:
        for limit in _POSTGRES_LIMITS:
            cursor.execute(limit)
    dbapi.commit()


def _on_postgres_checkin(_dbapi: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _on_sqlite_connect(dbapi: sqlite3.Connection, _record: object) -> None:
    dbapi.isolation_level = None  # BEGIN is ours, see below
    journal = "WAL" if sqlite3.sqlite_version_info >= _SAFE_WAL else "TRUNCATE"
    for pragma in (f"journal_mode={journal}", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        dbapi.execute(f"PRAGMA {pragma}")


def _on_sqlite_begin(connection: sa.Connection) -> None:
    # The writer's lock is taken first: upgrading a reader's lock later ends in SQLITE_BUSY without any wait.
    readonly = connection.get_execution_options().get("cxrnode_readonly", False)
    connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")
