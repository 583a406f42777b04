"""The films of a recipe, phase by phase: which are trained on, which are watched, which are held out. Opens no picture.

The same patient never stands on two sides: that is an error, not a warning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.training.boxes import Boxes, boxes_of
from cxrnode.training.readers import BadList, BadRow, FilmList, FilmRow, joined, layout_of, read_films, targets
from cxrnode.training.readers.splits import require_both, require_disjoint, with_folds
from cxrnode.training.recipe import AUXILIARY, Phase, Recipe
from cxrnode.training.weighting import weights_of

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """One phase with its films. truth, weights: float32 (N, outputs of the course); the weight of what is not known, or
    not learnt in this phase, is 0, and so is its truth. `seen` are films that the phase is judged on, in the columns
    `judged`; seen_truth: float32 (M, len(judged)), NaN where it is not known.
    """

    phase: Phase
    rows: tuple[FilmRow, ...]
    truth: Floats
    weights: Floats
    boxes: Boxes | None
    judged: tuple[int, ...]
    seen: tuple[FilmRow, ...]
    seen_truth: Floats


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Course:
    """All films of a run. `train`, `watched` and `held` are those of the recipe's own list.

    `outputs` are the recipe's labels, then what its phases learn beside them, then `AUXILIARY`.
    """

    recipe: Recipe
    name: str
    outputs: tuple[str, ...]
    lessons: tuple[Lesson, ...]
    train: tuple[FilmRow, ...]
    watched: tuple[FilmRow, ...]
    held: tuple[FilmRow, ...]
    bad: tuple[BadRow, ...]
    notes: tuple[str, ...]

    @property
    def steps(self) -> int:
        """All steps of all phases, of a run that starts anew."""
        size = self.recipe.optimiser.batch
        return sum(lesson.phase.epochs * max(1, len(lesson.rows) // size) for lesson in self.lessons)


def read_course(recipe: Recipe, place: Path, *, films: int | None = None) -> Course:
    """Read all lists of a recipe in the folder `place`, at most `films` films of each (drawn by the recipe's seed).

    Raises BadList, also where a patient stands on two sides, or where a label is not among the films trained on.
    """
    own = recipe.films.labels
    outputs = tuple(dict.fromkeys((*own, *(label for phase in recipe.phases for label in phase.labels), *AUXILIARY)))
    # Where the list is not there the folder itself may be one: NIH's layout, Kermany's, records.
    listed = recipe.films.list if (place / recipe.films.list).is_file() else ""
    whole = _read(place, listed, own, recipe, films)
    train, watched, held = sides(whole.rows, recipe)
    if not train or (not held and recipe.films.held_out):
        raise BadList(
            f"{whole.name}: {len(train)} films to train on and {len(held)} held out (folds "
            f"{', '.join(map(str, recipe.films.held_out))}); both are needed: give other folds, or more films"
        )
    if films is None:
        require_both(train, own, f"{whole.name}, the films trained on")
    lists = {whole.name: whole}
    lessons = []
    for phase in recipe.phases:
        labels = phase.labels or own
        several = [_read(place, name, labels, recipe, films, several=True) for name in phase.films]
        for one in several:
            lists.setdefault(one.name, one)
            require_disjoint(sides(one.rows, recipe)[0], held)
        together = joined(several, labels) if len(several) > 1 else several[0] if several else None
        if together is None:
            together = whole if labels == own else _read(place, listed, labels, recipe, films)
        lessons.append(_lesson(phase, outputs, together, recipe, place / recipe.loss.boxes))
    return Course(
        recipe=recipe,
        name=whole.name,
        outputs=outputs,
        lessons=tuple(lessons),
        train=train,
        watched=watched,
        held=held,
        bad=tuple(bad for one in lists.values() for bad in one.bad),
        notes=tuple(note for one in lists.values() for note in one.notes),
    )


def sides(rows: Sequence[FilmRow], recipe: Recipe) -> tuple[tuple[FilmRow, ...], ...]:
    """Return the films trained on, watched and held out. Raises BadList where a patient is on two sides.

    What the list itself calls test films is never trained on, whichever folds are held out.
    """
    films = recipe.films
    held = tuple(row for row in rows if row.fold in films.held_out)
    watched = tuple(row for row in rows if row.fold in films.watched)
    others = (*films.held_out, *films.watched)
    train = tuple(row for row in rows if row.fold not in others and row.part != "test")
    require_disjoint(train, (*watched, *held))
    require_disjoint(watched, held)
    return train, watched, held


def auxiliary_of(rows: Sequence[FilmRow]) -> Floats:
    """Return float32 (N, 3): age in centuries, female, anteroposterior; NaN where the list does not say."""
    return np.array(
        [
            (
                np.nan if row.age is None else min(row.age, 100) / 100,
                np.nan if not row.sex else float(row.sex == "F"),
                np.nan if row.view not in ("PA", "AP") else float(row.view == "AP"),
            )
            for row in rows
        ],
        np.float32,
    ).reshape(-1, len(AUXILIARY))


def _read(
    place: Path, name: str, labels: Sequence[str], recipe: Recipe, most: int | None, *, several: bool = False
) -> FilmList:
    """Read one list. LIST:LABEL is a label of that list alone; of several lists each tells the labels it knows."""
    there = place / name if name else place
    if not there.exists() and layout_of(place):
        # The folder is a list itself, in a published layout: recipes run on it as they stand.
        there = place
    wanted = {label: label.rpartition(":")[2] for label in labels if label.rpartition(":")[0] in ("", name)}
    if several:
        wanted = _known(there, wanted)
    found = with_folds(read_films(there, list(wanted.values())), seed=recipe.seed)
    rows = found.rows
    if most is not None and len(rows) > most:
        chosen = np.sort(np.random.default_rng(recipe.seed).permutation(len(rows))[:most])
        rows = tuple(rows[i] for i in chosen)
    return dataclasses.replace(found, labels=tuple(wanted), rows=rows)


def _known(there: Path, wanted: dict[str, str]) -> dict[str, str]:
    """Of these labels those that a list knows. Raises BadList where it knows none."""
    known, faults = {}, []
    for label, plain in wanted.items():
        try:
            read_films(there, [plain])
            known[label] = plain
        except BadList as error:
            faults.append(error)
    if not known:
        raise faults[0] if faults else BadList(f"{there.name}: no label of the phase is one of this list")
    return known


def _lesson(phase: Phase, outputs: Sequence[str], films: FilmList, recipe: Recipe, boxes: Path) -> Lesson:
    train, watched, held = sides(films.rows, recipe)
    if not train:
        raise BadList(f"{films.name}: no film is left to train on; give other folds, or more films")
    told, extra = targets(train), auxiliary_of(train)
    weights = weights_of(told, films.labels, [row.origin for row in train], recipe.loss, phase.weighting)
    columns = [outputs.index(label) for label in films.labels]
    auxiliary = recipe.loss.auxiliary if phase.auxiliary is None else phase.auxiliary
    truth, weight = np.zeros((2, len(train), len(outputs)), np.float32)
    importance = dict(zip(phase.labels or recipe.films.labels, phase.importance * len(outputs), strict=False))
    truth[:, columns] = np.nan_to_num(told)
    weight[:, columns] = weights * np.array([importance[label] for label in films.labels], np.float32)
    truth[:, -len(AUXILIARY) :] = np.nan_to_num(extra)
    weight[:, -len(AUXILIARY) :] = np.where(np.isnan(extra), 0.0, auxiliary)
    seen = watched or held
    own = [label for label in recipe.films.labels if label in films.labels]
    heavy = recipe.loss.box_weight if phase.box_weight is None else phase.box_weight
    return Lesson(
        phase=phase,
        rows=train,
        boxes=boxes_of(boxes, train, recipe.films.labels) if recipe.loss.boxes and own and heavy else None,
        truth=truth,
        weights=weight,
        judged=tuple(columns),
        seen=seen,
        seen_truth=targets(seen).reshape(-1, len(columns)),
    )
