"""Measures of a test with their 95 % intervals: AUROC, average precision, shares, calibration. Pure.

Nothing here is fitted. Where a class is missing the value is None, never a number that looks like one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.core import quality
from cxrnode.core.quality import Interval, Share, share
from cxrnode.training.measure import auc

Floats = npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """What calling a finding present at or above `threshold` gives."""

    threshold: float
    sensitivity: Share
    specificity: Share
    ppv: Share
    npv: Share


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Films whose score lies from `low` to `high`: their mean score beside the share of them that has the finding."""

    low: float
    high: float
    mean_score: float
    observed: Share


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """`ece`: mean distance of score and frequency over `bins`, weighted by films; `brier`: mean squared error."""

    ece: float
    brier: float
    bins: tuple[Bin, ...]


def delong(scores: Floats, truth: Floats) -> Interval:
    """Return the AUROC with its interval as `core.quality.auroc` measures it, for truth of 0 and 1."""
    return quality.auroc(scores[truth == 1].tolist(), scores[truth == 0].tolist())


def average_precision(scores: Floats, truth: Floats) -> float:
    """Return the mean precision over the recall steps, tied scores as one step; NaN without a positive."""
    positives = float((truth == 1).sum())
    if not positives:
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order] == 1)
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    steps = np.diff(hits[last], prepend=0)
    return float((steps / positives * hits[last] / (last + 1)).sum())


def resample(
    measure: Callable[[npt.NDArray[np.intp]], float], patients: Sequence[str], *, draws: int = 500, seed: int = 0
) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of a measure of film indices, by drawing patients with replacement.

    Draws on which the measure is NaN do not count; with fewer than half of them left there is no interval.
    """
    names, inverse = np.unique(np.asarray(patients), return_inverse=True)
    groups = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    random = np.random.default_rng(seed)
    values = []
    for _ in range(draws):
        chosen = np.concatenate([groups[i] for i in random.integers(0, len(names), len(names))])
        if not math.isnan(value := measure(chosen)):
            values.append(value)
    if len(values) < draws / 2:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def auroc(scores: Floats, truth: Floats, patients: Sequence[str]) -> Interval:
    """Return the AUROC: its interval by DeLong, or by drawing patients where a patient has several films."""
    found = delong(scores, truth)
    if found.value is None or len(set(patients)) == len(patients):
        return found
    low, high = resample(lambda i: auc(scores[i], truth[i]), patients)
    return Interval(value=found.value, low=low, high=high)


def precision(scores: Floats, truth: Floats, patients: Sequence[str]) -> Interval:
    """Return the average precision, its interval by drawing patients."""
    value = average_precision(scores, truth)
    if math.isnan(value):
        return Interval(value=None)
    low, high = resample(lambda i: average_precision(scores[i], truth[i]), patients)
    return Interval(value=value, low=low, high=high)


def operating_point(scores: Floats, truth: Floats, threshold: float) -> OperatingPoint:
    """Return sensitivity, specificity, PPV and NPV of calling a film positive at or above the threshold."""
    called, has = scores >= threshold, truth == 1
    hits, false_alarms = int((called & has).sum()), int((called & ~has).sum())
    misses, passed = int((~called & has).sum()), int((~called & ~has).sum())
    return OperatingPoint(
        threshold=threshold,
        sensitivity=share(hits, hits + misses),
        specificity=share(passed, passed + false_alarms),
        ppv=share(hits, hits + false_alarms),
        npv=share(passed, passed + misses),
    )


def reliability(scores: Floats, truth: Floats, *, bins: int = 10) -> Reliability:
    """Return how scores in [0, 1] and frequencies agree, in bins of about as many films each.

    Bins of equal width (Guo et al., ICML 2017) would put nearly all scores of a rare finding into the first, where a
    score that says nothing has no error; these do not (Nguyen and O'Connor, EMNLP 2015). Equal scores share a bin.
    """
    edges = np.unique(np.quantile(scores, np.arange(1, bins) / bins))
    places = np.searchsorted(edges, scores, side="right")
    found, distance = [], 0.0
    for place in np.unique(places):
        here = places == place
        mean, count = float(scores[here].mean()), int(here.sum())
        observed = share(int((truth[here] == 1).sum()), count)
        distance += count / len(scores) * abs(mean - observed.count / count)
        low, high = float(scores[here].min()), float(scores[here].max())
        found.append(Bin(low=low, high=high, mean_score=mean, observed=observed))
    return Reliability(ece=distance, brier=float(((scores - truth) ** 2).mean()), bins=tuple(found))


def roc(scores: Floats, truth: Floats) -> list[tuple[float, float]]:
    """Return the corners of the ROC curve as (1 - specificity, sensitivity), from (0, 0) to (1, 1)."""
    order = np.argsort(-scores, kind="stable")
    has = truth[order] == 1
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    hits, alarms = np.cumsum(has)[last], np.cumsum(~has)[last]
    points = zip(alarms / max(int(alarms[-1]), 1), hits / max(int(hits[-1]), 1), strict=True)
    return [(0.0, 0.0), *((float(x), float(y)) for x, y in points)]
