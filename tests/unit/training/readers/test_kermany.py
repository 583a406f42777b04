"""Folders of classes: the patient is in the film's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.training.readers import BadList, read_films
from cxrnode.training.readers.splits import with_folds
from tests.unit.training.readers.layouts import kermany

NAMES = {
    "IM-0115-0001.jpeg": "train/NORMAL",
    "NORMAL2-IM-0383-0001.jpeg": "train/NORMAL",
    "person100_virus_184.jpeg": "train/PNEUMONIA",
    "person1000_bacteria_2931.jpeg": "train/PNEUMONIA",
    "person1000_virus_1681.jpeg": "train/PNEUMONIA",
    "NORMAL2-IM-1427-0001.jpeg": "val/NORMAL",
    "person1946_bacteria_4874.jpeg": "val/PNEUMONIA",
    "IM-0001-0001.jpeg": "test/NORMAL",
    "person100_bacteria_475.jpeg": "test/PNEUMONIA",
}


def test_patients_parts_and_classes_are_read(tmp_path: Path) -> None:
    found = read_films(kermany(tmp_path, NAMES), ["Pneumonia", "No Finding"])
    assert [(row.part, row.patient, row.findings) for row in found.rows] == [
        ("train", "IM-0115", (0, 1)),
        ("train", "NORMAL2-IM-0383", (0, 1)),
        ("train", "person1000_bacteria", (1, 0)),
        ("train", "person1000_virus", (1, 0)),
        ("train", "person100_virus", (1, 0)),
        ("val", "NORMAL2-IM-1427", (0, 1)),
        ("val", "person1946_bacteria", (1, 0)),
        ("test", "IM-0001", (0, 1)),
        ("test", "person100_bacteria", (1, 0)),
    ]
    assert found.rows[0].image == "train/NORMAL/IM-0115-0001.jpeg"


def test_the_official_test_films_are_the_first_fold(tmp_path: Path) -> None:
    found = with_folds(read_films(kermany(tmp_path, NAMES), ["Pneumonia"]), folds=3)
    assert {row.part for row in found.rows if row.fold == 0} == {"test"}
    assert {row.part for row in found.rows if row.fold > 0} == {"train", "val"}
    # One number of both kinds stays together in the folds that are made, though they count as two patients.
    assert len({row.fold for row in found.rows if row.patient.startswith("person1000_")}) == 1


def test_folders_without_parts_are_read_in_either_case(tmp_path: Path) -> None:
    kermany(tmp_path, {"IM-1-1.jpg": "normal", "person2_virus_1.jpg": "Pneumonia", "notes.png": "normal"})
    (tmp_path / "normal" / "readme.txt").write_text("not a film")
    found = read_films(tmp_path, ["Abnormal"])
    assert [(row.image, row.patient, row.findings) for row in found.rows] == [
        ("normal/IM-1-1.jpg", "IM-1", (0,)),
        ("normal/notes.png", "notes.png", (0,)),
        ("Pneumonia/person2_virus_1.jpg", "person2_virus", (1,)),
    ]


def test_other_findings_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadList, match=r"know the finding Pneumonia alone; .*--without Mass"):
        read_films(kermany(tmp_path, NAMES), ["Pneumonia", "Mass"])
