"""One run, from a recipe and a folder of films to a folder with a bundle, its numbers and its report."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxrnode.reading.explain import Method
from cxrnode.reading.manifest import Input, IntendedUse, Saliency
from cxrnode.training.apart import before, train_whole
from cxrnode.training.course import Course, read_course
from cxrnode.training.epochs import Epoch
from cxrnode.training.export import Card, Exported, export_bundle
from cxrnode.training.outcome import Outcome, frequencies_of, outcome_of
from cxrnode.training.pixels import Pixels
from cxrnode.training.prevalence import NIH
from cxrnode.training.readers import BadRow, targets
from cxrnode.training.recipe import Phase, Recipe
from cxrnode.training.recipes import format_recipe
from cxrnode.training.student import RunError
from cxrnode.training.trainer import Trainer
from cxrnode.training.watcher import Watcher

BUNDLE, METRICS, LOG, RECIPE, REPORT = "bundle", "metrics.json", "epochs.jsonl", "recipe.toml", "report.html"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Finished:
    """A run that is over. `unreadable` are films whose pictures could not be opened."""

    folder: Path
    course: Course
    exported: Exported
    outcome: Outcome
    log: tuple[Epoch, ...]
    minutes: float
    unreadable: tuple[BadRow, ...] = ()
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)


def train(
    recipe: Recipe,
    place: Path,
    folder: Path,
    watcher: Watcher,
    *,
    films: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    start: Path | None = None,
) -> Finished:
    """Train a recipe on the films of `place` into `folder`, or go on with a run that was stopped there.

    Raises BadList, BundleError, RecipeError, RunError; and RunError where the folder cannot be written.
    """
    _require_libraries(recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trainer = prepare(recipe, place, folder, watcher, films=films, threads=threads, device=device, start=start)
        write_text(folder / RECIPE, format_recipe(recipe))
        trained = train_whole(
            recipe,
            trainer,
            place,
            watcher,
            lambda one, line: _ended(one, watcher, line),
            films=films,
            threads=threads,
        )
        course = trained.course
        _write_log(folder, trained.log)
        watcher.said("measuring the held-out films")
        exported = export_bundle(
            folder / BUNDLE,
            trained.network,
            trainer.shape,
            course.train,
            course.held,
            card_of(course, trainer, start),
            apart=trained.apart,
            prevalence=NIH if recipe.card.prevalence == "nih" else None,
            threads=threads,
            device=device,
            opened=trainer.pixels.open,
            progress=watcher.opened,
        )
        truth = targets(course.train)
        frequencies = frequencies_of(recipe, truth, [row.origin for row in course.train])
        finished = Finished(
            folder=folder,
            course=course,
            exported=exported,
            outcome=outcome_of(recipe, exported.scores, exported.truth, frequencies),
            log=trained.log,
            minutes=sum(line.seconds for line in trained.log) / 60,
            # Films may be found unreadable by the export too.
            unreadable=tuple(dict.fromkeys((*trained.unreadable, *trainer.pixels.bad))),
        )
        finished = dataclasses.replace(finished, metrics=metrics_of(finished, trainer))
        write_text(folder / METRICS, metrics_text(finished) + "\n")
        watcher.said("drawing the report")
        from cxrnode.training.report import write_report

        write_report(finished, finished.unreadable, threads=threads)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}); name another --out") from error
    return finished


def prepare(
    recipe: Recipe,
    place: Path,
    folder: Path,
    watcher: Watcher,
    *,
    films: int | None = None,
    threads: int | None = None,
    device: str | None = None,
    start: Path | None = None,
) -> Trainer:
    """Read the lists of a recipe and return its trainer, before the first step."""
    course = read_course(before(recipe), place, films=films)
    watcher.planned(course, course.steps)
    pixels = Pixels(folder, threads=threads, done=watcher.opened)
    mean, std = recipe.input.mean, recipe.input.std
    if mean == "films" or std == "films":
        measured = _mean_and_std(pixels.load(course.train, recipe.phases[0].side).pixels)
        mean, std = (m if given == "films" else given for m, given in zip(measured, (mean, std), strict=True))
    return Trainer(course, folder, pixels, mean=mean, std=std, threads=threads, device=device, start=start)


def card_of(course: Course, trainer: Trainer, start: Path | None) -> Card:
    """Return what the bundle says of itself."""
    recipe, said = course.recipe, course.recipe.card
    begun = f"weights of {start.name}" if start else "random weights"
    channels = recipe.input.channels
    folds = " and ".join(str(fold) for fold in recipe.films.held_out)
    held = f"held-out folds {folds}"
    phases = _told(recipe.phases)
    if recipe.apart:
        held += ", each read by a network of the same recipe that was trained on all films but those of the fold"
        phases += f"; without each of folds {folds}: {_told(recipe.apart)}; the mean of these, on all films"
        phases += f": {_told(recipe.together)}" if recipe.together else ""
    return Card(
        name=recipe.name,
        version=said.version,
        labels=recipe.films.labels,
        input=Input(
            size=recipe.input.size,
            channels=channels,
            interpolation="bilinear",
            mean=(trainer.norm[0],) * channels,
            std=(trainer.norm[1],) * channels,
        ),
        intended_use=IntendedUse(
            age_min=said.age_min, age_max=said.age_max, views=said.views, modalities=said.modalities
        ),
        description=said.description,
        demonstration=said.demonstration,
        licence=said.licence,
        data=said.trained_on,
        held=f"{course.name}, {held}; labels as the list has them",
        recipe=f"cxrnode train {recipe.name}, seed {recipe.seed}: {begun}, {phases}",
        saliency=Saliency.CLOSED if trainer.shape.closed else Saliency.GRADCAM,
    )


def metrics_of(finished: Finished, trainer: Trainer) -> dict[str, Any]:
    """Return what stands in metrics.json: plain values, None for what cannot be measured."""
    course, bundle = finished.course, finished.exported.bundle
    recipe = course.recipe
    plain: dict[str, Any] = _plain(
        {
            "recipe": recipe.name,
            "seed": recipe.seed,
            "weights_sha256": bundle.weights_digest,
            "bundle_sha256": bundle.digest,
            "device": str(trainer.device),
            "films": {
                "trained_on": len(course.train),
                "watched": len(course.watched),
                "held_out": finished.outcome.films,
                "left_out": len(course.bad) + len(finished.unreadable),
            },
            "epochs": len(finished.log),
            "minutes": round(finished.minutes, 2),
            "measured": finished.outcome.measured,
            "original": dict(recipe.original),
            "auroc": finished.outcome.auc,
            "thresholds": [dataclasses.asdict(one) for one in finished.outcome.cuts],
            "frequencies": [dataclasses.asdict(one) for one in finished.outcome.frequencies],
        }
    )
    return plain


def metrics_text(finished: Finished) -> str:
    """Return what metrics.json holds."""
    return json.dumps(finished.metrics, indent=1)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _require_libraries(recipe: Recipe) -> None:
    """Say before the first step what the report will need in the end. Raises RunError."""
    needed = {"matplotlib": "train"}
    if recipe.explanation.films and Method(recipe.explanation.method) not in (Method.GRADCAM, Method.GRADCAM_PLUS_PLUS):
        needed |= {"captum": "explain", "sklearn": "explain"}
    for library, extra in needed.items():
        if importlib.util.find_spec(library) is None:
            raise RunError(f"the report of this recipe needs {library}: pip install 'cxrnode[{extra}]'")


def _told(phases: Sequence[Phase]) -> str:
    return "; ".join(
        f"{phase.epochs} epochs at {phase.side} px{' on ' + ' and '.join(phase.films) if phase.films else ''}"
        for phase in phases
    )


def _ended(trainer: Trainer, watcher: Watcher, line: Epoch) -> None:
    _write_log(trainer.folder, trainer.log)
    watcher.ended(line)


def _write_log(folder: Path, log: Sequence[Epoch]) -> None:
    write_text(folder / LOG, "".join(json.dumps(_plain(dataclasses.asdict(line))) + "\n" for line in log))


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean_and_std(grey: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[float, float]:
    """Mean and standard deviation of all pixels, in [0, 1]: from their histogram, in no more memory."""
    counts = np.zeros(256)
    for film in grey:
        counts += np.bincount(film.ravel(), minlength=256)
    levels = np.arange(256) / 255
    mean = float((counts * levels).sum() / counts.sum())
    deviation = math.sqrt(float((counts * (levels - mean) ** 2).sum() / counts.sum()))
    return round(mean, 4), round(max(deviation, 0.01), 4)
