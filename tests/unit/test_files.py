"""All bytes of all pieces, whatever the kernel takes at once, through its cache or past it."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrnode.files import BLOCK, CACHED, BlockWriter, Memory, write_all
from tests.peers import require_tool


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "file"


@given(st.lists(st.binary(max_size=40), max_size=30), st.lists(st.integers(min_value=1, max_value=50), min_size=1))
@settings(deadline=None)
def test_a_kernel_that_takes_a_part_gets_the_rest(place: Path, pieces: list[bytes], takes: list[int]) -> None:
    written: list[bytes] = []
    turn = 0

    def some(_: int, given: list[memoryview]) -> int:
        nonlocal turn
        assert all(len(one) for one in given), "nothing is asked to be written"
        taken = b"".join(given)[: takes[turn % len(takes)]]
        turn += 1
        written.append(taken)
        return len(taken)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cxrnode.files.os.writev", some)
        assert write_all(lambda: -1, pieces) == sum(map(len, pieces))
    assert b"".join(written) == b"".join(pieces)
    descriptor = os.open(place, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        write_all(lambda: descriptor, pieces)
    finally:
        os.close(descriptor)
    assert place.read_bytes() == b"".join(pieces)


def test_more_pieces_than_one_call_takes(tmp_path: Path) -> None:
    pieces = [memoryview(number.to_bytes(4)) for number in range(5000)]
    with (tmp_path / "file").open("wb") as file:
        assert write_all(file.fileno, pieces) == 20_000
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)


def test_a_full_disk_is_said() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OSError, match="No space left"):
        write_all(full.fileno, [b"a film"])


def test_a_file_that_was_closed_meanwhile_is_not_written_to_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, others = (tmp_path / "mine").open("wb", buffering=0), None
    real = os.writev

    def closes(descriptor: int, given: list[memoryview]) -> int:
        nonlocal others
        written = real(descriptor, given[:1])
        if others is None:
            mine.close()
            others = (tmp_path / "others").open("wb", buffering=0)
            assert others.fileno() == descriptor, "the number is given to the next file"
        return written

    monkeypatch.setattr("cxrnode.files.os.writev", closes)
    with pytest.raises(ValueError, match="closed"):
        write_all(mine.fileno, [b"one", b"two"])
    assert others is not None
    others.close()
    assert ((tmp_path / "mine").read_bytes(), (tmp_path / "others").read_bytes()) == (b"one", b"")


def cut(content: bytes, chance: random.Random) -> Iterator[memoryview]:
    """Pieces as they come: of a line, of several PDUs, of more than a block."""
    at = 0
    while at < len(content):
        size = chance.choice((1, 1000, 16_372, 131_060, BLOCK, BLOCK + 1, 2 * BLOCK))
        yield memoryview(content)[at : at + size]
        at += size


@pytest.mark.parametrize("size", [0, 1, 4096, BLOCK - 1, BLOCK, CACHED, CACHED + 1, CACHED + 4096, 5 * BLOCK + 4097])
def test_a_file_written_in_blocks_has_every_byte_and_shows_those_that_are_watched(tmp_path: Path, size: int) -> None:
    chance = random.Random(size)
    head, content, seen = chance.randbytes(321), chance.randbytes(size), io.BytesIO()
    with (tmp_path / "file").open("xb", buffering=0) as file:
        writer = BlockWriter(file.fileno)
        writer.write([head])
        writer.watch(seen.write)
        for piece in cut(content, chance):
            writer.write([piece[: len(piece) // 2], piece[len(piece) // 2 :]])
        writer.finish()
        assert not fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT
    assert (tmp_path / "file").read_bytes() == head + content
    assert seen.getvalue() == content


@pytest.mark.parametrize("size", [CACHED + 4097, 4 * BLOCK + 100])
@pytest.mark.parametrize("refused", ["the mode", "the first write", "a later write"])
def test_a_disk_that_cannot_do_without_the_cache_gets_every_byte_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, refused: str
) -> None:
    content = random.Random(size).randbytes(size)
    real_write, real_fcntl, direct = os.write, fcntl.fcntl, 0

    def write(descriptor: int, piece: memoryview) -> int:
        nonlocal direct
        if real_fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            direct += 1
            if refused == "the first write" or direct > 1:
                raise OSError(errno.EINVAL, "Invalid argument")
            return real_write(descriptor, piece[: len(piece) // 2 // 4096 * 4096 or len(piece)])
        return real_write(descriptor, piece)

    def mode(descriptor: int, command: int, flags: int = 0) -> int:
        if refused == "the mode" and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_fcntl(descriptor, command, flags)

    monkeypatch.setattr("cxrnode.files.os.write", write)
    monkeypatch.setattr("cxrnode.files.fcntl.fcntl", mode)
    with (tmp_path / "file").open("xb", buffering=0) as file:
        writer = BlockWriter(file.fileno)
        writer.write([content])
        writer.finish()
    assert (tmp_path / "file").read_bytes() == content
    assert (direct > 0) is (refused != "the mode")


def test_a_kernel_that_takes_a_part_of_a_block_gets_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, real = random.Random(0).randbytes(3 * BLOCK + 5), os.write
    monkeypatch.setattr("cxrnode.files.os.write", lambda descriptor, piece: real(descriptor, piece[: 300 * 1024]))
    with (tmp_path / "file").open("xb", buffering=0) as file:
        writer = BlockWriter(file.fileno)
        writer.write([content])
        writer.finish()
    assert (tmp_path / "file").read_bytes() == content


def test_a_block_on_a_full_disk_is_said_and_a_closed_file_is_not_written_to(tmp_path: Path) -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        writer = BlockWriter(full.fileno)
        writer.write([b"a film"])
        with pytest.raises(OSError, match="No space left"):
            writer.finish()
        with pytest.raises(OSError, match="No space left"):
            BlockWriter(full.fileno).write([bytes(BLOCK)])
    writer = BlockWriter(full.fileno)
    with pytest.raises(ValueError, match="closed"):
        writer.write([bytes(BLOCK)])


def in_cache(path: Path) -> int:
    """Bytes of a file that the kernel keeps in its cache, by util-linux."""
    command = [require_tool("fincore"), "-n", "-b", "-o", "RES", str(path)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.peers
def test_what_is_large_passes_the_cache_by_and_is_read_as_it_was_written(tmp_path: Path) -> None:
    content, path = random.Random(1).randbytes(9 * BLOCK + 77), tmp_path / "file"
    with path.open("xb", buffering=0) as file:
        writer = BlockWriter(file.fileno)
        writer.write([content])
        writer.finish()
        os.fsync(file.fileno())
    assert in_cache(path) == CACHED + 4096
    assert Memory().read(path) == content
    assert in_cache(path) < CACHED + BLOCK // 4, "to ask whether it is there may bring a few pages"


def test_memory_is_used_again_for_smaller_and_larger_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxrnode.files._KEPT", 2 * BLOCK)
    memory, path = Memory(), tmp_path / "file"
    for size in (0, 1, 4095, 4096, 4097, CACHED + 1, 7 * BLOCK + 13, 5, BLOCK, 4 * BLOCK):
        content = random.Random(size).randbytes(size)
        path.write_bytes(content)
        for cached in (True, False):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                if not cached:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            assert memory.read(path) == content
        assert len(memory._memory) <= max(2 * BLOCK, size + 4096), "what a large film took is given back"
    with pytest.raises(FileNotFoundError):
        memory.read(tmp_path / "gone")


def test_a_disk_that_cannot_be_read_past_the_cache_is_read_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, path, real = random.Random(2).randbytes(6 * BLOCK + 1), tmp_path / "file", os.readv
    path.write_bytes(content)
    direct = 0

    def readv(descriptor: int, into: list[memoryview]) -> int:
        nonlocal direct
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            direct += 1
            if direct == 1:
                return real(descriptor, [into[0][:BLOCK]])
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, [into[0][: 3 * BLOCK]])

    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    monkeypatch.setattr("cxrnode.files.os.readv", readv)
    assert Memory().read(path) == content
    assert direct == 2
