"""Films to judge a model by, with their labels: a plain CSV, NIH's own layout, or a folder for each class.

A bad row is counted and named, and stops nothing; a column that is missing or unknown stops all. Never changes a film.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrnode.core.findings import NIH14
from cxrnode.errors import Rejected, UnreadableImage

#: Columns of a plain CSV that are no findings. Only `image` is needed.
ABOUT = frozenset(
    (
        *("image", "patient_id", "view", "age", "sex", "origin", "fold", "fold5", "width", "height", "licence"),
        *("no_finding", "pneumonia_binary"),
    )
)
NIH_TABLE = "Data_Entry_2017.csv"
NIH_TEST = "test_list.txt"

_CLASSES = {"NORMAL": 0.0, "PNEUMONIA": 1.0}
_PICTURES = frozenset((".png", ".jpg", ".jpeg", ".dcm"))
_TRUTHS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0}


class BadList(Rejected):
    """The list of films cannot be used; the message names the column or row, and the remedy."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that was left out. `row` counts the films of the list from 1; `image` is what the row calls its film."""

    row: int
    image: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One film and what is known of it. `truth`: 0.0 or 1.0 for each finding of the list; age in years.

    `sex` is F, M or ""; `view` is PA, AP or another value, "" where it is not known; `patient` falls back to the image.
    """

    row: int
    image: str
    path: Path
    patient: str
    view: str
    age: float | None
    sex: str
    truth: tuple[float, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FilmList:
    """The films of a list in its order, the findings that it speaks of, and the rows that were left out."""

    name: str
    findings: tuple[str, ...]
    films: tuple[Listed, ...]
    bad_rows: tuple[BadRow, ...]


def read_list(
    place: Path, findings: Sequence[str], *, folds: Sequence[str] = (), ignored: Sequence[str] = ()
) -> FilmList:
    """Read the list of films at a CSV file or folder, for these findings.

    A folder holds NIH's `Data_Entry_2017.csv` (of `test_list.txt` alone where that is there), or NORMAL and PNEUMONIA
    (Kermany et al., 2018), or one CSV file. `folds` keeps the rows of these folds. `ignored` names columns of a plain
    CSV to pass over. Raises BadList.
    """
    if not findings:
        raise BadList("no finding is left to evaluate; give fewer --without")
    if place.is_file():
        return _plain(place, findings, folds, ignored)
    if not place.is_dir():
        raise BadList(f"{place}: there is no such file or folder; --data takes a CSV file or a folder")
    if folds and ((place / NIH_TABLE).is_file() or _class_folders(place)):
        raise BadList(
            f"{place.name}: this layout knows no folds; evaluate without --fold, or list the films in a CSV file"
        )
    if (place / NIH_TABLE).is_file():
        return _checked(_nih(place, findings), findings, place.name)
    if classes := _class_folders(place):
        if tuple(findings) != ("Pneumonia",):
            others = [finding for finding in findings if finding != "Pneumonia"]
            raise BadList(
                f"{place.name}: folders NORMAL and PNEUMONIA know the finding Pneumonia alone; leave the others out: "
                + " ".join(f"--without {finding}" for finding in others)
            )
        return _checked(_kermany(classes), findings, place.name)
    tables = sorted(place.glob("*.csv"))
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        raise BadList(f"{place.name}: one CSV file is needed in a folder, found: {found}; name the file")
    return _plain(tables[0], findings, folds, ignored)


def open_film(path: Path) -> npt.NDArray[np.uint8]:
    """Return a film as the engine takes it: uint8 (H, W), 0 = black, row 0 = top. An alpha channel is left out.

    DICOM files go through the node's own decoder. Raises UnreadableImage that says what is wrong, without the path.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise UnreadableImage(f"cannot be read ({error.strerror})") from error
    if start[128:] == b"DICM":
        from cxrnode.dicom.pixels import decode_film

        return decode_film(path).display
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "LA", "RGB", "RGBA", "P", "1"):
                raise UnreadableImage(f"mode {image.mode}: grey levels of 0 to 255 are needed, as they are displayed")
            # By way of RGB, as the published models were fed; the three channels of a film are the same.
            grey = image if image.mode == "L" else image.convert("RGB").convert("L")
            return np.asarray(grey)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"no picture that can be read ({type(error).__name__})") from error


def find_films(place: Path) -> list[Path]:
    """Return the pictures and DICOM files in a folder and all below it, or those that a CSV file names as `image`.

    Raises BadList.
    """
    if place.is_dir():
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in _PICTURES)
    elif place.is_file():
        columns, rows = _rows(place)
        if "image" not in columns:
            raise BadList(f"{place.name}: no column image; add it: the path of each film, relative to the CSV file")
        found = [place.parent / row["image"] for row in rows if row["image"]]
    else:
        raise BadList(f"{place}: there is no such file or folder")
    if not found:
        raise BadList(f"{place.name}: no film is in it ({', '.join(sorted(_PICTURES))})")
    return found


