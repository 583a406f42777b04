"""TFRecord shards and tf.train.Example, without TensorFlow: framing, masked CRC-32C, the wire format of protobuf.

Whatever the bytes are, a record comes out, or a reason; nothing else is raised and nothing is read past the file.
Framing: tensorflow/core/lib/io/record_writer.h; messages: tensorflow/core/example/{example,feature}.proto.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from pathlib import Path

from cxrnode.training.readers.films import BadList

#: Beside the bytes of a record stand its length, the check of the length, and the check of the bytes.
_HEAD, _TAIL = 12, 4
_GZIP = b"\x1f\x8b"

Span = tuple[int, int]
#: Integers, floats, or the places (start, end) of byte strings.
Values = tuple[int | float | Span, ...]

_NOTHING: Values = ()


class BadExample(ValueError):
    """The bytes are no tf.train.Example."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record of a shard. `number` counts from 1; `offset` is that of its bytes in the file."""

    number: int
    offset: int
    content: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """A record that cannot be used. After one that is the `last`, the shard cannot be followed any further."""

    number: int
    reason: str
    last: bool


def read_records(path: Path) -> Iterator[Record | Damage]:
    """Yield the records of a shard, damaged ones as Damage. Raises BadList for a file that cannot be read at all."""
    try:
        from google_crc32c import value as crc32c
    except ImportError:
        raise BadList(f"{path.name}: TFRecord shards need google-crc32c; pip install 'cxrnode[train]'") from None

    def good(content: bytes, masked: int) -> bool:
        check = crc32c(content)
        return bool(((check >> 15 | check << 17) + 0xA282EAD8) & 0xFFFFFFFF == masked)

    try:
        left, number = path.stat().st_size, 0
        with path.open("rb") as file:
            while left > 0:
                number += 1
                head = file.read(_HEAD)
                if number == 1 and head[:2] == _GZIP:
                    raise BadList(f"{path.name}: the shard is compressed; unpack it with gunzip first")
                if len(head) < _HEAD:
                    yield Damage(number=number, reason="the shard ends within this record", last=True)
                    return
                length, check = struct.unpack("<QI", head)
                if not good(head[:8], check):
                    reason = "the length of this record is damaged; it and all after it in this shard are left out"
                    yield Damage(number=number, reason=reason, last=True)
                    return
                if length > left - _HEAD - _TAIL:
                    yield Damage(number=number, reason="the shard ends within this record", last=True)
                    return
                offset = file.tell()
                content, tail = file.read(length), file.read(_TAIL)
                left -= _HEAD + length + _TAIL
                if good(content, struct.unpack("<I", tail)[0]):
                    yield Record(number=number, offset=offset, content=content)
                else:
                    yield Damage(number=number, reason="the bytes of this record do not match their check", last=False)
    except (OSError, struct.error) as error:
        raise BadList(f"{path.name}: cannot be read ({type(error).__name__})") from error


def parse_example(content: bytes) -> dict[str, Values]:
    """Return the features of a tf.train.Example by name; () where a feature is empty. Raises BadExample."""
    found: dict[str, Values] = {}
    for features in _messages(content, (0, len(content)), 1):
        for entry in _messages(content, features, 1):
            name, values = "", _NOTHING
            for number, value in _fields(content, entry):
                if number == 1:
                    name = _text(content, _span(value))
                elif number == 2:
                    values = _feature(content, _span(value))
            found[name] = values
    return found


def _feature(content: bytes, at: Span) -> Values:
    """One of bytes_list = 1, float_list = 2, int64_list = 3, each with `repeated value = 1`."""
    values = _NOTHING
    for kind, field in _fields(content, at):
        here = [value for number, value in _fields(content, _span(field)) if number == 1]
        if kind == 1:
            values = tuple(_span(value) for value in here)
        elif kind == 2:
            values = tuple(number for value in here for number in _floats(content, value))
        elif kind == 3:
            values = tuple(number for value in here for number in _integers(content, value))
    return values


def _floats(content: bytes, value: int | Span) -> tuple[float, ...]:
    start, end = _span(value)
    if (end - start) % 4:
        raise BadExample("floats of another length than 4 bytes")
    return struct.unpack(f"<{(end - start) // 4}f", content[start:end])


def _integers(content: bytes, value: int | Span) -> Iterator[int]:
    """Packed or one by one; negative ones are two's complement in 64 bits."""
    if isinstance(value, int):
        yield value - (1 << 64) if value >> 63 else value
        return
    at, end = value
    while at < end:
        number, at = _varint(content, at, end)
        yield number - (1 << 64) if number >> 63 else number


def _messages(content: bytes, at: Span, wanted: int) -> Iterator[Span]:
    return (_span(value) for number, value in _fields(content, at) if number == wanted)


def _fields(content: bytes, at: Span) -> Iterator[tuple[int, int | Span]]:
    """(number, value) of each field; a value is an integer, or where its bytes lie."""
    here, end = at
    while here < end:
        key, here = _varint(content, here, end)
        kind, length = key & 7, 0
        if kind == 0:
            value, here = _varint(content, here, end)
            yield key >> 3, value
            continue
        if kind == 2:
            length, here = _varint(content, here, end)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise BadExample(f"a field of wire type {kind}")
        if length > end - here:
            raise BadExample("a field that is longer than its message")
        yield key >> 3, (here, here + length)
        here += length


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    number = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte, at = content[at], at + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & 0xFFFFFFFFFFFFFFFF, at
    raise BadExample("an integer without an end")


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise BadExample("an integer where bytes are expected")
    return value


def _text(content: bytes, at: Span) -> str:
    try:
        return content[at[0] : at[1]].decode()
    except UnicodeDecodeError:
        raise BadExample("a name that is no UTF-8") from None
