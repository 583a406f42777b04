"""The evaluation of a bundle on films with labels, as one frozen value. Fits nothing and changes no threshold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxrnode.core.findings import Scale
from cxrnode.core.quality import Interval, Share, share
from cxrnode.errors import UnreadableImage
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import Engine, Film
from cxrnode.reading.manifest import Label
from cxrnode.training.calibration import moved
from cxrnode.training.localisation import Located
from cxrnode.training.measure import auc, auc_within
from cxrnode.training.readers import BadList, BadRow, FilmList, FilmRow, targets
from cxrnode.training.readers.picture import open_row
from cxrnode.training.refusal import Refusal
from cxrnode.training.statistics import (
    OperatingPoint,
    Reliability,
    auroc,
    operating_point,
    precision,
    reliability,
    resample,
    roc,
)
from cxrnode.training.subgroups import Subgroup, subgroups

_BATCH = 16

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One finding on the films of which it is known. The operating points are at the manifest's thresholds, None where
    it has none; `assessed` says whether the node would decide by them.

    `reliability` is of the scores as the node shows them, at whatever prevalence they were calibrated for;
    `reliability_here` of the scores moved to the prevalence of these films, None where they are not calibrated.
    `auroc_within` counts pairs of films of the same origin alone, None where the list names fewer than two: what is
    left when a model cannot gain by knowing where a film was collected. `auroc_ill` counts films with a finding alone,
    None where one class is missing there: whether findings are told apart, not ill from well. `present` counts films
    called present, and
    `unlocated` those of them whose map has nothing above its floor (None where the bundle makes no maps). `curve` is
    the ROC curve as (1 - specificity, sensitivity).
    """

    finding: str
    films: int
    positives: int
    auroc: Interval
    auroc_within: float | None
    auroc_ill: float | None
    average_precision: Interval
    reliability: Reliability
    reliability_here: Reliability | None
    rule_out: OperatingPoint | None
    rule_in: OperatingPoint | None
    assessed: bool
    present: int
    unlocated: int | None
    curve: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that was measured. `scale` says whether the scores may be called probabilities; `population` at whose
    prevalence they are shown, "" where they were not moved.

    `apart` are the folds whose films were each read by a network that never saw them, in place of the bundle's own.
    `implausible` are the films that the node would not analyse, the false alarms; they are part of all other numbers.
    `distances` are those of all films, for `measure_refusal`.
    """

    bundle: str
    version: str
    bundle_digest: str
    weights_digest: str
    demonstration: bool
    scale: Scale
    population: str
    engine: str
    data: str
    films: int
    patients: int
    bad_rows: tuple[BadRow, ...]
    implausible: Share
    mean: Interval
    mean_within: float | None
    mean_ill: float | None
    findings: tuple[Judged, ...]
    subgroups: tuple[Subgroup, ...]
    distances: tuple[float, ...]
    apart: tuple[int, ...] = ()
    localisation: tuple[Located, ...] = ()
    refusal: tuple[Refusal, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values: `mean_auroc` and `auroc` by finding first, then all else. The curves and distances are left
        out.
        """
        whole = dataclasses.asdict(dataclasses.replace(self, distances=()))
        del whole["distances"]
        whole["findings"] = {
            one["finding"]: {key: value for key, value in one.items() if key not in ("finding", "curve")}
            for one in whole["findings"]
        }
        mean = whole.pop("mean")
        return {
            "mean_auroc": mean["value"],
            "mean_auroc_low": mean["low"],
            "mean_auroc_high": mean["high"],
            "auroc": {one.finding: one.auroc.value for one in self.findings},
            **whole,
        }


def for_judging(films: FilmList) -> FilmList:
    """Return the list's own test films alone, where it says which they are; else the whole list."""
    tested = tuple(row for row in films.rows if row.part == "test")
    return dataclasses.replace(films, rows=tested) if tested else films


