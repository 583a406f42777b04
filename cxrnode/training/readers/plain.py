"""The plain CSV: `image`, a column of 0 and 1 for each finding, and what else is known. Paths are relative to it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from cxrnode.training.readers import labels as spelling
from cxrnode.training.readers.films import BadList, BadRow, FilmList, FilmRow, checked
from cxrnode.training.readers.table import TRUTHS, read_table, sex_of, years

#: Columns that are no findings. Only `image` is needed.
ABOUT = frozenset(
    (
        *("image", "patient_id", "view", "age", "sex", "origin", "fold", "fold5", "split", "licence"),
        *("width", "height", "source_width", "source_height", "pneumonia_binary"),
    )
)
#: What the column `split` may hold.
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "": ""}

_FOLDS = ("fold", "fold5")


def read_plain(
    path: Path,
    labels: Sequence[str],
    *,
    folds: Collection[str] = (),
    parts: Collection[str] = (),
    ignored: Collection[str] = (),
) -> FilmList:
    """Read a plain CSV for these labels. `folds` and `parts` keep the rows of these; `ignored` columns are passed over.

    Raises BadList for a column that is missing or unknown.
    """
    columns, raw = read_table(path)
    if "image" not in columns:
        raise BadList(f"{path.name}: no column image; add it: the path of each film, relative to the CSV file")
    told = finding_columns(path.name, columns, labels, about=ABOUT, ignored=ignored)

    def rows() -> Iterator[FilmRow | BadRow]:
        seen: set[str] = set()
        for number, row in kept(path.name, columns, raw, folds, parts):
            image = row["image"]
            if image in seen:
                yield BadRow(row=number, image=image, reason="the film is named twice")
            elif image:
                seen.add(image)
                yield _described(film_of(path.parent / image, number, row, told, labels))
            else:
                yield BadRow(row=number, image=image, reason="no film is named")

    return checked(rows(), labels, path.name)


def kept(
    name: str, columns: Sequence[str], rows: Sequence[dict[str, str]], folds: Collection[str], parts: Collection[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield number and row of those of these folds and parts; of all, where none are given. Raises BadList."""
    column = next((column for column in _FOLDS if column in columns), None)
    if folds and column is None:
        raise BadList(f"{name}: no column fold; add it, or evaluate without --fold")
    for number, row in enumerate(rows, 1):
        part = PARTS.get((row.get("split") or "").casefold())
        if folds and column and row[column] not in folds:
            continue
        if parts and part is not None and part not in parts:
            continue
        yield number, row


def finding_columns(
    name: str, columns: Sequence[str], labels: Sequence[str], *, about: Collection[str], ignored: Collection[str]
) -> dict[str, str]:
    """Return the columns that tell these labels, by the key of their finding.

    Raises BadList that names a column that is missing, or one that is neither a finding nor anything known.
    """
    keys: dict[str, str] = {}
    for column in columns:
        if column not in about and column not in ignored:
            keys.setdefault(spelling.key(column), column)
    # A column that is spelled as the label is goes before one that merely means the same.
    keys |= {spelling.key(label): label for label in labels if label in columns}
    needed = {label: spelling.sources(label, keys) for label in labels}
    if missing := [label for label, found in needed.items() if not found]:
        raise BadList(
            f"{name}: no column {', '.join(missing)}; add it with 0 and 1, or leave the finding out of the recipe "
            "(cxrnode evaluate: " + " ".join(f"--without {_word(label)}" for label in missing) + ")"
        )
    own = spelling.FOURTEEN | {spelling.NO_FINDING, spelling.ABNORMAL} | {spelling.key(label) for label in labels}
    if unknown := [column for key, column in keys.items() if key not in own]:
        raise BadList(
            f"{name}: column {', '.join(unknown)} is no finding of this model and nothing else that is known; "
            "correct its spelling, take it out of the file, or pass over it (cxrnode evaluate: "
            + " ".join(f"--ignore {_word(column)}" for column in unknown)
            + ")"
        )
    return {key: keys[key] for found in needed.values() for key in found}


def known_of(row: dict[str, str], told: dict[str, str]) -> dict[str, int] | str:
    """Return 0 or 1 by the key of a finding from the columns that `finding_columns` found; else the fault."""
    for column in told.values():
        if row[column] not in TRUTHS:
            return f"{column} is {row[column]!r}, not 0 or 1"
    return {key: TRUTHS[row[column]] for key, column in told.items()}


def film_of(
    path: Path, number: int, row: dict[str, str], told: dict[str, str], labels: Sequence[str]
) -> FilmRow | BadRow:
    """Return the film of a row whose picture is `path`, or why the row is bad."""
    image, split = row["image"], row.get("split") or ""
    known, age = known_of(row, told), years(row.get("age") or "")
    fold = next((row[column] for column in _FOLDS if column in row), "").strip()
    fault = next((said for said in (known, age) if isinstance(said, str)), None)
    if fault is None and split.casefold() not in PARTS:
        fault = f"split is {split!r}, not train, val or test"
    if fault is None and fold and not fold.isdecimal():
        fault = f"fold is {fold!r}, not a whole number"
    if fault is not None or isinstance(known, str) or isinstance(age, str):
        return BadRow(row=number, image=image, reason=fault or "")
    return FilmRow(
        path=path,
        patient=row.get("patient_id") or image,
        origin=row.get("origin") or "",
        view=(row.get("view") or "").upper(),
        age=age,
        sex=sex_of(row.get("sex") or ""),
        findings=tuple(spelling.value(label, known) for label in labels),
        fold=int(fold) if fold else -1,
        row=number,
        image=image,
        part=PARTS[split.casefold()],
    )


def _described(film: FilmRow | BadRow) -> FilmRow | BadRow:
    """A film in a DICOM file has a header, which says more of it and whether the node would read it."""
    if isinstance(film, BadRow) or film.path.suffix.lower() != ".dcm" or not film.path.is_file():
        return film
    from cxrnode.training.readers.dicom_folder import described

    return described(film)


def _word(text: str) -> str:
    """The text as it is typed into a shell."""
    return f"'{text}'" if " " in text else text
