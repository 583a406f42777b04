"""Moving a site's database from SQLite to PostgreSQL: every row, once, or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cxrnode.cli import main
from cxrnode.core.digests import Kind
from cxrnode.errors import Rejected, SchemaMismatch
from cxrnode.store import fleet, guards, jobs, move, upgrade
from cxrnode.store.database import Database
from cxrnode.store.fleet import Process
from cxrnode.store.schema import event, identity, instance, job, metadata, standing
from tests import stores
from tests.peers import Postgres

pytestmark = pytest.mark.peers


def quietly(_table: str, _rows: int) -> None:
    """Progress that nobody wants to see."""


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Database]:
    """A store with jobs in many states: delivered, read again, a duplicate, parked, waiting."""
    opened = stores.open_store(f"sqlite+pysqlite:///{tmp_path / 'cxrnode.sqlite'}")
    stores.delivered(opened, 1)
    again = jobs.retry(opened, 1, reason="the window was wrong")
    (held,) = stores.claim(opened)
    assert held.job_id == again
    stores.settle(opened, held)
    stores.enqueue(opened, 2)
    stores.enqueue(opened, 3)
    second, third = stores.claim(opened)
    # The later job is read first: the earlier one is a duplicate of a row that comes after it.
    stores.settle(opened, third, pixels="the same film")
    stores.settle(opened, second, pixels="the same film")
    stores.enqueue(opened, 4)
    (held,) = stores.claim(opened)
    jobs.park(opened, held, "it will not work as it is")
    for number in range(5, 40):
        stores.enqueue(opened, number)
    with opened.write() as transaction:
        person = {"patient_name": "Müller^Jürgen=山田^太郎", "header": bytes(range(256))}
        transaction.connection.execute(sa.update(identity).where(identity.c.instance_id == 5).values(**person))
    yield opened
    opened.close()


@pytest.fixture
def target(postgres: Postgres) -> Iterator[Database]:
    opened = Database(postgres.new_database())
    yield opened
    opened.close()


def contents(database: Database) -> dict[str, set[str]]:
    """Every row of every table that belongs to the record, written out: another way than that of `move`."""
    left_out = {"process", "duty", "standing"}
    with database.read() as transaction:
        return {
            table.name: {repr(tuple(row)) for row in transaction.rows(sa.select(table))}
            for table in metadata.sorted_tables
            if table.name not in left_out
        }


def test_every_row_is_moved_and_the_source_keeps_its_own(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move, "_PAGE", 7)  # so that all tables have pages
    before = contents(source)
    done = move.move(source, target, progress=quietly)
    assert contents(target) == before == contents(source)
    assert done.copied
    assert {name: one.rows for name, one in done.tallies.items()} == {name: len(rows) for name, rows in before.items()}
    assert done.tallies["event"].rows > 40
    with target.read() as transaction:
        assert transaction.scalar(sa.select(sa.func.count()).where(job.c.duplicate_of > job.c.id)) == 1
    stores.assert_sound(target)


def test_work_goes_on_where_it_was(source: Database, target: Database) -> None:
    waiting = jobs.waiting(source)
    move.move(source, target, progress=quietly)
    assert jobs.waiting(target) == waiting == {"chest": 35}
    made = stores.enqueue(target, 1000)
    assert [one.job_id for one in stores.claim(target, limit=2)] == [6, 7]
    with target.read() as transaction:
        newest = transaction.scalar(sa.select(sa.func.max(job.c.id)))
    assert made == newest == 41
    stores.assert_sound(target)


@pytest.mark.parametrize("kind", Kind)
def test_the_target_goes_on_with_the_digests_of_the_source(source: Database, target: Database, kind: Kind) -> None:
    oldest = "0011" if kind is Kind.BLAKE3 else "0004"
    with source.write() as transaction:
        transaction.connection.execute(sa.update(standing).values(digests=kind, oldest=oldest))
    move.move(source, target, progress=quietly)
    with target.read() as transaction:
        assert tuple(*transaction.rows(sa.select(standing.c.digests, standing.c.oldest))) == (kind, oldest)
    assert upgrade.digests(target) is kind


def test_no_node_works_on_with_what_was_moved(source: Database, target: Database) -> None:
    move.move(source, target, progress=quietly)
    with pytest.raises(SchemaMismatch, match="was moved to postgresql"):
        upgrade.require(source)
    upgrade.require(target)


def test_a_move_that_broke_leaves_nothing_and_can_be_made_again(
    source: Database, target: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("the machine goes down")

    with monkeypatch.context() as patched:
        patched.setattr(move, "_count_on", broken)
        with pytest.raises(OSError, match="goes down"):
            move.move(source, target, progress=quietly)
    assert not any(contents(target).values())
    upgrade.require(source)
    assert move.move(source, target, progress=quietly).copied


def test_a_move_that_broke_between_both_commits_is_finished(source: Database, target: Database) -> None:
    move.move(source, target, progress=quietly)
    with source.write() as transaction:
        transaction.connection.execute(sa.text("UPDATE standing SET moved_to = ''"))
    assert not move.move(source, target, progress=quietly).copied
    with pytest.raises(SchemaMismatch, match="was moved to"):
        upgrade.require(source)


def test_a_target_that_holds_anything_else_is_refused_and_left_as_it_was(source: Database, target: Database) -> None:
    upgrade.upgrade(target)
    stores.enqueue(target, 77)
    before = contents(target)
    with pytest.raises(Rejected, match=r"instance has 1 rows and not 39.*empty database. Nothing was changed"):
        move.move(source, target, progress=quietly)
    assert contents(target) == before
    upgrade.require(source)


def test_one_value_that_differs_is_seen(source: Database, target: Database) -> None:
    move.move(source, target, progress=quietly)
    with target.write() as transaction:
        guards.remove(transaction.connection)
        transaction.connection.execute(sa.update(event).where(event.c.id == 9).values(detail='{"changed": 1}'))
    with source.write() as transaction:
        transaction.connection.execute(sa.text("UPDATE standing SET moved_to = ''"))
    with pytest.raises(Rejected, match="event has other values"):
        move.move(source, target, progress=quietly)


def test_nothing_is_moved_under_running_roles(source: Database, target: Database) -> None:
    one = Process(owner="here/infer/1", node="here", role="infer", version="1", revision=upgrade.HEAD)
    fleet.beat(source, one)
    with pytest.raises(Rejected, match="cxrnode runs on here with this database: stop it first"):
        move.move(source, target, progress=quietly)
    fleet.leave(source, one.owner)
    stores.claim(source)
    with pytest.raises(Rejected, match="10 jobs are still leased to a process"):
        move.move(source, target, progress=quietly)


@pytest.mark.parametrize(("value", "why"), [("x" * 20, "is longer than 16 characters"), ("a\x00b", "holds a NUL")])
def test_a_value_that_postgresql_does_not_take_is_named_without_being_told(
    source: Database, target: Database, value: str, why: str
) -> None:
    with source.write() as transaction:
        transaction.connection.execute(sa.update(instance).where(instance.c.id == 3).values(calling_aet=value))
    with pytest.raises(Rejected, match=f"instance 3: calling_aet {why}") as fault:
        move.move(source, target, progress=quietly)
    assert value not in str(fault.value)
    assert not any(contents(target).values())


def test_the_command_says_what_it_moved_and_what_to_do(source: Database, target: Database, tmp_path: Path) -> None:
    config = tmp_path / "cxrnode.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n')
    url = target.engine.url.render_as_string(hide_password=False)
    done = CliRunner().invoke(main, ["db", "migrate-to", url, "--json", "--config", str(config)])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["copied"], said["tables"]["instance"]["rows"]) == (True, 39)
    again = CliRunner().invoke(main, ["db", "migrate-to", url, "--config", str(config)])
    assert again.exit_code == 1
    assert "was moved to postgresql+psycopg://" in again.output
    back = CliRunner().invoke(main, ["db", "migrate-to", "sqlite+pysqlite:///x", "--config", str(config)])
    assert back.exit_code == 1
