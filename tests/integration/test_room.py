"""Room: the listener before a disk of 64 MB that fills, and before a queue that nobody reads. No film is read here."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.cli.check import checks
from cxrnode.config import Config, load_config
from cxrnode.dicom.sender import Destination, Sent, send_files
from cxrnode.readiness import readiness
from cxrnode.roles import receive, room
from cxrnode.roles.context import Context
from cxrnode.roles.room import RoomWatch, disk_of, queue_of
from cxrnode.spool import FolderSpool
from cxrnode.store import upgrade
from cxrnode.store.database import Database
from cxrnode.store.schema import event, instance
from tests.integration.scripted import film
from tests.peers import absent, unused_port

MIB = 1 << 20

_CONFIG = """
[node]
data_dir = {data}
roles = ["receive"]
timezone = "UTC"

[listen]
host = "127.0.0.1"
port = {port}
max_queue = {queue}

[nodes.MODALITY]
aet = "MODALITY"
host = "127.0.0.1"
port = 104
can_send = true

[models.chest]
bundle = "demo"

[[rules]]
name = "films"
unsure = "read"
models = ["chest"]

[spool]
min_free = "16 MiB"
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Receiving:
    """The role receive in this process."""

    config: Config
    database: Database
    spool: FolderSpool
    context: Context

    def send(self, *films: Path) -> list[int]:
        """What it answers to each film."""
        destination = Destination(name="node", aet="CXRNODE", host="127.0.0.1", port=self.config.listen.port)
        return [a.status for _, a in send_files(films, destination, calling_aet="MODALITY") if isinstance(a, Sent)]

    def happened(self, name: str) -> list[dict[str, Any]]:
        with self.database.read() as transaction:
            rows = transaction.rows(sa.select(event.c.detail).where(event.c.name == name).order_by(event.c.id))
        return [json.loads(row[0]) for row in rows]

    def looks(self) -> dict[str, tuple[bool, str]]:
        """What /readyz is told by."""
        return {one.name: (one.ok, one.remedy) for one in readiness(self.config, self.database, self.spool)}

    def instances(self) -> int:
        with self.database.read() as transaction:
            return int(transaction.scalar(sa.select(sa.func.count()).select_from(instance)))


