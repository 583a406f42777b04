"""What each film weighs in the loss of each label. Pure numpy; a finding that is not known weighs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.core.findings import NIH14
from cxrnode.training.recipe import Loss

#: Films of one origin below which it is not weighed apart.
FEWEST = 50

Floats = npt.NDArray[np.float32]


def weights_of(
    truth: Floats, labels: Sequence[str], origins: Sequence[str], loss: Loss, kind: str | None = None
) -> Floats:
    """Return float32 (N, C) for truth (N, C) of 0, 1 or NaN. `kind` takes the place of `loss.weighting`.

    "frequency" and "given" are as they stand; all others have the mean 1 in each label (and in each origin, where
    `within_origin`), so that a rare finding counts as much as a common one.
    """
    kind = kind or loss.weighting
    known = ~np.isnan(truth)
    positive = truth == 1
    if kind == "none":
        return known.astype(np.float32)
    if kind == "given":
        up, down = (np.broadcast_to(np.array(w, np.float32), (len(labels),)) for w in (loss.positive, loss.negative))
        given: Floats = (np.where(positive, up, down) * known).astype(np.float32)
        return given
    if kind == "frequency":
        share = positive.sum(0) / np.maximum(known.sum(0), 1)
        counted: Floats = (np.where(positive, 1 - share, share) * known).astype(np.float32)
        return counted
    weights = np.zeros(truth.shape, np.float32)
    # With "Abnormal" or one finding alone nothing tells other findings: all negatives are then of one kind.
    findings = [i for i, label in enumerate(labels) if label in NIH14]
    places = _places(origins) if loss.within_origin else np.zeros(len(truth), int)
    for origin in np.unique(places):
        here = places == origin
        other = positive[:, findings].any(1)
        for label in range(len(labels)):
            negative = here & known[:, label] & ~positive[:, label]
            parts = [(1.0, negative)]
            if kind == "stratified":
                parts = [(loss.others, negative & other), (1 - loss.others, negative & ~other)]
            weights[:, label] += _balanced(here & positive[:, label], parts, loss.most)
    return weights


def _places(origins: Sequence[str]) -> npt.NDArray[np.intp]:
    """Number the origins; a handful of films is counted with the largest, or its few positives would weigh tons."""
    _, place, counts = np.unique(np.asarray(origins), return_inverse=True, return_counts=True)
    small = np.flatnonzero(counts < FEWEST)
    place[np.isin(place, small)] = int(np.argmax(counts))
    return place


def _balanced(
    positive: npt.NDArray[np.bool_], parts: Sequence[tuple[float, npt.NDArray[np.bool_]]], most: float
) -> Floats:
    """Weights of mean 1 over all of these films: half on the positives, the other half on parts of the negatives.

    `parts`: the share of each part, and its films. No positive weighs more than `most` negatives do on average.
    """
    weights = np.zeros(len(positive), np.float64)
    parts = [(share, films) for share, films in parts if share and films.any()]
    total = sum(int(films.sum()) for _, films in parts)
    shares = sum(share for share, _ in parts)
    for share, films in parts:
        weights[films] = total * share / (shares * films.sum())
    count = int(positive.sum())
    if count:
        weights[positive] = min(total / count, most) if total else 1.0
    if weights.any():
        weights *= (total + count) / weights.sum()
    return weights.astype(np.float32)
