"""Routing: from a header and the rules of the site to a verdict with its reason. Pure; never sees who the patient is.

The gate looks at the header alone and answers accept, reject or unsure. A rejected film is read under no rule. An
unsure one is read where its rule says `unsure = "read"`; the plausibility check after the forward pass still stands.
"""

from __future__ import annotations

import dataclasses
import datetime
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self, cast

from cxrnode.core import views
from cxrnode.core.gate import Answer, Gate, Reason, gate
from cxrnode.core.header import Header, parse_date
from cxrnode.core.views import FRONTAL_VIEWS, View
from cxrnode.core.words import DEFAULT_WORDS, WordList
from cxrnode.errors import ConfigError

__all__ = [
    "Answer",
    "Association",
    "Gate",
    "IntendedUse",
    "Reason",
    "Rule",
    "Verdict",
    "gate",
    "route",
    "within_intended_use",
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """Who brought the instance: AE titles as negotiated, and the peer's address."""

    calling_aet: str = ""
    called_aet: str = ""
    host: str = ""


#: What `when` may look at: DICOM keywords of the header, by their value(s).
KEYWORDS: Mapping[str, Callable[[Header], tuple[str, ...]]] = {
    "SOPClassUID": lambda h: (h.sop_class_uid,),
    "Modality": lambda h: (h.modality,),
    "PresentationIntentType": lambda h: (h.presentation_intent,),
    "ImageType": lambda h: h.image_type,
    "PhotometricInterpretation": lambda h: (h.photometric,),
    "Rows": lambda h: (str(h.rows),),
    "Columns": lambda h: (str(h.columns),),
    "BitsStored": lambda h: (str(h.bits_stored),),
    "BodyPartExamined": lambda h: (h.body_part,),
    "ViewPosition": lambda h: (h.view_position,),
    "Laterality": lambda h: (h.laterality,),
    "PatientOrientation": lambda h: h.patient_orientation,
    "StudyDescription": lambda h: (h.study_description,),
    "SeriesDescription": lambda h: (h.series_description,),
    "ProtocolName": lambda h: (h.protocol_name,),
    "RequestedProcedureDescription": lambda h: (h.requested_procedure,),
    "RequestedProcedurePriority": lambda h: (h.requested_priority,),
    "PerformedProcedureStepDescription": lambda h: (h.performed_procedure,),
    "AcquisitionDeviceProcessingDescription": lambda h: (h.processing_description,),
    "Manufacturer": lambda h: (h.manufacturer,),
    "ManufacturerModelName": lambda h: (h.model_name,),
    "StationName": lambda h: (h.station_name,),
    "InstitutionName": lambda h: (h.institution,),
    "InstitutionalDepartmentName": lambda h: (h.department,),
    "PatientSex": lambda h: (h.sex,),
}
#: What `when` may look at besides: the association, the age of the study in days, of the patient in years.
CONDITIONS = ("calling_aet", "called_aet", "host", "study_age", "patient_age")
_STUDY_AGE = re.compile(r"\s*(?:<=?)?\s*(\d{1,5})\s*(h|d|w)\s*")
_PATIENT_AGE = re.compile(r"\s*(\d{0,3})\s*-\s*(\d{0,3})\s*")
_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What the site wants read. `when` maps a condition to its patterns: all conditions must hold, any pattern will do.

    Patterns know `*` and `?`, and not case. `study_age = "7d"` is the oldest study (h, d, w), `patient_age = "18-120"`
    a range of whole years with either end open. Raises ConfigError for a condition that does not exist.
    """

    name: str
    when: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unsure: Literal["ignore", "read"] = "ignore"
    models: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ("sr", "heatmap")
    send_to: tuple[str, ...] = ()
    priority: int = 0

    def __post_init__(self) -> None:
        if self.unsure not in ("ignore", "read"):
            raise ConfigError(f'rule "{self.name}": unsure must be "ignore" or "read"')
        for key, patterns in self.when.items():
            if key not in KEYWORDS and key not in CONDITIONS:
                allowed = ", ".join((*KEYWORDS, *CONDITIONS))
                raise ConfigError(f'rule "{self.name}": when.{key} is not known; a rule may look at {allowed}')
            if not patterns:
                raise ConfigError(f'rule "{self.name}": when.{key} has no values; leave it out to allow any')
            form = {"study_age": _STUDY_AGE, "patient_age": _PATIENT_AGE}.get(key)
            if form and not all(form.fullmatch(p) for p in patterns):
                example = '"7d" or "12h"' if key == "study_age" else '"18-120" or "18-"'
                raise ConfigError(f'rule "{self.name}": when.{key} is written like {example}')

    @classmethod
    def from_mapping(cls, raw: Mapping[str, Any]) -> Self:
        """Return a rule from a table of the configuration, one string standing for a list of one.

        Raises ConfigError for unknown keys and conditions and for values of another kind.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        name = raw.get("name")
        if not isinstance(name, str) or not name.strip():
            raise ConfigError("a rule needs a name: events and `rules test` show it")
        for key in raw:
            if key not in known:
                raise ConfigError(f'rule "{name}": {key} is not known; a rule has {", ".join(known)}')
        when = raw.get("when", {})
        if not isinstance(when, Mapping):
            raise ConfigError(f'rule "{name}": when must be a table, like when = {{ Modality = ["CR", "DX"] }}')
        values = dict(raw)
        values["when"] = {key: _strings(patterns) for key, patterns in when.items()}
        for key in ("models", "outputs", "send_to"):
            if key in values:
                values[key] = _strings(values[key])
        return cls(**values)

    def mismatch(self, header: Header, association: Association, today: datetime.date | None = None) -> str:
        """Return the first condition that does not hold, as text without the header's value; "" where all hold."""
        for key, patterns in self.when.items():
            if not self._holds(key, patterns, header, association, today):
                return f"{key} is not {' or '.join(patterns)}"
        return ""

    def _holds(
        self,
        key: str,
        patterns: tuple[str, ...],
        header: Header,
        association: Association,
        today: datetime.date | None,
    ) -> bool:
        if key == "study_age":
            days = _study_days(header.study_date, today)
            return days is not None and any(days <= _days_allowed(p) for p in patterns)
        if key == "patient_age":
            return header.age_years is not None and any(_within_years(header.age_years, p) for p in patterns)
        values = KEYWORDS[key](header) if key in KEYWORDS else (str(getattr(association, key)),)
        return any(_matches(value, pattern) for value in values or ("",) for pattern in patterns)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision for one header. `rule` is the rule that decided, None where the gate or no rule did."""

    accepted: bool
    reason: str
    rule: Rule | None
    gate: Gate

    @property
    def rule_name(self) -> str:
        """The name of the rule that decided, or ""."""
        return self.rule.name if self.rule else ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IntendedUse:
    """The films a bundle may speak about: ages in whole years, both ends included; views; modalities."""

    age_min: float = 0.0
    age_max: float = 200.0
    views: tuple[str, ...] = ("PA", "AP")
    modalities: tuple[str, ...] = ("CR", "DX")
    unknown_age: Literal["read", "ignore"] = "read"


def route(
    header: Header,
    association: Association,
    rules: Iterable[Rule],
    words: WordList | None = None,
    today: datetime.date | None = None,
) -> Verdict:
    """Return the verdict: the gate's rejection, else that of the first rule that matches, else that none does.

    `today` is the date in the node's time zone; without it, or without StudyDate, no `study_age` holds.
    """
    answer = gate(header, words)
    if answer.answer is Answer.REJECT:
        return Verdict(accepted=False, reason=answer.text, rule=None, gate=answer)
    missed = []
    for rule in rules:
        miss = rule.mismatch(header, association, today)
        if miss:
            missed.append(f'"{rule.name}": {miss}')
            continue
        if answer.answer is Answer.UNSURE and rule.unsure == "ignore":
            reason = f'unsure, and the rule "{rule.name}" ignores doubt: {answer.text}'
            return Verdict(accepted=False, reason=reason, rule=rule, gate=answer)
        return Verdict(accepted=True, reason=answer.text, rule=rule, gate=answer)
    why = "; ".join(missed) if missed else "there are no rules"
    return Verdict(accepted=False, reason=f"no rule matches: {why}", rule=None, gate=answer)


def within_intended_use(header: Header, use: IntendedUse, words: WordList | None = None) -> str | None:
    """Return why the film lies outside the intended use, None where it does not.

    Doubt about the view was the rule's to decide: only a view that is known and not listed is refused.
    """
    age = header.age_years
    if age is None and use.unknown_age == "ignore":
        return "the patient's age is unknown, and the model is for known ages only"
    if age is not None and not use.age_min <= age < use.age_max + 1:
        return f"the patient's age, {age:.0f} years, is outside {use.age_min:g} to {use.age_max:g}"
    if header.modality and use.modalities and header.modality.upper() not in _upper(use.modalities):
        return f"the modality is not one of {', '.join(use.modalities)}"
    view = views.view_of(header, words or DEFAULT_WORDS)
    allowed = _upper(use.views)
    frontal = view is View.FRONTAL and any(v.upper() in allowed for v in FRONTAL_VIEWS)
    if allowed and view is not View.UNKNOWN and view.upper() not in allowed and not frontal:
        return f"the view, {view}, is not one of {', '.join(use.views)}"
    return None


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Sequence) or not all(isinstance(v, str | int) for v in value):
        raise ConfigError("a rule's values are strings or lists of strings")
    return tuple(str(v) for v in cast("Sequence[str | int]", value))


def _matches(value: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(value.casefold(), pattern.casefold())


def _upper(values: Iterable[str]) -> frozenset[str]:
    return frozenset(value.upper() for value in values)


def _study_days(study_date: str, today: datetime.date | None) -> int | None:
    """Whole days from the study to today, 0 for a study of tomorrow (time zones); None where a date is unknown."""
    parts = parse_date(study_date)
    if parts is None or today is None:
        return None
    try:
        return max(0, (today - datetime.date(*parts)).days)
    except ValueError:
        return None


def _days_allowed(pattern: str) -> float:
    match = _STUDY_AGE.fullmatch(pattern)
    return int(match[1]) * _DAYS[match[2]] if match else -1.0


def _within_years(age: float, pattern: str) -> bool:
    match = _PATIENT_AGE.fullmatch(pattern)
    return match is not None and int(match[1] or 0) <= age < int(match[2] or 999) + 1
