"""Numbers and code strings of a header, read so that no odd value raises: what cannot be read is absent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from cxrnode.dicom.header import PARSE_FAULTS


def many_texts(header: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an element that are text, upper case and not empty; () where it is absent or unreadable."""
    try:
        value: Any = header[keyword].value if keyword in header else None
    except PARSE_FAULTS:
        return ()
    many = [value] if isinstance(value, str) else value if isinstance(value, MultiValue) else []
    return tuple(v.strip().upper() for v in many if isinstance(v, str) and v.strip())


def text(header: Dataset, keyword: str) -> str:
    """The first value of an element, upper case; "" where it is absent or unreadable."""
    return next(iter(many_texts(header, keyword)), "")


def many_numbers(header: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of an element as finite numbers; () where one of them is none."""
    try:
        value: Any = header[keyword].value if keyword in header else None
        if value is None or isinstance(value, bytes):
            return ()
        many = [value] if isinstance(value, str) or not isinstance(value, Sequence) else list(value)
        numbers = tuple(float(v) for v in many)
    except PARSE_FAULTS:
        return ()
    return numbers if all(math.isfinite(n) for n in numbers) else ()


def number(header: Dataset, keyword: str) -> float | None:
    """The first value of an element as a finite number, None where it has none."""
    return next(iter(many_numbers(header, keyword)), None)
