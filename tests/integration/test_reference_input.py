"""What the network is fed, against the published model's own preprocessing on 200 real films: exactly the same bytes.

Then the AUC that was published with it holds for its weights here, whether a film comes as PNG or as DICOM.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from cxrnode.dicom.pixels import decode_film
from cxrnode.reading.engine import Film, prepare
from cxrnode.reading.manifest import Input
from cxrnode.training.checkpoint import IMAGENET_MEAN, IMAGENET_STD
from cxrnode.training.readers.picture import open_film

#: The input before it is normalised: levels from 0 to 1.
LEVELS = Input(size=224, channels=3, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """One film of the reference: its picture, and what the published preprocessing makes of it."""

    path: Path
    sha256: str
    mean: float
    std: float


@pytest.fixture(scope="module")
def references(data_dir: Path) -> list[Reference]:
    with (data_dir / "reference" / "reference_input_224.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 200
    return [
        Reference(data_dir / r["image"], r["sha256_uint8_224x224x3"], float(r["mean"]), float(r["std"])) for r in rows
    ]


def fed(film: Film) -> npt.NDArray[np.uint8]:
    """The input as the reference has it: uint8 (224, 224, 3)."""
    levels = prepare(film, LEVELS) * 255
    whole = np.rint(levels)
    assert float(np.abs(levels - whole).max()) < 1e-3
    return np.ascontiguousarray(whole.astype(np.uint8).transpose(1, 2, 0))


def sha256(film: Film) -> str:
    return hashlib.sha256(fed(film).tobytes()).hexdigest()


@pytest.mark.slow
def test_each_png_gives_the_published_input(references: list[Reference]) -> None:
    assert [one.path.name for one in references if sha256(open_film(one.path)) != one.sha256] == []


def as_dicom(path: Path, film: Film, syntax: pydicom.uid.UID, header: Path) -> Path:
    """The film under the header of a real DICOM file that holds such a picture."""
    ds = pydicom.dcmread(header)
    ds.Rows, ds.Columns = film.shape
    ds.PixelData = film.tobytes()
    ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    if syntax == RLELossless:
        ds.compress(RLELossless)
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.slow
def test_each_film_as_dicom_gives_the_published_input(
    references: list[Reference], data_dir: Path, tmp_path: Path
) -> None:
    header = data_dir / "dicom" / "chest" / "nih_00000002_000.dcm"
    wrong = []
    for number, one in enumerate(references):
        # RLE takes seconds a film to write.
        syntax = RLELossless if number % 100 == 0 else (ImplicitVRLittleEndian, ExplicitVRLittleEndian)[number % 2]
        path = as_dicom(tmp_path / "film.dcm", open_film(one.path), syntax, header)
        if sha256(decode_film(path).display) != one.sha256:
            wrong.append((one.path.name, syntax.name))
    assert wrong == []


def test_the_dicom_file_of_an_nih_film_shows_the_stored_levels(data_dir: Path) -> None:
    path = data_dir / "dicom" / "chest" / "nih_00000002_000.dcm"
    stored = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(decode_film(path).display, stored)
    assert sha256(open_film(path)) == sha256(stored)


def test_levels_are_normalised_as_the_published_model_was_fed(references: list[Reference]) -> None:
    given = dataclasses.replace(LEVELS, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    for one in references[:10]:
        film = open_film(one.path)
        levels = fed(film)
        assert (round(float(levels.mean()), 4), round(float(levels.std()), 4)) == (one.mean, one.std)
        expected = (levels / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
        np.testing.assert_allclose(prepare(film, given), expected.transpose(2, 0, 1), atol=1e-6)


def test_another_filter_or_a_stretch_would_be_noticed(references: list[Reference]) -> None:
    from PIL import Image

    one = references[0]
    film = open_film(one.path)
    bicubic = np.asarray(Image.fromarray(film).resize((224, 224), Image.Resampling.BICUBIC))
    stretched = ((film.astype(float) - film.min()) / (int(film.max()) - int(film.min())) * 250).astype(np.uint8)
    assert one.sha256 not in (sha256(bicubic), sha256(stretched))
