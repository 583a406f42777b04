"""The header of an instance: the few attributes that routing may look at, and whose film it is. Pure values.

Routing never sees who the patient is: `Header` holds no name, number or birth date, only an age in years.
`Identity` holds those, goes into the erasable identity table and nowhere else: never into a log line or a message.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Self

from cxrnode.core.identity import identity_digest

_AGE = re.compile(r"\s*(\d{1,3})\s*([DWMY]?)\s*", re.IGNORECASE | re.ASCII)
_DATE = re.compile(r"\s*(\d{4})([.\-]?)(\d{2})\2(\d{2})\s*", re.ASCII)
_UNITS_PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0, "": 1.0}
_OLDEST = 130.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What routing knows about an instance. Text is stripped; what is missing is "", (), 0 or None.

    Numbers: `rows` and `columns` in pixels, 0 where absent; `samples` and `frames` are 1 where absent;
    `age_years` is the patient's age at the study in years, None where unknown; `study_date` is YYYYMMDD or "".
    `view_codes`, `view_modifier_codes` and `region_codes` are code values without their scheme (PS3.3 section 8).
    `own_output` says that cxrnode made the instance itself.
    """

    sop_class_uid: str = ""
    modality: str = ""
    presentation_intent: str = ""
    image_type: tuple[str, ...] = ()
    samples: int = 1
    frames: int = 1
    rows: int = 0
    columns: int = 0
    bits_stored: int = 0
    photometric: str = ""
    body_part: str = ""
    region_codes: tuple[str, ...] = ()
    view_position: str = ""
    view_codes: tuple[str, ...] = ()
    view_modifier_codes: tuple[str, ...] = ()
    patient_orientation: tuple[str, ...] = ()
    laterality: str = ""
    study_description: str = ""
    series_description: str = ""
    protocol_name: str = ""
    requested_procedure: str = ""
    performed_procedure: str = ""
    processing_description: str = ""
    requested_priority: str = ""
    manufacturer: str = ""
    model_name: str = ""
    station_name: str = ""
    institution: str = ""
    department: str = ""
    sex: str = ""
    age_years: float | None = None
    study_date: str = ""
    own_output: bool = False

    def as_json(self) -> dict[str, Any]:
        """The header as plain values for a JSON column; lists for tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read what `as_json` wrote, whichever version did: unknown keys are left out, missing ones are empty."""
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items() if k in known}
        return cls(**values)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose film it is said to be, as the header says it. Every field identifies a person: never log one."""

    patient_id: str = ""
    issuer: str = ""
    patient_name: str = ""
    birth_date: str = ""
    sex: str = ""
    accession: str = ""
    study_uid: str = ""
    series_uid: str = ""
    sop_uid: str = ""

    def __repr__(self) -> str:
        """Nothing of the values: a repr ends in logs and tracebacks."""
        return "Identity(...)"

    @property
    def digest(self) -> str:
        """SHA-256 over patient, accession and study: equal when two films are said to be the same order's."""
        return identity_digest(
            patient_id=self.patient_id, issuer=self.issuer, accession=self.accession, study_uid=self.study_uid
        )

    def as_json(self) -> dict[str, str]:
        """The identity as plain values, for the identity table alone."""
        return dataclasses.asdict(self)


def parse_date(value: str) -> tuple[int, int, int] | None:
    """Return (year, month, day) of a DA (PS3.5 6.2), also with dots or dashes; None for anything that is no date."""
    match = _DATE.fullmatch(value)
    if match is None:
        return None
    year, month, day = int(match[1]), int(match[3]), int(match[4])
    return (year, month, day) if year >= 1850 and 1 <= month <= 12 and 1 <= day <= 31 else None


def age_in_years(age: str, birth_date: str, study_date: str) -> float | None:
    """Return the age in years from an AS ("045Y", also "45"), else from two dates; None where neither says.

    An AS of zero days, months or years is often a filler: the dates decide then, and without them it stays 0.
    """
    match = _AGE.fullmatch(age)
    said = None
    if match is not None:
        said = int(match[1]) / _UNITS_PER_YEAR[match[2].upper()]
        if 0.0 < said <= _OLDEST:
            return said
    born, taken = parse_date(birth_date), parse_date(study_date)
    if born is not None and taken is not None:
        years = taken[0] - born[0] - (taken[1:] < born[1:])
        if 0 <= years <= _OLDEST:
            months = (taken[0] - born[0]) * 12 + taken[1] - born[1] - (taken[2] < born[2])
            return float(years) if years >= 2 else months / 12.0
    return said if said == 0.0 else None
