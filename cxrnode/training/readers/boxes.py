"""Boxes that people drew: `image, finding, x, y, w, h`, or NIH's own `BBox_List_2017.csv`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

from cxrnode.training.readers.films import BadList
from cxrnode.training.readers.table import read_table

_OWN = ("image", "finding", "x", "y", "w", "h")
#: NIH writes the four numbers under one heading with commas in it.
_NIH = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One box. x, y: its upper left corner; w, h: its size; in pixels of whatever film the list is of.

    `finding` is spelled as in the list: compare by `labels.key`.
    """

    row: int
    image: str
    finding: str
    x: float
    y: float
    w: float
    h: float


def read_box_list(path: Path) -> Iterator[Box]:
    """Yield the boxes of a list. Raises BadList for a column that is missing, or a row without four numbers."""
    columns, rows = read_table(path)
    names = _NIH if _NIH[0] in columns else _OWN
    if missing := [column for column in names if column not in columns]:
        raise BadList(f"{path.name}: no column {', '.join(missing)}; a box has {', '.join(_OWN)}")
    image, finding, *numbers = names
    for number, row in enumerate(rows, 1):
        try:
            x, y, w, h = (float(row[column]) for column in numbers)
        except ValueError:
            x = y = w = h = math.nan
        if not all(math.isfinite(side) for side in (x, y, w, h)):
            raise BadList(f"{path.name}: row {number}: x, y, w and h are not all numbers; correct the row")
        yield Box(row=number, image=row[image], finding=row[finding], x=x, y=y, w=w, h=h)