def _plain(path: Path, findings: Sequence[str], folds: Sequence[str], ignored: Sequence[str]) -> FilmList:
    columns, raw = _rows(path)
    name = path.name
    if "image" not in columns:
        raise BadList(f"{name}: no column image; add it: the path of each film, relative to the CSV file")
    if missing := [finding for finding in findings if finding not in columns]:
        raise BadList(
            f"{name}: no column {', '.join(missing)}; add it with 0 and 1, or leave the finding out: "
            + " ".join(f"--without {finding}" for finding in missing)
        )
    known = ABOUT | set(findings) | set(NIH14) | set(ignored)
    if unknown := [column for column in columns if column not in known]:
        raise BadList(
            f"{name}: column {', '.join(unknown)} is no finding of this model and nothing else that is known; "
            "correct its spelling, or pass over it: " + " ".join(f"--ignore {column}" for column in unknown)
        )
    fold_column = next((column for column in ("fold", "fold5") if column in columns), None)
    if folds and fold_column is None:
        raise BadList(f"{name}: no column fold; add it, or evaluate without --fold")

    def rows() -> Iterator[Listed | BadRow]:
        seen: set[str] = set()
        for number, row in enumerate(raw, 1):
            if folds and fold_column and row[fold_column] not in folds:
                continue
            image = row["image"] or ""
            fault = next((f"{key} is {row[key]!r}, not 0 or 1" for key in findings if row[key] not in _TRUTHS), None)
            age = _age(row.get("age") or "")
            if not image or image in seen:
                fault = "the film is named twice" if image else "no film is named"
            elif isinstance(age, str):
                fault = age
            seen.add(image)
            if fault is not None or isinstance(age, str):
                yield BadRow(row=number, image=image, reason=fault or "")
                continue
            yield Listed(
                row=number,
                image=image,
                path=path.parent / image,
                patient=row.get("patient_id") or image,
                view=(row.get("view") or "").upper(),
                age=age,
                sex=_sex(row.get("sex") or ""),
                truth=tuple(_TRUTHS[row[finding]] for finding in findings),
            )

    return _checked(rows(), findings, name)


def _nih(folder: Path, findings: Sequence[str]) -> Iterator[Listed | BadRow]:
    """Rows of NIH's table; its columns are found by the names they had in both of its releases."""
    columns, raw = _rows(folder / NIH_TABLE)
    for needed in ("Image Index", "Finding Labels", "Patient ID"):
        if needed not in columns:
            raise BadList(f"{NIH_TABLE}: no column {needed}; take the table from the data set's own site")
    if missing := [finding for finding in findings if finding not in (*NIH14, "No_Finding")]:
        raise BadList(f"{NIH_TABLE}: knows nothing of {', '.join(missing)}; leave it out with --without")
    chosen = None
    if (folder / NIH_TEST).is_file():
        chosen = set((folder / NIH_TEST).read_text(encoding="utf-8").split())
    places = {path.name: path for path in folder.glob("images*/**/*.png")}
    for number, row in enumerate(raw, 1):
        image = row["Image Index"]
        if chosen is not None and image not in chosen:
            continue
        named = {label.replace(" ", "_") for label in row["Finding Labels"].split("|")}
        if unknown := sorted(named - {*NIH14, "No_Finding"}):
            raise BadList(f"{NIH_TABLE}: row {number}: {unknown[0]!r} is no label of ChestX-ray14; correct the row")
        age = _age(row.get("Patient Age") or "")
        if isinstance(age, str):
            yield BadRow(row=number, image=image, reason=age)
            continue
        yield Listed(
            row=number,
            image=image,
            path=places.get(image, folder / "images" / image),
            patient=row["Patient ID"],
            view=row.get("View Position") or "",
            age=age,
            sex=_sex(row.get("Patient Gender") or row.get("Patient Sex") or ""),
            truth=tuple(float(finding in named) for finding in findings),
        )


def _class_folders(folder: Path) -> dict[Path, float]:
    """The folders NORMAL and PNEUMONIA, those of `test` first: the data set's own split."""
    for place in (folder / "test", folder):
        if all((place / name).is_dir() for name in _CLASSES):
            return {place / name: truth for name, truth in _CLASSES.items()}
    return {}


def _kermany(classes: dict[Path, float]) -> Iterator[Listed | BadRow]:
    number = 0
    for folder, truth in classes.items():
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES):
            number += 1
            found = re.match(r"(person\d+|(?:NORMAL2-)?IM-\d+)", path.name)
            yield Listed(
                row=number,
                image=f"{folder.name}/{path.name}",
                path=path,
                patient=found[1] if found else path.name,
                view="",
                age=None,
                sex="",
                truth=(truth,),
            )


def _checked(rows: Iterator[Listed | BadRow], findings: Sequence[str], name: str) -> FilmList:
    """Tell films that are there from rows that are bad. Raises BadList where no film is left."""
    films, bad = [], []
    for row in rows:
        if isinstance(row, BadRow):
            bad.append(row)
        elif not row.path.is_file():
            bad.append(BadRow(row=row.row, image=row.image, reason="the film is not there"))
        else:
            films.append(row)
    if not films:
        first = f"; the first: row {bad[0].row}, {bad[0].image}: {bad[0].reason}" if bad else ""
        raise BadList(f"{name}: no film can be used of {len(bad)} rows{first}")
    return FilmList(name=name, findings=tuple(findings), films=tuple(films), bad_rows=tuple(bad))


def _rows(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a CSV file; a row that is too short has "" in the cells that it lacks."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            return list(reader.fieldnames or ()), [row for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadList(f"{path.name}: no CSV file in UTF-8 that can be read ({type(error).__name__})") from error


def _age(text: str) -> float | str | None:
    """Years of `58`, `58.5` or NIH's first `058Y`; None where nothing is said; else the fault."""
    digits = text.strip().removesuffix("Y")
    if not digits:
        return None
    try:
        years = float(digits)
    except ValueError:
        years = -1.0
    return years if 0 <= years < 1000 else f"age is {text!r}, not a number of years"


def _sex(text: str) -> str:
    return text[:1].upper() if text[:1].upper() in ("F", "M") else ""
