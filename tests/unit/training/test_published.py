"""The fetching of published files, from a server on this machine that breaks off and lies."""

from __future__ import annotations

import dataclasses
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrnode.training.published import (
    PUBLISHED,
    Offline,
    Published,
    WrongDigest,
    blob_digest,
    pinned_as,
    pull,
    require_digest,
)
from tests.unit.cli.clinic import run

DATA = bytes(range(256)) * 4000


@dataclasses.dataclass
class Server:
    """Serves DATA. `ranges`: whether it goes on from a byte; `breaks_at`: where the connection is cut, once."""

    address: str = ""
    data: bytes = DATA
    ranges: bool = True
    breaks_at: int | None = None
    asked: list[str | None] = dataclasses.field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers["Range"]
            state.asked.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and state.ranges else 0
            if start >= len(state.data):
                self.send_error(416)
                return
            body = state.data[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.data) - 1}/{len(state.data)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            cut, state.breaks_at = state.breaks_at, None
            self.wfile.write(body[:cut])

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    listener = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{listener.server_port}/checkpoint"
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    listener.shutdown()
    thread.join()
    listener.server_close()


def published(server: Server, folder: Path, *more: str) -> Published:
    file = folder / "original"
    file.write_bytes(DATA)
    return dataclasses.replace(
        PUBLISHED["jrzech-2022"], name="made", addresses=(server.address, *more), blob=blob_digest(file)
    )


def test_the_table_has_the_digests_of_the_reference(data_dir: Path) -> None:
    reference = (data_dir / "reference" / "published_weights.md").read_text()
    for row in PUBLISHED.values():
        line = next(line for line in reference.splitlines() if row.blob in line)
        assert row.repository in line
        assert row.addresses[0].split("/raw/")[1].split("/", 1)[1] in line
        assert row.auc is None or f"{row.auc:g}" in line


def test_digests_are_those_of_git(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(DATA)
    told = subprocess.run(["git", "hash-object", file], capture_output=True, text=True, check=True).stdout.strip()
    assert blob_digest(file) == told
    require_digest(file, told.upper())
    assert pinned_as(file) is None
    with pytest.raises(WrongDigest, match=f"its digest is {told}, not {'0' * 40}"):
        require_digest(file, "0" * 40)
    with pytest.raises(WrongDigest, match="a digest is"):
        require_digest(file, "abc")


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    seen = []
    row = published(server, tmp_path)
    path = pull(row, tmp_path / "to", progress=lambda done, whole: seen.append((done, whole)))
    assert (path.read_bytes(), seen[-1]) == (DATA, (len(DATA), len(DATA)))
    assert pull(row, tmp_path / "to") == path
    assert server.asked == [None]
    assert [file.name for file in (tmp_path / "to").iterdir()] == ["made"]


@pytest.mark.parametrize("ranges", [True, False])
def test_what_broke_off_is_gone_on_from_or_begun_anew(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges, server.breaks_at = ranges, 300_000
    row = published(server, tmp_path)
    with pytest.raises(Offline, match="Try again: what came is kept"):
        pull(row, tmp_path / "to")
    assert (tmp_path / "to" / "made.part").stat().st_size == 300_000
    assert pull(row, tmp_path / "to").read_bytes() == DATA
    assert server.asked == [None, "bytes=300000-"]


def test_another_file_is_removed_and_told(server: Server, tmp_path: Path) -> None:
    row = published(server, tmp_path)
    server.data = DATA[:-1] + b"\0"
    with pytest.raises(WrongDigest, match="gave another file than the pinned one, which was removed"):
        pull(row, tmp_path / "to")
    assert list((tmp_path / "to").iterdir()) == []


def test_a_part_that_is_none_is_thrown_away(server: Server, tmp_path: Path) -> None:
    row = published(server, tmp_path)
    (tmp_path / "made.part").write_bytes(DATA + b"more")
    with pytest.raises(Offline, match="HTTP 416"):
        pull(row, tmp_path)
    assert pull(row, tmp_path).read_bytes() == DATA


def test_the_next_address_is_tried(server: Server, tmp_path: Path) -> None:
    row = published(server, tmp_path)
    row = dataclasses.replace(row, addresses=("http://127.0.0.1:9/none", server.address))
    assert pull(row, tmp_path / "to").read_bytes() == DATA


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    row = dataclasses.replace(PUBLISHED["arnoweng"], addresses=("http://127.0.0.1:9/none",))
    monkeypatch.setattr("cxrnode.training.published.PUBLISHED", {"arnoweng": row})
    result = run("model", "pull", "arnoweng", "--folder", tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "http://127.0.0.1:9/none: [Errno 111] Connection refused" in result.stderr
    assert f"check that `git hash-object` prints {row.blob}, and import the file" in result.stderr


def test_the_command_fetches_and_says_what_comes_next(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cxrnode.training.published.PUBLISHED", {"made": published(server, tmp_path)})
    result = run("model", "pull", "made", "--folder", tmp_path / "to")
    assert (result.exit_code, "--trust --name made" in result.stdout) == (0, True), result.stderr
    assert run("model", "pull", "other").stderr == "cxrnode: no published checkpoint 'other', only made\n"
    assert "made" in run("model", "pull").stdout
