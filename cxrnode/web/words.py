"""How the console says times, counts and names to people. Pure."""

from __future__ import annotations

import datetime
import zoneinfo

from pydicom.uid import UID

#: How a word is coloured; what stands here in no group is plain.
_TONES = {
    **dict.fromkeys(("delivered", "sent", "committed", "accepted", "running", "active", "ok", "analysed"), "good"),
    **dict.fromkeys(("failed", "rejected", "down", "present", "paused", "fault"), "bad"),
    **dict.fromkeys(
        ("queued", "pending", "waiting", "held", "disputed", "undetermined", "not_analysed", "asked", "disabled"),
        "warn",
    ),
    **dict.fromkeys(("reading", "sending", "reported", "shadow"), "busy"),
}


def tone(word: str) -> str:
    """The colour of a state: good, bad, warn, busy, or quiet."""
    return _TONES.get(word, "quiet")


def moment(at: float | None, zone: zoneinfo.ZoneInfo) -> str:
    """Date and time to the second."""
    return "" if at is None else datetime.datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M:%S")


def clock(at: float | None, zone: zoneinfo.ZoneInfo) -> str:
    """Hour and minute."""
    return "" if at is None else datetime.datetime.fromtimestamp(at, zone).strftime("%H:%M")


def day(at: float | None, zone: zoneinfo.ZoneInfo) -> str:
    """The date."""
    return "" if at is None else datetime.datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d")


def span(seconds: float | None) -> str:
    """A length of time in its two largest units at most."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return "0 s"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, left = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" if minutes >= 10 or not left else f"{minutes} min {left} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 and hours < 240 else f"{hours // 24} d"


def count(number: int, most: int = 10_000) -> str:
    """A count with thin spaces; from `most` on counting stopped."""
    said = f"{number:,}".replace(",", "\u202f")
    return f"{said}+" if number >= most else said


def score(value: float | None) -> str:
    """A score: enough digits to tell rare findings apart."""
    if value is None:
        return "–"
    return f"{value:.2f}" if value >= 0.095 else f"{value:.3f}" if value >= 0.00095 else f"{value:.4f}"


def title(name: str) -> str:
    """A label or state as people read it."""
    return name.replace("_", " ")


def size(number: int) -> str:
    """Bytes in a unit that people read."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def uid_name(uid: str) -> str:
    """The name of one of DICOM's own UIDs (PS3.6 annex A), else the UID."""
    return str(UID(uid).name)
