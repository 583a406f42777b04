"""Boxes in both forms of lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.training.readers import BadList, FilmRow
from cxrnode.training.readers.boxes import Box, read_box_list


def test_both_forms_tell_the_same_box(tmp_path: Path) -> None:
    own, nih = tmp_path / "boxes.csv", tmp_path / "BBox_List_2017.csv"
    own.write_text("image,finding,x,y,w,h\na.png,Infiltration,1.5,2,30,40\n")
    nih.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Infiltrate,1.5,2,30,40,,,\n")
    assert list(read_box_list(own)) == [Box(row=1, image="a.png", finding="Infiltration", x=1.5, y=2, w=30, h=40)]
    assert list(read_box_list(nih)) == [Box(row=1, image="a.png", finding="Infiltrate", x=1.5, y=2, w=30, h=40)]


@pytest.mark.slow  # torch itself, to be loaded
def test_nihs_spelling_of_a_finding_finds_its_film(tmp_path: Path) -> None:
    from cxrnode.training.localisation import read_boxes

    path = tmp_path / "BBox_List_2017.csv"
    path.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Infiltrate,0,0,512,1024,,,\n")
    film = FilmRow(path=tmp_path / "a.png", patient="1", findings=(1,), image="a.png")
    (only,) = read_boxes(path, [film], ["Infiltration"])
    assert (only.finding, only.mask.mean()) == ("Infiltration", 0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Image Index,Finding Label,x,y,w,h\n", r"boxes\.csv: no column Bbox \[x, h\]; a box has image, finding, x"),
        ("image,finding,x,y,w\n", r"boxes\.csv: no column h"),
        ("image,finding,x,y,w,h\na,Mass,1,2,3,nan\n", r"boxes\.csv: row 1: x, y, w and h are not all numbers; correct"),
    ],
)
def test_what_is_no_box_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(content)
    with pytest.raises(BadList, match=message):
        list(read_box_list(path))
