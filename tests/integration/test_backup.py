"""Backup and restore: everything comes back on either database, a broken backup is refused, a damaged file is named."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

from cxrnode.cli import main
from cxrnode.errors import DatabaseDamaged
from cxrnode.spool import FolderSpool
from cxrnode.store import backup, guards, integrity, jobs, upgrade
from cxrnode.store.database import Database
from cxrnode.store.retention import known_keys
from cxrnode.store.schema import event, job, metadata, standing
from tests import stores
from tests.peers import REPOSITORY, Postgres

CONFIG = """
[node]
ae_title = "CXRNODE"
data_dir = {data}
[database]
url = "{url}"
[log]
level = "info"
"""


class Place:
    """A configuration with its store and spool, in a folder of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.data = folder / "data"
        self.config = folder / "cxrnode.toml"
        self.data.mkdir(parents=True)
        self.url = url or f"sqlite+pysqlite:///{self.data / 'cxrnode.sqlite'}"
        self.config.write_text(CONFIG.format(data=json.dumps(str(self.data)), url=url))
        self.spool = FolderSpool(self.data / "spool")

    def run(self, *arguments: str | Path, status: int = 0) -> Result:
        result = CliRunner().invoke(main, [*map(str, arguments), "--config", str(self.config)])
        assert result.exit_code == status, result.output
        return result

    def lines(self, result: Result) -> str:
        return " ".join((result.stdout + result.stderr).split())


def put(spool: FolderSpool, key: str) -> None:
    """A file under this key, which tells it."""
    path = spool.path(key)
    path.parent.mkdir(exist_ok=True)
    path.write_text(key)


def live(database: Database, spool: FolderSpool, numbers: range) -> None:
    """Jobs in many states, with a file for every key that a row has."""
    for number in numbers:
        stores.delivered(database, number)
    stores.enqueue(database, f"waits {numbers}")
    for keys in known_keys(database):
        for key in keys:
            put(spool, key)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Place]:
    """Makes places with an empty database each, on SQLite and on PostgreSQL."""
    made = 0

    def make() -> Place:
        nonlocal made
        made += 1
        url = "" if request.param == "sqlite" else request.getfixturevalue("postgres").new_database()
        return Place(tmp_path / f"place {made}", url)

    return make


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Iterator[tuple[Place, Database]]:
    place = Place(tmp_path / "node", "")
    opened = stores.open_store(place.url)
    live(opened, place.spool, range(3))
    yield place, opened
    opened.close()


def contents(database: Database) -> dict[str, set[str]]:
    """Every row of every table, written out, but for the events of backup and restore."""
    with database.read() as transaction:
        found = {
            table.name: {repr(tuple(row)) for row in transaction.rows(sa.select(table))}
            for table in metadata.sorted_tables
        }
    found["event"] = {row for row in found["event"] if "'backed_up'" not in row and "'restored'" not in row}
    return found


def files(spool: FolderSpool) -> dict[str, str]:
    return {key: spool.path(key).read_text() for key in spool.keys_older_than(-10)}


