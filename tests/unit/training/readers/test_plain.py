"""The plain CSV: what is read, what is left out by name, what stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrnode.core.findings import NIH14
from cxrnode.training.readers import BadList, joined, read_films, targets
from tests.unit.training.readers.layouts import picture

HEAD = "image,patient_id,view,age,sex,fold5,Effusion,Mass\n"


def listed(folder: Path, rows: str, head: str = HEAD, name: str = "films.csv") -> Path:
    for film in ("a.png", "b.png", "c.png"):
        picture(folder / film)
    path = folder / name
    path.write_text(head + rows)
    return path


def test_a_plain_list_is_read_in_its_order(tmp_path: Path) -> None:
    found = read_films(listed(tmp_path, "a.png,1,pa,61,F,0,0,1\nb.png,,,,,,1.0,0\n"), ["Mass", "Effusion"])
    first, second = found.rows
    assert (first.patient, first.view, first.age, first.sex, first.fold, first.findings) == (
        *("1", "PA", 61.0, "F", 0),
        (1, 0),
    )
    assert (second.patient, second.view, second.age, second.sex, second.fold, second.findings) == (
        *("b.png", "", None, "", -1),
        (0, 1),
    )
    assert (found.labels, found.bad) == (("Mass", "Effusion"), ())


def test_a_bad_row_is_left_out_and_says_why(tmp_path: Path) -> None:
    rows = "a.png,1,PA,61,F,0,0,1\na.png,1,PA,61,F,0,0,1\nx.png,1,PA,61,F,0,0,1\nb.png,1,PA,old,F,0,0,1\n"
    rows += "c.png,1,PA,61,F,0,?,1\n,1,PA,61,F,0,0,1\nshort.png\nd.png,1,PA,61,F,one,0,1\n"
    found = read_films(listed(tmp_path, rows), ["Effusion", "Mass"])
    assert [row.image for row in found.rows] == ["a.png"]
    assert {(bad.row, bad.reason) for bad in found.bad} == {
        (2, "the film is named twice"),
        (3, "the film is not there"),
        (4, "age is 'old', not a number of years"),
        (5, "Effusion is '?', not 0 or 1"),
        (6, "no film is named"),
        (7, "Effusion is '', not 0 or 1"),
        (8, "fold is 'one', not a whole number"),
    }


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("image,Effusion\n", r"films\.csv: no column Mass; .*--without Mass"),
        ("film,Effusion,Mass\n", r"films\.csv: no column image; add it"),
        ("image,Effusion,Mass,Efusion\n", r"films\.csv: column Efusion is no finding .*--ignore Efusion"),
        ("image,Effusion,Mass,Mass\n", r"films\.csv: column Mass is there twice; take one of them out"),
    ],
)
def test_a_column_that_is_missing_or_unknown_stops_all(tmp_path: Path, head: str, message: str) -> None:
    with pytest.raises(BadList, match=message):
        read_films(listed(tmp_path, "a.png,0,0\n", head), ["Effusion", "Mass"])


def test_an_unknown_column_may_be_passed_over(tmp_path: Path) -> None:
    path = listed(tmp_path, "a.png,0,1,x\n", "image,Effusion,Mass,reader\n")
    assert len(read_films(path, ["Effusion", "Mass"], ignored=["reader"]).rows) == 1


def test_a_label_is_found_under_any_spelling(tmp_path: Path) -> None:
    path = listed(tmp_path, "a.png,1,0\n", "image,pleural thickening,no_finding\n")
    found = read_films(path, ["Pleural_Thickening", "No Finding", "Abnormal"])
    assert found.rows[0].findings == (1, 0, 1)


def test_no_finding_and_abnormal_are_worked_out_of_all_fourteen(tmp_path: Path) -> None:
    rows = "a.png," + ",".join("0" * 14) + "\nb.png," + ",".join("0" * 13 + "1") + "\n"
    path = listed(tmp_path, rows, f"image,{','.join(NIH14)}\n")
    found = read_films(path, ["No Finding", "Abnormal"])
    assert [row.findings for row in found.rows] == [(1, 0), (0, 1)]
    with pytest.raises(BadList, match=r"no column No Finding; .*--without 'No Finding'"):
        read_films(listed(tmp_path, "a.png,1\n", "image,Mass\n"), ["No Finding"])


def test_folds_and_parts_are_kept_apart(tmp_path: Path) -> None:
    path = listed(tmp_path, "a.png,1,PA,61,F,0,0,1\nb.png,2,PA,61,F,1,0,1\n")
    assert [row.image for row in read_films(path, ["Mass"], folds=["1"]).rows] == ["b.png"]
    with pytest.raises(BadList, match=r"no film can be used of 0 rows"):
        read_films(path, ["Mass"], folds=["7"])
    path = listed(tmp_path, "a.png,train,1\nb.png,TEST,1\nc.png,dev,1\n", "image,split,Mass\n")
    found = read_films(path, ["Mass"])
    assert [row.part for row in found.rows] == ["train", "test"]
    assert found.bad[0].reason == "split is 'dev', not train, val or test"
    assert [row.image for row in read_films(path, ["Mass"], parts=["test"]).rows] == ["b.png"]
    with pytest.raises(BadList, match=r"no column fold; add it"):
        read_films(path, ["Mass"], folds=["0"])


def test_a_folder_needs_one_list(tmp_path: Path) -> None:
    listed(tmp_path, "a.png,1,PA,61,F,0,0,1\n")
    assert read_films(tmp_path, ["Mass"]).name == "films.csv"
    (tmp_path / "other.csv").write_text("")
    with pytest.raises(BadList, match=r"found: films\.csv, other\.csv; name the file"):
        read_films(tmp_path, ["Mass"])
    with pytest.raises(BadList, match=r"no such file or folder"):
        read_films(tmp_path / "nowhere", ["Mass"])
    with pytest.raises(BadList, match=r"no label is left"):
        read_films(tmp_path, [])


@pytest.mark.parametrize("content", [b"image,Mass\na.png,\xff\n", b'image,Mass\n"a', b""])
def test_what_is_no_table_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "films.csv").write_bytes(content)
    with pytest.raises(BadList, match=r"films\.csv: "):
        read_films(tmp_path / "films.csv", ["Mass"])


def test_lists_are_joined_with_what_each_does_not_know(tmp_path: Path) -> None:
    one = read_films(listed(tmp_path, "a.png,1,PA,61,F,0,0,1\n", name="one.csv"), ["Mass", "Effusion"])
    other = read_films(listed(tmp_path, "b.png,1,1\n", "image,patient_id,Pneumonia\n", "other.csv"), ["Pneumonia"])
    both = joined([one, other], ["Pneumonia", "Mass"])
    np.testing.assert_array_equal(targets(both.rows), np.array([[np.nan, 1], [1, np.nan]], np.float32))
    assert [row.patient for row in both.rows] == ["one.csv:1", "other.csv:1"]
    with pytest.raises(BadList, match=r"none has the label Hernia"):
        joined([one, other], ["Hernia"])
    with pytest.raises(BadList, match=r"need different names"):
        joined([one, one], ["Mass"])
