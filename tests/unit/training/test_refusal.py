"""What is no film for the model: told by kind, with the share that is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.reading.engine import Film, Reading
from cxrnode.training.readers import BadList
from cxrnode.training.refusal import find_strangers, measure_refusal


class BrightnessEngine:
    """The distance is the grey level."""

    name = "brightness"

    def read(self, films: Sequence[Film]) -> list[Reading]:
        scores = np.zeros(1, np.float32)
        return [Reading(scores=scores, saliency=None, distance=float(film[0, 0]) / 100) for film in films]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for folder, levels in (("hand", (200, 210)), ("lateral", (50, 150))):
        (tmp_path / folder).mkdir()
        for i, level in enumerate(levels):
            Image.fromarray(np.full((4, 4), level, np.uint8)).save(tmp_path / folder / f"{i}.png")
    (tmp_path / "hand" / "torn.png").write_bytes(b"no picture")
    return tmp_path


GOOD = np.array([0.2, 0.4, 0.6, 0.8])


def test_kinds_are_those_of_the_folders_or_of_the_list(pictures: Path) -> None:
    assert [one.kind for one in find_strangers(pictures)] == ["hand"] * 3 + ["lateral"] * 2
    (pictures / "list.csv").write_text("image,kind\nhand/0.png,bone\nlateral/1.png,\n")
    assert [(one.image, one.kind) for one in find_strangers(pictures / "list.csv")] == [
        ("hand/0.png", "bone"),
        ("lateral/1.png", "other"),
    ]


def test_each_kind_is_told_with_its_area_and_the_share_past_the_limit(pictures: Path) -> None:
    found, bad = measure_refusal(BrightnessEngine(), find_strangers(pictures), GOOD, 1.0)
    assert [(one.kind, one.films, one.auroc.value, one.refused.count) for one in found] == [
        ("hand", 2, 1.0, 2),
        ("lateral", 2, 0.75, 1),
    ]
    assert [(row.image, row.reason) for row in bad] == [
        ("hand/torn.png", "no picture that can be read (UnidentifiedImageError)")
    ]


def test_a_folder_of_torn_pictures_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(BadList, match=r"none of 1 pictures can be read; the first, a\.png: no picture"):
        measure_refusal(BrightnessEngine(), find_strangers(tmp_path), GOOD, 1.0)
