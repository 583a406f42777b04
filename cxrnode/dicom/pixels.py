"""The pixels of a film: decoded within limits, and shown as the radiologist sees them.

It runs in a child process that may die: decoders are C code that reads what strangers send. It never reads colour,
several frames or more pixels than its limits allow, and it never guesses past a damaged stream.
"""

from __future__ import annotations

import dataclasses
import importlib
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import UID, AllTransferSyntaxes, JPEGExtended12Bit

from cxrnode.core.digests import Digest, Kind
from cxrnode.dicom import display
from cxrnode.dicom.header import PARSE_FAULTS, header_of, parse, quiet
from cxrnode.dicom.part10 import LARGEST_INFLATED, Held, opened
from cxrnode.dicom.shutters import outside_shutters
from cxrnode.dicom.values import number, text
from cxrnode.errors import UnreadableImage

#: Which decoder is asked for which compressed transfer syntax, in this order. pylibjpeg-libjpeg is GPL: never here.
DECODERS: dict[str, tuple[str, ...]] = {
    "1.2.840.10008.1.2.4.50": ("gdcm", "pillow"),  # JPEG baseline
    "1.2.840.10008.1.2.4.51": ("gdcm", "pillow"),  # JPEG extended, 12 bits
    "1.2.840.10008.1.2.4.57": ("gdcm",),  # JPEG lossless
    "1.2.840.10008.1.2.4.70": ("gdcm",),  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "gdcm"),  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": ("pyjpegls", "gdcm"),  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90": ("pylibjpeg", "gdcm", "pillow"),  # JPEG 2000 lossless (pylibjpeg-openjpeg)
    "1.2.840.10008.1.2.4.91": ("pylibjpeg", "gdcm", "pillow"),  # JPEG 2000
    "1.2.840.10008.1.2.4.201": ("pylibjpeg",),  # HTJ2K lossless
    "1.2.840.10008.1.2.4.202": ("pylibjpeg",),  # HTJ2K lossless RPCL
    "1.2.840.10008.1.2.4.203": ("pylibjpeg",),  # HTJ2K
    "1.2.840.10008.1.2.5": ("pydicom", "gdcm"),  # RLE lossless
}
_REMEDY = "send it uncompressed or as JPEG 2000"
#: Pixels that are looked up at a time: half a core's first cache.
_PIECE = 1 << 15
_PIXEL_DATA, _UNDEFINED = BaseTag(0x7FE00010), 0xFFFFFFFF
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
    source = header_of(Held(content))
    layout = _layout(source, limits)
    numbers = _stored_numbers(content, source, layout, limits)
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


def looked_up(
    table: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint16], into: npt.NDArray[np.uint8] | None = None
) -> npt.NDArray[np.uint8]:
    """`table[numbers]`, in pieces that stay in the processor's cache: a third of the time. `into` as in `decode`."""
    given = numbers.ravel()
    shown = np.empty(given.size, np.uint8) if into is None else into[: given.size]
    for start in range(0, given.size, _PIECE):
        np.take(table, given[start : start + _PIECE], mode="clip", out=shown[start : start + _PIECE])
    return shown.reshape(numbers.shape)


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


def _stored_numbers(content: memoryview, source: Dataset, layout: _Layout, limits: Limits) -> npt.NDArray[np.uint16]:
    """Decode and return the stored bits of each pixel, uint16 (H, W), without overlays in the bits above them."""
    syntax = UID(str(getattr(source.file_meta, "TransferSyntaxUID", "")))
    known = syntax in AllTransferSyntaxes
    whole, data = _pixel_data(content, limits, compressed=known and syntax.is_encapsulated)
    if syntax and not known:
        raise UnreadableImage(f"the transfer syntax is private or not known; {_REMEDY}")
    cells: npt.NDArray[Any]
    if syntax and syntax.is_encapsulated:
        cells = _decompressed(whole, layout, syntax)
        shift = 0
    else:
        swapped = whole._dict[_PIXEL_DATA].VR in ("OW", None)
        cells = _native(data, layout, little=_is_little(whole, syntax), words=swapped)
        shift = layout.high_bit - layout.bits_stored + 1
    if shift:
        cells = cells >> shift
    mask = (1 << layout.bits_stored) - 1
    if layout.bits_stored < cells.dtype.itemsize * 8 and cells.max() > mask:  # to look costs less than a copy
        cells = cells & cells.dtype.type(mask)
    return cells.astype(np.uint16, copy=False)


