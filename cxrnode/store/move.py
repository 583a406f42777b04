"""Moving everything from one database to another: from SQLite, where a site began, to PostgreSQL for many machines.

The copy is one transaction of the target: either all rows stand there, counted and compared by digest, or none does.
The source is locked meanwhile and then marked as moved, so that no node works on with it; it keeps all its rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.errors import Rejected
from cxrnode.store import fleet, upgrade
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import delivery, duty, job, metadata, process, standing

#: What belongs to the processes at work and not to the record: the target begins without.
_NOT_MOVED = (process, duty, standing)
#: Rows at a time: a page stays far below the memory of a small machine.
_PAGE = 2000
_MODULUS = 1 << 256


@dataclasses.dataclass(frozen=True, slots=True)
class Tally:
    """What a table holds: its rows, and a digest of them in whatever order they come."""

    rows: int = 0
    digest: int = 0

    def with_row(self, row: Sequence[Any]) -> Tally:
        """The same with one more row."""
        said = repr([bytes(value) if isinstance(value, memoryview) else value for value in row])
        number = int.from_bytes(hashlib.sha256(said.encode()).digest(), "big")
        return Tally(self.rows + 1, (self.digest + number) % _MODULUS)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What was moved: rows by table. `copied` is false where an earlier try had copied all of it already."""

    tallies: Mapping[str, Tally]
    copied: bool


def move(source: Database, target: Database, *, progress: Callable[[str, int], None]) -> Moved:
    """Copy every row of `source`, at its schema, to `target`, which is made where it is empty; `progress` is told.

    Where the target has all the rows already, as after a crash between its commit and the mark on the source, only
    the mark is set. Raises Rejected where the source is in use, where the target holds anything else, where a value
    cannot stand there and where what was written reads differently; Transient where a database is away.
    """
    if not source.is_sqlite or target.is_sqlite:
        raise Rejected("a database is moved from SQLite to PostgreSQL; give a postgresql+psycopg:// url")
    upgrade.upgrade(target)
    with source.write() as reading:  # the writer's lock: nobody changes a row meanwhile
        _require_rest(reading)
        before = _tallies(reading)
        with target.write() as writing:
            copied = not any(one.rows for one in _tallies(writing, limit=1).values())
            if copied:
                for table in _tables():
                    _copy(reading, writing, table, progress)
                    _link(reading, writing, table)
                    _count_on(writing, table)
            _compare(before, _tallies(writing))
            [kept] = reading.rows(sa.select(standing.c.oldest, standing.c.digests).where(standing.c.id == 1))
            values = {"moved_to": "", "oldest": kept.oldest, "digests": kept.digests}
            writing.connection.execute(sa.update(standing).where(standing.c.id == 1).values(values))
        reading.connection.execute(sa.update(standing).where(standing.c.id == 1).values(moved_to=target.url))
    return Moved(tallies=before, copied=copied)


def _tables() -> list[sa.Table]:
    """In an order in which every reference has its row."""
    return [table for table in metadata.sorted_tables if table not in _NOT_MOVED]


def _require_rest(reading: Transaction) -> None:
    if nodes := sorted({one.node for one in fleet.living(reading)}):
        raise Rejected(f"cxrnode runs on {', '.join(nodes)} with this database: stop it first")
    for table, state, what in ((job, JobState.READING, "jobs"), (delivery, DeliveryState.SENDING, "deliveries")):
        held = reading.scalar(
            sa.select(sa.func.count())
            .select_from(table)
            .where(table.c.state == state, table.c.lease_until > reading.now)
        )
        if held:
            raise Rejected(f"{held} {what} are still leased to a process: stop cxrnode, or wait for the leases to end")


