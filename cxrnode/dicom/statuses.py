"""Every C-STORE status and what it means for a delivery: a table as data. It knows no peer and sends nothing.

Sources: PS3.4 annex B.2.3 (the Storage service), PS3.7 section 9.1.1.1.9 and annex C (all DIMSE services); for the
failure reasons of STOW-RS PS3.18 annex I.2.2, which has the same codes.
"""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from types import MappingProxyType

SUCCESS = 0x0000
#: A passing fault on our side: the sender keeps the object and tries again.
OUT_OF_RESOURCES = 0xA700
#: The data set is not of the SOP class it was announced as.
MISMATCH = 0xA900
#: The object cannot be understood; sending it again will not help.
CANNOT_UNDERSTAND = 0xC000
#: No presentation context was accepted for the object; also what the sender records when it could not even offer it.
SOP_CLASS_NOT_SUPPORTED = 0x0122
#: This AE may not do that.
NOT_AUTHORISED = 0x0124


class StatusClass(StrEnum):
    """What a status asks of the sender."""

    SUCCESS = "success"
    WARNING = "warning"
    TRANSIENT = "transient"
    PERMANENT = "permanent"

    @property
    def delivered(self) -> bool:
        """Whether the peer holds the object now."""
        return self in (StatusClass.SUCCESS, StatusClass.WARNING)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One status, or one range of them from `first` to `last`, with its class and a line for people."""

    first: int
    last: int
    kind: StatusClass
    gloss: str

    @property
    def title(self) -> str:
        """The status as the tables of DICOM print it: `0110`, `A7xx`."""
        if self.first == self.last:
            return f"{self.first:04X}"
        wild = len(f"{self.last - self.first:X}")
        return f"{self.first:04X}"[: 4 - wild] + "x" * wild


def _table(*rows: tuple[int, int, StatusClass, str]) -> dict[int, Status]:
    return {first: Status(first=first, last=last, kind=kind, gloss=gloss) for first, last, kind, gloss in rows}


_S, _W, _T, _P = StatusClass.SUCCESS, StatusClass.WARNING, StatusClass.TRANSIENT, StatusClass.PERMANENT

#: First code -> status. A single code beats the range it lies in; what no row covers is UNKNOWN.
STATUSES = MappingProxyType(
    _table(
        (0x0000, 0x0000, _S, "stored"),
        (0x0001, 0x0001, _W, "stored, with a warning that names no reason"),
        (0x0105, 0x0105, _P, "no such attribute"),
        (0x0106, 0x0106, _P, "invalid attribute value"),
        (0x0107, 0x0107, _W, "stored, some attributes not recognised"),
        (0x0110, 0x0110, _T, "processing failure at the peer"),
        (0x0111, 0x0111, _W, "the peer holds this SOP Instance already"),
        (0x0112, 0x0112, _P, "no such SOP Instance"),
        (0x0115, 0x0115, _P, "invalid argument value"),
        (0x0116, 0x0116, _W, "stored, an attribute value is out of range"),
        (0x0117, 0x0117, _P, "invalid SOP Instance UID"),
        (0x0118, 0x0118, _P, "no such SOP class"),
        (0x0119, 0x0119, _P, "the SOP Instance is of another class"),
        (0x0120, 0x0120, _P, "a required attribute is missing"),
        (0x0121, 0x0121, _P, "a required attribute has no value"),
        (0x0122, 0x0122, _P, "the peer does not take this SOP class or transfer syntax"),
        (0x0124, 0x0124, _P, "the peer does not authorise this AE to store"),
        (0x0210, 0x0210, _T, "duplicate message ID; a new association has new ones"),
        (0x0211, 0x0211, _P, "the peer does not know C-STORE"),
        (0x0212, 0x0212, _P, "mistyped argument"),
        (0x0213, 0x0213, _T, "resource limitation at the peer"),
        (0xA700, 0xA7FF, _T, "the peer is out of resources"),
        (0xA900, 0xA9FF, _P, "the data set does not match its SOP class"),
        (0xB000, 0xB000, _W, "stored, some data elements were coerced"),
        (0xB006, 0xB006, _W, "stored, some elements were discarded"),
        (0xB007, 0xB007, _W, "stored, though the data set does not match its SOP class"),
        (0xB001, 0xBFFF, _W, "stored, with a warning of the peer's own"),
        (0xC000, 0xCFFF, _P, "the peer cannot understand the object"),
        (0xC122, 0xC122, _P, "the peer does not take this transfer syntax"),
        (0xFE00, 0xFE00, _T, "cancelled at the peer"),
        (0xFF00, 0xFF01, _T, "pending, which is no answer to C-STORE"),
    )
)

#: Codes outside every row, by PS3.7 annex C failures of the peer's own: worth another attempt, with a limit.
UNKNOWN = Status(first=0x0000, last=0xFFFF, kind=StatusClass.TRANSIENT, gloss="a status that DICOM does not define")


def classify(code: int) -> Status:
    """Return the row of the table for a 16-bit status code: its own, else its range's, else UNKNOWN."""
    own = STATUSES.get(code)
    if own is not None:
        return own
    return next((s for s in STATUSES.values() if s.first <= code <= s.last), UNKNOWN)


#: Failure reasons that say no more than that the instance is there; the second is one of Azure's own. Our UIDs are
#: derived from what an object says, so that it is the same object.
_THERE_ALREADY = frozenset({0x0111, 0xB00E})


def classify_failure(code: int) -> Status:
    """Return the row for a failure reason of STOW-RS (0008,1197). An instance that failed is never deemed stored."""
    if code in _THERE_ALREADY:
        return classify(0x0111)
    row = classify(code)
    return UNKNOWN if row.kind.delivered else row
