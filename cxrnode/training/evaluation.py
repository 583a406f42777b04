"""The evaluation of a bundle on films with labels, as one frozen value. Fits nothing and changes no threshold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.core.findings import Scale
from cxrnode.errors import UnreadableImage
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import Engine, Film
from cxrnode.training.listed import BadList, BadRow, FilmList, Listed, open_film
from cxrnode.training.localisation import Located
from cxrnode.training.measure import auc
from cxrnode.training.statistics import (
    Interval,
    OperatingPoint,
    Reliability,
    auroc,
    operating_point,
    precision,
    reliability,
    resample,
    roc,
)

#: Films with and without a finding that a subgroup needs before a number is told of it.
FEWEST_IN_GROUP = 5
#: Ends of the age bands in years: a film belongs to the first band whose end lies above its age.
AGE_BANDS = ((18, "under 18"), (40, "18 to 39"), (60, "40 to 59"), (1000, "60 and over"))

_BATCH = 16

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One finding on all films. The operating points are at the manifest's thresholds, None where it has none.

    `assessed` says whether the node would decide by them; `curve` is the ROC curve as (1 - specificity, sensitivity).
    """

    finding: str
    films: int
    positives: int
    auroc: Interval
    average_precision: Interval
    reliability: Reliability
    rule_out: OperatingPoint | None
    rule_in: OperatingPoint | None
    assessed: bool
    curve: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """AUROC among the films of one group: `by` is sex, age or view. The mean is over the findings that have a value."""

    by: str
    group: str
    films: int
    mean_auroc: float | None
    auroc: dict[str, Interval]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that was measured. `scale` says whether the scores may be called probabilities.

    `implausible` counts films that the node would not analyse; they are part of all other numbers.
    """

    bundle: str
    version: str
    bundle_digest: str
    weights_digest: str
    demonstration: bool
    scale: Scale
    engine: str
    data: str
    films: int
    patients: int
    bad_rows: tuple[BadRow, ...]
    implausible: int
    mean: Interval
    findings: tuple[Judged, ...]
    subgroups: tuple[Subgroup, ...]
    localisation: tuple[Located, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain values: `mean_auroc` and `auroc` by finding first, then all else. The curves are left out."""
        whole = dataclasses.asdict(self)
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


def evaluate(
    bundle: Bundle,
    engine: Engine,
    films: FilmList,
    *,
    opened: Callable[[Path], Film] = open_film,
    done: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Read all films of the list and measure. `done` is told how many more films are over.

    Raises BadList where no film can be read, or where a finding is on none of the films or on all.
    """
    labels = [label.name for label in bundle.manifest.labels]
    read, bad, scores, distances = _read(engine, films, opened, done)
    kept = scores[:, [labels.index(finding) for finding in films.findings]]
    truth = np.array([film.truth for film in read])
    _require_both(films, truth)
    patients = [film.patient for film in read]
    by_name = {label.name: label for label in bundle.manifest.labels}
    judged = []
    for i, finding in enumerate(films.findings):
        label, s, t = by_name[finding], kept[:, i], truth[:, i]
        points = label.thresholds
        judged.append(
            Judged(
                finding=finding,
                films=len(t),
                positives=int(t.sum()),
                auroc=auroc(s, t, patients),
                average_precision=precision(s, t, patients),
                reliability=reliability(s, t),
                rule_out=operating_point(s, t, points.rule_out) if points else None,
                rule_in=operating_point(s, t, points.rule_in) if points else None,
                assessed=label.assessed is not None,
                curve=tuple(roc(s, t)),
            )
        )
    return Evaluation(
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        bundle_digest=bundle.digest,
        weights_digest=bundle.weights_digest,
        demonstration=bundle.manifest.demonstration,
        scale=bundle.scale,
        engine=engine.name,
        data=films.name,
        films=len(read),
        patients=len(set(patients)),
        bad_rows=(*films.bad_rows, *bad),
        implausible=int((distances > bundle.manifest.plausibility.limit).sum()),
        mean=_mean(kept, truth, patients),
        findings=tuple(judged),
        subgroups=_subgroups(read, films.findings, kept, truth),
    )


def _read(
    engine: Engine, films: FilmList, opened: Callable[[Path], Film], done: Callable[[int], None]
) -> tuple[list[Listed], list[BadRow], Floats, Floats]:
    """Read films in batches, so that few of them are in memory; what cannot be opened becomes a bad row."""
    read, bad, scores, distances = [], [], [], []
    for start in range(0, len(films.films), _BATCH):
        batch = films.films[start : start + _BATCH]
        pixels = []
        for film in batch:
            try:
                pixels.append(opened(film.path))
                read.append(film)
            except UnreadableImage as error:
                bad.append(BadRow(row=film.row, image=film.image, reason=str(error)))
        for reading in engine.read(pixels):
            scores.append(reading.scores.astype(np.float64))
            distances.append(reading.distance)
        done(len(batch))
    if not read:
        raise BadList(f"{films.name}: none of {len(bad)} films can be read; the first, {bad[0].image}: {bad[0].reason}")
    return read, bad, np.stack(scores), np.array(distances)


def _require_both(films: FilmList, truth: Floats) -> None:
    empty = [name for i, name in enumerate(films.findings) if truth[:, i].min() == truth[:, i].max()]
    if empty:
        raise BadList(
            f"{films.name}: no film with, or none without, {', '.join(empty)}: nothing can be measured; leave out: "
            + " ".join(f"--without {name}" for name in empty)
        )


def _mean(scores: Floats, truth: Floats, patients: Sequence[str]) -> Interval:
    """The mean AUROC over findings; a draw of patients leaves out the findings that it has no film of."""

    def measured(chosen: npt.NDArray[np.intp]) -> float:
        areas = [auc(scores[chosen, i], truth[chosen, i]) for i in range(truth.shape[1])]
        known = [area for area in areas if not math.isnan(area)]
        return sum(known) / len(known) if known else math.nan

    low, high = resample(measured, patients)
    return Interval(value=measured(np.arange(len(truth))), low=low, high=high)


def _subgroups(films: Sequence[Listed], findings: Sequence[str], scores: Floats, truth: Floats) -> tuple[Subgroup, ...]:
    groups: dict[tuple[str, str], list[int]] = {}
    for i, film in enumerate(films):
        band = "" if film.age is None else next(name for end, name in AGE_BANDS if film.age < end)
        for by, group in (("sex", film.sex), ("age", band), ("view", film.view)):
            if group:
                groups.setdefault((by, group), []).append(i)
    order = {name: place for place, (_, name) in enumerate(AGE_BANDS)}
    found = []
    for by, group in sorted(groups, key=lambda key: (("sex", "age", "view").index(key[0]), order.get(key[1], 0), key)):
        here = np.array(groups[by, group])
        patients = [films[i].patient for i in here]
        areas = {}
        for column, finding in enumerate(findings):
            positives = int(truth[here, column].sum())
            if min(positives, len(here) - positives) >= FEWEST_IN_GROUP:
                areas[finding] = auroc(scores[here, column], truth[here, column], patients)
        values = [area.value for area in areas.values() if area.value is not None]
        found.append(
            Subgroup(
                by=by,
                group=group,
                films=len(here),
                mean_auroc=sum(values) / len(values) if values else None,
                auroc=areas,
            )
        )
    return tuple(found)
