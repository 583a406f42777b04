"""Splits by patient: the folds of a list that has none, and the check that no patient is on two sides. Pure.

What is drawn here depends on the seed and on who the patients are, never on the order of the rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from cxrnode.training.readers.films import BadList, BadRow, FilmList, FilmRow, targets

#: Folds of a list that has none.
FOLDS = 5


def require_disjoint(one: Iterable[FilmRow], other: Iterable[FilmRow]) -> None:
    """Raise BadList where a patient has films on both sides; the message counts the patients and names none."""
    if both := {row.patient for row in one} & {row.patient for row in other}:
        count = f"{len(both)} patient{'' if len(both) == 1 else 's'}"
        raise BadList(
            f"{count} on both sides of the split: a model would be measured on people whom it has seen; give all films "
            "of a patient the same fold (or split), or leave both out of the list, so that folds are made by patient"
        )


def require_both(rows: Sequence[FilmRow], labels: Sequence[str], where: str) -> None:
    """Raise BadList that names the labels which no film of `where` has, or which all have: nothing can be learnt."""
    truth = targets(rows).reshape(-1, len(labels))
    with_it, without = (truth == 1).any(0), (truth == 0).any(0)
    faults = [
        f"no film {'with' if not has else 'without'} {label}"
        for label, has, lacks in zip(labels, with_it, without, strict=True)
        if not (has and lacks)
    ]
    if faults:
        raise BadList(
            f"{where}: {', '.join(faults)}: nothing can be learnt or measured of it; add such films, "
            "or take the label out of the recipe"
        )


def with_folds(films: FilmList, *, folds: int = FOLDS, seed: int = 0) -> FilmList:
    """Return the list with a fold, 0 to folds - 1, in each row; its own folds stay as they are.

    Otherwise they are made by patient, each with about the same share of every label. The official test films of a
    list (NIH's `test_list.txt`, the folder `test`, `split` = test) are fold 0, and all others lie in the folds from 1
    on. A few films for validation (Kermany's 16) are counted with those to train on. Raises BadList.
    """
    if any(row.fold >= 0 for row in films.rows):
        bad = tuple(BadRow(row=r.row, image=r.image, reason="its fold is not said") for r in films.rows if r.fold < 0)
        return dataclasses.replace(films, rows=tuple(r for r in films.rows if r.fold >= 0), bad=(*films.bad, *bad))
    test = [row for row in films.rows if row.part == "test"]
    rest = [row for row in films.rows if row.part != "test"]
    require_disjoint(test, rest)
    first = 1 if test and rest else 0
    made = _made(rest, folds - first, seed, films.name) if rest else {}
    rows = (
        dataclasses.replace(row, fold=0 if row.part == "test" else first + made[row.kept_together])
        for row in films.rows
    )
    return dataclasses.replace(films, rows=tuple(rows))


def _made(rows: Sequence[FilmRow], folds: int, seed: int, name: str) -> dict[str, int]:
    """The fold of each group. The groups of the rarest label are dealt out first, each to the fold that lacks it most.

    After the iterative stratification of Sechidis et al., ECML PKDD 2011, over groups rather than films.
    """
    groups, members = np.unique([row.kept_together for row in rows], return_inverse=True)
    if len(groups) < folds:
        raise BadList(f"{name}: {len(groups)} patients are too few for {folds} folds; add films of other patients")
    truth = np.nan_to_num(targets(rows)).astype(int).reshape(len(rows), -1)
    # Positives of each label in each group; the last column counts the films themselves.
    counts = np.zeros((len(groups), truth.shape[1] + 1), int)
    np.add.at(counts, members, np.append(truth, np.ones((len(rows), 1), int), 1))
    total = counts.sum(0)
    rarest = np.argsort(total, kind="stable")
    first = (counts[:, rarest] > 0).argmax(1)
    drawn = [hashlib.sha256(f"{seed}\0{group}".encode()).digest() for group in groups]
    held = np.zeros((folds, len(total)), int)
    chosen: dict[str, int] = {}
    for group in sorted(range(len(groups)), key=lambda group: (first[group], -counts[group, -1], drawn[group])):
        label = rarest[first[group]]
        fold = int(np.lexsort((held[:, -1], held[:, label]))[0])
        held[fold] += counts[group]
        chosen[str(groups[group])] = fold
    return chosen
