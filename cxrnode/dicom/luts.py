"""Lookup tables of a header: Modality LUT and VOI LUT (PS3.3 C.11.1, C.11.2), whichever way they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cxrnode.dicom.header import PARSE_FAULTS
from cxrnode.dicom.values import many_numbers
from cxrnode.errors import UnreadableImage

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lut:
    """A lookup table (PS3.3 C.11.1.1): the first value mapped, its entries, and how many bits each has."""

    first: int
    bits: int
    data: Floats

    @property
    def top(self) -> float:
        """The highest entry that its bits allow."""
        return float((1 << self.bits) - 1)

    def apply(self, values: Floats) -> Floats:
        """Values below the first take the first entry, those above the last take the last."""
        index = np.clip(values - self.first, 0, len(self.data) - 1).astype(np.int64)
        return np.minimum(self.data[index], self.top)

    @classmethod
    def of(cls, item: Dataset, signed: bool, where: str) -> Lut:
        """The table of a sequence item; `signed`: whether its first value may be negative.

        Raises UnreadableImage for one without usable data, naming the sequence by `where`.
        """
        descriptor = many_numbers(item, "LUTDescriptor")
        broken = UnreadableImage(f"{where} has no usable LUTDescriptor or LUTData; send the film with a window instead")
        if len(descriptor) != 3:
            raise broken
        entries, first, bits = (int(v) for v in descriptor)
        # PS3.3 C.11.1.1.1: 0 stands for 65,536 entries; negative where the VR was read as SS.
        entries = 65536 if entries == 0 else entries % 65536
        first = first - 65536 if signed and first > 32767 else first
        first = first + 65536 if not signed and first < 0 else first
        data = _lut_data(item, entries)
        least = -0x8000 if signed else 0
        if not least <= first <= least + 0xFFFF:  # only under another VR than US or SS
            raise broken
        if not 8 <= bits <= 16 or data is None or len(data) == 0:
            raise broken
        return cls(first=first, bits=bits, data=data)


def _lut_data(item: Dataset, entries: int) -> Floats | None:
    """LUTData as unsigned numbers, float64 (entries,). OW bytes hold 16-bit words, or 8-bit ones two to a word."""
    try:
        element = item["LUTData"]
        value: Any = element.value
    except PARSE_FAULTS:
        return None
    if isinstance(value, bytes | bytearray):
        if len(value) in (entries, entries + 1) and entries > 1:
            return np.frombuffer(bytes(value[:entries]), dtype=np.uint8).astype(np.float64)
        order = "<u2" if item.original_encoding[1] is not False else ">u2"
        words = np.frombuffer(bytes(value[: len(value) // 2 * 2]), dtype=order)
        return words[:entries].astype(np.float64)
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64)) % 65536
    except (TypeError, ValueError):
        return None
    if numbers.ndim == 1 and entries > 2 and len(numbers) == (entries + 1) // 2:
        words = numbers.astype("<u2")
        return np.frombuffer(words.tobytes(), dtype=np.uint8)[:entries].astype(np.float64)
    return numbers[:entries] if numbers.ndim == 1 else None


def lut_item(header: Dataset, keyword: str) -> Dataset | None:
    """The first item of a LUT sequence; None where there is none that has a descriptor."""
    try:
        items: Sequence[Dataset] = header[keyword].value if keyword in header else ()
    except PARSE_FAULTS:
        return None
    first = items[0] if items else None
    return first if first is not None and "LUTDescriptor" in first else None