def written(folder: Path, count: int, *, side: int) -> list[Path]:
    """Films of `side` x `side` pixels of 16 bits."""
    paths = [folder / f"film-{number}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(film(uid=f"2.25.{number + 100}", side=side))
    return paths


def start(folder: Path, data: Path, *, queue: int = 1000) -> Receiving:
    path = folder / "cxrnode.toml"
    path.write_text(_CONFIG.format(data=json.dumps(str(data)), port=unused_port(), queue=queue))
    config = load_config(path, environ={})
    database = Database(config.database_url)
    upgrade.upgrade(database)
    spool = FolderSpool(config.spool_dir)
    context = Context(
        config=config,
        database=database,
        spool=spool,
        owner="test",
        stopping=threading.Event(),
        beat=lambda: None,
        ready=lambda: None,
    )
    return Receiving(config, database, spool, context)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB of its own."""
    if os.geteuid() != 0:
        absent("a file system can only be mounted as root", "CXRNODE_REQUIRE_PEERS")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is looked at for each film, not once a second."""
    monkeypatch.setattr(room, "_HOLDS", 0.0)


def run(made: Receiving) -> threading.Thread:
    listening = socket.socket()
    listening.bind(("127.0.0.1", made.config.listen.port))
    listening.listen()
    thread = threading.Thread(target=receive.run, args=(made.context, listening), daemon=True)
    thread.start()
    return thread


def test_a_small_disk_refuses_before_it_is_full_and_goes_on_when_space_returns(
    small_disk: Path, tmp_path: Path
) -> None:
    films = written(tmp_path, 30, side=1024)
    (small_disk / "ballast").write_bytes(bytes(24 * MIB))
    made = start(tmp_path, small_disk)
    thread = run(made)
    watch = RoomWatch(disk_of)
    try:
        watch(made.context)
        assert made.happened("receiving_refused") == []
        answers = made.send(*films[:20])
        taken = answers.count(0)
        print(f"{taken} films taken, {len(answers) - taken} refused, {made.spool.free() / MIB:.1f} MiB left")
        assert answers == [0] * taken + [0xA700] * (20 - taken)
        assert 5 <= taken < 20
        # One film (2 MiB) and its rows went below the mark of 16, however fast they came.
        assert made.spool.free() > 12 * MIB
        # Nothing was written of those that were refused.
        assert list(made.spool.incoming.iterdir()) == []
        assert made.instances() == taken
        # It is said wherever somebody may look, each with what to do.
        [checked] = [one for one in checks(made.config.source) if one.name == "spool"]
        ready = made.looks()["disk"]
        assert (checked.ok, "lower spool.min_free" in checked.remedy) == (False, True)
        assert (ready[0], "lower spool.min_free" in ready[1]) == (False, True)
        watch(made.context)
        watch(made.context)
        [alert] = made.happened("receiving_refused")
        assert (alert["what"], "free space" in alert["remedy"]) == ("disk", True)
        assert alert["node"] == made.config.node_name
        (small_disk / "ballast").unlink()
        assert made.send(*films[taken : taken + 4]) == [0] * 4
        watch(made.context)
        assert [one["what"] for one in made.happened("receiving_resumed")] == ["disk"]
        assert made.looks()["disk"] == (True, "")
        assert made.instances() == taken + 4
        with made.database.read() as transaction:
            kept = transaction.rows(sa.select(instance.c.spool_key, instance.c.size))
        assert all(made.spool.path(row[0]).stat().st_size == row[1] for row in kept)
    finally:
        made.context.stopping.set()
        thread.join(30)
        made.database.close()


def test_a_disk_that_is_full_to_the_last_byte_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    """Something else filled it: neither file nor row can be written, and every film stays with its sender."""
    films = written(tmp_path, 6, side=1024)
    made = start(tmp_path, small_disk)
    object.__setattr__(made.config.spool, "min_free", 0)
    thread = run(made)
    try:
        assert made.send(*films[:2]) == [0, 0]
        with (small_disk / "ballast").open("wb") as ballast:
            try:
                while True:
                    ballast.write(bytes(MIB))
                    ballast.flush()
            except OSError:
                pass
        assert made.send(*films[2:5]) == [0xA700] * 3
        (small_disk / "ballast").unlink()
        assert made.send(*films[2:6]) == [0] * 4
        assert made.instances() == 6
        assert list(made.spool.incoming.iterdir()) == []
    finally:
        made.context.stopping.set()
        thread.join(30)
        made.database.close()


def test_a_queue_that_nobody_reads_refuses_and_takes_films_again(tmp_path: Path, hurried: None) -> None:
    films = written(tmp_path, 6, side=512)
    data = tmp_path / "data"
    data.mkdir()
    made = start(tmp_path, data, queue=3)
    object.__setattr__(made.config.spool, "min_free", 0)
    thread = run(made)
    watch = RoomWatch(queue_of)
    try:
        assert made.send(*films[:5]) == [0, 0, 0, 0xA700, 0xA700]
        assert made.looks()["queue"][0] is False
        [checked] = [one for one in checks(made.config.source) if one.name == "queue"]
        assert (checked.ok, "listen.max_queue" in checked.remedy) == (False, True)
        watch(made.context)
        assert [one["what"] for one in made.happened("receiving_refused")] == ["queue"]
        with made.database.write() as transaction:
            transaction.connection.execute(sa.text("UPDATE job SET state = 'reported' WHERE id = 1"))
        assert made.send(*films[3:5]) == [0, 0xA700]
    finally:
        made.context.stopping.set()
        thread.join(30)
        made.database.close()


def test_what_is_away_is_told_by_readiness_with_what_to_do(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    made = start(tmp_path, data)
    assert {name for name, (ok, _) in made.looks().items() if not ok} <= {"disk"}
    (made.spool.root).rename(tmp_path / "unmounted")
    assert made.looks()["spool"] == (False, "is it mounted? Give the folder to the service's user")
    with made.database.write() as transaction:
        transaction.connection.execute(sa.text("DELETE FROM alembic_version"))
    assert made.looks()["database"][0] is False
    made.database.close()
