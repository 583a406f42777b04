"""Rows in bulk into an empty database of cxrnode's schema: without indexes, by executemany or COPY, indexes at the end.

It knows columns and their defaults from `cxrnode.store.schema`, so that a column added there needs nothing here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.store.database import Database
from cxrnode.store.schema import metadata

#: What a fresh file of SQLite may do without: if the machine stops meanwhile, the file is thrown away.
_RECKLESS = ("foreign_keys=OFF", "journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-262144")


class Bulk:
    """One connection that writes rows of any table, in order of their primary keys."""

    def __init__(self, connection: sa.Connection) -> None:
        """Use an open transaction."""
        self._sqlite = connection.dialect.name == "sqlite"
        self._dbapi: Any = connection.connection.dbapi_connection
        self._columns: dict[str, tuple[str, ...]] = {}

    def write(self, table: sa.Table, rows: Sequence[tuple[Any, ...]], columns: Sequence[str]) -> None:
        """Write rows that hold `columns`; the rest of the table's columns get their defaults."""
        rest = [c for c in table.c if c.name not in columns and _default(c) is not None]
        names = (*columns, *(c.name for c in rest))
        tail = tuple(_default(c) for c in rest)
        listed = ", ".join(f'"{name}"' for name in names)
        whole = [(*row, *tail) for row in rows] if tail else rows
        if self._sqlite:
            marks = ", ".join("?" * len(names))
            self._dbapi.executemany(f'INSERT INTO "{table.name}" ({listed}) VALUES ({marks})', whole)
            return
        with self._dbapi.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({listed}) FROM STDIN') as copy:
            for row in whole:
                copy.write_row(row)


def _default(column: sa.Column[Any]) -> Any:
    """The value that an INSERT by SQLAlchemy would give; None for NULL and for a number counted by the database."""
    default = column.default
    return default.arg if isinstance(default, sa.ColumnDefault) and default.is_scalar else None


@contextlib.contextmanager
def bulk(database: Database) -> Iterator[Bulk]:
    """Write in bulk, in one transaction. Indexes and the database's own statistics are made at the end."""
    indexes = [index for table in metadata.sorted_tables for index in table.indexes]
    with database.engine.connect() as connection:
        if database.is_sqlite:
            dbapi: Any = connection.connection.dbapi_connection
            for pragma in _RECKLESS:
                dbapi.execute(f"PRAGMA {pragma}").fetchall()
        else:
            connection.execute(sa.text("SET synchronous_commit = off"))
            connection.execute(sa.text("SET maintenance_work_mem = '256MB'"))
            with contextlib.suppress(sa.exc.ProgrammingError), connection.begin_nested():
                connection.execute(sa.text("SET session_replication_role = replica"))  # no look-up for each key
            connection.commit()
        with connection.begin():
            for index in indexes:
                index.drop(connection)
            yield Bulk(connection)
            for index in indexes:
                index.create(connection)
            if not database.is_sqlite:
                for table in metadata.sorted_tables:
                    _count_on(connection, table)
        connection.invalidate()  # nobody else gets a connection with these settings
    if not database.is_sqlite:  # there autovacuum does so sooner or later; nobody does for SQLite
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM (ANALYZE)"))


def _count_on(connection: sa.Connection, table: sa.Table) -> None:
    """Let PostgreSQL's counter go on after the ids that were written."""
    keys = list(table.primary_key.columns)
    if len(keys) != 1 or not isinstance(keys[0].type, sa.BigInteger):
        return
    name = connection.scalar(
        sa.text("SELECT pg_get_serial_sequence(:table, :key)"), {"table": table.name, "key": keys[0].name}
    )
    if name:
        largest = f'SELECT setval(:name, (SELECT coalesce(max("{keys[0].name}"), 0) + 1 FROM "{table.name}"), false)'
        connection.execute(sa.text(largest), {"name": name})
