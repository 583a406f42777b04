"""The log of a run: one line an epoch, and how an epoch is judged on films it did not learn from. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.training.measure import auc


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One line of the log. `loss` is what was trained on; `seen_loss` is without weights and variations.

    Where no film is left to judge by, `seen_loss` and `mean_auc` are NaN.
    """

    phase: int
    epoch: int
    side: int
    rate: float
    loss: float
    seen_loss: float
    mean_auc: float
    auc: dict[str, float]
    seconds: float


def judged(
    logits: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    names: Sequence[str],
    *,
    phase: int,
    epoch: int,
    side: int,
    rate: float,
    loss: float,
    seconds: float,
) -> Epoch:
    """Return the line of an epoch for logits (N, C) of these outputs and truth (N, C), NaN where it is not known."""
    known = ~np.isnan(truth)
    losses = np.logaddexp(0, logits) - logits * np.nan_to_num(truth)
    areas = {name: auc(logits[known[:, i], i], truth[known[:, i], i]) for i, name in enumerate(names)}
    told = [area for area in areas.values() if not math.isnan(area)]
    return Epoch(
        phase=phase,
        epoch=epoch,
        side=side,
        rate=rate,
        loss=loss,
        seen_loss=float(losses[known].mean()) if known.any() else math.nan,
        mean_auc=float(np.mean(told)) if told else math.nan,
        auc=areas,
        seconds=seconds,
    )
