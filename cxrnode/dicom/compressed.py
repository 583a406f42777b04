"""Compressed pixels: which decoder is asked for which transfer syntax, and what of its answer is believed.

It runs in a child process that may die (`decode_child`).
"""

from __future__ import annotations

import importlib
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, JPEGExtended12Bit

from cxrnode.dicom.header import PARSE_FAULTS
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
REMEDY = "send it uncompressed or as JPEG 2000"


def decompressed(
    whole: Dataset, syntax: UID, rows: int, columns: int, bits_stored: int
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """The cells of the one frame of a data set, unsigned (H, W), from the first of DECODERS that can read them.

    Raises UnreadableImage where none can, or where the stream has another size than `rows` and `columns`.
    """
    plugins = DECODERS.get(syntax)
    if plugins is None:
        raise UnreadableImage(f"no decoder for {syntax.name}; {REMEDY}")
    try:
        stream = next(generate_frames(whole.PixelData, number_of_frames=1))
    except (*PARSE_FAULTS, StopIteration):
        raise UnreadableImage(f"PixelData is not encapsulated as {syntax.name} asks; {REMEDY}") from None
    _check_stream(stream, rows, columns)
    if syntax == JPEGExtended12Bit and bits_stored > 8:
        return _jpeg_12_bits(stream, rows, columns)
    decoder = get_decoder(syntax)
    available = [name for name in plugins if name in decoder.available_plugins]
    for name in available:
        try:
            cells, _ = decoder.as_array(whole, index=0, raw=True, decoding_plugin=name)
        except (*PARSE_FAULTS, RuntimeError, OSError, MemoryError):
            continue
        if cells.shape == (rows, columns) and cells.dtype.kind in "iu":
            return cells.view(f"u{cells.dtype.itemsize}")
    if not available:
        raise UnreadableImage(f"no decoder for {syntax.name} is installed (wanted {', '.join(plugins)}); {REMEDY}")
    raise UnreadableImage(f"PixelData cannot be decoded as {syntax.name}: the stream is damaged; send the film again")


def _jpeg_12_bits(stream: bytes, rows: int, columns: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """JPEG extended with 12 bits, which pydicom asks of no decoder; GDCM's agrees with DCMTK's to the bit."""
    try:
        gdcm: Any = importlib.import_module("gdcm")
    except ImportError:
        raise UnreadableImage(f"12-bit JPEG needs GDCM (python-gdcm), which is not installed; {REMEDY}") from None
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
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # GDCM hands its buffer over as text.
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(data) != rows * columns * 2:
        raise UnreadableImage("PixelData cannot be decoded as 12-bit JPEG: the stream is damaged; send the film again")
    return np.frombuffer(data, dtype=np.uint16).reshape(rows, columns)


def _check_stream(stream: bytes, rows: int, columns: int) -> None:
    """Compare the size that a JPEG stream declares with the header's: a decoder believes the stream, however large."""
    declared = _declared_size(stream)
    if declared is not None and declared != (rows, columns, 1):
        high, wide, components = declared
        raise UnreadableImage(
            f"the stream in PixelData declares {wide} x {high} pixels of {components} component(s),"
            f" Columns and Rows say {columns} x {rows}"
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