def _pages(transaction: Transaction, table: sa.Table, columns: Sequence[sa.Column[Any]]) -> Iterator[Sequence[Row]]:
    """All rows of a table, a page at a time in the order of its key."""
    key = list(table.primary_key.columns)
    after: tuple[Any, ...] | None = None
    while True:
        chosen = sa.select(*columns, *key).order_by(*key).limit(_PAGE)
        if after is not None:
            last = (sa.literal(value, column.type) for value, column in zip(after, key, strict=True))
            chosen = chosen.where(sa.tuple_(*key) > sa.tuple_(*last))
        page = transaction.rows(chosen)
        if not page:
            return
        after = tuple(page[-1])[len(columns) :]
        yield page


def _tallies(transaction: Transaction, *, limit: int | None = None) -> dict[str, Tally]:
    """The tally of every table that is moved; with `limit`, of the first rows alone."""
    found = {}
    for table in _tables():
        columns, tally = list(table.columns), Tally()
        for page in _pages(transaction, table, columns):
            for row in page:
                tally = tally.with_row(row[: len(columns)])
            if limit is not None:
                break
        found[table.name] = tally
    return found


def _copy(reading: Transaction, writing: Transaction, table: sa.Table, progress: Callable[[str, int], None]) -> None:
    """Copy a table's rows; what points to a row of the same table follows in `_link`, since that may come later."""
    columns = list(table.columns)
    later = {number for number, column in enumerate(columns) if _is_own(column)}
    names = ", ".join(f'"{column.name}"' for column in columns)
    done = 0
    driver: Any = writing.connection.connection.driver_connection  # psycopg's own, for COPY
    with driver.cursor() as cursor, cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN') as lines:
        for page in _pages(reading, table, columns):
            for row in page:
                for column, value in zip(columns, row, strict=False):
                    _require_fit(table, column, value, row)
                lines.write_row([None if n in later else row[n] for n in range(len(columns))])
            done += len(page)
            progress(table.name, done)


def _is_own(column: sa.Column[Any]) -> bool:
    return any(key.column.table is column.table for key in column.foreign_keys)


def _require_fit(table: sa.Table, column: sa.Column[Any], value: Any, row: Row) -> None:
    """Raise Rejected for text that SQLite takes and PostgreSQL does not. The value is not told: it may say who."""
    if isinstance(value, str):
        most = getattr(column.type, "length", None)
        why = "holds a NUL" if "\x00" in value else ""
        if most is not None and len(value) > most:
            why = f"is longer than {most} characters"
        if why:
            key = ", ".join(str(row._mapping[one]) for one in table.primary_key.columns)
            raise Rejected(f"{table.name} {key}: {column.name} {why}, which PostgreSQL does not take")


def _link(reading: Transaction, writing: Transaction, table: sa.Table) -> None:
    """Set what points to rows of the same table, now that all of them stand."""
    (key,) = list(table.primary_key.columns) if len(table.primary_key.columns) == 1 else (None,)
    for column in (one for one in table.columns if _is_own(one)):
        assert key is not None
        change = sa.update(table).where(key == sa.bindparam("its_key")).values({column.name: sa.bindparam("its_value")})
        for page in _pages(reading, table, [key, column]):
            values = [{"its_key": row[0], "its_value": row[1]} for row in page if row[1] is not None]
            if values:
                writing.connection.execute(change, values)


def _count_on(writing: Transaction, table: sa.Table) -> None:
    """Let the next row's number follow the last one's."""
    key = table.autoincrement_column
    if key is None:
        return
    sequence = writing.scalar(sa.select(sa.func.pg_get_serial_sequence(table.name, key.name)))
    last = writing.scalar(sa.select(sa.func.max(key)))
    if sequence is not None and last is not None:
        writing.scalar(sa.select(sa.func.setval(sequence, last)))


def _compare(before: Mapping[str, Tally], after: Mapping[str, Tally]) -> None:
    wrong = [
        f"{name} has {after[name].rows} rows and not {tally.rows}"
        if after[name].rows != tally.rows
        else f"{name} has other values"
        for name, tally in before.items()
        if after[name] != tally
    ]
    if wrong:
        raise Rejected(
            f"the target does not hold what the source does ({'; '.join(wrong)}): give the url of an empty database. "
            "Nothing was changed"
        )
