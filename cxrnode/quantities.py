"""Durations and sizes as people write them: `30s`, `5m`, `PT5M`; `5 GiB`, `250 MB`. Pure values, never a clock."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

#: Seconds in one of each unit. A month or a year has no fixed length and is not accepted.
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

#: Bytes in one of each unit: IEC 80000-13 binary prefixes beside the decimal ones.
_BYTES: dict[str, int] = {"b": 1} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for suffix, base in (("ib", 1024), ("b", 1000))
}

_PLAIN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_ISO = re.compile(  # ISO 8601 4.4.3.2 without years and months
    r"P(?:(?P<w>\d+)W|(?:(?P<d>\d+)D)?(?:T(?=\d)(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:\.\d+)?)S)?)?)"
)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b)", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Return seconds for `30s`, `1.5h`, `1h 30m`, `PT5M` or `P2D`. Raises ValueError for anything else."""
    stripped = text.strip()
    if (iso := _ISO.fullmatch(stripped.upper())) and any(iso.groupdict().values()):
        return sum(float(count) * _SECONDS[unit] for unit, count in iso.groupdict().items() if count)
    if re.fullmatch(rf"(?:{_PLAIN.pattern}\s*)+", stripped):
        return sum(float(count) * _SECONDS[unit] for count, unit in _PLAIN.findall(stripped))
    raise ValueError(f"{text!r} is no duration; write it like 30s, 5m, 2h, 7d or PT5M")


def parse_size(text: str) -> int:
    """Return bytes for `5 GiB`, `250 MB` or `4096 B`. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _BYTES:
        raise ValueError(f"{text!r} is no size; write it like 512 MiB or 5 GiB")
    return int(float(match[1]) * _BYTES[match[2].lower()])


def duration_text(seconds: float) -> str:
    """Return the duration in the largest unit that states it exactly, as `parse_duration` reads it."""
    for unit in ("w", "d", "h", "m", "s"):
        if seconds >= _SECONDS[unit] and seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:.0f}{unit}"
    return f"{seconds:g}s"


def spoken(seconds: float) -> str:
    """Return a span of time as people say it, in two units at most: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    rest = round(seconds)
    if rest < 90:
        return f"{rest} s"
    minutes = round(rest / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        return parse_duration(value)
    # A bare number would be seconds to one reader and milliseconds to the next.
    raise ValueError(f"a duration needs its unit: write it like 30s, 5m or PT5M, not {value!r}")


def _size(value: Any) -> Any:
    if isinstance(value, str):
        return parse_size(value)
    raise ValueError(f"a size needs its unit: write it like 512 MiB or 5 GiB, not {value!r}")


#: Seconds, above zero, written with a unit.
Duration = Annotated[float, BeforeValidator(_duration), Field(gt=0)]
#: Bytes, zero or more, written with a unit.
Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]
