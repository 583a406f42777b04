"""A list of films with labels, whichever layout it was read from: plain values. Opens no picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cxrnode.errors import Rejected


class BadList(Rejected):
    """The list of films cannot be used; the message names the column, row or label, and the remedy."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that was left out. `row` counts the films of the list from 1; `image` is what the row calls its film."""

    row: int
    image: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilmRow:
    """One film and what its list says of it.

    `row` counts the films of the list from 1, and `image` is what the list calls the film. The picture is the file
    `path`, or the bytes `span` (offset, length) of it. `findings` holds 0 or 1 for each label of the list, None where
    the list does not know. `patient` falls back to the image. `view` is PA, AP, another value or ""; `age` is in
    years; `sex` is F, M or "". `part` is the list's own: train, val, test or "". `fold` is -1 where the list has
    none. `group` is what a split that is made here keeps together, where that is more than the patient.
    """

    path: Path
    patient: str
    origin: str = ""
    view: str = ""
    age: float | None = None
    sex: str = ""
    findings: tuple[int | None, ...]
    fold: int = -1
    row: int = 0
    image: str = ""
    part: str = ""
    group: str = ""
    span: tuple[int, int] | None = None

    @property
    def kept_together(self) -> str:
        """What never lies on both sides of a split that is made here."""
        return self.group or self.patient


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilmList:
    """The films of a list in its order, the labels that `findings` follow, and the rows that were left out.

    `notes` are sentences for the report of a run: what the list cannot know.
    """

    name: str
    labels: tuple[str, ...]
    rows: tuple[FilmRow, ...]
    bad: tuple[BadRow, ...] = ()
    notes: tuple[str, ...] = ()


def targets(rows: Iterable[FilmRow]) -> npt.NDArray[np.float32]:
    """Return float32 (N, L): 0 or 1, NaN where the list does not know."""
    return np.array([[np.nan if value is None else value for value in row.findings] for row in rows], np.float32)


def joined(lists: Sequence[FilmList], labels: Sequence[str]) -> FilmList:
    """Return several lists as one, for these labels; a label that a list does not have is unknown in its films.

    Patients and groups of different lists are told apart by the name of the list. Raises BadList for lists of one
    name, and for a label that no list has.
    """
    names = [films.name for films in lists]
    if len(set(names)) != len(names):
        raise BadList(f"{', '.join(names)}: lists that are joined need different names")
    if unknown := [label for label in labels if not any(label in films.labels for films in lists)]:
        raise BadList(f"{', '.join(names)}: none has the label {', '.join(unknown)}; leave it out of the recipe")
    rows: list[FilmRow] = []
    for films in lists:
        at = [films.labels.index(label) if label in films.labels else None for label in labels]
        rows += (
            dataclasses.replace(
                row,
                findings=tuple(None if i is None else row.findings[i] for i in at),
                patient=f"{films.name}:{row.patient}",
                group=f"{films.name}:{row.group}" if row.group else "",
            )
            for row in films.rows
        )
    return FilmList(
        name=" + ".join(names),
        labels=tuple(labels),
        rows=tuple(rows),
        bad=tuple(bad for films in lists for bad in films.bad),
        notes=tuple(note for films in lists for note in films.notes),
    )


def checked(rows: Iterable[FilmRow | BadRow], labels: Sequence[str], name: str, notes: Sequence[str] = ()) -> FilmList:
    """Tell films that are there from rows that are bad. Raises BadList where no film is left."""
    films: list[FilmRow] = []
    bad: list[BadRow] = []
    for row in rows:
        if isinstance(row, BadRow):
            bad.append(row)
        elif row.span is None and not row.path.is_file():
            bad.append(BadRow(row=row.row, image=row.image, reason="the film is not there"))
        else:
            films.append(row)
    if not films:
        first = f"; the first: row {bad[0].row}, {bad[0].image}: {bad[0].reason}" if bad else ""
        raise BadList(f"{name}: no film can be used of {len(bad)} rows{first}")
    return FilmList(name=name, labels=tuple(labels), rows=tuple(films), bad=tuple(bad), notes=tuple(notes))
