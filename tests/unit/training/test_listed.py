"""Lists of films with labels: what is read, what is left out by name, what stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.errors import UnreadableImage
from cxrnode.training.listed import BadList, open_film, read_list

HEAD = "image,patient_id,view,age,sex,fold5,Effusion,Mass\n"


def picture(path: Path, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)).convert(mode).save(path)
    return path


def listed(folder: Path, rows: str, head: str = HEAD) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        picture(folder / name)
    path = folder / "films.csv"
    path.write_text(head + rows)
    return path


def test_a_plain_list_is_read_in_its_order(tmp_path: Path) -> None:
    found = read_list(listed(tmp_path, "a.png,1,pa,61,F,0,0,1\nb.png,,,,,1,1.0,0\n"), ["Mass", "Effusion"])
    first, second = found.films
    assert (first.patient, first.view, first.age, first.sex, first.truth) == ("1", "PA", 61.0, "F", (1.0, 0.0))
    assert (second.patient, second.view, second.age, second.sex, second.truth) == ("b.png", "", None, "", (0.0, 1.0))
    assert found.bad_rows == ()


def test_a_bad_row_is_left_out_and_says_why(tmp_path: Path) -> None:
    rows = "a.png,1,PA,61,F,0,0,1\na.png,1,PA,61,F,0,0,1\nx.png,1,PA,61,F,0,0,1\nb.png,1,PA,old,F,0,0,1\n"
    rows += "c.png,1,PA,61,F,0,?,1\n,1,PA,61,F,0,0,1\nshort.png\n"
    found = read_list(listed(tmp_path, rows), ["Effusion", "Mass"])
    assert [film.image for film in found.films] == ["a.png"]
    assert {(bad.row, bad.reason) for bad in found.bad_rows} == {
        (2, "the film is named twice"),
        (3, "the film is not there"),
        (4, "age is 'old', not a number of years"),
        (5, "Effusion is '?', not 0 or 1"),
        (6, "no film is named"),
        (7, "Effusion is '', not 0 or 1"),
    }


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("image,Effusion\n", r"films\.csv: no column Mass; .*--without Mass"),
        ("film,Effusion,Mass\n", r"films\.csv: no column image; add it"),
        ("image,Effusion,Mass,Efusion\n", r"films\.csv: column Efusion is no finding .*--ignore Efusion"),
    ],
)
def test_a_column_that_is_missing_or_unknown_stops_all(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(BadList, match=message):
        read_list(listed(tmp_path, "a.png,0,0\n", head), ["Effusion", "Mass"])


def test_an_unknown_column_may_be_passed_over(tmp_path: Path) -> None:
    path = listed(tmp_path, "a.png,0,1,x\n", "image,Effusion,Mass,reader\n")
    assert len(read_list(path, ["Effusion", "Mass"], ignored=["reader"]).films) == 1


def test_folds_are_kept_apart(tmp_path: Path) -> None:
    path = listed(tmp_path, "a.png,1,PA,61,F,0,0,1\nb.png,2,PA,61,F,1,0,1\n")
    assert [film.image for film in read_list(path, ["Mass"], folds=["1"]).films] == ["b.png"]
    with pytest.raises(BadList, match="no film can be used of 0 rows"):
        read_list(path, ["Mass"], folds=["7"])


def test_a_folder_needs_one_list(tmp_path: Path) -> None:
    listed(tmp_path, "a.png,1,PA,61,F,0,0,1\n")
    assert read_list(tmp_path, ["Mass"]).name == "films.csv"
    (tmp_path / "other.csv").write_text("")
    with pytest.raises(BadList, match=r"found: films\.csv, other\.csv; name the file"):
        read_list(tmp_path, ["Mass"])
    with pytest.raises(BadList, match="no such file or folder"):
        read_list(tmp_path / "nowhere", ["Mass"])


def nih(folder: Path, labels: str = "Effusion|Mass") -> Path:
    picture(folder / "images_001" / "images" / "00000001_000.png")
    picture(folder / "images_001" / "images" / "00000002_000.png")
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    rows = f"00000001_000.png,{labels},0,1,058Y,M,PA\n00000002_000.png,No Finding,0,2,81,F,AP\n"
    (folder / "Data_Entry_2017.csv").write_text(head + rows)
    return folder


def test_the_layout_of_nih_is_read_with_its_test_list(tmp_path: Path) -> None:
    found = read_list(nih(tmp_path), ["Mass", "Hernia"])
    assert [(f.patient, f.age, f.sex, f.view, f.truth) for f in found.films] == [
        ("1", 58.0, "M", "PA", (1.0, 0.0)),
        ("2", 81.0, "F", "AP", (0.0, 0.0)),
    ]
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n")
    assert [film.patient for film in read_list(tmp_path, ["Mass"]).films] == ["2"]
    with pytest.raises(BadList, match="this layout knows no folds"):
        read_list(tmp_path, ["Mass"], folds=["1"])


def test_an_unknown_label_of_nih_is_named_with_its_row(tmp_path: Path) -> None:
    with pytest.raises(BadList, match=r"Data_Entry_2017\.csv: row 1: 'Efusion' is no label of ChestX-ray14"):
        read_list(nih(tmp_path, "Efusion|Mass"), ["Mass"])


def test_folders_of_classes_are_read_from_the_test_split(tmp_path: Path) -> None:
    for name in ("test/NORMAL/IM-0001-0001.jpeg", "test/PNEUMONIA/person1_virus_6.jpeg", "NORMAL/x.jpeg"):
        picture(tmp_path / name)
    (tmp_path / "PNEUMONIA").mkdir()
    found = read_list(tmp_path, ["Pneumonia"])
    assert [(f.image, f.patient, f.truth) for f in found.films] == [
        ("NORMAL/IM-0001-0001.jpeg", "IM-0001", (0.0,)),
        ("PNEUMONIA/person1_virus_6.jpeg", "person1", (1.0,)),
    ]
    with pytest.raises(BadList, match="--without Mass"):
        read_list(tmp_path, ["Pneumonia", "Mass"])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA"])
def test_a_picture_is_the_same_film_in_each_mode(tmp_path: Path, mode: str) -> None:
    expected = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(open_film(picture(tmp_path / "film.png", mode)), expected)


def test_what_is_no_film_is_said_without_its_path(tmp_path: Path) -> None:
    torn, deep = tmp_path / "torn.png", tmp_path / "deep.png"
    torn.write_bytes(picture(tmp_path / "a.png").read_bytes()[:-30])
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    for path, message in ((torn, "no picture"), (deep, "mode I;16"), (tmp_path, "cannot be read")):
        with pytest.raises(UnreadableImage, match=message) as caught:
            open_film(path)
        assert str(tmp_path) not in str(caught.value)
