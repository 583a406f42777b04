"""What held-out films tell of a network: calibration, thresholds, scales of maps, metrics. Sees no training film.

All of it goes into the manifest, measured on weights as they are stored, by the engine that will read films.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.reading.bundle import calibrated
from cxrnode.reading.manifest import FEWEST_POSITIVES, Label, LabelCalibration, LabelMetrics, Manifest
from cxrnode.training.calibration import FREEDOM, PARTS, Curve, Gain, fit, gains
from cxrnode.training.measure import map_scale, operating_points
from cxrnode.training.prevalence import Prevalence
from cxrnode.training.statistics import auroc

Floats = npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """What the bundle is to reach on the held-out films. Percentiles are in 0..100."""

    sensitivity: float = 0.95
    specificity: float = 0.95
    # Shares of good films that each distance may refuse: the features halfway tell laterals, the layout all else.
    layout_alarms: float = 0.003
    feature_alarms: float = 0.004
    layout_components: int = 48
    feature_components: int = 16
    map_floor: float = 95.0
    map_ceiling: float = 99.9
    # Training films that the distances are fitted to, at most: more would be read for days and change nothing.
    fitted: int = 5000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """The held-out films as the engine read them.

    scores: float (N, C), the network's own; saliency: float16 (N, C, h, w), None where the bundle makes no maps;
    truth: float (N, C), 1, 0 or NaN where it is not known; patients: N names.
    """

    scores: Floats
    saliency: npt.NDArray[np.float16] | None
    truth: Floats
    patients: tuple[str, ...]


def fill(blank: Manifest, held: HeldOut, aims: Aims, *, prevalence: Prevalence | None = None) -> Manifest:
    """Return the manifest with what the held-out films tell. Scores are moved to `prevalence`, where that is given.

    A representative set (as the blank says) has the prevalence itself, and its scores stay where they are.
    """
    told = None if blank.calibration.representative else prevalence
    curves, gained = fit(held.scores, held.truth), gains(held.scores, held.truth, held.patients)
    cards = [
        _calibration(label.name, held.truth[:, i], curves[i], gained[i], told) for i, label in enumerate(blank.labels)
    ]
    labels = [dataclasses.replace(label, calibration=card) for label, card in zip(blank.labels, cards, strict=True)]
    shown = calibrated(labels, held.scores)
    labels = [_measured(label, i, held, shown[:, i], aims) for i, label in enumerate(labels)]
    areas = [label.metrics.auc for label in labels if label.metrics is not None] or [0.5]
    return dataclasses.replace(
        blank,
        labels=tuple(labels),
        metrics=dataclasses.replace(blank.metrics, films=len(held.truth), mean_auc=round(float(np.mean(areas)), 4)),
        calibration=dataclasses.replace(
            blank.calibration,
            films=len(held.truth),
            method=_method(labels, aims),
            sensitivity=aims.sensitivity,
            specificity=aims.specificity,
            population=told.name if told and any(card.shown_prevalence for card in cards) else "",
        ),
    )


def _calibration(
    name: str, truth: Floats, curve: Curve, gain: Gain | None, prevalence: Prevalence | None
) -> LabelCalibration:
    known = truth[np.isfinite(truth)]
    positives = int(known.sum())
    share = round(positives / len(known), 6) if len(known) else 0.0
    return LabelCalibration(
        positives=positives,
        prevalence=share,
        slope=round(curve.slope, 6),
        offset=round(curve.offset, 6),
        shown_prevalence=prevalence.of(name) if prevalence and gain else None,
        ece_before=round(gain.before, 4) if gain else None,
        ece_after=round(gain.after, 4) if gain else None,
    )


def _measured(label: Label, index: int, held: HeldOut, shown: Floats, aims: Aims) -> Label:
    """The label with thresholds on what is shown, the scale of its map, and its metrics."""
    known = np.isfinite(held.truth[:, index])
    here, scores = held.truth[known, index], shown[known]
    positives, negatives = int(here.sum()), int(len(here) - here.sum())
    thresholds = None
    if positives >= FEWEST_POSITIVES and negatives:
        thresholds = operating_points(scores, here, sensitivity=aims.sensitivity, specificity=aims.specificity)
    metrics = None
    if positives and negatives:
        area = auroc(scores, here, [held.patients[i] for i in np.flatnonzero(known)])
        if area.value is not None and area.low is not None and area.high is not None:
            metrics = LabelMetrics(
                auc=round(area.value, 4), auc_low=round(area.low, 4), auc_high=round(area.high, 4), positives=positives
            )
    floor, ceiling = label.map_floor, label.map_ceiling
    if held.saliency is not None and len(here):
        maps = held.saliency[known, index].astype(np.float64)
        floor, ceiling = map_scale(maps, here, floor=aims.map_floor, ceiling=aims.map_ceiling)
    return dataclasses.replace(
        label, map_floor=round(floor, 4), map_ceiling=round(ceiling, 4), thresholds=thresholds, metrics=metrics
    )


def _method(labels: Sequence[Label], aims: Aims) -> str:
    cards = [label.calibration for label in labels if label.calibration and label.assessed is not None]
    before = [card.ece_before for card in cards if card.ece_before is not None]
    after = [card.ece_after for card in cards if card.ece_after is not None]
    gained = ""
    if before and after:
        gained = (
            f"; calibration error {np.mean(before):.3f} before and {np.mean(after):.3f} after, in the mean of the "
            f"assessed findings, at the prevalence of the films, cross-fitted over patients in {PARTS} parts"
        )
    return (
        f"Platt's curve for each finding, its slope drawn to a common one (deviation {FREEDOM:g}){gained}; rule-out at "
        f"sensitivity {aims.sensitivity:g}, rule-in at specificity {aims.specificity:g}, and where they cross both at "
        "the largest sum of the two"
    )