def test_two_backups_into_one_folder_do_not_take_each_other_s_parts(
    sqlite_place: tuple[Place, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second took the part of the first, which ended there, or put its name to what the other had begun."""
    place, _ = sqlite_place
    copy = backup.copy
    said: list[str] = []

    def held_up(database: Database, file: Path) -> backup.Copied:
        copied = copy(database, file)
        monkeypatch.setattr(backup, "copy", copy)
        said.append(place.lines(place.run("db", "backup", tmp_path / "backup", status=1)))
        return copied

    monkeypatch.setattr(backup, "copy", held_up)
    place.run("db", "backup", tmp_path / "backup")
    assert "another backup writes to" in said[0]
    card = json.loads((tmp_path / "backup" / "backup.json").read_text())
    assert backup.digest(tmp_path / "backup" / card["file"]) == card["sha256"]
    place.run("db", "backup", tmp_path / "backup")


def test_everything_comes_back(new_place: Callable[[], Place], tmp_path: Path) -> None:
    here, there, folder = new_place(), new_place(), tmp_path / "backup"
    database = stores.open_store(here.url)
    live(database, here.spool, range(4))
    before = contents(database)
    said = json.loads(here.run("db", "backup", folder, "--json").stdout)
    assert (said["schema"], said["files"], said["missing"]) == (upgrade.HEAD, len(files(here.spool)), 0)
    assert (folder.stat().st_mode & 0o777, (folder / said["file"]).stat().st_mode & 0o777) == (0o700, 0o600)
    # What happens after the backup is not in it.
    stores.delivered(database, "later")
    there.run("db", "restore", folder)
    restored = Database(there.url)
    assert contents(restored) == before
    assert files(there.spool) == files(here.spool)
    assert guards.missing(restored) == ()
    stores.assert_sound(restored)
    for opened, name in ((database, "backed_up"), (restored, "restored")):
        assert stores.count(opened, event, event.c.name == name) == 1
    # And the node goes on: ids are counted on, the waiting film is read, another comes.
    (held,) = stores.claim(restored)
    assert stores.settle(restored, held)
    stores.delivered(restored, "later")
    stores.assert_sound(restored)
    assert "the trail is whole" in there.lines(there.run("audit", "verify"))
    database.close()
    restored.close()


def test_a_second_backup_adds_what_is_new_and_drops_what_no_row_knows(
    sqlite_place: tuple[Place, Database], tmp_path: Path
) -> None:
    place, database = sqlite_place
    folder = tmp_path / "backup"
    first = json.loads(place.run("db", "backup", folder, "--json").stdout)
    live(database, place.spool, range(3, 4))
    stranger = stores.new_key()
    put(FolderSpool(folder / "spool"), stranger)
    second = json.loads(place.run("db", "backup", folder, "--json").stdout)
    assert (first["new_files"], second["new_files"]) == (first["files"], second["files"] - first["files"])
    assert second["new_files"] == 6  # five of a delivered film, one of a waiting one
    assert [one.name for one in folder.glob("cxrnode-*")] == [second["file"]]
    assert files(FolderSpool(folder / "spool")) == files(place.spool)


def test_a_backup_keeps_its_films_when_the_spool_is_not_mounted_and_says_so(
    sqlite_place: tuple[Place, Database], tmp_path: Path
) -> None:
    place, _ = sqlite_place
    folder = tmp_path / "backup"
    place.run("db", "backup", folder)
    before = files(FolderSpool(folder / "spool"))
    place.spool.root.rename(place.data / "unmounted")
    result = place.run("db", "backup", folder)
    assert files(FolderSpool(folder / "spool")) == before
    assert "0 files of the spool" in place.lines(result)
    other = tmp_path / "other"
    assert f"{len(before)} files that rows know are in neither" in place.lines(place.run("db", "backup", other))


_WRITER = """
import sys, sqlite3
from tests import stores
database = stores.open_store(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    stores.delivered(database, f"written {number}")
    number += 1
    print(number, flush=True)
"""


def test_a_backup_under_writers_of_another_process_is_of_one_moment(
    new_place: Callable[[], Place], tmp_path: Path
) -> None:
    here, there = new_place(), new_place()
    stores.open_store(here.url).close()
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, here.url],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert writer.stdout is not None
    try:
        while writer.stdout.readline().strip() != b"20":
            assert writer.poll() is None
        here.run("db", "backup", tmp_path / "backup", "--no-spool")
        assert writer.poll() is None
        done = b""  # what it wrote meanwhile stands in the pipe: it writes on
        while done != b"30":
            done = writer.stdout.readline().strip()
            assert done
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    there.run("db", "restore", tmp_path / "backup")
    restored = Database(there.url)
    stores.assert_sound(restored)
    states = {row.state for row in _jobs(restored)}
    assert len(_jobs(restored)) >= 20
    assert "delivered" in states
    restored.close()


def _jobs(database: Database) -> list[Any]:
    with database.read() as transaction:
        return list(transaction.rows(sa.select(job)))


def test_no_lock_of_this_process_is_dropped_by_reading_the_file_of_a_database(
    sqlite_place: tuple[Place, Database], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, database = sqlite_place
    known = len(_jobs(database))
    pool = database.engine.pool
    assert isinstance(pool, sa.QueuePool) and pool.checkedin() > 0, "nothing is open: this proves nothing"
    held: list[int] = []
    copying = backup._copy_sqlite

    def copy(source: Path, file: Path) -> float:
        held.append(pool.checkedin() + pool.checkedout())
        return copying(source, file)

    monkeypatch.setattr(backup, "_copy_sqlite", copy)
    backup.copy(database, tmp_path / "copy.sqlite")
    assert held == [0]
    assert len(_jobs(database)) == known, "the database is not used on afterwards"


def test_nothing_is_put_over_a_database(sqlite_place: tuple[Place, Database], tmp_path: Path) -> None:
    place, database = sqlite_place
    folder = tmp_path / "backup"
    place.run("db", "backup", folder)
    before = contents(database)
    assert "has cxrnode.sqlite: stop the node and move that away first" in place.lines(
        place.run("db", "restore", folder, status=1)
    )
    assert contents(database) == before
    # A journal that a crash left would be played into the restored file.
    database.close()
    file = place.data / "cxrnode.sqlite"
    file.rename(tmp_path / "damaged")
    journal = file.with_name("cxrnode.sqlite-journal")
    journal.write_bytes(b"of another file")
    assert "has cxrnode.sqlite-journal" in place.lines(place.run("db", "restore", folder, status=1))
    journal.unlink()
    place.run("db", "restore", folder)
    restored = Database(place.url)
    assert contents(restored) == before
    restored.close()


@pytest.mark.peers
def test_nothing_is_put_over_a_postgresql_database(postgres: Postgres, tmp_path: Path) -> None:
    place = Place(tmp_path / "node", postgres.new_database())
    stores.open_store(place.url).close()
    place.run("db", "backup", tmp_path / "backup")
    said = place.lines(place.run("db", "restore", tmp_path / "backup", status=1))
    assert "holds a database already: name an empty one" in said


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("bytes", "is not what backup.json says that it is"),
        ("card", "holds no backup that this version can read"),
        ("schema", "newer than this version's"),
        ("kind", "the backup is of PostgreSQL, and database.url names the other"),
    ],
)
def test_a_backup_that_cannot_be_trusted_is_refused(
    sqlite_place: tuple[Place, Database], tmp_path: Path, spoil: str, said: str
) -> None:
    place, _ = sqlite_place
    folder, there = tmp_path / "backup", Place(tmp_path / "there", "")
    place.run("db", "backup", folder)
    card = json.loads((folder / "backup.json").read_text())
    if spoil == "bytes":
        with (folder / card["file"]).open("r+b") as file:
            file.seek(5000)
            file.write(b"x")
    elif spoil == "card":
        (folder / "backup.json").write_text("{")
    elif spoil == "schema":
        (folder / "backup.json").write_text(json.dumps({**card, "schema": "9999"}))
    else:
        (folder / "backup.json").write_text(json.dumps({**card, "file": "cxrnode-x.pgdump"}))
    assert said in there.lines(there.run("db", "restore", folder, status=1))
    assert not (there.data / "cxrnode.sqlite").exists()


def test_a_folder_that_holds_other_things_is_no_place_for_a_backup(
    sqlite_place: tuple[Place, Database], tmp_path: Path
) -> None:
    place, _ = sqlite_place
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpeg").touch()
    assert "holds other things (holiday.jpeg)" in place.lines(place.run("db", "backup", folder, status=1))


@pytest.mark.peers
def test_without_pg_dump_it_is_said_what_to_install(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path / "node", postgres.new_database())
    stores.open_store(place.url).close()
    monkeypatch.setenv("PATH", str(tmp_path))
    said = place.lines(place.run("db", "backup", tmp_path / "backup", status=1))
    assert "pg_dump is not installed here: install PostgreSQL's client" in said
    assert not list((tmp_path / "backup").glob("cxrnode-*"))


def test_films_in_an_object_store_are_not_copied_and_it_is_said_so(tmp_path: Path) -> None:
    place = Place(tmp_path / "node", "")
    with place.config.open("a") as config:
        config.write('[spool]\nurl = "s3://films/node"\n')
    said = place.lines(place.run("db", "backup", tmp_path / "backup", status=1))
    assert "s3://films/node, which is not copied: switch on versions or replication there, and say --no-spool" in said


def test_where_there_is_no_database_there_is_nothing_to_back_up(tmp_path: Path) -> None:
    place = Place(tmp_path / "node", "")
    assert "there is no database" in place.lines(place.run("db", "backup", tmp_path / "backup", status=1))


# ------------------------------------------------------------------------------------- damaged files


def damage(file: Path, table: str) -> None:
    """Overwrite the first page of a table's index with noise, as a disk does."""
    with sqlite3.connect(file) as opened:
        size = opened.execute("PRAGMA page_size").fetchone()[0]
        (page,) = opened.execute(
            "SELECT rootpage FROM sqlite_master WHERE type = 'index' AND tbl_name = ? ORDER BY name LIMIT 1", (table,)
        ).fetchone()
    opened.close()
    with file.open("r+b") as written:
        written.seek((page - 1) * size)
        written.write(b"\x55" * size)


@pytest.mark.parametrize("table", ["event", "job", "delivery"])
def test_a_damaged_database_is_refused_at_the_start_with_what_to_do(
    sqlite_place: tuple[Place, Database], table: str
) -> None:
    place, database = sqlite_place
    database.close()
    file = place.data / "cxrnode.sqlite"
    damage(file, table)
    done = subprocess.run(
        [sys.executable, "-m", "cxrnode", "serve", "--config", str(place.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert f"cxrnode: the database {file} is damaged ({table}: " in done.stderr
    assert "bring the last backup back with `cxrnode db restore DIR`" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_newer_schema_is_refused_at_the_start_with_what_to_do(sqlite_place: tuple[Place, Database]) -> None:
    place, database = sqlite_place
    with database.write() as transaction:
        transaction.connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        transaction.connection.execute(sa.update(standing).values(oldest="9999"))
    before = contents(database)
    done = subprocess.run(
        [sys.executable, "-m", "cxrnode", "serve", "--config", str(place.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"cxrnode: the database has schema 9999, newer than this version's {upgrade.HEAD}: install the newer cxrnode "
        "again, or restore the backup made before the upgrade\n"
    )
    assert contents(database) == before


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\x55" * 5000])
def test_what_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "cxrnode.sqlite"
    file.write_bytes(content)
    with pytest.raises(DatabaseDamaged, match=r"is damaged \(the file: "):
        integrity.require_whole(file)


def test_a_whole_database_is_looked_through(sqlite_place: tuple[Place, Database]) -> None:
    place, database = sqlite_place
    database.close()
    looked = integrity.require_whole(place.data / "cxrnode.sqlite")
    assert (looked.left, looked.tables) == ((), len(metadata.sorted_tables) + 1)  # and Alembic's


def test_a_look_ends_with_its_time_and_names_what_is_left(
    sqlite_place: tuple[Place, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, database = sqlite_place
    database.close()
    slow = integrity._LOOK.replace(
        "        quoted", '        __import__("time").sleep(60 if table == "job" else 0)\n        quoted'
    )
    monkeypatch.setattr(integrity, "_LOOK", slow)
    began = time.monotonic()
    # Long enough for a child that starts slowly, and not for the one table.
    looked = integrity.require_whole(place.data / "cxrnode.sqlite", seconds=8.0)
    assert looked.left == ("job", "event")
    assert time.monotonic() - began < 50


def test_a_backup_of_a_damaged_database_is_none(sqlite_place: tuple[Place, Database], tmp_path: Path) -> None:
    place, database = sqlite_place
    database.close()
    damage(place.data / "cxrnode.sqlite", "event")
    said = place.lines(place.run("db", "backup", tmp_path / "backup", status=1))
    assert "is damaged (event: " in said
    assert not (tmp_path / "backup" / "backup.json").exists()


def test_jobs_that_wait_are_still_there_after_a_restore(sqlite_place: tuple[Place, Database], tmp_path: Path) -> None:
    place, database = sqlite_place
    (held,) = stores.claim(database)  # a worker has it at the moment of the backup, and is gone after the restore
    place.run("db", "backup", tmp_path / "backup")
    there = Place(tmp_path / "there", "")
    there.run("db", "restore", tmp_path / "backup")
    restored = Database(there.url)
    clock = stores.Clock(restored)
    clock.now = time.time()
    clock.turn(stores.LEASE + 1)
    with restored.write() as transaction:
        assert jobs.expire(transaction, stores.LIMITS) == 1
    (again,) = stores.claim(restored)
    assert again.job_id == held.job_id
    restored.close()
