"""The manifest of a bundle: the model's card as frozen values. Opens no weights, loads no torch.

`manifest_text` reads and writes it.
"""

from __future__ import annotations

import dataclasses
import math
from enum import StrEnum

from cxrnode.core.findings import Concept, Thresholds
from cxrnode.errors import BundleError
from cxrnode.reading.shape import Architecture, Shape

NAME = "manifest.toml"
#: With fewer positives than this behind its calibration a finding is not assessed, whatever its thresholds say.
FEWEST_POSITIVES = 50
#: Regions along each side of a film in which the features halfway are averaged (`Evidence.MIDDLE`).
REGIONS = 3


class Saliency(StrEnum):
    """How the maps are made: in the forward pass, by a backward pass for each label, or not at all."""

    CLOSED = "closed"
    GRADCAM = "gradcam"
    NONE = "none"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BundleFile:
    """A file beside the manifest, by plain name, and the SHA-256 of its bytes in lower-case hex."""

    name: str
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What the network is fed: the film squashed to `size` x `size`, then (level / 255 - mean) / std a channel."""

    size: int
    channels: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The head of the network, as `reading.shape.Shape` has it; without any of it, pooling and one linear layer."""

    hidden: tuple[int, ...] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    flatten_to: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelCalibration:
    """What stands behind the thresholds of one label: films that have the finding, and their share.

    The network's score s is shown as sigmoid(slope * logit(s) + offset) (Platt, 1999), moved by Bayes' rule from
    `prevalence` to `shown_prevalence` where that is given (Saerens et al., Neural Computation 2002). `ece_before` and
    `ece_after` are calibration errors at the films' own prevalence, fitted and measured on different patients.
    """

    positives: int
    prevalence: float
    slope: float = 1.0
    offset: float = 0.0
    shown_prevalence: float | None = None
    ece_before: float | None = None
    ece_after: float | None = None

    @property
    def shift(self) -> float:
        """What is added to slope * logit(s): the offset, and the step from one prevalence to the other."""
        if self.shown_prevalence is None:
            return self.offset
        return self.offset + _logit(self.shown_prevalence) - _logit(self.prevalence)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LabelMetrics:
    """Area under the ROC curve on films the model never saw, with its 95 % interval, from `positives` films."""

    auc: float
    auc_low: float
    auc_high: float
    positives: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """One output of the network, in order. Without `report` nothing is said of it, and it needs no concept.

    `map_floor` and `map_ceiling` are the fixed scale of its map, in the units of the closed-form Grad-CAM.
    """

    name: str
    report: bool
    concept: Concept | None = None
    map_floor: float = 0.0
    map_ceiling: float = 1.0
    calibration: LabelCalibration | None = None
    thresholds: Thresholds | None = None
    metrics: LabelMetrics | None = None

    @property
    def assessed(self) -> Thresholds | None:
        """The thresholds that may be used: None where too few positives stand behind them."""
        enough = self.calibration is not None and self.calibration.positives >= FEWEST_POSITIVES
        return self.thresholds if enough else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """On what the thresholds (and, where fitted, the scores) were set, and for which weights.

    Only a `representative` set - unselected films of the intended use - lets a score be called a probability. From
    any other the scores are moved to the prevalence of a `population`, where one is named. Rule-out and rule-in were
    set to reach this `sensitivity` and `specificity` on the films.
    """

    data_set: str
    method: str
    films: int
    representative: bool
    weights_sha256: str
    population: str = ""
    sensitivity: float | None = None
    specificity: float | None = None


class Evidence(StrEnum):
    """Which features of a film plausibility looks at, beside its layout: pooled at the end, or by regions halfway."""

    POOLED = "pooled"
    MIDDLE = "middle"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlausibilityLimit:
    """Past `limit` a film is not analysed; of `films` unseen good films the share `false_alarm_rate` lies past it."""

    limit: float
    false_alarm_rate: float
    films: int
    weights_sha256: str
    features: Evidence = Evidence.POOLED


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Where the weights come from."""

    data: str
    films: int
    patients: int
    recipe: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """On what the metrics of the labels were measured. `mean_auc` is over the labels that have one."""

    data_set: str
    films: int
    mean_auc: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IntendedUse:
    """What the model is for, as values that the node checks. Ages in years, both ends included.

    `views` are values of ViewPosition (PS3.3 C.8.11.7), `modalities` of Modality (PS3.3 C.7.3.1.1.1).
    """

    age_min: float
    age_max: float
    views: tuple[str, ...]
    modalities: tuple[str, ...]

    def refusal(self, *, modality: str, view: str, age_years: float | None) -> str | None:
        """Return why a film lies outside the use, or None. What is unknown ("" or None) does not refuse."""
        if modality and modality not in self.modalities:
            return f"modality {modality} is outside the model's intended use"
        if view and view not in self.views:
            return f"view {view} is outside the model's intended use"
        if age_years is not None and not self.age_min <= age_years <= self.age_max:
            return f"the age is outside the model's intended use ({self.age_min:g} to {self.age_max:g} years)"
        return None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole card. `labels` are in the order of the network's outputs."""

    format: int
    name: str
    version: str
    architecture: Architecture
    activation: str
    saliency: Saliency
    licence: str
    demonstration: bool
    description: str
    input: Input
    intended_use: IntendedUse
    calibration: Calibration
    plausibility: PlausibilityLimit
    training: Training
    metrics: Metrics
    files: tuple[BundleFile, ...]
    labels: tuple[Label, ...]
    head: Head = Head()

    @property
    def shape(self) -> Shape:
        """What the weights must fit. Raises ValueError for what cannot be built."""
        return Shape(
            architecture=self.architecture,
            outputs=len(self.labels),
            channels=self.input.channels,
            hidden=self.head.hidden,
            batch_norm=self.head.batch_norm,
            dropout=self.head.dropout,
            flatten_to=self.head.flatten_to,
        )

    @property
    def evidence(self) -> int:
        """How wide the features are that plausibility looks at. Raises ValueError as `shape` does."""
        shape = self.shape
        return shape.width if self.plausibility.features is Evidence.POOLED else shape.middle[1] * REGIONS**2

    def sha256_of(self, name: str) -> str:
        """Return the digest of a file. Raises BundleError where the manifest does not name it."""
        for file in self.files:
            if file.name == name:
                return file.sha256
        raise BundleError(f"{NAME}: files does not name {name}; a bundle holds it, so export the bundle again")


def _logit(share: float) -> float:
    return math.log(share / (1 - share))
