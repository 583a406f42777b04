"""The films at hand: each is shown, or refused with a reason; peers' decoders agree."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from cxrnode.dicom.pixels import decode_film
from cxrnode.errors import Rejected


@pytest.mark.parametrize(
    ("name", "shape", "window"),
    [
        ("RG1_J2KI.dcm", (1955, 1841), "window 15000/30000 LINEAR"),
        ("966_fixed.dcm", (2128, 2000), "window 2048/4096 LINEAR"),
        ("siim_6904.dcm", (1024, 1024), "no window: full range of 8 bits"),
        ("nih_00000002_000.dcm", (1024, 1024), "no window: full range of 8 bits"),
    ],
)
def test_a_chest_film_is_shown_the_right_way_round(
    data_dir: Path, name: str, shape: tuple[int, int], window: str
) -> None:
    film = decode_film(data_dir / "dicom" / "chest" / name)
    assert (film.display.shape, film.window) == (shape, window)
    rows, columns = shape
    spine = film.display[rows // 4 : rows // 2, columns * 9 // 20 : columns * 11 // 20].mean()
    lung = film.display[rows // 4 : rows // 2, columns // 5 : columns * 2 // 5].mean()
    assert spine > lung + 20, "the mediastinum is brighter than the right lung"


def test_the_model_sees_the_same_in_a_dicom_as_in_the_png_of_the_film(data_dir: Path) -> None:
    path = data_dir / "dicom" / "chest" / "nih_00000002_000.dcm"
    assert np.array_equal(decode_film(path).display, pydicom.dcmread(path).pixel_array)


def test_one_film_raw_big_endian_and_run_length_encoded_has_one_digest(data_dir: Path) -> None:
    names = ("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm")
    assert len({decode_film(data_dir / "dicom" / "negative" / name).pixel_digest for name in names}) == 1


def test_jpeg_of_12_bits_is_decoded(data_dir: Path) -> None:
    lossy = decode_film(data_dir / "dicom" / "negative" / "RG2_JPLY_fixed.dcm").display.astype(int)
    lossless = decode_film(data_dir / "dicom" / "negative" / "RG2_JPLL.dcm").display.astype(int)
    assert np.abs(lossy - lossless).mean() < 2.0


@pytest.mark.parametrize("folder", ["negative", "malformed", "chest_charset"])
def test_every_other_file_is_decoded_or_refused_and_nothing_else(data_dir: Path, folder: str) -> None:
    shown, refused = [], []
    for path in sorted((data_dir / "dicom" / folder).iterdir()):
        try:
            shown.append(decode_film(path).display)
        except Rejected as fault:
            refused.append(str(fault))
    assert all(picture.dtype == np.uint8 and picture.ndim == 2 for picture in shown)
    assert all(refused)
    assert len(shown) + len(refused) > 1


def test_a_film_with_a_broken_stream_is_refused_as_damaged(data_dir: Path) -> None:
    with pytest.raises(Rejected, match="damaged"):
        decode_film(data_dir / "dicom" / "malformed" / "966.dcm")


def test_a_truncated_film_is_refused_and_says_how_much_is_missing(data_dir: Path) -> None:
    with pytest.raises(Rejected, match=r"8,130 of 8,192 bytes"):
        decode_film(data_dir / "dicom" / "malformed" / "MR_truncated.dcm")
