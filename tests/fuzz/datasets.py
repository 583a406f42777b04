"""Data sets that are nearly right: a real one taken apart into elements, changed where it hurts, and put together.

A seed gives the same bytes on every machine.
"""

from __future__ import annotations

import dataclasses
import random
import struct
import zlib
from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

#: The value representations with a length of four bytes after two that are reserved (PS3.5 7.1.2).
_LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_ALL = (
    *sorted(_LONG),
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"),
    *(b"ST", b"TM", b"UI", b"UL", b"US", b"??", b"\0\0", b"  ", b"\xff\xff"),
)
UNDEFINED = 0xFFFFFFFF


@dataclasses.dataclass(slots=True)
class Element:
    """One element; `items` for a sequence. `length` is what is said of its length where that is not true."""

    group: int
    number: int
    vr: bytes
    value: bytes = b""
    items: list[list[Element]] | None = None
    length: int | None = None
    endless: bool = False


def taken_apart(dataset: Dataset) -> list[Element]:
    """The elements of a data set, sequences as lists of items."""
    found = []
    for element in dataset:
        if element.VR == "SQ":
            items = [taken_apart(item) for item in element.value]
            found.append(Element(element.tag.group, element.tag.element, b"SQ", items=items))
        else:
            single = Dataset()
            single.add(element)
            raw = _encoded(single)
            vr = raw[4:6]
            found.append(Element(element.tag.group, element.tag.element, vr, raw[12 if vr in _LONG else 8 :]))
    return found


def _encoded(dataset: Dataset) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, dataset)
    return file.getvalue()


def put_together(elements: Sequence[Element], syntax: str) -> bytes:
    """The bytes of a data set in a native or deflated syntax; lengths are true where nothing else is said."""
    if syntax == DeflatedExplicitVRLittleEndian:
        packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(_joined(elements, "<", explicit=True)) + packer.flush()
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    return _joined(elements, order, explicit=syntax != ImplicitVRLittleEndian)


def _joined(elements: Sequence[Element], order: str, *, explicit: bool) -> bytes:
    return b"".join(_bytes(one, order, explicit=explicit) for one in elements)


def _bytes(one: Element, order: str, *, explicit: bool) -> bytes:
    value = one.value
    if one.items is not None:
        parts = []
        for item in one.items:
            inside = _joined(item, order, explicit=explicit)
            if one.endless:
                inside = struct.pack(f"{order}HHI", 0xFFFE, 0xE000, UNDEFINED) + inside
                parts.append(inside + struct.pack(f"{order}HHI", 0xFFFE, 0xE00D, 0))
            else:
                parts.append(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(inside)) + inside)
        value = b"".join(parts)
        if one.endless:
            value += struct.pack(f"{order}HHI", 0xFFFE, 0xE0DD, 0)
    said = one.length if one.length is not None else UNDEFINED if one.endless else len(value)
    tag = struct.pack(f"{order}HH", one.group & 0xFFFF, one.number & 0xFFFF)
    if not explicit:
        return tag + struct.pack(f"{order}I", said & 0xFFFFFFFF) + value
    if one.vr in _LONG:
        return tag + one.vr + struct.pack(f"{order}HI", 0, said & 0xFFFFFFFF) + value
    return tag + one.vr + struct.pack(f"{order}H", said & 0xFFFF) + value


# ------------------------------------------------------------------------------------------- the changes

_NUMBERS = (0, 1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 127, 255, 256, 4095, 32767, 32768, 65534, 65535)
_TEXTS = (
    b"", b" ", b"\0", b"\\", b"\\" * 4000, b"1e999", b"-0", b"NaN", b"99999999999999999999", b"..", b"../../etc/passwd",
    b"%s%n%x", b"\x1b$B!!", b"\x1b(J", b"\xff\xfe\xfd", b"A" * 70_000, b"=" * 500, b"^" * 500, b"20269999",
    b"ISO_IR 100\\ISO 2022 IR 149\\NONSENSE", b"\xed\xa0\x80", b"0" * 65_000, b"'; DROP TABLE job; --",
)  # fmt: skip


