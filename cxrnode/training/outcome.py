"""What a run gave, in numbers, on the films that were held out: as `metrics.json` and the report tell it. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.training.measure import auc
from cxrnode.training.recipe import ORIGINAL, Recipe
from cxrnode.training.weighting import weights_of

Floats = npt.NDArray[np.float32]

#: Where a recipe of one label is cut into present and absent.
CUTS = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
HALF = 0.5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What calling a film positive from `threshold` on gives. None where nothing was called, or nothing is there."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    accuracy: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Frequency:
    """How often a label is among the films trained on, and its share of the weights of the loss."""

    label: str
    films: int
    positives: int
    share: float
    balanced: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Scores are the network's own, before any calibration. `measured` is keyed as `recipe.ORIGINAL`."""

    films: int
    measured: dict[str, float]
    auc: dict[str, float]
    cuts: tuple[Cut, ...]
    frequencies: tuple[Frequency, ...]


def outcome_of(recipe: Recipe, scores: Floats, truth: Floats, frequencies: Sequence[Frequency]) -> Outcome:
    """Return the outcome for scores (N, C) and truth (N, C), NaN where the list does not know."""
    labels = recipe.films.labels
    known = ~np.isnan(truth)
    areas = {label: auc(scores[known[:, i], i], truth[known[:, i], i]) for i, label in enumerate(labels)}
    told = [area for area in areas.values() if not math.isnan(area)]
    clipped = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)[known]
    true = truth[known]
    measured = {
        "loss": float(-(true * np.log(clipped) + (1 - true) * np.log(1 - clipped)).mean()),
        "binary_accuracy": float(((clipped >= HALF) == (true == 1)).mean()),
    }
    cuts: tuple[Cut, ...] = ()
    if told:
        measured["mean_auc"] = float(np.mean(told))
    if len(labels) == 1:
        measured["auc"] = measured.pop("mean_auc", math.nan)
        cuts = tuple(cut(scores[known[:, 0], 0], true, threshold) for threshold in CUTS)
        half = cut(scores[known[:, 0], 0], true, HALF)
        measured["accuracy"] = measured.pop("binary_accuracy")
        for key in ("precision", "recall", "f1"):
            measured[key] = math.nan if (value := getattr(half, key)) is None else value
    order = [key for key in ORIGINAL if key in measured]
    return Outcome(
        films=len(scores),
        measured={key: measured[key] for key in order},
        auc=areas,
        cuts=cuts,
        frequencies=tuple(frequencies),
    )


def cut(scores: Floats, truth: Floats, threshold: float) -> Cut:
    """Return what a threshold gives for scores and truth (N,)."""
    called, there = scores >= threshold, truth == 1
    hits = int((called & there).sum())
    precision = hits / int(called.sum()) if called.any() else None
    recall = hits / int(there.sum()) if there.any() else None
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    return Cut(
        threshold=threshold,
        precision=precision,
        recall=recall,
        f1=f1,
        accuracy=float((called == there).mean()),
    )


def frequencies_of(recipe: Recipe, truth: Floats, origins: Sequence[str]) -> tuple[Frequency, ...]:
    """Return how often each label is in truth (N, C), before and after the recipe's weights."""
    weights = weights_of(truth, recipe.films.labels, origins, recipe.loss, recipe.phases[-1].weighting)
    found = []
    for i, label in enumerate(recipe.films.labels):
        known, positive = ~np.isnan(truth[:, i]), truth[:, i] == 1
        total = float(weights[known, i].sum())
        found.append(
            Frequency(
                label=label,
                films=int(known.sum()),
                positives=int(positive.sum()),
                share=float(positive.sum() / max(int(known.sum()), 1)),
                balanced=float(weights[positive, i].sum()) / total if total else 0.0,
            )
        )
    return tuple(found)
