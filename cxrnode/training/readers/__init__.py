"""Readers of films with labels, a file each layout: NIH's, Kermany's folders, a plain CSV, DICOM folders, records.

A bad row is counted and named, and stops nothing; a column or label that is missing or unknown stops all. Nothing here
changes a film, or loads torch but `film_set`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from cxrnode.training.readers.dicom_folder import holds_dicom, read_dicom, uid_column
from cxrnode.training.readers.films import BadList, BadRow, FilmList, FilmRow, joined, targets
from cxrnode.training.readers.kermany import class_folders, read_kermany
from cxrnode.training.readers.nih import read_nih, table_of
from cxrnode.training.readers.plain import read_plain
from cxrnode.training.readers.shards import read_shards, shards_of
from cxrnode.training.readers.table import read_table

__all__ = ["BadList", "BadRow", "FilmList", "FilmRow", "joined", "layout_of", "read_films", "targets"]


def read_films(
    place: Path,
    labels: Sequence[str],
    *,
    folds: Collection[str] = (),
    parts: Collection[str] = (),
    ignored: Collection[str] = (),
    show: bool = False,
) -> FilmList:
    """Read the films with labels at `place`, a CSV file or a folder, for these labels; the layout is found out.

    A folder holds NIH's `Data_Entry_2017.csv`, or folders NORMAL and PNEUMONIA (also within train, val and test), or
    TFRecord shards, or one CSV file, with DICOM files or without. `folds` keeps the rows of these folds and `parts`
    those of these parts (train, val, test) of the list's own split; `ignored` names columns of a CSV to pass over.
    "No Finding" and "Abnormal" are worked out where a list knows all 14 findings. `show` draws a progress bar on a
    terminal where this takes a while. Raises BadList.
    """
    if not labels:
        raise BadList(f"{place.name}: no label is left to read; give fewer --without")
    if place.is_file():
        if uid_column(read_table(place)[0]):
            return read_dicom(place, labels, folds=folds, parts=parts, ignored=ignored, show=show)
        return read_plain(place, labels, folds=folds, parts=parts, ignored=ignored)
    if not place.is_dir():
        raise BadList(f"{place}: there is no such file or folder; --data takes a CSV file or a folder")
    layout = layout_of(place)
    if folds and layout:
        raise BadList(
            f"{place.name}: this layout knows no folds; evaluate without --fold, or list the films in a CSV file"
        )
    if layout == "nih":
        return read_nih(place, labels, parts=parts)
    if layout == "kermany":
        return read_kermany(place, labels, parts=parts)
    if layout == "records":
        if parts:
            raise BadList(f"{place.name}: records know no parts (train, val, test); read all of them")
        return read_shards(place, labels, show=show)
    tables = sorted(place.glob("*.csv"))
    if len(tables) != 1:
        found = ", ".join(table.name for table in tables) or "none"
        raise BadList(f"{place.name}: one CSV file is needed in a folder, found: {found}; name the file")
    if holds_dicom(place):
        return read_dicom(tables[0], labels, folds=folds, parts=parts, ignored=ignored, show=show)
    return read_plain(tables[0], labels, folds=folds, parts=parts, ignored=ignored)


def layout_of(folder: Path) -> str:
    """Return "nih", "kermany" or "records" where the folder is a list of films itself; "" where a CSV file is."""
    if table_of(folder) is not None:
        return "nih"
    if class_folders(folder):
        return "kermany"
    return "records" if shards_of(folder) else ""
