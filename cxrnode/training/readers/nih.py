"""NIH's own layout: `Data_Entry_2017.csv`, images in one or many folders, and the official lists of its split.

Wang et al., ChestX-ray8, CVPR 2017; the table's columns are known by the names they had in both of its releases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cxrnode.training.readers import labels as spelling
from cxrnode.training.readers.films import BadList, BadRow, FilmList, FilmRow, checked
from cxrnode.training.readers.table import read_table, sex_of, years

#: The table of the films, in the names of both releases.
TABLES = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
TRAIN_LIST, TEST_LIST = "train_val_list.txt", "test_list.txt"

_NEEDED = ("Image Index", "Finding Labels", "Patient ID")


def table_of(folder: Path) -> Path | None:
    """Return the table of the films in this folder; None where it is not NIH's layout."""
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def read_nih(folder: Path, labels: Sequence[str], *, parts: Collection[str] = ()) -> FilmList:
    """Read NIH's layout for these labels. `parts` keeps the films of these parts of the official split.

    Raises BadList for a table without its columns, and for a label that is none of the data set's.
    """
    table = table_of(folder) or folder / TABLES[0]
    columns, raw = read_table(table)
    for needed in _NEEDED:
        if needed not in columns:
            raise BadList(f"{table.name}: no column {needed}; take the table from the data set's own site")
    keys = spelling.FOURTEEN | {spelling.NO_FINDING}
    if missing := [label for label in labels if not spelling.sources(label, keys)]:
        raise BadList(f"{table.name}: knows nothing of {', '.join(missing)}; leave it out with --without {missing[0]}")
    official = {part: _names(folder / name) for part, name in (("train", TRAIN_LIST), ("test", TEST_LIST))}
    places = {path.name: path for path in folder.glob("images*/**/*.png")}

    def rows() -> Iterator[FilmRow | BadRow]:
        seen: set[str] = set()
        for number, row in enumerate(raw, 1):
            image = row["Image Index"]
            known = _known(table.name, number, row["Finding Labels"], keys)
            part = _part(image, official)
            if parts and part is not None and part not in parts:
                continue
            age = years(row.get("Patient Age") or "")
            if isinstance(age, str):
                yield BadRow(row=number, image=image, reason=age)
            elif part is None:
                yield BadRow(row=number, image=image, reason=f"neither {TRAIN_LIST} nor {TEST_LIST} names it")
            elif image in seen:
                yield BadRow(row=number, image=image, reason="the film is named twice")
            elif not row["Patient ID"]:
                yield BadRow(row=number, image=image, reason="no patient is named")
            else:
                seen.add(image)
                yield FilmRow(
                    path=places.get(image, folder / "images" / image),
                    patient=row["Patient ID"],
                    view=(row.get("View Position") or "").upper(),
                    age=age,
                    sex=sex_of(row.get("Patient Gender") or row.get("Patient Sex") or ""),
                    findings=tuple(spelling.value(label, known) for label in labels),
                    row=number,
                    image=image,
                    part=part,
                )

    return checked(rows(), labels, table.name)


def _known(name: str, number: int, text: str, keys: Collection[str]) -> dict[str, int]:
    """What `Finding Labels` says, by key. Raises BadList for a label that is none of the data set's."""
    said = {spelling.key(label): label for label in text.split("|")}
    if unknown := [label for key, label in said.items() if key not in keys]:
        raise BadList(f"{name}: row {number}: {unknown[0]!r} is no label of ChestX-ray14; correct the row")
    return {key: int(key in said) for key in keys}


def _names(path: Path) -> set[str] | None:
    """The films that an official list names; None where it is not there."""
    if not path.is_file():
        return None
    try:
        return set(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise BadList(f"{path.name}: cannot be read as text ({type(error).__name__})") from error


def _part(image: str, official: dict[str, set[str] | None]) -> str | None:
    """The film's part of the official split; "" where there is none; None where the lists leave the film out."""
    train, test = official["train"], official["test"]
    if test is not None and image in test:
        return "test"
    if train is not None:
        return "train" if image in train else None if test is not None else "test"
    return "train" if test is not None else ""
