"""Records of any bytes: what protobuf wrote is read, and what is broken is named; never a crash or a hang."""

from __future__ import annotations

import contextlib
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrnode.training.readers import read_films
from cxrnode.training.readers.films import BadList
from cxrnode.training.readers.records import BadExample, Damage, Record, parse_example, read_records
from tests.unit.training.readers.layouts import EXAMPLE, example, framed, masked, record

NAMES = st.text(max_size=12)
VALUES = st.one_of(
    st.binary(max_size=300),
    st.floats(width=32, allow_nan=False),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
)
WHOLE = record(0, Mass=1, Hernia=0)


def write(content: bytes) -> Path:
    with tempfile.NamedTemporaryFile(suffix=".tfrec", delete=False) as file:
        file.write(content)
    return Path(file.name)


def told(content: bytes) -> list[Record | Damage]:
    path = write(content)
    try:
        return list(read_records(path))
    finally:
        path.unlink()


@given(st.dictionaries(NAMES, VALUES, max_size=8))
def test_what_protobuf_writes_is_read(features: dict[str, bytes | float | list[int]]) -> None:
    content = example(features)
    found = parse_example(content)
    assert set(found) == set(features)
    for name, expected in features.items():
        if isinstance(expected, bytes):
            ((start, end),) = found[name]  # type: ignore[misc]
            assert content[start:end] == expected
        else:
            assert found[name] == (tuple(expected) if isinstance(expected, list) else (expected,))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
def test_integers_may_stand_one_by_one(numbers: list[int]) -> None:
    # proto2 writers do not pack them; protobuf's own parser is asked whether the bytes mean that.
    def varint(number: int) -> bytes:
        number &= 2**64 - 1
        out = bytearray()
        while number > 0x7F:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        return bytes([*out, number])

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2]) + varint(len(content)) + content

    values = b"".join(b"\x08" + varint(number) for number in numbers)
    content = field(1, field(1, field(1, b"a") + field(2, field(3, values))))
    assert list(EXAMPLE.FromString(content).features.feature["a"].int64_list.value) == numbers
    assert parse_example(content) == {"a": tuple(numbers)}


@given(st.binary(max_size=400))
def test_any_bytes_are_an_example_or_none(content: bytes) -> None:
    with contextlib.suppress(BadExample):
        parse_example(content)


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_named_with_its_record(at: int, change: int) -> None:
    torn = bytearray(WHOLE)
    torn[at] ^= change
    found = told(WHOLE + bytes(torn) + WHOLE)
    assert isinstance(found[0], Record)
    damage = found[1]
    assert isinstance(damage, Damage) and damage.number == 2
    # Where the length is whole the next record is found again.
    assert [isinstance(one, Record) for one in found] == ([True, False] if at < 12 else [True, False, True])


@given(st.binary(max_size=600))
def test_any_bytes_are_read_to_their_end(content: bytes) -> None:
    try:
        found = told(content)
    except BadList:
        return  # what looks like gzip
    assert all(isinstance(one, Damage) for one in found)


@given(st.integers(1, len(WHOLE) - 1))
def test_a_shard_that_ends_early_says_so(kept: int) -> None:
    found = told(WHOLE + WHOLE[:kept])
    assert found[1:] == [Damage(number=2, reason="the shard ends within this record", last=True)]


def test_a_length_beyond_the_file_reads_nothing() -> None:
    length = struct.pack("<Q", 2**62)
    assert told(length + masked(length) + b"\0" * 40) == [
        Damage(number=1, reason="the shard ends within this record", last=True)
    ]


@given(st.binary(min_size=1, max_size=200))
def test_a_valid_frame_around_any_bytes_is_a_bad_row_or_a_film(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "0.tfrec").write_bytes(WHOLE + framed(content))
        found = read_films(Path(name), ["Mass"])
    assert [row.image for row in found.rows] == ["0.tfrec#1"]
    assert [bad.image for bad in found.bad] == ["0.tfrec#2"]


def test_an_empty_shard_has_no_film(tmp_path: Path) -> None:
    (tmp_path / "0.tfrec").write_bytes(b"")
    with pytest.raises(BadList, match="no film can be used of 0 rows"):
        read_films(tmp_path, ["Mass"])
