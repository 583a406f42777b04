"""Cells of CSV files: columns and rows, ages, sexes, truths. Knows no layout."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

from cxrnode.training.readers.films import BadList

#: What a cell of a finding may hold.
TRUTHS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return columns and rows of a CSV file; a row that is too short has "" in the cells that it lacks.

    Raises BadList for what is no CSV file in UTF-8, or has a column twice.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadList(f"{path.name}: no CSV file in UTF-8 that can be read ({type(error).__name__})") from error
    if twice := [a for a, b in itertools.pairwise(sorted(columns)) if a == b and a]:
        raise BadList(f"{path.name}: column {twice[0]} is there twice; take one of them out")
    return columns, rows


def years(text: str) -> float | str | None:
    """Years of `58`, `58.5` or NIH's first `058Y`; None where nothing is said; else the fault."""
    digits = text.strip().removesuffix("Y")
    if not digits:
        return None
    try:
        age = float(digits)
    except ValueError:
        age = -1.0
    return age if 0 <= age < 1000 else f"age is {text!r}, not a number of years"


def sex_of(text: str) -> str:
    """Return F, M or "" where the cell says neither."""
    return text[:1].upper() if text[:1].upper() in ("F", "M") else ""
