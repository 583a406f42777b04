"""Plausibility measured: what a bundle makes of films that it must not read - hands, slices, laterals. Fits nothing."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.core.quality import Interval, Share, share
from cxrnode.errors import UnreadableImage
from cxrnode.reading.engine import Engine, Film
from cxrnode.training.listed import find_films
from cxrnode.training.readers import BadList, BadRow
from cxrnode.training.readers.picture import open_film
from cxrnode.training.statistics import delong

_BATCH = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A picture that is no film for the model. `kind` is what the list or its folder calls it."""

    row: int
    image: str
    path: Path
    kind: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One kind of strangers: how well the distance tells them from the films of the evaluation, and how many of them
    lie past the bundle's limit.
    """

    kind: str
    films: int
    auroc: Interval
    refused: Share


def find_strangers(place: Path) -> list[Stranger]:
    """Return the pictures of a CSV file (`image`, and `kind` where it is there), or of a folder, by its own folders.

    Raises BadList.
    """
    paths = find_films(place)
    kinds: dict[Path, str] = {}
    if place.is_file():
        with place.open(newline="", encoding="utf-8-sig") as file:
            kinds = {place.parent / row["image"]: row.get("kind") or "other" for row in csv.DictReader(file)}
    return [
        Stranger(
            row=number,
            image=str(path.relative_to(place.parent if place.is_file() else place)),
            path=path,
            kind=kinds.get(path) or (path.parent.name if path.parent != place else "other"),
        )
        for number, path in enumerate(paths, 1)
    ]


def measure_refusal(
    engine: Engine,
    strangers: Sequence[Stranger],
    films: npt.NDArray[np.float64],
    limit: float,
    *,
    opened: Callable[[Path], Film] = open_film,
    done: Callable[[int], None] = lambda count: None,
) -> tuple[tuple[Refusal, ...], tuple[BadRow, ...]]:
    """Return what becomes of each kind, and the pictures that could not be opened. `films`: distances of good films.

    Raises BadList where no picture can be opened.
    """
    distances: dict[str, list[float]] = {}
    bad: list[BadRow] = []
    for start in range(0, len(strangers), _BATCH):
        batch: list[tuple[Stranger, Film]] = []
        for one in strangers[start : start + _BATCH]:
            try:
                batch.append((one, opened(one.path)))
            except UnreadableImage as error:
                bad.append(BadRow(row=one.row, image=one.image, reason=str(error)))
        for (one, _), reading in zip(batch, engine.read([film for _, film in batch]), strict=True):
            distances.setdefault(one.kind, []).append(reading.distance)
        done(len(strangers[start : start + _BATCH]))
    if not distances:
        raise BadList(f"none of {len(bad)} pictures can be read; the first, {bad[0].image}: {bad[0].reason}")
    found = []
    for kind in sorted(distances):
        far = np.array(distances[kind])
        truth = np.repeat([0.0, 1.0], [len(films), len(far)])
        found.append(
            Refusal(
                kind=kind,
                films=len(far),
                auroc=delong(np.concatenate([films, far]), truth),
                refused=share(int((far > limit).sum()), len(far)),
            )
        )
    return tuple(found), tuple(bad)