def evaluate(
    bundle: Bundle,
    engine: Engine,
    films: FilmList,
    *,
    apart: Mapping[int, Engine] | None = None,
    opened: Callable[[FilmRow], Film] = open_row,
    done: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Read all films of the list and measure. `done` is told how many more films are over.

    `apart`: by fold, what reads the films of the fold in the place of `engine`: networks that never saw them.
    Raises BadList where no film can be read, where a finding is on none of the films or on all, or where a film is of
    none of the folds of `apart`.
    """
    labels = [label.name for label in bundle.manifest.labels]
    read, bad, raw, distances, peaks = _read(_readers(engine, films, apart or {}), films, opened, done)
    columns = [labels.index(finding) for finding in films.labels]
    kept = bundle.calibrated(raw)[:, columns]
    truth = targets(read).astype(np.float64)
    _require_both(films, truth)
    patients = [film.patient for film in read]
    ill = (truth == 1).any(1)
    judged = []
    for i, column in enumerate(columns):
        known = np.flatnonzero(np.isfinite(truth[:, i]))
        judged.append(
            _judged(
                bundle.manifest.labels[column],
                kept[known, i],
                truth[known, i],
                [read[place] for place in known],
                ill[known],
                None if peaks is None else peaks[known, column],
            )
        )
    within = [one.auroc_within for one in judged if one.auroc_within is not None]
    told_apart = [one.auroc_ill for one in judged if one.auroc_ill is not None]
    return Evaluation(
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        bundle_digest=bundle.digest,
        weights_digest=bundle.weights_digest,
        demonstration=bundle.manifest.demonstration,
        scale=bundle.scale,
        population=bundle.manifest.calibration.population,
        engine=engine.name,
        data=films.name,
        films=len(read),
        patients=len(set(patients)),
        bad_rows=(*films.bad, *bad),
        implausible=share(int((distances > bundle.manifest.plausibility.limit).sum()), len(read)),
        mean=_mean(kept, truth, patients),
        mean_within=sum(within) / len(within) if within else None,
        mean_ill=sum(told_apart) / len(told_apart) if told_apart else None,
        findings=tuple(judged),
        subgroups=subgroups(read, films.labels, kept, truth),
        distances=tuple(float(distance) for distance in distances),
        apart=tuple(sorted(apart or {})),
    )


def _judged(
    label: Label,
    scores: Floats,
    truth: Floats,
    films: Sequence[FilmRow],
    ill: npt.NDArray[np.bool_],
    peaks: Floats | None,
) -> Judged:
    points, card = label.thresholds, label.calibration
    patients, origins = [film.patient for film in films], [film.origin for film in films]
    within = auc_within(scores, truth, origins) if len(set(origins)) > 1 else math.nan
    apart = auc(scores[ill], truth[ill])
    called = scores >= label.assessed.rule_in if label.assessed else np.zeros(len(scores), bool)
    here = None
    if card is not None and card.ece_after is not None and card.positives:
        base = card.prevalence if card.shown_prevalence is None else card.shown_prevalence
        here = reliability(moved(scores, base, float(truth.mean())), truth)
    return Judged(
        finding=label.name,
        films=len(truth),
        positives=int(truth.sum()),
        auroc=auroc(scores, truth, patients),
        auroc_within=None if math.isnan(within) else within,
        auroc_ill=None if math.isnan(apart) else apart,
        average_precision=precision(scores, truth, patients),
        reliability=reliability(scores, truth),
        reliability_here=here,
        rule_out=operating_point(scores, truth, points.rule_out) if points else None,
        rule_in=operating_point(scores, truth, points.rule_in) if points else None,
        assessed=label.assessed is not None,
        present=int(called.sum()),
        unlocated=None if peaks is None else int((called & (peaks <= label.map_floor)).sum()),
        curve=tuple(roc(scores, truth)),
    )


def _readers(engine: Engine, films: FilmList, apart: Mapping[int, Engine]) -> list[tuple[Engine, Sequence[FilmRow]]]:
    """Who reads which films."""
    if not apart:
        return [(engine, films.rows)]
    for row in films.rows:
        if row.fold not in apart:
            known = ", ".join(map(str, sorted(apart)))
            raise BadList(
                f"{films.name}: row {row.row} is of none of the folds {known}: every network may have seen it; name "
                "these folds with --fold"
            )
    return [(apart[fold], [row for row in films.rows if row.fold == fold]) for fold in sorted(apart)]


def _read(
    readers: Sequence[tuple[Engine, Sequence[FilmRow]]],
    films: FilmList,
    opened: Callable[[FilmRow], Film],
    done: Callable[[int], None],
) -> tuple[list[FilmRow], list[BadRow], Floats, Floats, Floats | None]:
    """Read films in batches, so that few of them are in memory; what cannot be opened becomes a bad row.

    Returns scores (N, C), distances (N,), and the peaks of the maps (N, C), None where there are no maps.
    """
    read, bad, scores, distances, peaks = [], [], [], [], []
    for engine, rows in readers:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            pixels = []
            for film in batch:
                try:
                    pixels.append(opened(film))
                    read.append(film)
                except UnreadableImage as error:
                    bad.append(BadRow(row=film.row, image=film.image, reason=str(error)))
            for reading in engine.read(pixels):
                scores.append(reading.scores.astype(np.float64))
                distances.append(reading.distance)
                if reading.saliency is not None:
                    peaks.append(reading.saliency.max((1, 2)).astype(np.float64))
            done(len(batch))
    if not read:
        raise BadList(f"{films.name}: none of {len(bad)} films can be read; the first, {bad[0].image}: {bad[0].reason}")
    return read, bad, np.stack(scores), np.array(distances), np.stack(peaks) if peaks else None


def _require_both(films: FilmList, truth: Floats) -> None:
    empty = [name for i, name in enumerate(films.labels) if not {0.0, 1.0} <= set(truth[:, i])]
    if empty:
        raise BadList(
            f"{films.name}: no film with, or none without, {', '.join(empty)}: nothing can be measured; leave out: "
            + " ".join(f"--without '{name}'" if " " in name else f"--without {name}" for name in empty)
        )


def _mean(scores: Floats, truth: Floats, patients: Sequence[str]) -> Interval:
    """The mean AUROC over findings; a draw of patients leaves out the findings that it has no film of."""

    def measured(chosen: npt.NDArray[np.intp]) -> float:
        areas = [_area(scores[chosen, i], truth[chosen, i]) for i in range(truth.shape[1])]
        known = [area for area in areas if not math.isnan(area)]
        return sum(known) / len(known) if known else math.nan

    low, high = resample(measured, patients)
    return Interval(value=measured(np.arange(len(truth))), low=low, high=high)


def _area(scores: Floats, truth: Floats) -> float:
    known = np.isfinite(truth)
    return auc(scores[known], truth[known])
