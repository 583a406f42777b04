"""How the film itself is shown, repeated for a presentation state, which replaces all that the image says of it.

PS3.4 N.2: modality LUT or rescale, VOI LUT or window, polarity, shutters and the displayed area of the state stand in
for those of the image; what is not repeated is lost.
"""

from __future__ import annotations

import struct

from pydicom.dataset import Dataset

from cxrnode.dicom.display import first_window, is_inverse, rescale
from cxrnode.dicom.luts import Lut, lut_item
from cxrnode.dicom.outputs.encoding import Attributes, tag_and_vr
from cxrnode.dicom.outputs.source import plain, raw_value
from cxrnode.dicom.shutters import SHAPES
from cxrnode.dicom.values import many_numbers, many_texts, number
from cxrnode.errors import UnreadableImage


def put_softcopy(source: Dataset, target: Attributes, shape: tuple[int, int]) -> None:
    """Put the way to grey levels, the shutters and the whole film, of `shape` (rows, columns), as displayed area."""
    _put_grey(source, target)
    _put_shutter(source, target)
    target.put_items("DisplayedAreaSelectionSequence", [_displayed_area(source, shape)])


def put_floats(target: Attributes, keyword: str, *values: float) -> None:
    """Put an attribute of VR FL."""
    target.put_raw(tag_and_vr(keyword)[0], "FL", struct.pack(f"<{len(values)}f", *values))


def _displayed_area(source: Dataset, shape: tuple[int, int]) -> Attributes:
    """The whole film, fitted into the display (PS3.3 C.10.4)."""
    target = Attributes().put("PresentationSizeMode", "SCALE TO FIT")
    for corner, place in (("TopLeft", (1, 1)), ("BottomRight", (shape[1], shape[0]))):
        tag, vr = tag_and_vr(f"DisplayedArea{corner}HandCorner")
        target.put_raw(tag, vr, struct.pack("<2i", *place))
    return target.put("PresentationPixelAspectRatio", *_aspect(source))


def _aspect(source: Dataset) -> tuple[str, str]:
    """Height to width of a pixel, from whatever says it; 1 to 1 where nothing does."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
        sides = many_numbers(source, keyword)
        if len(sides) == 2 and min(sides) > 0 and 0.01 < sides[0] / sides[1] < 100:
            high, wide = (round(side / min(sides) * 1000) for side in sides)
            return ("1", "1") if high == wide else (str(high), str(wide))
    return "1", "1"


def _put_grey(source: Dataset, target: Attributes) -> None:
    signed = number(source, "PixelRepresentation") == 1
    modality = _lut_of(source, "ModalityLUTSequence", signed)
    slope, intercept = rescale(source, [])
    if modality is not None:
        kind = plain(source["ModalityLUTSequence"].value[0], "ModalityLUTType") or "US"
        target.put_items("ModalityLUTSequence", [_lut(modality, signed).put("ModalityLUTType", kind)])
    elif (slope, intercept) != (1.0, 0.0):
        target.put("RescaleSlope", f"{slope:.10g}").put("RescaleIntercept", f"{intercept:.10g}")
        target.put("RescaleType", plain(source, "RescaleType") or "US")
    # The first value of a VOI LUT is signed where the modality values can be negative (PS3.3 C.11.2.1.1).
    below = signed or (modality is None and (slope < 0 or intercept < 0))
    voi = _lut_of(source, "VOILUTSequence", below)
    window = first_window(source, [])
    if voi is not None:
        item = Attributes().put_items("VOILUTSequence", [_lut(voi, below)])
        target.put_items("SoftcopyVOILUTSequence", [item])
    elif window is not None:
        centre, width, function, _ = window
        item = Attributes().put("WindowCenter", f"{centre:.10g}").put("WindowWidth", f"{width:.10g}")
        if function != "LINEAR":
            item.put("VOILUTFunction", function)
        target.put_items("SoftcopyVOILUTSequence", [item])
    target.put("PresentationLUTShape", "INVERSE" if is_inverse(source, []) else "IDENTITY")


def _lut_of(source: Dataset, keyword: str, signed: bool) -> Lut | None:
    found = lut_item(source, keyword)
    try:
        return Lut.of(found, signed, keyword) if found is not None else None
    except UnreadableImage:  # such a film is not analysed, and this state says so
        return None


def _lut(table: Lut, signed: bool) -> Attributes:
    """A lookup table in 16-bit words (PS3.3 C.11.1.1), whatever the film has it in."""
    words = table.data.astype("<u2").tobytes()
    first = struct.pack("<h" if signed else "<H", table.first)
    descriptor = struct.pack("<H", len(table.data) % 65536) + first + struct.pack("<H", table.bits)
    target = Attributes().put_raw(0x00283002, "SS" if signed else "US", descriptor)
    return target.put_raw(0x00283006, "OW", words)


def _put_shutter(source: Dataset, target: Attributes) -> None:
    """The film's shutters, which a presentation state must repeat to keep; what they hide is shown black."""
    found = [one for one in many_texts(source, "ShutterShape") if one in SHAPES]
    # A shape without its attributes, or a bitmap's, would be of no use to any viewer.
    shapes = [one for one in found if all(raw_value(source, keyword) for keyword in SHAPES[one])]
    if not shapes:
        return
    target.put("ShutterShape", *shapes)
    for keyword in (keyword for shape in shapes for keyword in SHAPES[shape]):
        target.put(keyword, raw_value(source, keyword))
    target.put("ShutterPresentationValue", 0)