def _pixel_data(content: memoryview, limits: Limits, *, compressed: bool) -> tuple[Dataset, bytes | memoryview]:
    """The whole data set and the value of PixelData, which is not copied out of `content` unless it is compressed."""
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
    return whole, data


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


def _decompressed(whole: Dataset, layout: _Layout, syntax: UID) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Compressed cells, unsigned (H, W), from the first decoder of DECODERS that can read them."""
    plugins = DECODERS.get(syntax)
    if plugins is None:
        raise UnreadableImage(f"no decoder for {syntax.name}; {_REMEDY}")
    try:
        stream = next(generate_frames(whole.PixelData, number_of_frames=1))
    except (*PARSE_FAULTS, StopIteration):
        raise UnreadableImage(f"PixelData is not encapsulated as {syntax.name} asks; {_REMEDY}") from None
    _check_stream(stream, layout)
    if syntax == JPEGExtended12Bit and layout.bits_stored > 8:
        return _jpeg_12_bits(stream, layout)
    decoder = get_decoder(syntax)
    available = [name for name in plugins if name in decoder.available_plugins]
    for name in available:
        try:
            cells, _ = decoder.as_array(whole, index=0, raw=True, decoding_plugin=name)
        except (*PARSE_FAULTS, RuntimeError, OSError, MemoryError):
            continue
        if cells.shape == (layout.rows, layout.columns) and cells.dtype.kind in "iu":
            return cells.view(f"u{cells.dtype.itemsize}")
    if not available:
        raise UnreadableImage(f"no decoder for {syntax.name} is installed (wanted {', '.join(plugins)}); {_REMEDY}")
    raise UnreadableImage(f"PixelData cannot be decoded as {syntax.name}: the stream is damaged; send the film again")


def _jpeg_12_bits(stream: bytes, layout: _Layout) -> npt.NDArray[np.unsignedinteger[Any]]:
    """JPEG extended with 12 bits, which pydicom asks of no decoder; GDCM's agrees with DCMTK's to the bit."""
    try:
        gdcm: Any = importlib.import_module("gdcm")
    except ImportError:
        raise UnreadableImage(f"12-bit JPEG needs GDCM (python-gdcm), which is not installed; {_REMEDY}") from None
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((layout.columns, layout.rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM hands its buffer over as text.
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(data) != layout.rows * layout.columns * 2:
        raise UnreadableImage("PixelData cannot be decoded as 12-bit JPEG: the stream is damaged; send the film again")
    return np.frombuffer(data, dtype=np.uint16).reshape(layout.rows, layout.columns)


def _check_stream(stream: bytes, layout: _Layout) -> None:
    """Compare the size that a JPEG stream declares with the header's: a decoder believes the stream, however large."""
    declared = _declared_size(stream)
    if declared is not None and declared != (layout.rows, layout.columns, 1):
        rows, columns, components = declared
        raise UnreadableImage(
            f"the stream in PixelData declares {columns} x {rows} pixels of {components} component(s),"
            f" Columns and Rows say {layout.columns} x {layout.rows}"
        )


def _declared_size(stream: bytes) -> tuple[int, int, int] | None:
    """(rows, columns, components) of a JPEG 2000 (SIZ) or JPEG, JPEG-LS (SOF) stream; None where it has neither."""
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096)
    if start >= 0 and len(stream) >= start + 42:
        right, bottom, left, top = struct.unpack(">4I", stream[start + 8 : start + 24])
        return bottom - top, right - left, int(struct.unpack(">H", stream[start + 40 : start + 42])[0])
    if stream[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns, components = struct.unpack(">HHB", stream[at + 5 : at + 10])
            return rows, columns, components
        at += 2 + int(struct.unpack(">H", stream[at + 2 : at + 4])[0])
    return None


def _photometric(source: Dataset) -> str:
    return text(source, "PhotometricInterpretation")
