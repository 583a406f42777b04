"""The pixels of a film: decoded within limits, and shown as the radiologist sees them.

It runs in a child process that may die: decoders are C code that reads what strangers send. It never reads colour,
several frames or more pixels than its limits allow, and it never guesses past a damaged stream.
"""

from __future__ import annotations

import dataclasses
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, AllTransferSyntaxes

from cxrnode.core.digests import Digest, Kind
from cxrnode.dicom import display
from cxrnode.dicom.compressed import REMEDY, decompressed
from cxrnode.dicom.header import LARGEST_HEADER, PARSE_FAULTS, parse, quiet
from cxrnode.dicom.part10 import LARGEST_INFLATED, Held, opened
from cxrnode.dicom.raster import looked_up
from cxrnode.dicom.shutters import outside_shutters
from cxrnode.dicom.values import number, text
from cxrnode.errors import UnreadableImage

_PIXEL_DATA, _UNDEFINED = BaseTag(0x7FE00010), 0xFFFFFFFF
#: The VRs of PixelData (PS3.6), None where VRs are not written.
_PIXEL_VRS = frozenset({b"OB", b"OW", None})
#: Values longer than this, in bytes, stay where they lie.
_LONGEST_COPIED = 1 << 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is decoded at most: pixels of a film, bytes of a file."""

    pixels: int = 64_000_000
    file_bytes: int = 512 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Film:
    """A film as it is seen. `display`: uint8 (H, W), 0 = black, row 0 = top.

    `source` is the data set without pixel data; `pixel_digest` that of the decoded stored values, the
    same for every lossless encoding of a film and for any header; `window` says what made the grey levels;
    `notes` what was contradictory or left out, without identifiers.
    """

    display: npt.NDArray[np.uint8]
    source: Dataset
    pixel_digest: str
    window: str
    notes: tuple[str, ...] = ()


#: A data set of a film, and the value and VR of its PixelData; None where no VR is written.
_Found: TypeAlias = tuple[Dataset, bytes | memoryview, str | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """The image pixel module (PS3.3 C.7.6.3) of one grey frame, checked."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool


def decode_film(path: Path, limits: Limits | None = None, *, digests: Kind = Kind.BLAKE3) -> Film:
    """Decode the one grey frame of a file and return it as the radiologist sees it.

    `digests` is the kind that `pixel_digest` gets.

    Raises UnreadableImage where it cannot be decoded or is too large, naming the element and the remedy; Rejected
    where its header cannot be read; OSError where the file cannot be.
    """
    require_size(path, limits or Limits())
    return decode(memoryview(path.read_bytes()), limits, digests=digests)


def require_size(path: Path, limits: Limits) -> None:
    """Raise UnreadableImage for a file that is larger than is read, and OSError where there is none."""
    if path.stat().st_size > limits.file_bytes:
        raise UnreadableImage(f"the file is larger than {limits.file_bytes // 2**20} MiB; no radiograph is")


def decode(
    content: memoryview,
    limits: Limits | None = None,
    *,
    digests: Kind = Kind.BLAKE3,
    into: npt.NDArray[np.uint8] | None = None,
) -> Film:
    """As `decode_film`, of a file's bytes, which the film does not refer to. `into`: uint8 (N,), room for `display`."""
    limits = limits or Limits()
    held = Held(content)
    with quiet():
        file = opened(held, LARGEST_HEADER, whole=False)
        source = parse(file, LARGEST_HEADER, stop_before_pixels=True)
    plain = _plain(content, source, held.tell()) if file is held else None  # else it is deflated
    layout = _layout(source, limits)
    numbers = _stored_numbers(content, source, plain, layout, limits)
    signed, bits = layout.signed, layout.bits_stored
    # Neither the digest nor the rest holds the interpreter's lock.
    with quiet(), ThreadPoolExecutor(1) as beside:
        digest = beside.submit(pixel_digest, numbers, bits, signed, _photometric(source), digests)
        histogram = np.bincount(numbers.ravel(), minlength=1 << bits) if display.needs_histogram(source, bits) else None
        grey = display.grey_table(source, bits, signed, histogram)
        notes = list(grey.notes)
        shown = looked_up(grey.table, numbers, into)
        hidden = outside_shutters(source, shown.shape, notes)
    if hidden is not None:
        shown[hidden] = 0
    return Film(
        display=shown,
        source=source,
        pixel_digest=digest.result(),
        window=grey.window,
        notes=tuple(notes),
    )


