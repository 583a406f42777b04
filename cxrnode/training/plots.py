"""The plots of a run, each as the bytes of a PNG. Draws with matplotlib, which the node never loads."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from cxrnode.training.epochs import Epoch
from cxrnode.training.outcome import Frequency
from cxrnode.training.statistics import roc

BLUE, ORANGE, GREY = "#1f5fa8", "#c4622d", "#b6c2cd"
_STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#51616f",
    "axes.grid": True,
    "grid.color": "#e4e9ee",
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def frequencies(found: Sequence[Frequency]) -> bytes:
    """Bars for each label: its share of the films trained on, and of the weight after balancing."""
    figure, (axes,) = _figure(7.5, 1.2 + 0.32 * len(found))
    at = np.arange(len(found))[::-1]
    axes.barh(at + 0.19, [one.share for one in found], 0.36, color=GREY, label="of the films, before balancing")
    axes.barh(at - 0.19, [one.balanced for one in found], 0.36, color=BLUE, label="of the weight, after balancing")
    axes.set_yticks(at, [one.label.replace("_", " ") for one in found])
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of positives")
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return _png(figure)


def curves(log: Sequence[Epoch], phases: Sequence[str]) -> bytes:
    """Loss and AUC by epoch, with the names of the phases."""
    figure, (loss, area) = _figure(9, 3.2, columns=2)
    at = np.arange(1, len(log) + 1)
    loss.plot(at, [line.loss for line in log], "o-", ms=3, color=GREY, label="trained on, weighted")
    loss.plot(at, [line.seen_loss for line in log], "o-", ms=3, color=ORANGE, label="unseen films")
    loss.set_ylabel("loss")
    loss.legend(loc="upper right", frameon=False)
    area.plot(at, [line.mean_auc for line in log], "o-", ms=3, color=BLUE)
    area.set_ylabel("mean AUC, unseen films")
    for axes in (loss, area):
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        for number, (before, after) in enumerate(itertools.pairwise(log), 1):
            if before.phase != after.phase:
                axes.axvline(number + 0.5, color="#51616f", lw=0.8, ls=":")
    starts = {line.phase: i for i, line in reversed(list(enumerate(log, 1)))}
    if len(starts) > 1:
        for phase, first in starts.items():
            area.annotate(phases[phase], (first, 1), xycoords=("data", "axes fraction"), fontsize=8, color="#51616f")
    return _png(figure)


def rocs(labels: Sequence[str], scores: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> bytes:
    """A ROC curve for each label that has films with and without it, in small squares."""
    kept = [i for i in range(len(labels)) if len(set(truth[~np.isnan(truth[:, i]), i])) == 2]
    columns = min(5, max(1, len(kept)))
    rows = max(1, -(-len(kept) // columns))
    side = 2.0 if columns > 1 else 3.4
    figure, squares = _figure(side * columns + 0.4, (side + 0.3) * rows, rows=rows, columns=columns)
    for axes, i in zip(squares, kept, strict=False):
        known = ~np.isnan(truth[:, i])
        curve = np.array(roc(scores[known, i], truth[known, i]))
        area = float(np.trapezoid(curve[:, 1], curve[:, 0]))
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8)
        axes.plot(curve[:, 0], curve[:, 1], color=BLUE, lw=1.4)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axes.set_title(f"{labels[i].replace('_', ' ')} {area:.2f}", fontsize=9)
    for axes in squares[len(kept) :]:
        axes.set_visible(False)
    figure.supxlabel("1 - specificity", fontsize=9)
    figure.supylabel("sensitivity", fontsize=9)
    return _png(figure)


def trials(values: Sequence[float | None], keys: Sequence[str], settings: Iterable[Sequence[Any]]) -> bytes:
    """A search: the value of each trial by its number and the best so far, then by each setting."""
    told = [(i, value, row) for i, (value, row) in enumerate(zip(values, settings, strict=True)) if value is not None]
    figure, (first, *others) = _figure(3.2 * (1 + len(keys)), 3.0, columns=1 + len(keys))
    numbers = [i for i, _, _ in told]
    first.plot(numbers, [value for _, value, _ in told], "o", color=GREY, label="trial")
    first.step(numbers, np.maximum.accumulate([value for _, value, _ in told]), where="post", color=BLUE, label="best")
    first.set(xlabel="trial", ylabel="value on the watched films")
    first.xaxis.get_major_locator().set_params(integer=True)
    first.legend(loc="lower right", frameon=False)
    for column, (axes, key) in enumerate(zip(others, keys, strict=True)):
        at = [row[column] for _, _, row in told]
        numeric = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in at)
        axes.plot(at if numeric else [str(one) for one in at], [value for _, value, _ in told], "o", color=BLUE)
        if numeric and min(at) > 0 and max(at) / min(at) > 20:
            axes.set_xscale("log")
        axes.set_xlabel(key)
    return _png(figure)


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Any]]:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        squares = figure.subplots(rows, columns, squeeze=False)
    return figure, list(squares.flat)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
