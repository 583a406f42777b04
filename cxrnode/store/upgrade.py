"""Bringing a database to this version's schema, and refusing to work with any other."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from cxrnode.errors import SchemaMismatch
from cxrnode.store.database import Database

#: The Alembic revision that this version works with; a test compares it with the head of the migrations.
HEAD = "0003"


def current(database: Database) -> str | None:
    """The revision of the database, or None for an empty one."""
    with database.read() as transaction:
        if not sa.inspect(transaction.connection).has_table("alembic_version"):
            return None
        return transaction.scalar(sa.text("SELECT version_num FROM alembic_version"))  # type: ignore[no-any-return]


def upgrade(database: Database) -> bool:
    """Bring the database to `HEAD`; True where something was done. Raises SchemaMismatch for a newer schema."""
    found = current(database)
    if found == HEAD:
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
        config.attributes["connection"] = transaction.connection
        command.upgrade(config, "head")
    return True


def require(database: Database) -> None:
    """Raise SchemaMismatch, with the remedy, unless the database has this version's schema."""
    found = current(database)
    if found != HEAD:
        raise SchemaMismatch(f"the database has schema {found or 'none'}, not {HEAD}: run `cxrnode db upgrade`")
