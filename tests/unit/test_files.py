"""All bytes of all pieces, whatever the kernel takes at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrnode.files import write_all


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
