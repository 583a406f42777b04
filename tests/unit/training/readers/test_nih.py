"""NIH's own layout, with and without its official lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.training.readers import BadList, read_films
from tests.unit.training.readers.layouts import NIH_HEAD, nih

ROWS = {
    "00000001_000.png": "Effusion|Mass,0,1,058Y,M,PA",
    "00000001_001.png": "No Finding,1,1,58,M,PA",
    "00000002_000.png": "Pleural_Thickening,0,2,81,F,AP",
}


def test_the_layout_is_read_from_all_its_folders(tmp_path: Path) -> None:
    found = read_films(nih(tmp_path, ROWS), ["Mass", "Pleural_Thickening", "No Finding", "Abnormal"])
    assert [(row.patient, row.age, row.sex, row.view, row.findings) for row in found.rows] == [
        ("1", 58.0, "M", "PA", (1, 0, 0, 1)),
        ("1", 58.0, "M", "PA", (0, 0, 1, 0)),
        ("2", 81.0, "F", "AP", (0, 1, 0, 1)),
    ]
    assert [row.path.parent.parent.name for row in found.rows] == ["images_001", "images_002", "images_003"]


def test_the_official_lists_say_the_part(tmp_path: Path) -> None:
    nih(tmp_path, ROWS)
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    assert [row.part for row in read_films(tmp_path, ["Mass"]).rows] == ["train", "train", "test"]
    assert [row.patient for row in read_films(tmp_path, ["Mass"], parts=["test"]).rows] == ["2"]
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n")
    found = read_films(tmp_path, ["Mass"])
    assert [row.part for row in found.rows] == ["train", "test"]
    assert [(bad.row, bad.reason) for bad in found.bad] == [
        (2, "neither train_val_list.txt nor test_list.txt names it")
    ]


def test_a_bad_row_is_left_out_and_says_why(tmp_path: Path) -> None:
    nih(tmp_path, ROWS | {"00000003_000.png": "Mass,0,3,old,M,PA", "00000004_000.png": "Mass,0,,41,M,PA"})
    (tmp_path / "images_003" / "images" / "00000002_000.png").unlink()
    found = read_films(tmp_path, ["Mass"])
    assert [(bad.row, bad.image, bad.reason) for bad in found.bad] == [
        (3, "00000002_000.png", "the film is not there"),
        (4, "00000003_000.png", "age is 'old', not a number of years"),
        (5, "00000004_000.png", "no patient is named"),
    ]


def test_an_unknown_label_is_named_with_its_row(tmp_path: Path) -> None:
    nih(tmp_path, {"00000001_000.png": "Efusion|Mass,0,1,58,M,PA"})
    with pytest.raises(BadList, match=r"Data_Entry_2017\.csv: row 1: 'Efusion' is no label of ChestX-ray14; correct"):
        read_films(tmp_path, ["Mass"])


def test_a_label_that_the_table_does_not_know_and_a_missing_column_are_named(tmp_path: Path) -> None:
    nih(tmp_path, ROWS)
    with pytest.raises(BadList, match=r"Data_Entry_2017\.csv: knows nothing of Fracture; leave it out"):
        read_films(tmp_path, ["Fracture"])
    with pytest.raises(BadList, match="knows no folds"):
        read_films(tmp_path, ["Mass"], folds=["1"])
    nih(tmp_path, ROWS, head=NIH_HEAD.replace("Patient ID", "Patient"))
    with pytest.raises(BadList, match="no column Patient ID"):
        read_films(tmp_path, ["Mass"])
