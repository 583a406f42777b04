"""Folders of classes, NORMAL and PNEUMONIA, as of Kermany et al. (Cell, 2018): films of children of 1 to 5 years.

The patient stands in the film's name: `person<N>_bacteria_<i>`, `IM-<N>-<i>`, `NORMAL2-IM-<N>-<i>`. The numbers begin
anew for bacteria and for viruses, so that a patient is a number with its kind; a split that is made here keeps one
number of both kinds together all the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cxrnode.training.readers import labels as spelling
from cxrnode.training.readers.films import BadList, BadRow, FilmList, FilmRow, checked

#: The folders of the classes, as Kermany names them, and whether they show a pneumonia.
CLASSES = {"NORMAL": 0, "PNEUMONIA": 1}
PICTURES = frozenset((".png", ".jpg", ".jpeg", ".dcm"))

_KNOWN = frozenset(("pneumonia", spelling.NO_FINDING, spelling.ABNORMAL))
_PATIENT = re.compile(r"((person\d+)(?:_(?:bacteria|virus))?|(?:NORMAL2-)?IM-\d+)")


def class_folders(folder: Path) -> list[tuple[str, str, Path]]:
    """Return (part, class, folder) of each class that is there, in the order train, val, test; [] for other layouts."""
    found = []
    for part in ("train", "val", "test", ""):
        here = {place.name.upper(): place for place in (folder / part).glob("*") if place.is_dir()}
        if all(name in here for name in CLASSES):
            found += [(part, name, here[name]) for name in CLASSES]
    return found


def read_kermany(folder: Path, labels: Sequence[str], *, parts: Collection[str] = ()) -> FilmList:
    """Read folders of classes for these labels. `parts` keeps these parts. Raises BadList for other labels."""
    if others := [label for label in labels if not spelling.sources(label, _KNOWN)]:
        raise BadList(
            f"{folder.name}: folders NORMAL and PNEUMONIA know the finding Pneumonia alone; leave the others out: "
            + " ".join(f"--without {label}" for label in others)
        )

    def rows() -> Iterator[FilmRow | BadRow]:
        number = 0
        for part, name, place in class_folders(folder):
            if parts and part not in parts:
                continue
            known = {"pneumonia": CLASSES[name], spelling.ABNORMAL: CLASSES[name]}
            findings = tuple(spelling.value(label, known) for label in labels)
            for path in sorted(path for path in place.iterdir() if path.suffix.lower() in PICTURES):
                number += 1
                said = _PATIENT.match(path.name)
                yield FilmRow(
                    path=path,
                    patient=said[1] if said else path.name,
                    findings=findings,
                    row=number,
                    image="/".join(filter(None, (part, place.name, path.name))),
                    part=part,
                    group=(said[2] or "") if said else "",
                )

    return checked(rows(), labels, folder.name)
