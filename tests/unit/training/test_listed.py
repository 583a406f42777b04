"""Films to be opened one by one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.training.listed import find_films
from cxrnode.training.readers import BadList


def test_films_are_those_below_a_folder_or_those_that_a_list_names(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("b.png", "deep/a.DCM", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "films.csv").write_text("image,kind\nb.png,hand\n")
    assert find_films(tmp_path) == [tmp_path / "b.png", tmp_path / "deep" / "a.DCM"]
    assert find_films(tmp_path / "films.csv") == [tmp_path / "b.png"]


@pytest.mark.parametrize(
    ("table", "place", "message"),
    [
        ("picture\nb.png\n", "films.csv", "no column image; add it"),
        ("image\n", "films.csv", "no film is in it"),
        ("image\n", "lost.csv", "there is no such file or folder"),
    ],
)
def test_a_place_without_films_is_said_to_be_that(tmp_path: Path, table: str, place: str, message: str) -> None:
    (tmp_path / "films.csv").write_text(table)
    with pytest.raises(BadList, match=message):
        find_films(tmp_path / place)
