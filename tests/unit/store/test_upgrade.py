"""The schema: migrations make what the tables say, and no other schema is worked with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import cxrnode.store
from cxrnode.core.digests import Kind
from cxrnode.errors import SchemaMismatch
from cxrnode.store import fleet, guards, jobs, receipt
from cxrnode.store.database import Database
from cxrnode.store.fleet import Process
from cxrnode.store.schema import job, metadata, standing
from cxrnode.store.upgrade import HEAD, OLDEST, current, digests, require, upgrade
from tests import stores


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


def test_an_upgrade_makes_the_guards_of_the_audit_trail_anew(empty: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(cxrnode.store.__path__[0]) / "migrations"))
    with empty.write() as transaction:
        config.attributes["connection"] = transaction.connection
        command.upgrade(config, "0001")
        guards.remove(transaction.connection)
    assert "event_no_update" in guards.missing(empty)
    upgrade(empty)
    assert guards.missing(empty) == ()


def test_a_schema_that_differs_would_be_seen(empty: Database) -> None:
    upgrade(empty)
    with empty.write() as transaction:
        transaction.connection.execute(sa.text("DROP INDEX ix_job_ready"))
    with empty.read() as transaction:
        context = MigrationContext.configure(transaction.connection, opts={"compare_type": True})
        (found,) = compare_metadata(context, metadata)
    assert (found[0], found[1].name) == ("add_index", "ix_job_ready")


def test_a_new_database_has_the_fast_digest_and_is_closed_to_code_that_does_not_know_it(empty: Database) -> None:
    upgrade(empty)
    assert digests(empty) is Kind.BLAKE3
    with empty.read() as transaction:
        assert transaction.scalar(sa.select(standing.c.oldest)) == "0011"


def stand(database: Database, *, revision: str, oldest: str = HEAD, moved_to: str = "") -> None:
    """What a later version leaves behind: its revision, and the oldest code that may go on."""
    with database.write() as transaction:
        transaction.connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{revision}'"))
        transaction.connection.execute(sa.update(standing).values(oldest=oldest, moved_to=moved_to))


def test_a_newer_schema_that_says_so_is_worked_with(empty: Database) -> None:
    upgrade(empty)
    stand(empty, revision="9999")
    require(empty)
    assert not upgrade(empty)
    assert current(empty) == "9999"


def test_a_newer_schema_is_refused_with_what_to_do(empty: Database) -> None:
    upgrade(empty)
    stand(empty, revision="9999", oldest="9999")
    with pytest.raises(SchemaMismatch, match=r"newer than this version's .*: install the newer cxrnode again"):
        upgrade(empty)
    with pytest.raises(SchemaMismatch, match=r"schema 9999, which this version \(schema .*\) cannot work with"):
        require(empty)


def test_a_database_that_was_moved_is_refused_with_where_it_is(empty: Database) -> None:
    upgrade(empty)
    stand(empty, revision=HEAD, moved_to="postgresql+psycopg://cxrnode:***@db/cxrnode")
    for enter in (require, upgrade):
        with pytest.raises(SchemaMismatch, match=r"was moved to postgresql\+psycopg://cxrnode:\*\*\*@db/cxrnode: set"):
            enter(empty)


def test_no_schema_is_made_that_a_living_node_cannot_work_with(empty: Database) -> None:
    upgrade(empty)
    one = Process(owner="old/infer/1", node="old", role="infer", version="0.0.9", revision="0003")
    fleet.beat(empty, one)
    stand(empty, revision="0003")
    with pytest.raises(SchemaMismatch, match="by the nodes old, which still run an older version: stop cxrnode there"):
        upgrade(empty)
    assert current(empty) == "0003"
    fleet.leave(empty, one.owner)
    stand(empty, revision=HEAD)
    require(empty)


def test_code_of_the_oldest_version_that_is_let_go_on_finds_all_that_it_uses(database_url: str) -> None:
    """From `OLDEST` to `HEAD` the schema only grows: else set `OLDEST` to the revision that takes away or demands."""
    opened = Database(database_url)
    config = Config()
    config.set_main_option("script_location", str(Path(cxrnode.store.__path__[0]) / "migrations"))
    seen = []
    for revision in (OLDEST, "head"):
        with opened.write() as transaction:
            config.attributes["connection"] = transaction.connection
            command.upgrade(config, revision)
        with opened.read() as transaction:
            seen.append(shape(transaction.connection))
    opened.close()
    before, after = seen
    assert set(before) <= set(after)
    for table, columns in before.items():
        kept = {name: after[table].get(name) for name in columns}
        assert kept == columns, f"{table} lost or changed a column that older code uses"
        new = {name: column for name, column in after[table].items() if name not in columns}
        demanded = [name for name, column in new.items() if not column.optional]
        assert demanded == [], f"older code inserts into {table} without {demanded}: give them a server_default"


class Column(NamedTuple):
    """What older code may rely on, or must fill."""

    type: str
    optional: bool


def shape(connection: sa.Connection) -> dict[str, dict[str, Column]]:
    """The columns of every table."""
    inspector = sa.inspect(connection)
    return {
        table: {
            one["name"]: Column(str(one["type"]), bool(one["nullable"]) or one["default"] is not None)
            for one in inspector.get_columns(table)
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def migrate(database: Database, revision: str) -> None:
    """Bring a database to a schema of our past."""
    config = Config()
    config.set_main_option("script_location", str(Path(cxrnode.store.__path__[0]) / "migrations"))
    with database.write() as transaction:
        config.attributes["connection"] = transaction.connection
        command.upgrade(config, revision)


def revisions() -> list[str]:
    """Every schema that there was, oldest first."""
    config = Config()
    config.set_main_option("script_location", str(Path(cxrnode.store.__path__[0]) / "migrations"))
    return sorted(one.revision for one in ScriptDirectory.from_config(config).walk_revisions())


def rows_of(database: Database, columns: dict[str, list[str]]) -> dict[str, list[str]]:
    """The rows of these columns of these tables, in whatever order."""
    with database.read() as transaction:
        found = {}
        for table, names in columns.items():
            chosen: sa.Select[*tuple[Any, ...]] = sa.select(*(sa.column(name) for name in names)).select_from(
                sa.table(table)
            )
            # SQLite has no truth of its own: 0 and 1.
            plain = ([int(one) if isinstance(one, bool) else one for one in row] for row in transaction.rows(chosen))
            found[table] = sorted(map(repr, plain))
        return found


@pytest.fixture
def lived(tmp_path: Path) -> Iterator[Database]:
    """A store at the newest schema with jobs in every state, whose rows fill the older ones."""
    opened = stores.open_store(f"sqlite+pysqlite:///{tmp_path / 'lived.sqlite'}")
    stores.delivered(opened, 1)
    again = jobs.retry(opened, 1, reason="the window was wrong")
    (held,) = stores.claim(opened)
    assert held.job_id == again
    stores.settle(opened, held)
    stores.enqueue(opened, 2)
    (held,) = stores.claim(opened)
    jobs.park(opened, held, "it will not work as it is")
    stores.reported(opened, 3, mode="shadow")
    stores.enqueue(opened, 4)
    stores.settle(opened, stores.claim_one(opened), pixels="instance 1")  # a duplicate
    stores.reported(opened, 5)
    stores.enqueue(opened, 6)
    receipt.record(opened, stores.arrival(7, accepted=False), [], ageing=60.0, config_digest="")
    assert {row[0] for row in all_states(opened)} == {"superseded", "reported", "failed", "queued"}
    yield opened
    opened.close()


def all_states(database: Database) -> list[tuple[str, int]]:
    with database.read() as transaction:
        states = sa.select(job.c.state, sa.func.count()).group_by(job.c.state)
        return [(row[0], row[1]) for row in transaction.rows(states)]


@pytest.mark.parametrize("revision", revisions())
def test_a_database_of_each_schema_is_upgraded_with_its_rows_and_works_on(
    empty: Database, lived: Database, revision: str
) -> None:
    old = empty
    migrate(old, revision)
    with old.read() as transaction:
        inspector = sa.inspect(transaction.connection)
        there = {name: [c["name"] for c in inspector.get_columns(name)] for name in inspector.get_table_names()}
    columns = {
        t.name: [c.name for c in t.columns if c.name in there[t.name]]
        for t in metadata.sorted_tables
        if t.name in there
    }
    columns.pop("standing", None)
    fill(lived, old, columns)
    before = rows_of(old, columns)
    assert before == rows_of(lived, columns)
    assert len(before["job"]) == 7
    assert upgrade(old) is (revision != HEAD)
    require(old)
    assert digests(old) is Kind.SHA256  # a film that comes again has the digest that it had
    assert rows_of(old, columns) == before  # nothing lost, nothing changed
    with old.read() as transaction:
        context = MigrationContext.configure(transaction.connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    stores.assert_sound(old)
    # The node works on with what was under way: the pending delivery is sent, the waiting film is read.
    assert sorted(row.job_id for row in stores.take(old)) != []
    (held,) = stores.claim(old)
    assert stores.settle(old, held)
    assert stores.delivered(old, "after the upgrade")
    stores.assert_sound(old)
    assert guards.missing(old) == ()


def fill(source: Database, target: Database, columns: dict[str, list[str]]) -> None:
    """Copy the rows of these columns, as a node of that time would have written them."""
    with source.read() as reading, target.write() as writing:
        for table in (one for one in metadata.sorted_tables if one.name in columns):
            names = columns[table.name]
            rows = reading.rows(sa.select(*(table.c[name] for name in names)).order_by(*table.primary_key.columns))
            if rows:
                lean = sa.table(table.name, *(sa.column(name) for name in names))
                writing.connection.execute(sa.insert(lean), [dict(row._mapping) for row in rows])
            key = table.autoincrement_column
            if key is not None and rows and not target.is_sqlite:
                sequence = sa.func.pg_get_serial_sequence(table.name, key.name)
                writing.scalar(sa.select(sa.func.setval(sequence, max(row._mapping[key.name] for row in rows))))


def test_there_is_no_way_back_to_an_older_schema() -> None:
    """A migration only ever goes forward: who needs the older version restores the backup from before the upgrade."""
    folder = Path(cxrnode.store.__path__[0]) / "migrations" / "versions"
    assert [path.name for path in sorted(folder.glob("0*.py")) if "def downgrade" in path.read_text()] == []


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
