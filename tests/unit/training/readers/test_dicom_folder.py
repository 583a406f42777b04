"""A folder of DICOM films: labels by UID or by name, and only what the node would read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxrnode.dicom.pixels import decode_film
from cxrnode.phantom.dicom import phantom_dx
from cxrnode.training.readers import BadList, read_films
from cxrnode.training.readers.film_set import open_row


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder of phantoms, and their SOP Instance UIDs by name."""
    folder = tmp_path_factory.mktemp("dicom")
    (folder / "deep").mkdir()
    uids = {}
    nameless = dict.fromkeys(("AnatomicRegionSequence", "SeriesDescription", "StudyDescription"))
    makes: dict[str, dict[str, Any]] = {
        "front.dcm": {},
        "deep/IM0001": {"photometric": "MONOCHROME1", "view": "AP"},
        "side.dcm": {"ViewPosition": "LL", "ViewCodeSequence": None, "SeriesDescription": "CHEST"},
        "hand.dcm": {**nameless, "BodyPartExamined": "HAND"},
        "both.dcm": {"ViewPosition": "LL"},
        "doubt.dcm": {**nameless, "BodyPartExamined": None},
    }
    for seed, (name, changes) in enumerate(makes.items()):
        made = phantom_dx(seed, None, 512, 512, **changes)
        made.save_as(folder / name, enforce_file_format=True)
        uids[name] = str(made.SOPInstanceUID)
    yield folder, uids


@pytest.fixture
def table(films: tuple[Path, dict[str, str]]) -> Iterator[Path]:
    path = films[0] / "labels.csv"
    yield path
    path.unlink(missing_ok=True)


def test_labels_are_found_by_uid_and_laterals_are_left_out(table: Path, films: tuple[Path, dict[str, str]]) -> None:
    folder, uids = films
    rows = "".join(f"{uid},{number % 2}\n" for number, uid in enumerate(uids.values()))
    table.write_text(f"SOPInstanceUID,Mass\n{rows}1.2.3,1\n{uids['front.dcm']},1\n")
    found = read_films(folder, ["Mass"])
    assert [(row.path.name, row.findings, row.view, row.sex in ("F", "M")) for row in found.rows] == [
        ("front.dcm", (0,), "PA", True),
        ("IM0001", (1,), "AP", True),
        ("doubt.dcm", (1,), "PA", True),
    ]
    assert found.rows[0].age == 28
    reasons = {bad.row: bad.reason for bad in found.bad}
    assert "lateral" in reasons[3] and "ViewPosition" in reasons[3]
    assert "not chest" in reasons[4]
    assert "ViewPosition" in reasons[5]
    assert reasons[7] == "no DICOM file here has this SOP Instance UID"
    assert reasons[8] == "the film is named twice"
    assert found.notes[0].startswith("films whose header does not tell region or view, kept")


def test_labels_are_found_by_name_and_patients_are_digests(table: Path, films: tuple[Path, dict[str, str]]) -> None:
    table.write_text("image,Mass,patient_id\nfront.dcm,1,\nIM0001,0,p7\nnone.dcm,1,\n")
    found = read_films(films[0], ["Mass"])
    first, second = found.rows
    assert "PHANTOM" not in first.patient and len(first.patient) == 16
    assert second.patient == "p7"
    assert [(bad.image, bad.reason) for bad in found.bad] == [("none.dcm", "no DICOM file here has this name")]
    assert found.notes == ("DICOM files in the folder that no row of the table names: 4",)


def test_training_sees_what_serving_sees(table: Path, films: tuple[Path, dict[str, str]]) -> None:
    table.write_text("image,Mass\nIM0001,1\n")
    row = read_films(table.parent, ["Mass"]).rows[0]
    expected = decode_film(films[0] / "deep" / "IM0001").display
    np.testing.assert_array_equal(open_row(row), expected)


def test_a_plain_list_that_names_dicom_files_is_held_to_the_same(table: Path) -> None:
    table.write_text("image,Mass\nfront.dcm,1\nside.dcm,1\n")
    found = read_films(table, ["Mass"])
    assert [(row.image, row.view) for row in found.rows] == [("front.dcm", "PA")]
    assert "lateral" in found.bad[0].reason


def test_a_table_without_names_and_a_broken_file_are_said(table: Path, films: tuple[Path, dict[str, str]]) -> None:
    table.write_text("film,Mass\nfront.dcm,1\n")
    with pytest.raises(BadList, match=r"labels\.csv: no column SOPInstanceUID or image; add one"):
        read_films(films[0], ["Mass"])
    broken = films[0] / "broken.dcm"
    broken.write_bytes(b"no film at all" * 20)
    try:
        table.write_text("image,Mass\nfront.dcm,1\nbroken.dcm,1\n")
        found = read_films(films[0], ["Mass"])
        assert found.bad[0].reason.startswith("no DICOM film that can be read")
    finally:
        broken.unlink()
