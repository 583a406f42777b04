"""The guards that make events append-only: triggers of the database that refuse to change or remove a row.

The schema's tables cannot say them, and what alters a table on SQLite may lose them: every upgrade makes them anew
(`migrations/env.py`). They keep honest hands off; who may drop a trigger is found by the chains and seals.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.store.database import Database

#: The tables that only grow.
GUARDED = ("event", "seal")
_REFUSAL = "rows of the audit trail are never changed or removed"


def install(connection: sa.Connection) -> None:
    """Make the guards anew; the transaction is the caller's."""
    inspected = sa.inspect(connection)
    tables = [table for table in GUARDED if inspected.has_table(table)]  # an older schema has fewer
    for statement in _sqlite(tables) if connection.dialect.name == "sqlite" else _postgresql(tables):
        connection.execute(sa.text(statement))


def remove(connection: sa.Connection) -> None:
    """Take the guards away: for tests, and for whoever moves a database with tools that need it."""
    for table in GUARDED:
        for name in _names(table):
            on = "" if connection.dialect.name == "sqlite" else f" ON {table}"
            connection.execute(sa.text(f"DROP TRIGGER IF EXISTS {name}{on}"))


def missing(database: Database) -> tuple[str, ...]:
    """The guards that are not there, or are switched off; `audit verify` says so."""
    expected = {name for table in GUARDED for name in _names(table)}
    if database.is_sqlite:
        known = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        expected = {name for name in expected if not name.endswith("_truncate")}
    else:
        known = sa.text("SELECT tgname FROM pg_trigger WHERE tgenabled <> 'D'")
    with database.read() as transaction:
        return tuple(sorted(expected - {row[0] for row in transaction.rows(known)}))


def _names(table: str) -> Sequence[str]:
    return (f"{table}_no_update", f"{table}_no_delete", f"{table}_no_truncate")


def _sqlite(tables: Sequence[str]) -> list[str]:
    made = []
    for table in tables:
        for name, act in ((f"{table}_no_update", "UPDATE"), (f"{table}_no_delete", "DELETE")):
            made.append(f"DROP TRIGGER IF EXISTS {name}")
            made.append(f"CREATE TRIGGER {name} BEFORE {act} ON {table} BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END")
    return made


def _postgresql(tables: Sequence[str]) -> list[str]:
    made = [
        "CREATE OR REPLACE FUNCTION cxrnode_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$"
    ]
    for table in tables:
        for name in _names(table):
            act = name.rpartition("_")[2].upper()
            made.append(f"DROP TRIGGER IF EXISTS {name} ON {table}")
            each = "STATEMENT" if act == "TRUNCATE" else "ROW"
            made.append(
                f"CREATE TRIGGER {name} BEFORE {act} ON {table} FOR EACH {each} EXECUTE FUNCTION cxrnode_refuse()"
            )
    return made
