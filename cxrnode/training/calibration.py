"""Calibration: from the network's scores to scores that agree with frequencies. Fitted to films it is given, no others.

Platt's logistic curve for each label (Platt, 1999), with his corrected targets. Its slope is drawn to one slope for
all labels (temperature scaling, Guo et al., ICML 2017), so that a label with few positives does not invent its own.
On the held-out films of the shipped bundle this had the least error of what was tried: docs/model-card.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.training.statistics import reliability

Floats = npt.NDArray[np.floating]

#: How far a label's slope may lie from the common one: the deviation of a normal prior.
FREEDOM = 0.3
#: A slope is never smaller: a score that says nothing, or the contrary, must not be turned round.
LEAST_SLOPE = 0.05
#: Parts of the patients for cross-fitting.
PARTS = 5

_BOUND = 1e-12


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What a score s becomes: sigmoid(slope * logit(s) + offset)."""

    slope: float = 1.0
    offset: float = 0.0

    def apply(self, scores: Floats) -> npt.NDArray[np.float64]:
        """Return the calibrated scores, float64, of the same shape."""
        return _sigmoid(self.slope * logits_of(scores) + self.offset)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Expected calibration error of a label before and after, measured on patients that the curve was not fitted to."""

    before: float
    after: float


def fit(scores: Floats, truth: Floats, *, freedom: float = FREEDOM) -> list[Curve]:
    """Fit a curve to each label of scores (N, C) in [0, 1]; truth (N, C) is 1, 0, or NaN where it is not known.

    A label of which a class is missing keeps its scores.
    """
    logits = logits_of(scores)
    known = np.isfinite(truth)
    fitted = [i for i in range(truth.shape[1]) if 0 < truth[known[:, i], i].sum() < known[:, i].sum()]
    common = _common_slope([(logits[known[:, i], i], truth[known[:, i], i]) for i in fitted])
    return [
        _platt(logits[known[:, i], i], truth[known[:, i], i], common, freedom) if i in fitted else Curve()
        for i in range(truth.shape[1])
    ]


def cross_fitted(scores: Floats, truth: Floats, patients: Sequence[str], *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return scores (N, C), each calibrated by curves that were fitted without its patient."""
    names, inverse = np.unique(np.asarray(patients), return_inverse=True)
    part = (np.random.default_rng(seed).permutation(len(names)) % PARTS)[inverse]
    made = np.array(scores, np.float64)
    for each in np.unique(part):
        if (part != each).any():
            for i, curve in enumerate(fit(scores[part != each], truth[part != each])):
                made[part == each, i] = curve.apply(scores[part == each, i])
    return made


def gains(scores: Floats, truth: Floats, patients: Sequence[str]) -> list[Gain | None]:
    """Return what calibration gives each label, at the prevalence of these films; None where a class is missing."""
    after = cross_fitted(scores, truth, patients)
    found: list[Gain | None] = []
    for i in range(truth.shape[1]):
        known = np.isfinite(truth[:, i])
        here = truth[known, i]
        if not 0 < here.sum() < len(here):
            found.append(None)
            continue
        found.append(Gain(before=reliability(scores[known, i], here).ece, after=reliability(after[known, i], here).ece))
    return found


def moved(scores: Floats, prevalence: float, to: float) -> npt.NDArray[np.float64]:
    """Return calibrated scores at another prevalence, by Bayes' rule (Saerens et al., Neural Computation 2002).

    Supposes that films with a finding look the same in both places, and films without it too.
    """
    return _sigmoid(logits_of(scores) + np.log(to / (1 - to)) - np.log(prevalence / (1 - prevalence)))


def logits_of(scores: Floats) -> npt.NDArray[np.float64]:
    """Return the logits of scores in [0, 1], as `Bundle.calibrated` bounds them."""
    bounded = np.clip(np.asarray(scores, np.float64), _BOUND, 1 - 2**-25)
    logits: npt.NDArray[np.float64] = np.log(bounded / (1 - bounded))
    return logits


def _platt(logits: Floats, truth: Floats, centre: float, freedom: float) -> Curve:
    """One label by Newton's method; targets are Platt's, which keep the curve from 0 and 1."""
    target, offset = _targets(truth, logits, centre)
    at = np.array([centre, offset])
    pull = freedom**-2
    for _ in range(100):
        guess = _sigmoid(at[0] * logits + at[1])
        weight = guess * (1 - guess)
        slope = [((guess - target) * logits).sum() + pull * (at[0] - centre), (guess - target).sum()]
        bend = np.array(
            [
                [(weight * logits**2).sum() + pull, (weight * logits).sum()],
                [(weight * logits).sum(), weight.sum() + 1e-9],
            ]
        )
        step = np.linalg.solve(bend, np.array(slope))
        at -= step / max(1.0, float(np.abs(step).max()))  # no step over 1: far from the goal the curve is not a bowl
        if np.abs(step).max() < 1e-10:
            break
    if at[0] >= LEAST_SLOPE:
        return Curve(slope=float(at[0]), offset=float(at[1]))
    return Curve(slope=LEAST_SLOPE, offset=_offset(logits, target, LEAST_SLOPE))


def _common_slope(labels: Sequence[tuple[Floats, Floats]]) -> float:
    """The slope that fits all labels best when each has its own offset, by search over its logarithm."""

    def loss(exponent: float) -> float:
        slope, total = float(np.exp(exponent)), 0.0
        for logits, truth in labels:
            target, _ = _targets(truth, logits, slope)
            guess = np.clip(_sigmoid(slope * logits + _offset(logits, target, slope)), _BOUND, 1 - _BOUND)
            total -= float((target * np.log(guess) + (1 - target) * np.log(1 - guess)).sum())
        return total

    if not labels:
        return 1.0
    low, high = float(np.log(LEAST_SLOPE)), float(np.log(8.0))
    golden = (5**0.5 - 1) / 2
    for _ in range(30):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) <= loss(b) else (a, high)
    return float(np.exp((low + high) / 2))


def _targets(truth: Floats, logits: Floats, slope: float) -> tuple[npt.NDArray[np.float64], float]:
    positives = float(truth.sum())
    negatives = len(truth) - positives
    target: npt.NDArray[np.float64] = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    return target, float(np.log((positives + 1) / (negatives + 1)) - slope * logits.mean())


def _offset(logits: Floats, target: Floats, slope: float) -> float:
    """The offset whose mean score is the mean target, by halving: the mean rises with it."""
    scaled, goal = slope * logits, float(target.mean())
    low, high = -60.0 - float(scaled.max()), 60.0 - float(scaled.min())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(_sigmoid(scaled + middle).mean()) < goal else (low, middle)
    return (low + high) / 2


def _sigmoid(values: Floats) -> npt.NDArray[np.float64]:
    made: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(values, -700, 700)))
    return made
