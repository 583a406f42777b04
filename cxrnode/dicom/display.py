"""From stored values to the grey levels that the radiologist sees: modality LUT, VOI LUT or window, polarity.

Everything up to 8 bits is computed once for each possible stored value (at most 65,536) and then looked up, which
is exact. Never stretches a windowed image to its own minimum and maximum: a metal marker would change every pixel.
Sources: PS3.3 C.11.1 (modality LUT), C.11.2 (VOI LUT), C.11.6 (presentation LUT), C.7.5.1.1.2 (padding).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cxrnode.dicom.luts import Floats, Lut, lut_item
from cxrnode.dicom.values import many_numbers, number, text
from cxrnode.errors import UnreadableImage

#: Percentiles of the film that become black and white where the header gives no window.
DARKEST, BRIGHTEST = 0.5, 99.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grey:
    """How stored values become grey. `table`: uint8 (2**bits,), indexed by the stored bits as an unsigned number.

    `window` says which window or LUT was used; `notes` what in the header was contradictory or unusable.
    """

    table: npt.NDArray[np.uint8]
    window: str
    notes: tuple[str, ...]


def grey_table(header: Dataset, bits: int, signed: bool, histogram: npt.NDArray[np.int64] | None) -> Grey:
    """Return the table for a film of `bits` stored bits.

    `histogram`: int64 (2**bits,), how often each stored number occurs; None where `needs_histogram` is false.
    Raises UnreadableImage for a LUT without usable data.
    """
    notes: list[str] = []
    stored = stored_values(bits, signed)
    values, span = _modality(header, stored, signed, notes)
    padded = _padding(header, stored, notes)
    grey, window = _voi(header, values, span, bits, signed, notes)
    if grey is None:
        assert histogram is not None
        low, high = _percentiles(values, np.where(padded, 0, histogram))
        grey = np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0)
        window = f"no window: percentiles {DARKEST:g} to {BRIGHTEST:g} ({low:g} to {high:g})"
    if is_inverse(header, notes):
        grey = 1.0 - grey
    table = np.floor(grey * 255.0 + 0.5).astype(np.uint8)
    table[padded] = 0
    return Grey(table=table, window=window, notes=tuple(notes))


def needs_histogram(header: Dataset, bits: int) -> bool:
    """Whether the film's own values decide: no usable VOI LUT, no usable window, more than 8 bits."""
    return bits > 8 and lut_item(header, "VOILUTSequence") is None and first_window(header, []) is None


def stored_values(bits: int, signed: bool) -> npt.NDArray[np.int64]:
    """The value of each stored number, int64 (2**bits,): two's complement where signed (PS3.5 8.1.1)."""
    numbers = np.arange(1 << bits, dtype=np.int64)
    return np.where(numbers >= 1 << (bits - 1), numbers - (1 << bits), numbers) if signed else numbers


def _modality(
    header: Dataset, stored: npt.NDArray[np.int64], signed: bool, notes: list[str]
) -> tuple[Floats, tuple[float, float]]:
    """Apply the Modality LUT or rescale; return the values and the interval that they can take."""
    item = lut_item(header, "ModalityLUTSequence")
    if item is not None:
        lut = Lut.of(item, signed, "ModalityLUTSequence")
        if "RescaleSlope" in header:
            notes.append("both a Modality LUT and RescaleSlope: the LUT was used")
        return lut.apply(stored.astype(np.float64)), (0.0, lut.top)
    slope, intercept = rescale(header, notes)
    values = stored.astype(np.float64) * slope + intercept
    return values, (float(values.min()), float(values.max()))


def rescale(header: Dataset, notes: list[str]) -> tuple[float, float]:
    """Slope and intercept of the modality rescale (PS3.3 C.11.1); 1 and 0 where there is none."""
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if slope is None or slope == 0.0:
        if "RescaleSlope" in header:
            notes.append("RescaleSlope is empty or 0: taken as 1")
        slope = 1.0
    return slope, intercept or 0.0


def _voi(
    header: Dataset, values: Floats, span: tuple[float, float], bits: int, signed: bool, notes: list[str]
) -> tuple[Floats | None, str]:
    """Apply the first VOI LUT, else the first window, to [0, 1]; None where there is neither and bits > 8."""
    item = lut_item(header, "VOILUTSequence")
    if item is not None:
        # PS3.3 C.11.2.1.1: the first value mapped is signed where the modality values can be negative.
        lut = Lut.of(item, signed or span[0] < 0.0, "VOILUTSequence")
        if lut.data.max(initial=0.0) <= lut.top / 2:
            notes.append("the VOI LUT uses less than half of the range that its descriptor declares")
        return lut.apply(np.rint(values)) / lut.top, f"VOI LUT of {lut.bits} bits"
    window = first_window(header, notes)
    if window is not None:
        centre, width, function, many = window
        text = f"window {centre:g}/{width:g} {function}" + (" (first of several)" if many else "")
        return _FUNCTIONS[function](values, centre, width), text
    if bits <= 8:
        low, high = span
        return np.clip((values - low) / max(high - low, 1e-9), 0.0, 1.0), "no window: full range of 8 bits"
    return None, ""


