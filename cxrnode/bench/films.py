"""Films to measure on and to compare engines on: phantoms, and pictures that are none. Nobody's films."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.uid import generate_uid

from cxrnode.phantom.anatomy import PhantomFinding
from cxrnode.phantom.dicom import phantom_dx
from cxrnode.phantom.film import MAXIMUM, draw_film
from cxrnode.reading import oracle

#: The two sizes of a bench, rows and columns: a film of a small detector in 8 bits, one of a large one in 12.
SIZES = {"1024 x 1024": (1024, 1024, 8), "3000 x 2500": (3000, 2500, 12)}
_PHANTOMS = 12


def comparison_films(size: int) -> list[npt.NDArray[np.uint8]]:
    """Films uint8 (H, W) that engines are compared on: phantoms with each finding, and pictures that are none."""
    kinds: tuple[PhantomFinding | None, ...] = (None, *PhantomFinding)
    films = []
    for seed in range(_PHANTOMS):
        film = draw_film(900 + seed, kinds[seed % len(kinds)], 512, 424)
        films.append((film.astype(np.float32) * (255 / MAXIMUM)).astype(np.uint8))
    return [*films, *oracle.made_films(size)]


def write_films(folder: Path, count: int, size: str, *, first: int = 0) -> list[Path]:
    """Write `count` films of a size, each an instance of its own with pixels of its own, and return their paths.

    `first`: the number of the first of them; films of the same number are the same.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(first, first + count)
    films = zip(numbers, _films(numbers, size), strict=True)
    return [_written(folder / f"{number:05d}.dcm", data) for number, data in films]


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _films(numbers: Iterable[int], size: str) -> Iterator[bytes]:
    """One film is drawn; the others are it with other UIDs and one pixel changed, so that none is a duplicate."""
    rows, columns, bits = SIZES[size]
    dataset = phantom_dx(7, PhantomFinding.EFFUSION, rows, columns)
    if bits == 8:
        values = np.frombuffer(dataset.PixelData, np.uint16) >> 4
        dataset.PixelData = values.astype(np.uint8).tobytes()
        dataset["PixelData"].VR = "OB"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        dataset.WindowCenter, dataset.WindowWidth = 128, 256
    for number in numbers:
        uid = generate_uid(entropy_srcs=["bench", size, str(number)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=["bench study", size, str(number)])
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["bench series", size, str(number)])
        dataset.PatientID = f"BENCH{number:06d}"
        pixels = bytearray(dataset.PixelData)
        pixels[-8:-4] = number.to_bytes(4, "little") if bits == 8 else (number & 0xFFF).to_bytes(2, "little") * 2
        dataset.PixelData = bytes(pixels)
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        yield file.getvalue()
