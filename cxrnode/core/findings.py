"""What a model says about a film: findings, their decisions, and the report that holds them. Pure values.

A score is a float in [0, 1]. It is called a probability only where the bundle was calibrated on a
representative set; everything that shows it to a person asks `Report.scale` for the right word.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

#: The labels of ChestX-ray14 (Wang et al., CVPR 2017), spelled as in `Data_Entry_2017.csv`.
NIH14 = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)


def folded(label: str) -> str:
    """A finding's name for comparing: people write "pleural thickening" for `Pleural_Thickening`."""
    return " ".join(label.replace("_", " ").replace("-", " ").split()).casefold()


class Decision(StrEnum):
    """The three states of a finding, and the one that is none of them."""

    PRESENT = "present"
    ABSENT = "absent"
    UNDETERMINED = "undetermined"
    NOT_ASSESSED = "not_assessed"


#: The order in which people are shown decisions.
GRAVEST_FIRST = (Decision.PRESENT, Decision.UNDETERMINED, Decision.ABSENT, Decision.NOT_ASSESSED)


class Scale(StrEnum):
    """What a score may be called in front of a person."""

    SCORE = "score"
    PROBABILITY = "probability"


class Outcome(StrEnum):
    """How a job ended, beside its state."""

    ANALYSED = "analysed"
    NOT_ANALYSED = "not_analysed"
    DUPLICATE = "duplicate"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Concept:
    """A coded concept (PS3.16 section 8): value, scheme designator, meaning (at most 64 characters)."""

    value: str
    scheme: str
    meaning: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Below `rule_out` a finding is absent, at or above `rule_in` present, between them undetermined."""

    rule_out: float
    rule_in: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.rule_out <= self.rule_in <= 1.0:
            raise ValueError(
                f"thresholds must satisfy 0 <= rule_out <= rule_in <= 1, not {self.rule_out}, {self.rule_in}"
            )


def reach(score: float, thresholds: Thresholds) -> float:
    """Return where a score lies on a track from 0 to 1 whose thirds are absent, undetermined and present.

    Straight within each third. Calibrated scores of a rare finding all lie close to 0, where nobody could tell them
    apart; on this track every finding has its thresholds at the same places. With one threshold there are halves.
    """
    low, high = thresholds.rule_out, thresholds.rule_in
    first, last = (1 / 3, 2 / 3) if low < high else (0.5, 0.5)
    if score >= high:
        return last + (1 - last) * ((score - high) / (1 - high) if high < 1 else 1.0)
    if score < low:
        return first * score / low
    return first + (last - first) * (score - low) / (high - low)


def _log_odds(score: float) -> float:
    inside = min(max(score, 1e-9), 1 - 1e-9)
    return math.log(inside / (1 - inside))


def decide(score: float, thresholds: Thresholds | None) -> Decision:
    """Return the decision for a score; without thresholds the finding is not assessed.

    Raises ValueError for a score that is not in [0, 1] (NaN among them): a decision made of it would be invented.
    """
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"a score must lie in [0, 1], not {score}")
    if thresholds is None:
        return Decision.NOT_ASSESSED
    if score >= thresholds.rule_in:
        return Decision.PRESENT
    return Decision.ABSENT if score < thresholds.rule_out else Decision.UNDETERMINED


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One label of the model on one film.

    `index` is the channel of the label in the saliency array; `map_floor` and `map_ceiling` are the fixed
    scale of its map, in the units of the closed-form Grad-CAM: nothing is drawn below the floor.
    """

    label: str
    index: int
    score: float
    decision: Decision
    thresholds: Thresholds | None
    map_floor: float = 0.0
    map_ceiling: float = 1.0

    @property
    def lead(self) -> float:
        """How far the score lies above the threshold of "present", in log-odds; the score itself where there is none.

        Scores of a common and of a rare finding cannot be compared, their leads can: moving the scores to another
        prevalence adds the same to both log-odds.
        """
        if self.thresholds is None:
            return self.score
        return _log_odds(self.score) - _log_odds(self.thresholds.rule_in)

    @property
    def title(self) -> str:
        """The label as people read it."""
        return self.label.replace("_", " ")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plausibility:
    """How far the film lies from the training films; past the limit it is not analysed."""

    distance: float
    limit: float

    @property
    def plausible(self) -> bool:
        """Whether the model may speak about this film."""
        return self.distance <= self.limit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Which model read the film, on what: the provenance that every output carries."""

    name: str
    version: str
    bundle_digest: str
    weights_digest: str
    calibration: str
    demonstration: bool
    engine: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings of one job plus provenance. Free of patient identifiers.

    `read_at` is the claim time in UTC, seconds since 1970: the outputs' only clock. `pixel_digest` is of the decoded
    pixels (`core.digests`), `identity_digest` the SHA-256 of patient, accession and study. `timezone` is the IANA name
    of the zone in which the film was taken, as the configuration says of its sender; "" where it does not.
    """

    outcome: Outcome
    reason: str
    read_at: float
    revision: int
    reader: Reader
    scale: Scale = Scale.SCORE
    findings: tuple[Finding, ...] = ()
    plausibility: Plausibility | None = None
    pixel_digest: str = ""
    identity_digest: str = ""
    notes: tuple[str, ...] = ()
    timezone: str = ""

    def having(self, decision: Decision) -> tuple[Finding, ...]:
        """The findings with this decision, the largest lead first (ties in the model's order)."""
        return tuple(sorted((f for f in self.findings if f.decision is decision), key=lambda f: (-f.lead, f.index)))

    def ranked(self) -> tuple[Finding, ...]:
        """All findings as people are shown them: by decision, the gravest first, then by lead."""
        return tuple(found for decision in GRAVEST_FIRST for found in self.having(decision))

    def shown(self, *, min_findings: int, max_findings: int) -> tuple[Finding, ...]:
        """The findings that get a heatmap: those present, then the top-ranked assessed ones up to `min_findings`."""
        present = self.having(Decision.PRESENT)
        others = sorted(
            (f for f in self.findings if f.decision in (Decision.UNDETERMINED, Decision.ABSENT)),
            key=lambda f: (-f.lead, f.index),
        )
        return (present + tuple(others[: max(0, min_findings - len(present))]))[:max_findings]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no white space, so that its SHA-256 can be recorded."""
        return _CANONICAL.encode(self)

    @property
    def sha256(self) -> str:
        """The digest of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        raw: Mapping[str, Any] = json.loads(text)
        plausibility = raw["plausibility"]
        return cls(
            **{
                **raw,
                "outcome": Outcome(raw["outcome"]),
                "scale": Scale(raw["scale"]),
                "reader": Reader(**raw["reader"]),
                "plausibility": Plausibility(**plausibility) if plausibility else None,
                "notes": tuple(raw["notes"]),
                "findings": tuple(_finding(f) for f in raw["findings"]),
            }
        )


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a value of this module, for JSON: nothing is copied. Raises TypeError for anything else."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"{type(value).__name__} has no place in a report")
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=_fields)


def _finding(raw: Mapping[str, Any]) -> Finding:
    thresholds = raw["thresholds"]
    return Finding(
        **{
            **raw,
            "decision": Decision(raw["decision"]),
            "thresholds": Thresholds(**thresholds) if thresholds else None,
        }
    )
