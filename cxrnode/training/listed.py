"""Films to be opened one by one, with or without labels: those in a folder, or those that a CSV file names."""

from __future__ import annotations

from pathlib import Path

from cxrnode.training.readers import BadList
from cxrnode.training.readers.table import read_table

_PICTURES = frozenset((".png", ".jpg", ".jpeg", ".dcm"))


def find_films(place: Path) -> list[Path]:
    """Return the pictures and DICOM files in a folder and all below it, or those that a CSV file names as `image`.

    Raises BadList.
    """
    if place.is_dir():
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in _PICTURES)
    elif place.is_file():
        columns, rows = read_table(place)
        if "image" not in columns:
            raise BadList(f"{place.name}: no column image; add it: the path of each film, relative to the CSV file")
        found = [place.parent / row["image"] for row in rows if row["image"]]
    else:
        raise BadList(f"{place}: there is no such file or folder")
    if not found:
        raise BadList(f"{place.name}: no film is in it ({', '.join(sorted(_PICTURES))})")
    return found
