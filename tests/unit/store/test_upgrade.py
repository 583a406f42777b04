"""The schema: migrations make what the tables say, and no other schema is worked with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import cxrnode.store
from cxrnode.errors import SchemaMismatch
from cxrnode.store.database import Database
from cxrnode.store.schema import metadata
from cxrnode.store.upgrade import HEAD, current, require, upgrade


@pytest.fixture
def empty(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


def test_the_revision_that_the_code_names_is_the_head_of_the_migrations() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(cxrnode.store.__path__[0]) / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_an_empty_database_is_brought_to_the_head_once(empty: Database) -> None:
    assert current(empty) is None
    assert upgrade(empty)
    assert current(empty) == HEAD
    assert not upgrade(empty)
    require(empty)


def test_the_migrations_make_what_the_tables_say(empty: Database) -> None:
    upgrade(empty)
    with empty.read() as transaction:
        context = MigrationContext.configure(transaction.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_schema_that_differs_would_be_seen(empty: Database) -> None:
    upgrade(empty)
    with empty.write() as transaction:
        transaction.connection.execute(sa.text("DROP INDEX ix_job_ready"))
    with empty.read() as transaction:
        context = MigrationContext.configure(transaction.connection, opts={"compare_type": True})
        (found,) = compare_metadata(context, metadata)
    assert (found[0], found[1].name) == ("add_index", "ix_job_ready")


def test_a_newer_schema_is_refused_with_what_to_do(empty: Database) -> None:
    upgrade(empty)
    with empty.write() as transaction:
        transaction.connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match=r"newer than this version's .*: install the newer cxrnode again"):
        upgrade(empty)
    with pytest.raises(SchemaMismatch, match="the database has schema 9999"):
        require(empty)


def test_an_empty_database_is_not_worked_with(empty: Database) -> None:
    with pytest.raises(SchemaMismatch, match=r"has schema none, not .*: run `cxrnode db upgrade`"):
        require(empty)


def test_nodes_that_start_together_upgrade_once(database_url: str) -> None:
    def start() -> str | None:
        opened = Database(database_url)
        try:
            upgrade(opened)
            return current(opened)
        finally:
            opened.close()

    with ThreadPoolExecutor(4) as nodes:
        starts = [nodes.submit(start) for _ in range(4)]
    assert [one.result() for one in starts] == [HEAD] * 4
