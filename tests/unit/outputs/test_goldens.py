"""Golden renderings: the pictures of the documentation, drawn again, are the pictures that were looked at.

Tolerance: a mean difference of 1.5 grey levels and at most 0.2 % of the values off by more than 40. That is what a
JPEG of quality 92 costs; a moved line of text, another colour scale or a shifted map costs more (checked below).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from tests.unit.outputs.pictures import pictures

FOLDER = Path(__file__).parents[3] / "docs" / "pictures"
NAMES = (
    *("summary", "heatmap", "heatmap-contour", "summary-nothing-found", "not-analysed"),
    *("presentation", "study", "withdrawn"),
)


@functools.cache
def drawn() -> dict[str, Image.Image]:
    return pictures()


def alike(one: Image.Image, other: Image.Image) -> bool:
    if one.size != other.size:
        return False
    apart = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
    return bool(apart.mean() <= 1.5 and (apart > 40).mean() <= 0.002)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_drawn_as_it_was_when_it_was_looked_at(name: str) -> None:
    with Image.open(FOLDER / f"{name}.jpg") as golden:
        assert alike(drawn()[name], golden.convert("RGB"))


def test_the_tolerance_would_notice_a_line_of_text_that_moved() -> None:
    picture = drawn()["summary"]
    moved = picture.copy()
    moved.paste(picture.crop((0, 0, 600, 40)), (0, 3))
    assert not alike(picture, moved)


def test_the_tolerance_would_notice_another_colour_scale() -> None:
    red, green, blue = drawn()["heatmap"].split()
    assert not alike(drawn()["heatmap"], Image.merge("RGB", (blue, green, red)))


def test_the_tolerance_would_notice_a_map_that_moved_by_two_pixels() -> None:
    assert not alike(drawn()["heatmap"], ImageChops.offset(drawn()["heatmap"], 2, 0))


def test_the_documentation_shows_every_golden_and_answers_ten_questions() -> None:
    page = (FOLDER.parent / "reading-the-outputs.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert ([name for name in NAMES if f"pictures/{name}.jpg" not in page], len(rows)) == ([], 10)
