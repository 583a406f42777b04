"""Captures as PNG: what we made, plain or as JPEG, and nothing else."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cxrnode.dicom.outputs import OutputSettings, build_outputs
from cxrnode.errors import Rejected
from cxrnode.web.pictures import capture_png
from tests.unit.outputs.sources import make_film, make_report, make_saliency, make_source


def made(encoding: str) -> dict[str, bytes]:
    """The outputs of one report, by kind."""
    settings = OutputSettings(encoding=encoding)
    some = build_outputs(make_source(), make_report(), make_film(), make_saliency(), settings)
    return {one.kind: one.data for one in reversed(some)}


def opened(png: bytes) -> npt.NDArray[np.int16]:
    picture = Image.open(io.BytesIO(png), formats=("PNG",))
    assert picture.mode == "RGB"
    return np.asarray(picture, np.int16)


def test_a_capture_as_jpeg_is_shown_as_the_plain_one_is() -> None:
    plain, jpeg = made("raw"), made("jpeg")
    for kind in ("summary", "heatmap"):
        one, other = opened(capture_png(plain[kind])), opened(capture_png(jpeg[kind]))
        assert one.shape == other.shape and one.std() > 20
        # Loss of a JPEG, not colours in the wrong order.
        assert np.abs(one - other).mean() < 4


def test_a_report_is_no_picture() -> None:
    with pytest.raises(Rejected, match="no picture"):
        capture_png(made("raw")["sr"])
