"""Durable before Success (design, rule 1): the order of the system calls, and what a power cut between them leaves."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cxrnode.dicom.part10 import dataset_digest
from cxrnode.phantom.dicom import write_phantoms
from tests.integration.scripted import answered_status, film
from tests.peers import Postgres, require_tool, unused_port, wait_until
from tests.torture.disk import Disk
from tests.torture.trace import OPTIONS, Call, calls

_CONFIG = """\
[node]
data_dir = {data}
roles = ["receive"]
[listen]
host = "127.0.0.1"
port = {port}
accept_unknown = true
[models.chest]
bundle = "demo"
[[rules]]
name = "films"
unsure = "read"
models = ["chest"]
[spool]
min_free = "50 MiB"
[database]
url = "{url}"
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What the receive role did while it got films: `before` is its folder as it was when the trace began."""

    data: Path
    before: Path
    calls: Sequence[Call]
    #: SOP Instance UID -> SHA-256 of the data set, of all films that were sent.
    films: dict[str, str]


def receive(folder: Path, url: str = "") -> Traced:
    """Let a node receive five films under strace: three small ones that are ignored, two that are accepted."""
    data, port = folder / "data", unused_port()
    config = folder / "cxrnode.toml"
    config.write_text(_CONFIG.format(data=json.dumps(str(data)), port=port, url=url))
    ours = [sys.executable, "-m", "cxrnode"]
    subprocess.run([*ours, "db", "upgrade", "--config", str(config)], check=True, capture_output=True, timeout=120)
    for name in ("incoming", "objects"):
        (data / "spool" / name).mkdir(parents=True, exist_ok=True)
    shutil.copytree(data, folder / "before")
    paths = list(write_phantoms(folder / "films", range(1), rows=560, cols=512))
    for number in range(3):
        paths.insert(number, folder / f"small-{number}.dcm")
        paths[number].write_bytes(film(uid=f"2.25.4711{number}"))
    # Its bytes pass the kernel's cache by, but for the first.
    paths += write_phantoms(folder / "large", [7], rows=1700, columns=1600)
    log = folder / "log"
    with log.open("wb") as out:
        command = [
            require_tool("strace"),
            *OPTIONS,
            "-o",
            str(folder / "trace"),
            *ours,
            "serve",
            "--config",
            str(config),
        ]
        traced = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        ready = b'"event": "role_ready"'
        wait_until(lambda: ready in log.read_bytes(), seconds=180, what="the receive role", process=traced)
        for path in paths:
            send = [require_tool("storescu"), "-v", "-aec", "CXRNODE", "127.0.0.1", str(port), str(path)]
            done = subprocess.run(send, capture_output=True, text=True, timeout=120, check=True)
            assert "(Success)" in done.stdout + done.stderr
    finally:
        # strace passes no signal on; its child is the supervisor.
        children = Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split()
        for child in children:
            subprocess.run(["kill", f"-{signal.SIGTERM.value}", child], check=False)
        traced.wait(180)
    uid_of = {path: _uid(path) for path in paths}
    return Traced(
        data=data,
        before=folder / "before",
        calls=list(calls(folder / "trace")),
        films={uid_of[path]: dataset_digest(path) for path in paths},
    )


def _uid(path: Path) -> str:
    import pydicom

    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def _acknowledged(call: Call, films: dict[str, str]) -> str | None:
    """The film that this call answers with Success, if it does so."""
    if call.name not in ("sendto", "sendmsg", "write") or call.data[:1] != b"\x04":
        return None
    status, _ = answered_status(call.data[6:])
    return next((uid for uid in films if uid.encode() in call.data and status == 0), None)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    return receive(tmp_path_factory.mktemp("traced"))


def steps(traced: Traced) -> Iterator[list[str]]:
    """For each film, the steps of its receipt in the order in which they were done, up to its answer.

    One film comes at a time. What other threads commit meanwhile, a sign of life say, is none of its steps.
    """
    window: list[Call] = []
    for call in traced.calls:
        window.append(call)
        if _acknowledged(call, traced.films):
            incoming = f"{traced.data}/spool/incoming/"
            [moved] = [one for one in window if one.name == "rename" and one.paths[0].startswith(incoming)]
            found = [step for one in window if (step := _step(one, traced.data, moved))]
            yield [*(step for number, step in enumerate(found) if step != found[number - 1] or number == 0 or
                     step != "write file"), "Success"]  # fmt: skip
            window = []


def _step(call: Call, data: Path, moved: Call) -> str:
    """What this call is in the receipt of the film that `moved` put into its place; "" for nothing."""
    path = call.paths[0] if call.paths else ""
    if call.name in ("write", "writev") and path == moved.paths[0]:
        return "write file"
    if call.pid != moved.pid:
        return ""
    place = path.removeprefix(str(data))
    match call.name:
        case "rename" if call is moved:
            return "rename"
        case "fsync" if path == moved.paths[0]:
            return "fsync file"
        case "fsync" if path == str(Path(moved.paths[1]).parent):
            return "fsync folder"
        case "fdatasync" | "fsync" if "cxrnode.sqlite-journal" in place or place.endswith("-wal"):
            return "fsync journal"
        case "fdatasync" | "fsync" if place.endswith("cxrnode.sqlite"):
            return "fsync database"
        case "sendto" | "sendmsg" if b"COMMIT" in call.data:
            return "commit"
        case _:
            return ""


@pytest.mark.timeout(600)
def test_success_follows_fsync_rename_fsync_and_commit_in_this_order(traced: Traced) -> None:
    found = list(steps(traced))
    print("\n".join(" -> ".join(one) for one in found))
    assert len(found) == 5
    for one in found:
        assert one[:4] == ["write file", "fsync file", "rename", "fsync folder"]
        assert one[-1] == "Success"
        if sqlite3.sqlite_version_info < (3, 51, 3):  # no WAL: the journal, the database, and the journal's end
            assert one[4:-1][:1] + one[4:-1][-2:] == ["fsync journal", "fsync database", "fsync journal"]
        else:
            assert one[-2] == "fsync journal"


@pytest.mark.peers
@pytest.mark.timeout(600)
def test_on_postgresql_too_the_file_is_safe_before_the_commit_and_the_commit_before_success(
    postgres: Postgres, tmp_path: Path
) -> None:
    found = list(steps(receive(tmp_path, postgres.new_database())))
    print("\n".join(" -> ".join(one) for one in found))
    assert len(found) == 5
    for one in found:
        assert [name for name in one if name != "commit"] == [
            "write file",
            "fsync file",
            "rename",
            "fsync folder",
            "Success",
        ]
        assert one[-2] == "commit"


def lost(place: Path, acknowledged: Sequence[str], films: dict[str, str]) -> list[str]:
    """What is missing after a power cut of the films that were acknowledged before it."""
    with sqlite3.connect(place / "cxrnode.sqlite") as database:
        if database.execute("PRAGMA integrity_check").fetchone() != ("ok",):
            return ["the database is corrupt"]
        rows = database.execute("SELECT sop_instance_uid, dataset_sha256, spool_key, verdict FROM instance").fetchall()
        jobs = database.execute("SELECT count(*) FROM job").fetchone()[0]
    missing = []
    accepted = 0
    for uid in acknowledged:
        row = next((row for row in rows if row[0] == uid), None)
        if row is None:
            missing.append(f"{uid} has no row")
            continue
        accepted += row[3] == "accepted"
        file = place / "spool" / "objects" / row[2][:2] / row[2]
        if not file.is_file():
            missing.append(f"{uid} has no file")
        elif (dataset_digest(file), row[1]) != (films[uid], films[uid]):
            missing.append(f"{uid} has other bytes")
    return missing if jobs >= accepted else [*missing, "an accepted film has no job"]


def replay(
    traced: Traced, folder: Path, *, seed: int | None, forget: frozenset[str] = frozenset()
) -> tuple[int, list[str]]:
    """Cut the power after each step that made something safe, or that answered; how often, and what was lost."""
    # The disk stands where it stood when the trace began.
    original = traced.data.rename(traced.data.with_name("after"))
    shutil.copytree(traced.before, traced.data)
    try:
        disk = Disk(traced.data, forget=forget)
    finally:
        shutil.rmtree(traced.data)
        original.rename(traced.data)
    chance = random.Random(seed) if seed is not None else None
    acknowledged: list[str] = []
    cuts, found = 0, []
    for call in traced.calls:
        changed = disk.play(call)
        uid = _acknowledged(call, traced.films)
        if uid is not None:
            acknowledged.append(uid)
        elif not changed or (call.name in ("write", "writev", "pwrite64") and cuts % 7):
            cuts += changed
            continue
        cuts += 1
        place = folder / str(cuts)
        found += [
            f"after step {cuts}, {call.name}: {one}"
            for one in lost(disk.cut(place, chance), acknowledged, traced.films)
        ]
        shutil.rmtree(place)
    assert acknowledged == list(traced.films)
    return cuts, found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [None, 1, 2])
def test_a_power_cut_at_any_step_loses_nothing_acknowledged(traced: Traced, tmp_path: Path, seed: int | None) -> None:
    cuts, found = replay(traced, tmp_path, seed=seed)
    print(f"{cuts} steps, power cut at each, nothing lost of what was acknowledged")
    assert found == []
    assert cuts > 50


@pytest.mark.timeout(600)
@pytest.mark.parametrize("forget", ["file", "folder"])
def test_the_same_replay_finds_what_a_forgotten_fsync_would_lose(traced: Traced, tmp_path: Path, forget: str) -> None:
    _, found = replay(traced, tmp_path, seed=None, forget=frozenset({forget}))
    assert found != []
