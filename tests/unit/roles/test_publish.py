"""What the console shows of a film, made when it is read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cxrnode.dicom.raster import Halves
from cxrnode.roles.publish import PREVIEW_PX, _preview


@pytest.mark.parametrize(
    ("shape", "longest"),
    [
        ((1024, 1024), 1024),
        ((300, 512), 512),  # never larger than the film
        ((1100, 1000), 1024),
        ((1600, 1300), 1024),
        ((1640, 1300), 1024),
        ((2048, 2048), 1024),
        ((2500, 3000), 1024),
        ((3001, 2499), 1024),
        ((4500, 512), 1024),
    ],
)
def test_a_preview_shows_the_whole_film_at_the_size_that_is_wanted(shape: tuple[int, int], longest: int) -> None:
    down, across = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float64)
    film = (127 + 60 * np.sin(4 * down / shape[0]) + 60 * np.cos(5 * across / shape[1])).astype(np.uint8)
    preview = Image.open(io.BytesIO(_preview(Halves(film))))
    assert preview.mode == "L"
    assert max(preview.size) == longest <= PREVIEW_PX
    ratio = preview.width / preview.height
    assert ratio == pytest.approx(shape[1] / shape[0], rel=0.01)
    expected = np.asarray(Image.fromarray(film).resize(preview.size, Image.Resampling.BOX), np.float64)
    assert np.abs(np.asarray(preview, np.float64) - expected).max() < 6
