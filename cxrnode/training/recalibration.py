"""Calibration of a bundle that is there already, on films of one's own: its weights and its plausibility stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cxrnode.errors import UnreadableImage
from cxrnode.reading.bundle import Bundle, load_bundle, write_bundle
from cxrnode.reading.engine import Engine, Film, Reading
from cxrnode.training.held_out import Aims, HeldOut, fill
from cxrnode.training.prevalence import Prevalence
from cxrnode.training.readers import BadList, BadRow, FilmList, FilmRow, targets
from cxrnode.training.readers.picture import open_row

_BATCH = 16


def recalibrate(
    bundle: Bundle,
    engine: Engine,
    films: FilmList,
    folder: Path,
    *,
    version: str,
    data_set: str,
    aims: Aims | None = None,
    prevalence: Prevalence | None = None,
    representative: bool = False,
    opened: Callable[[FilmRow], Film] = open_row,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[Bundle, tuple[BadRow, ...]]:
    """Write the bundle anew with what these films tell - calibration, thresholds, scales of maps, metrics - and return
    it, with the films that could not be opened.

    No film may be one that the model was trained on. A label that the list does not have is not assessed. Scores are
    moved to `prevalence` unless the films are `representative`. Raises BadList where no film can be opened.
    """
    aims, labels = aims or Aims(), [label.name for label in bundle.manifest.labels]
    kept: list[FilmRow] = []
    readings: list[Reading] = []
    bad: list[BadRow] = []
    for start in range(0, len(films.rows), _BATCH):
        batch: list[tuple[FilmRow, Film]] = []
        for row in films.rows[start : start + _BATCH]:
            try:
                batch.append((row, opened(row)))
            except UnreadableImage as error:
                bad.append(BadRow(row=row.row, image=row.image, reason=str(error)))
        kept += [row for row, _ in batch]
        readings += engine.read([film for _, film in batch])
        done(len(films.rows[start : start + _BATCH]))
    if not kept:
        raise BadList(f"{films.name}: none of {len(bad)} films can be read; the first, {bad[0].image}: {bad[0].reason}")
    truth = np.full((len(kept), len(labels)), np.nan, np.float32)
    truth[:, [labels.index(label) for label in films.labels]] = targets(kept)
    maps = [reading.saliency for reading in readings if reading.saliency is not None]
    held = HeldOut(
        scores=np.stack([reading.scores for reading in readings]),
        saliency=np.stack(maps) if maps else None,
        truth=truth,
        patients=tuple(row.patient for row in kept),
    )
    blank = dataclasses.replace(
        bundle.manifest,
        version=version,
        calibration=dataclasses.replace(
            bundle.manifest.calibration, data_set=data_set, representative=representative, population=""
        ),
        metrics=dataclasses.replace(bundle.manifest.metrics, data_set=data_set),
        plausibility=dataclasses.replace(
            bundle.manifest.plausibility,
            films=len(kept),
            false_alarm_rate=round(
                float(np.mean([r.distance > bundle.manifest.plausibility.limit for r in readings])), 4
            ),
        ),
    )
    write_bundle(folder, fill(blank, held, aims, prevalence=prevalence), bundle.weights, bundle.plausibility)
    return load_bundle(folder), tuple(bad)