def pixel_digest(
    numbers: npt.NDArray[np.unsignedinteger[Any]], bits: int, signed: bool, photometric: str, kind: Kind
) -> str:
    """The digest of a film's values. `numbers`: unsigned (H, W), the stored bits of each pixel.

    Values are hashed, not their encoding: bits allocated, bits stored, sign and compression may change on the way
    through a PACS without a change of any value.
    """
    rows, columns = numbers.shape
    digest = Digest(kind)
    digest.update(f"cxrnode pixels 1\n{rows}\n{columns}\n{photometric}\n".encode())
    top = 1 << (bits - 1)
    if signed and bool((numbers >= top).any()):
        values = numbers.astype(np.int32)
        values[numbers >= top] -= 1 << bits
        digest.update(np.ascontiguousarray(values, dtype="<i4").data.cast("B"))
    else:
        digest.update(np.ascontiguousarray(numbers, dtype="<u2").data.cast("B"))
    return str(digest)


def _layout(source: Dataset, limits: Limits) -> _Layout:
    """Check the image pixel module before anything is decoded. Raises UnreadableImage."""

    def whole(keyword: str, absent: int | None = None) -> int:
        value = number(source, keyword)
        if value is None and absent is not None and keyword not in source:
            return absent
        if value is None or value != int(value):
            raise UnreadableImage(f"{keyword} is missing or no whole number: this is no image that can be read")
        return int(value)

    rows, columns = whole("Rows"), whole("Columns")
    if rows < 1 or columns < 1:
        raise UnreadableImage("Rows or Columns is 0: this is no image")
    if rows * columns > limits.pixels:
        raise UnreadableImage(f"{columns} x {rows} pixels are more than the limit of {limits.pixels:,}")
    if whole("SamplesPerPixel", 1) != 1 or _photometric(source) not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadableImage("not a grey image: PhotometricInterpretation must be MONOCHROME1 or MONOCHROME2")
    if (number(source, "NumberOfFrames") or 1) > 1:
        raise UnreadableImage("NumberOfFrames is more than 1: send each frame as an image of its own")
    allocated = whole("BitsAllocated")
    stored = whole("BitsStored", allocated)
    if allocated not in (8, 16, 32) or not 2 <= stored <= min(16, allocated):
        raise UnreadableImage(f"BitsAllocated {allocated} with BitsStored {stored}: films have 8 to 16 bits")
    high = whole("HighBit", stored - 1)
    if not stored - 1 <= high < allocated:
        high = stored - 1
    return _Layout(
        rows=rows,
        columns=columns,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=whole("PixelRepresentation", 0) == 1,
    )


def _plain(content: memoryview, source: Dataset, at: int) -> _Found | None:
    """The header and the pixel data of a file that ends with them, not compressed, as most do; None for any other.

    `at`: where the header ends. To parse it again in order to find them would cost a tenth of the decoding.
    """
    implicit, little = source.original_encoding
    size = 8 if implicit else 12
    if implicit is None or little is None or len(content) < at + size:
        return None
    order, vr = "<" if little else ">", None if implicit else bytes(content[at + 4 : at + 6])
    group, element = struct.unpack_from(f"{order}HH", content, at)
    (length,) = struct.unpack_from(f"{order}I", content, at + size - 4)
    if (group << 16 | element) != _PIXEL_DATA or vr not in _PIXEL_VRS or at + size + length != len(content):
        return None
    return source, content[at + size :], vr.decode() if vr else None