def _linear(x: Floats, centre: float, width: float) -> Floats:
    """PS3.3 C.11.2.1.2.1; a width of 1 is a threshold."""
    if width <= 1.0:
        return np.where(x <= centre - 0.5, 0.0, 1.0)
    return np.clip((x - (centre - 0.5)) / (width - 1.0) + 0.5, 0.0, 1.0)


def _linear_exact(x: Floats, centre: float, width: float) -> Floats:
    """PS3.3 C.11.2.1.3.2."""
    return np.clip((x - centre) / width + 0.5, 0.0, 1.0)


def _sigmoid(x: Floats, centre: float, width: float) -> Floats:
    """PS3.3 C.11.2.1.3.1."""
    return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (x - centre) / width, -700.0, 700.0))))


_FUNCTIONS = {"LINEAR": _linear, "LINEAR_EXACT": _linear_exact, "SIGMOID": _sigmoid}


def first_window(header: Dataset, notes: list[str]) -> tuple[float, float, str, bool] | None:
    """Return (centre, width, function, whether there are several) of the first window; None where it is unusable."""
    centre, width = number(header, "WindowCenter"), number(header, "WindowWidth")
    if centre is None or width is None:
        return None
    function = text(header, "VOILUTFunction") or "LINEAR"
    if function not in _FUNCTIONS:
        notes.append("VOILUTFunction is not known: taken as LINEAR")
        function = "LINEAR"
    # PS3.3 C.11.2.1.2: at least 1 for LINEAR, above 0 for the others.
    if width <= 0.0 or (function == "LINEAR" and width < 1.0):
        notes.append("WindowWidth is too small: no window was used")
        return None
    many = len(many_numbers(header, "WindowCenter")) > 1
    return centre, width, function, many


def _percentiles(values: Floats, histogram: npt.NDArray[np.int64]) -> tuple[float, float]:
    order = np.argsort(values, kind="stable")
    running = np.cumsum(histogram[order])
    total = int(running[-1])
    if total == 0:
        raise UnreadableImage("every pixel is padding (0028,0120): there is no film in this image")
    ends = (np.searchsorted(running, total * q / 100.0, side="left") for q in (DARKEST, BRIGHTEST))
    low, high = (float(values[order[min(int(end), len(order) - 1)]]) for end in ends)
    return low, high


def _padding(header: Dataset, stored: npt.NDArray[np.int64], notes: list[str]) -> npt.NDArray[np.bool_]:
    """Which stored values are padding, as the value or the range that the header names."""
    first = number(header, "PixelPaddingValue")
    if first is None:
        return np.zeros(stored.shape, dtype=bool)
    other = number(header, "PixelPaddingRangeLimit")
    # The element's VR is often the wrong one of US and SS: wrap the value into what can be stored.
    low, high = sorted(_wrapped(int(v), stored) for v in (first, first if other is None else other))
    padded = (stored >= low) & (stored <= high)
    if padded.all():
        notes.append("PixelPaddingRangeLimit covers every value: no padding was applied")
        return np.zeros(stored.shape, dtype=bool)
    return np.asarray(padded)


def _wrapped(value: int, stored: npt.NDArray[np.int64]) -> int:
    low, high = int(stored.min()), int(stored.max())
    if low <= value <= high:
        return value
    for candidate in (value - 65536, value + 65536):
        if low <= candidate <= high:
            return candidate
    return value


def is_inverse(header: Dataset, notes: list[str]) -> bool:
    """Whether the lowest values are shown white. PresentationLUTShape decides, else MONOCHROME1 (PS3.3 C.8.11.3)."""
    first_white = text(header, "PhotometricInterpretation") == "MONOCHROME1"
    shape = text(header, "PresentationLUTShape")
    if shape not in ("IDENTITY", "INVERSE"):
        if shape:
            notes.append("PresentationLUTShape is not known: PhotometricInterpretation decided the polarity")
        return first_white
    if (shape == "INVERSE") is not first_white:
        notes.append("PresentationLUTShape contradicts PhotometricInterpretation: the former was used")
    return shape == "INVERSE"
