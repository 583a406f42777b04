"""The export: a trained network and its held-out films in, a bundle out. Never sees the evaluation films.

All numbers of the bundle are measured with the engine that will read films, on weights already stored as float16.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import nn

from cxrnode.core.findings import NIH14
from cxrnode.reading.bundle import Bundle, load_bundle, write_bundle
from cxrnode.reading.engine import Film, TorchEngine
from cxrnode.reading.manifest import (
    FEWEST_POSITIVES,
    FORMAT,
    Calibration,
    Input,
    IntendedUse,
    Label,
    LabelCalibration,
    LabelMetrics,
    Manifest,
    Metrics,
    PlausibilityLimit,
    Saliency,
    Training,
)
from cxrnode.reading.network import weights_of
from cxrnode.reading.plausibility import CELLS, Cloud, Clouds
from cxrnode.training.concepts import CONCEPTS
from cxrnode.training.films import AUXILIARY, FilmRow, targets_of
from cxrnode.training.measure import auc, auc_interval, map_scale, operating_points
from cxrnode.training.trainer import MEAN, STD, Recipe

#: Distances are told in units of what the stated share of good films exceeds; the addend is float32's rounding.
LIMIT = 1.0001


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """What the bundle is to reach on the held-out films. Percentiles are in 0..100."""

    sensitivity: float = 0.95
    specificity: float = 0.95
    # The layout tells other pictures better than the features do, so it may refuse more of the good films.
    layout_alarms: float = 0.005
    feature_alarms: float = 0.002
    layout_components: int = 48
    feature_components: int = 64
    map_floor: float = 95.0
    map_ceiling: float = 99.9


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """The held-out films as the engine read them: scores (N, C), saliency (N, C, h, w), distances (N,)."""

    scores: npt.NDArray[np.float32]
    saliency: npt.NDArray[np.float16]
    distances: npt.NDArray[np.float64]


def open_films(rows: Sequence[FilmRow]) -> list[Film]:
    """Return the films as the engine takes them: uint8 (H, W), full size."""
    films = []
    for row in rows:
        with Image.open(row.path) as image:
            films.append(np.asarray(image.convert("L")))
    return films


def export_bundle(
    folder: Path, network: nn.Module, rows: Sequence[FilmRow], recipe: Recipe, *, name: str, version: str, aims: Aims
) -> Bundle:
    """Measure on the held-out folds, write the bundle and return it. `network` may have auxiliary outputs."""
    train_rows = [row for row in rows if row.fold not in recipe.held_out]
    held_rows = [row for row in rows if row.fold in recipe.held_out]
    weights = weights_of(network)
    for key in ("classifier.weight", "classifier.bias"):
        assert len(weights[key]) in (len(NIH14), len(NIH14) + len(AUXILIARY))
        weights[key] = weights[key][: len(NIH14)]
    blank = _manifest(train_rows, held_rows, recipe, name=name, version=version, aims=aims)
    width = weights["classifier.weight"].shape[1]
    nowhere = Clouds(layout=Cloud.fit(np.eye(2, CELLS * CELLS), 1), features=Cloud.fit(np.eye(2, width), 1))
    with tempfile.TemporaryDirectory() as part:
        provisional = Path(part)
        write_bundle(provisional, blank, weights, nowhere.tensors())
        engine = TorchEngine(load_bundle(provisional), threads=recipe.threads)
    trained, held = engine.observe(open_films(train_rows)), engine.observe(open_films(held_rows))
    layouts, features = (np.stack([s.layout for s in held]), np.stack([s.features for s in held]))
    clouds = Clouds(
        layout=Cloud.fit(np.stack([s.layout for s in trained]), aims.layout_components).beyond(
            layouts, aims.layout_alarms
        ),
        features=Cloud.fit(np.stack([s.features for s in trained]), aims.feature_components).beyond(
            features, aims.feature_alarms
        ),
    )
    measured = Measured(
        scores=np.stack([s.scores for s in held]),
        saliency=np.stack([s.saliency for s in held if s.saliency is not None]),
        distances=clouds.distances(layouts, features),
    )
    write_bundle(folder, fill(blank, measured, held_rows, aims), weights, clouds.tensors())
    return load_bundle(folder)


def measure(engine: TorchEngine, films: Sequence[Film]) -> Measured:
    """Read films and stack what came out."""
    readings = engine.read(films)
    return Measured(
        scores=np.stack([r.scores for r in readings]),
        saliency=np.stack([r.saliency for r in readings if r.saliency is not None]),
        distances=np.array([r.distance for r in readings]),
    )


def fill(blank: Manifest, measured: Measured, rows: Sequence[FilmRow], aims: Aims) -> Manifest:
    """Return the manifest with thresholds, map scales, metrics and limit from the held-out films."""
    truth = targets_of(rows)
    patients = [row.patient for row in rows]
    labels = []
    for index, label in enumerate(blank.labels):
        scores, here = measured.scores[:, index].astype(np.float64), truth[:, index]
        positives = int(here.sum())
        floor, ceiling = map_scale(
            measured.saliency[:, index].astype(np.float64), here, floor=aims.map_floor, ceiling=aims.map_ceiling
        )
        thresholds = None
        if positives >= FEWEST_POSITIVES:
            thresholds = operating_points(scores, here, sensitivity=aims.sensitivity, specificity=aims.specificity)
        metrics = None
        if 0 < positives < len(rows):
            low, high = auc_interval(scores, here, patients)
            metrics = LabelMetrics(
                auc=round(auc(scores, here), 4), auc_low=round(low, 4), auc_high=round(high, 4), positives=positives
            )
        labels.append(
            dataclasses.replace(
                label,
                map_floor=round(floor, 4),
                map_ceiling=round(ceiling, 4),
                calibration=LabelCalibration(positives=positives, prevalence=round(positives / len(rows), 4)),
                thresholds=thresholds,
                metrics=metrics,
            )
        )
    areas = [label.metrics.auc for label in labels if label.metrics is not None] or [0.5]
    return dataclasses.replace(
        blank,
        labels=tuple(labels),
        metrics=dataclasses.replace(blank.metrics, mean_auc=round(float(np.mean(areas)), 4)),
        plausibility=dataclasses.replace(
            blank.plausibility, false_alarm_rate=round(float((measured.distances > LIMIT).mean()), 4)
        ),
    )


def _manifest(
    train_rows: Sequence[FilmRow], held_rows: Sequence[FilmRow], recipe: Recipe, *, name: str, version: str, aims: Aims
) -> Manifest:
    """The card before anything is measured."""
    folds = " and ".join(str(fold) for fold in recipe.held_out)
    held = f"NIH ChestX-ray14 subset, held-out folds {folds}; selected films, not a random sample"
    stages = ", ".join(f"{epochs} epochs at {size} px" for size, epochs in recipe.stages)
    return Manifest(
        format=FORMAT,
        name=name,
        version=version,
        architecture="densenet121",
        activation="sigmoid",
        saliency=Saliency.CLOSED,
        licence=(
            "MIT (weights). Trained on NIH ChestX-ray14, provided by the NIH Clinical Center, free to use with "
            "attribution: Wang et al., ChestX-ray8, CVPR 2017, https://nihcc.app.box.com/v/ChestXray-NIHCC"
        ),
        demonstration=True,
        description=(
            "A demonstration model, trained from random weights in about an hour on two processor cores. It shows what "
            "the node does. It is weak, not calibrated on any population, and not for clinical use."
        ),
        input=Input(size=recipe.stages[-1][0], channels=3, interpolation="bilinear", mean=(MEAN,) * 3, std=(STD,) * 3),
        intended_use=IntendedUse(age_min=18.0, age_max=100.0, views=("PA", "AP"), modalities=("CR", "DX")),
        calibration=Calibration(
            data_set=f"{held}; labels mined from reports",
            method=(
                f"no fit of the scores; rule-out at sensitivity {aims.sensitivity:g}, rule-in at specificity "
                f"{aims.specificity:g}"
            ),
            films=len(held_rows),
            representative=False,
            weights_sha256="",
        ),
        plausibility=PlausibilityLimit(limit=LIMIT, false_alarm_rate=0.0, films=len(held_rows), weights_sha256=""),
        training=Training(
            data="NIH ChestX-ray14 subset, PA and AP, 352 px; labels mined from reports, about one in ten wrong",
            films=len(train_rows),
            patients=len({row.patient for row in train_rows}),
            recipe=(
                f"python -m cxrnode.training, seed {recipe.seed}: random weights, {stages}, AdamW, weighted "
                "cross-entropy balanced within each origin, averaged weights; age, sex and view as auxiliary outputs"
            ),
        ),
        metrics=Metrics(data_set=held, films=len(held_rows), mean_auc=0.0),
        files=(),
        labels=tuple(Label(name=label, report=True, concept=CONCEPTS[label]) for label in NIH14),
    )