def _lie(one: Element, chance: random.Random) -> None:
    true = len(one.value)
    one.length = chance.choice(
        (0, 1, 2, true + 1, true - 1, true * 2, 0x7FFF, 0xFFFE, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0x80000000, UNDEFINED)
    )


def _value(one: Element, chance: random.Random) -> None:
    if one.vr in (b"US", b"SS") and chance.random() < 0.8:
        one.value = struct.pack("<H", chance.choice(_NUMBERS)) * chance.choice((1, 1, 1, 2, 3))
    elif chance.random() < 0.6:
        one.value = chance.choice(_TEXTS)
    else:
        one.value = chance.randbytes(chance.choice((0, 1, 2, 3, 4, 7, 8, 64, 65, 1000)))


def _flip(one: Element, chance: random.Random) -> None:
    changed = bytearray(one.value)
    for _ in range(min(len(changed), chance.randint(1, 8))):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    one.value = bytes(changed)


def _vr(one: Element, chance: random.Random) -> None:
    one.vr = chance.choice(_ALL)
    one.items = None if chance.random() < 0.5 else one.items


def _tag(one: Element, chance: random.Random) -> None:
    one.group, one.number = chance.choice(
        ((0, 0x0002), (0x0002, 0x0010), (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD), (0xFFFF, 0xFFFF),
         (0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x0008, 0x0005), (0x0008, 0x0018), (0x0020, 0x000D), (0x0009, 0x0001),
         (chance.randrange(65536), chance.randrange(65536)))
    )  # fmt: skip


def _nest(one: Element, chance: random.Random) -> None:
    inside: list[Element] = [Element(0x0008, 0x0100, b"SH", b"DEEP")]
    for _ in range(chance.choice((1, 5, 31, 32, 33, 100, 250))):
        inside = [Element(0x0008, 0x1140, b"SQ", items=[inside], endless=chance.random() < 0.5)]
    one.vr, one.value, one.items = b"SQ", b"", [inside] * chance.choice((1, 1, 3))


def _many(one: Element, chance: random.Random) -> None:
    one.vr, one.value = b"SQ", b""
    one.items = [[Element(0x0008, 0x0100, b"SH", b"MANY")]] * chance.choice((0, 1, 100, 3000))
    one.endless = chance.random() < 0.5


def _endless(one: Element, chance: random.Random) -> None:
    one.endless = True
    if one.items is None:
        one.length = UNDEFINED


_OF_ONE: tuple[Callable[[Element, random.Random], None], ...] = (
    _lie, _value, _value, _value, _flip, _vr, _tag, _nest, _many, _endless,
)  # fmt: skip


def mutate(elements: list[Element], chance: random.Random) -> None:
    """Change one to four things of a data set, in place."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 4))):
        level = elements
        while inner := [one for one in level if one.items]:
            if chance.random() < 0.6:
                break
            level = chance.choice(chance.choice(inner).items or [level]) or level
        if not level:
            continue
        where = chance.randrange(len(level))
        match chance.randrange(8):
            case 0:
                del level[where]
            case 1:
                level.insert(chance.randrange(len(level) + 1), dataclasses.replace(level[where]))
            case 2:
                other = chance.randrange(len(level))
                level[where], level[other] = level[other], level[where]
            case _:
                chance.choice(_OF_ONE)(level[where], chance)


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Now and then also the bytes: cut off, with a tail, or with a few of them wrong."""
    match chance.randrange(12):
        case 0:
            return whole[: chance.randrange(len(whole) + 1)]
        case 1:
            return whole + chance.randbytes(chance.choice((1, 2, 8, 1000)))
        case 2:
            changed = bytearray(whole)
            for _ in range(min(len(changed), 6)):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
            return bytes(changed)
        case _:
            return whole


#: The syntaxes that a native data set is sent in.
SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
