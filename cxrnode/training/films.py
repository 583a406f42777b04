"""The training films: rows of a CSV file and their pixels, small, in memory. Never touches the evaluation films."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrnode.core.findings import NIH14
from cxrnode.errors import Rejected

#: Beside the findings the trainer learns these, as a help in a small data set; the bundle does not hold them.
AUXILIARY = ("age", "female", "anteroposterior")


class BadFilmList(Rejected):
    """The CSV file of the training films lacks a column or names a film that is not there."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilmRow:
    """One film of the list. `findings` holds 0 or 1 for each label, in the order of `NIH14`."""

    path: Path
    patient: str
    origin: str
    view: str
    age: float
    sex: str
    findings: tuple[int, ...]
    fold: int


def read_rows(folder: Path, name: str = "train_nih.csv") -> tuple[FilmRow, ...]:
    """Read the list of films, in its own order. Raises BadFilmList."""
    with (folder / name).open(newline="", encoding="utf-8") as file:
        raw = list(csv.DictReader(file))
    needed = {"image", "patient_id", "origin", "view", "age", "sex", "fold5", *NIH14}
    if not raw or (missing := needed - set(raw[0])):
        raise BadFilmList(f"{name}: {'no rows' if not raw else 'no column ' + ', '.join(sorted(missing))}")
    return tuple(
        FilmRow(
            path=folder / row["image"],
            patient=row["patient_id"],
            # The origins c and d are a handful of films; they are counted with b.
            origin="a" if row["origin"] == "a" else "b",
            view=row["view"],
            age=float(row["age"] or 50),
            sex=row["sex"],
            findings=tuple(int(row[label]) for label in NIH14),
            fold=int(row["fold5"]),
        )
        for row in raw
    )


def load_films(rows: Iterable[FilmRow], size: int) -> npt.NDArray[np.uint8]:
    """Return uint8 (N, size, size), each film squashed with Pillow's bilinear filter as the node does it."""
    films = []
    for row in rows:
        with Image.open(row.path) as image:
            films.append(np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR)))
    return np.stack(films)


def targets_of(rows: Iterable[FilmRow]) -> npt.NDArray[np.float32]:
    """Return float32 (N, 14): 1 where the report names the finding."""
    return np.array([row.findings for row in rows], np.float32)


def auxiliary_of(rows: Iterable[FilmRow]) -> npt.NDArray[np.float32]:
    """Return float32 (N, 3) in [0, 1]: age in centuries, female, anteroposterior view."""
    return np.array([(min(r.age, 100) / 100, r.sex == "F", r.view == "AP") for r in rows], np.float32)


def balance(rows: Iterable[FilmRow], *, most: float = 10.0) -> npt.NDArray[np.float32]:
    """Return the weight of each film for each label, float32 (N, 14), positives at most `most` times a negative.

    Positives and negatives weigh the same *within each origin*: where a film was collected then says little
    about its findings, so that the origin is not worth learning (the confound named in the data's manifest).
    """
    rows = tuple(rows)
    targets = targets_of(rows)
    origins = np.array([row.origin for row in rows])
    weights = np.ones_like(targets)
    for origin in np.unique(origins):
        here = origins == origin
        positives = targets[here].sum(0)
        ratio = np.clip((here.sum() - positives) / np.maximum(positives, 1), 1, most)
        raw = np.where(targets[here] == 1, ratio, 1.0)
        weights[here] = raw / raw.mean(0)
    return weights