def _stored_numbers(
    content: memoryview, source: Dataset, plain: _Found | None, layout: _Layout, limits: Limits
) -> npt.NDArray[np.uint16]:
    """Decode and return the stored bits of each pixel, uint16 (H, W), without overlays in the bits above them."""
    syntax = UID(str(getattr(source.file_meta, "TransferSyntaxUID", "")))
    known = syntax in AllTransferSyntaxes
    compressed = known and syntax.is_encapsulated
    found = None if compressed else plain
    whole, data, vr = found or _pixel_data(content, limits, compressed=compressed)
    if syntax and not known:
        raise UnreadableImage(f"the transfer syntax is private or not known; {REMEDY}")
    cells: npt.NDArray[Any]
    if syntax and syntax.is_encapsulated:
        cells = decompressed(whole, syntax, layout.rows, layout.columns, layout.bits_stored)
        shift = 0
    else:
        cells = _native(data, layout, little=_is_little(whole, syntax), words=vr in ("OW", None))
        shift = layout.high_bit - layout.bits_stored + 1
    if shift:
        cells = cells >> shift
    mask = (1 << layout.bits_stored) - 1
    if layout.bits_stored < cells.dtype.itemsize * 8 and cells.max() > mask:  # to look costs less than a copy
        cells = cells & cells.dtype.type(mask)
    return cells.astype(np.uint16, copy=False)


def _pixel_data(content: memoryview, limits: Limits, *, compressed: bool) -> _Found:
    """The whole data set and its pixel data, which are not copied out of `content` unless they are compressed."""
    longest = None if compressed else _LONGEST_COPIED
    with quiet():
        file = opened(Held(content), LARGEST_INFLATED, whole=True)
        whole = parse(file, limits.file_bytes + 2**20, stop_before_pixels=False, longest_value=longest)
    raw = whole._dict.get(_PIXEL_DATA)  # asked for by name, a value that was passed over would be read from a file
    data: bytes | memoryview | None
    if isinstance(raw, RawDataElement) and raw.value is None and raw.length:
        if raw.length == _UNDEFINED:
            return _pixel_data(content, limits, compressed=True)
        assert isinstance(file, Held)
        data = file.content[raw.value_tell :][: raw.length]
    else:
        try:
            data = whole["PixelData"].value
        except PARSE_FAULTS:
            data = None
    if not isinstance(data, bytes | memoryview) or not len(data):
        raise UnreadableImage("PixelData is missing or empty: this instance has no image")
    return whole, data, whole._dict[_PIXEL_DATA].VR


def _is_little(whole: Dataset, syntax: UID) -> bool:
    if syntax:
        return syntax.is_little_endian
    return whole.original_encoding[1] is not False


def _native(
    data: bytes | memoryview, layout: _Layout, *, little: bool, words: bool
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Uncompressed cells, unsigned (H, W). PS3.5 8.2: big endian words (OW) hold 8-bit pixels in swapped pairs."""
    size = layout.bits_allocated // 8
    expected = layout.rows * layout.columns * size
    if len(data) < expected:
        raise UnreadableImage(f"PixelData ends early, {len(data):,} of {expected:,} bytes; send the film again")
    if size == 1 and not little and words:
        data = np.frombuffer(data[: len(data) // 2 * 2], dtype=">u2").astype("<u2").tobytes()
    cells: npt.NDArray[Any] = np.frombuffer(data, dtype=f"{'<' if little else '>'}u{size}", count=expected // size)
    if not cells.dtype.isnative:
        cells = cells.astype(cells.dtype.newbyteorder("="))
    return cells.reshape(layout.rows, layout.columns)


def _photometric(source: Dataset) -> str:
    return text(source, "PhotometricInterpretation")
