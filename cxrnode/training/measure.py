"""What is measured on films the model never saw: AUC with interval, operating points, scale of maps. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.core.findings import Thresholds

Floats = npt.NDArray[np.floating]


def auc(scores: Floats, truth: Floats) -> float:
    """Return the area under the ROC curve by ranks (ties count half); NaN where a class is missing."""
    positives = int((truth == 1).sum())
    negatives = len(truth) - positives
    if not positives or not negatives:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[truth == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_within(scores: Floats, truth: Floats, origins: Sequence[str]) -> float:
    """Return the AUC over pairs of the same origin alone: what is left when knowing the origin does not help."""
    won = pairs = 0.0
    for origin in sorted(set(origins)):
        here = np.asarray(origins) == origin
        weight = float((truth[here] == 1).sum() * (truth[here] == 0).sum())
        if weight:
            won, pairs = won + weight * auc(scores[here], truth[here]), pairs + weight
    return won / pairs if pairs else math.nan


def operating_points(scores: Floats, truth: Floats, *, sensitivity: float, specificity: float) -> Thresholds:
    """Return rule-out at this sensitivity and rule-in at this specificity, both reached on the given films.

    Where a model is so good that rule-out would lie above rule-in, both take the point of the largest
    sensitivity + specificity (Youden), and nothing is undetermined.
    """
    positives, negatives = np.sort(scores[truth == 1]), np.sort(scores[truth == 0])
    # The (1 - sensitivity) share of the positives may lie below; what equals the threshold is not ruled out.
    rule_out = float(positives[math.floor((1 - sensitivity) * len(positives) + 1e-9)])
    # The next float above the score that keeps the share of negatives below it; no score lies above 1.
    kept = negatives[max(math.ceil(specificity * len(negatives) - 1e-9), 1) - 1]
    rule_in = min(float(np.nextafter(np.float64(kept), 1.0)), 1.0)
    if rule_out <= rule_in:
        return Thresholds(rule_out=rule_out, rule_in=rule_in)
    levels = np.unique(scores)
    gain = [(positives >= level).mean() + (negatives < level).mean() for level in levels]
    best = float(levels[int(np.argmax(gain))])
    return Thresholds(rule_out=best, rule_in=best)


def map_scale(maps: npt.NDArray[np.floating], truth: Floats, *, floor: float, ceiling: float) -> tuple[float, float]:
    """Return the fixed scale of a finding's map from maps (N, h, w).

    Its floor is this percentile of the values on films without the finding, so that what such films show too is not
    drawn; its ceiling is this percentile on films with it (on all, where there are none).
    """
    without, having = maps[truth == 0], maps[truth == 1]
    top = float(np.percentile(having if len(having) else maps, ceiling))
    bottom = float(np.percentile(without if len(without) else maps, floor))
    if top <= 0.0:
        return 0.0, 1.0
    return min(bottom, top / 2), top
