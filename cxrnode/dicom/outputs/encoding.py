"""Attributes and their bytes: an Explicit VR Little Endian writer for the objects we make (PS3.5 section 7.1).

It exists for two reasons. Copied text goes out as the bytes it came in, whatever its character set says, which
pydicom's writer undoes by decoding and encoding again; and a report of 2,300 elements is written in a few
milliseconds instead of sixty. It writes only what cxrnode itself puts together: it never parses, and knows no
undefined lengths but those of encapsulated pixels.
"""

from __future__ import annotations

import functools
import struct
import unicodedata
from collections.abc import Iterable
from typing import Self, TypeAlias

from pydicom.datadict import dictionary_VR, tag_for_keyword

from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
IMPLEMENTATION_VERSION = "CXRNODE"

_LONG = frozenset({"OB", "OW", "SQ", "UC", "UN", "UR", "UT"})
_NUL_PADDED = frozenset({"UI", "OB", "UN"})
#: The longest value of each text VR (PS3.5 table 6.2-1), for strings of our own; copied values keep their length.
_LIMITS = {"SH": 16, "CS": 16, "LO": 64, "UI": 64, "ST": 1024, "LT": 10240, "DS": 16, "IS": 12}

#: The last element of our data sets.
_PIXEL_DATA = 0x7FE00010

Value: TypeAlias = str | int | bytes
#: A part of a file: what is large is not copied to be joined.
Piece: TypeAlias = bytes | memoryview


def ascii_text(text: str) -> str:
    """The text in ASCII, so that it reads the same under every character set; accents go, the rest becomes '?'."""
    if text.isascii():
        return text
    plain = unicodedata.normalize("NFKD", text)
    return "".join(c for c in plain if not unicodedata.combining(c)).encode("ascii", "replace").decode("ascii")


@functools.lru_cache(maxsize=1024)
def tag_and_vr(keyword: str) -> tuple[int, str]:
    """The tag and value representation of a keyword of PS3.6. Raises KeyError where there is none."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return tag, dictionary_VR(tag)


@functools.lru_cache(maxsize=1024)
def _head(tag: int, vr: str) -> bytes:
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()


def element(tag: int, vr: str, value: bytes) -> bytes:
    """One element: tag, VR, length, value padded to even length. Raises ValueError where a short length overflows."""
    if len(value) % 2:
        value += b"\0" if vr in _NUL_PADDED else b" "
    head = _head(tag, vr)
    if vr in _LONG:
        return b"".join((head, struct.pack("<HI", 0, len(value)), value))
    if len(value) > 0xFFFF:
        raise ValueError(f"the value of ({tag >> 16:04x},{tag & 0xFFFF:04x}) does not fit a {vr}")
    return head + struct.pack("<H", len(value)) + value


def item(content: bytes) -> bytes:
    """One item of a sequence, with its length stated."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


class Attributes:
    """The elements of a data set or of one item, each already encoded. Written in the order of their tags."""

    __slots__ = ("_elements", "_tail")

    def __init__(self) -> None:
        self._elements: dict[int, bytes] = {}
        #: The value of PixelData, whose head is the last of the elements: megabytes that are joined once.
        self._tail: tuple[Piece, ...] = ()

    def __contains__(self, keyword: str) -> bool:
        return tag_and_vr(keyword)[0] in self._elements

    def put(self, keyword: str, *values: Value) -> Self:
        """Set an attribute to strings or numbers of our own; without values it is empty. Strings become ASCII."""
        tag, vr = tag_and_vr(keyword)
        if vr == "US":
            encoded = b"".join(struct.pack("<H", int(v)) for v in values)
        else:
            encoded = b"\\".join(_text(v, vr) for v in values)
        self._elements[tag] = element(tag, vr, encoded)
        return self

    def put_raw(self, tag: int, vr: str, value: bytes) -> Self:
        """Set an element to bytes that are kept as they are, but for the padding to even length."""
        self._elements[tag] = element(tag, vr, value)
        return self

    def put_items(self, keyword: str, items: Iterable[Attributes | bytes] = ()) -> Self:
        """Set a sequence; without items it is empty."""
        tag, _ = tag_and_vr(keyword)
        encoded = b"".join(item(i if isinstance(i, bytes) else i.encode()) for i in items)
        self._elements[tag] = element(tag, "SQ", encoded)
        return self

    def put_pixels(self, value: Piece) -> Self:
        """Set PixelData to uncompressed 8-bit samples."""
        size = len(value) + len(value) % 2
        self._elements[_PIXEL_DATA] = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, size)
        self._tail = (value, b"\0" * (len(value) % 2))
        return self

    def put_frame(self, frame: bytes) -> Self:
        """Set PixelData to one compressed frame in one fragment behind an empty offset table (PS3.5 A.4)."""
        padded = frame + b"\0" * (len(frame) % 2)
        self._tail = ()
        self._elements[_PIXEL_DATA] = (
            struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
            + item(b"")
            + item(padded)
            + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        )
        return self

    def encode(self) -> bytes:
        """The elements in ascending order of their tags."""
        return b"".join(self.pieces())

    def pieces(self) -> tuple[Piece, ...]:
        """What `encode` joins: the elements, and behind them large pixels by themselves."""
        return (b"".join(self._elements[tag] for tag in sorted(self._elements)), *self._tail)


def part10(
    content: Attributes, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str
) -> tuple[Piece, ...]:
    """A whole file in pieces: preamble, file meta information (PS3.10 section 7.1), data set."""
    meta = (
        Attributes()
        .put_raw(0x00020001, "OB", b"\0\1")
        .put("MediaStorageSOPClassUID", sop_class_uid)
        .put("MediaStorageSOPInstanceUID", sop_instance_uid)
        .put("TransferSyntaxUID", transfer_syntax_uid)
        .put("ImplementationClassUID", IMPLEMENTATION_CLASS_UID)
        .put("ImplementationVersionName", IMPLEMENTATION_VERSION)
        .encode()
    )
    length = element(0x00020000, "UL", struct.pack("<I", len(meta)))
    head, *tail = content.pieces()
    return (b"".join((b"\0" * 128, b"DICM", length, meta, head)), *tail)


def _text(value: Value, vr: str) -> bytes:
    if isinstance(value, bytes):
        return value
    text = ascii_text(str(value))
    return text[: _LIMITS.get(vr, len(text))].encode("ascii")
