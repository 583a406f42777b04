"""Bringing a database to this version's schema, and refusing to work with one that this version cannot work with.

A migration adds: tables, columns that are nullable or have a default of the server, indexes. Code of the version
before goes on with it, so that the machines of a fleet are upgraded one after the other, and `OLDEST` stays. One that
takes away or changes what older code uses sets `OLDEST` to itself; then all machines are stopped first, and
`upgrade` says so while one of them lives.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from cxrnode.core.digests import Kind
from cxrnode.errors import SchemaMismatch
from cxrnode.store import fleet
from cxrnode.store.database import Database, Transaction
from cxrnode.store.schema import standing

#: The Alembic revision that this version works with; a test compares it with the head of the migrations.
HEAD = "0011"
#: Code written for this revision or a later one works with a database at `HEAD`; a test compares their tables.
OLDEST = "0004"
#: The first whose code knows both kinds of digest: earlier code would take a file for altered.
_BOTH_DIGESTS = "0011"


def current(database: Database) -> str | None:
    """The revision of the database, or None for an empty one."""
    with database.read() as transaction:
        return _revision(transaction)


def _revision(transaction: Transaction) -> str | None:
    if not sa.inspect(transaction.connection).has_table("alembic_version"):
        return None
    return transaction.scalar(sa.text("SELECT version_num FROM alembic_version"))  # type: ignore[no-any-return]


def _works(transaction: Transaction, found: str | None) -> bool:
    """Whether this version can work with the database as it is. Raises SchemaMismatch for one that was moved."""
    if found is None or found < HEAD:
        return False
    row = transaction.row(sa.select(standing.c.oldest, standing.c.moved_to).where(standing.c.id == 1))
    if row is not None and row.moved_to:
        raise SchemaMismatch(f"this database was moved to {row.moved_to}: set database.url to that")
    return found == HEAD or (row is not None and row.oldest <= HEAD)


def upgrade(database: Database) -> bool:
    """Bring the database to `HEAD`; True where something was done.

    Raises SchemaMismatch for a newer schema that this version cannot work with, for a database that was moved, and
    while nodes live that could not work with `HEAD`.
    """
    with database.read() as transaction:
        found = _revision(transaction)
        if _works(transaction, found):
            return False
    if found is not None and found > HEAD:
        raise SchemaMismatch(
            f"the database has schema {found}, newer than this version's {HEAD}: install the newer cxrnode again, "
            "or restore the backup made before the upgrade"
        )
    # Alembic costs a third of a second to import, and a start with a current schema never needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    with database.write() as transaction:
        if not database.is_sqlite:
            # Two nodes that start together upgrade one after the other.
            transaction.connection.execute(sa.text("SELECT pg_advisory_xact_lock(7277846)"))
        _require_nobody_older(transaction)
        config.attributes["connection"] = transaction.connection
        command.upgrade(config, "head")
        begun = {"oldest": _BOTH_DIGESTS, "digests": Kind.BLAKE3} if found is None else {"oldest": OLDEST}
        transaction.insert_new(standing, {"id": 1, "moved_to": "", **begun}, unique=("id",))
        transaction.connection.execute(sa.update(standing).where(standing.c.oldest < OLDEST).values(oldest=OLDEST))
    return True


def digests(database: Database) -> Kind:
    """The kind of digest that films and files of this database have, from its first on."""
    with database.read() as transaction:
        return Kind(transaction.scalar(sa.select(standing.c.digests)) or Kind.SHA256)


def _require_nobody_older(transaction: Transaction) -> None:
    """Raise SchemaMismatch while a process lives whose code could not work with `HEAD`."""
    if not sa.inspect(transaction.connection).has_table("process"):
        return  # from before processes were listed: nothing is known of them
    older = sorted({one.node for one in fleet.living(transaction) if one.revision < OLDEST})
    if older:
        raise SchemaMismatch(
            f"schema {HEAD} cannot be worked with by the nodes {', '.join(older)}, which still run an older version: "
            "stop cxrnode there first, then start this one, then upgrade those"
        )


def require(database: Database) -> None:
    """Raise SchemaMismatch, with the remedy, unless this version can work with the database as it is."""
    with database.read() as transaction:
        found = _revision(transaction)
        if _works(transaction, found):
            return
    if found is not None and found > HEAD:
        raise SchemaMismatch(
            f"the database has schema {found}, which this version (schema {HEAD}) cannot work with: "
            "install the version that the other nodes have"
        )
    raise SchemaMismatch(f"the database has schema {found or 'none'}, not {HEAD}: run `cxrnode db upgrade`")
