"""Films and pictures as arrays: looked up, made larger or smaller, and put into a picture. Only this knows OpenCV.

What is used of it computes in whole numbers, so that the same film gives the same bytes on every processor:
INTER_LINEAR_EXACT, INTER_AREA by two, GaussianBlur where it is asked to be accurate, tables, and conversions that copy.
Its JPEG is for previews alone, which are stored once: another OpenCV may encode otherwise.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

#: uint8 (H, W), 0 = black, row 0 = top.
Grey: TypeAlias = npt.NDArray[np.uint8]
#: uint8 (H, W, 3): R, G and B.
Picture: TypeAlias = npt.NDArray[np.uint8]

#: What a table of OpenCV has to hold for numbers of 16 bits.
_NUMBERS = 1 << 16


@functools.cache
def opencv() -> ModuleType:
    """OpenCV, from the first film on: a role that neither decodes nor draws one does not load it."""
    import cv2

    cv2.setNumThreads(1)  # how many threads work is for a role to say, and its engine has its share of them
    return cv2


def looked_up(
    table: npt.NDArray[Any], numbers: npt.NDArray[np.uint16], into: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """`table[numbers]`, in half the time that NumPy takes and without the interpreter's lock; 0 past the table's end.

    `table`: of 1 or 4 bytes each, at most 65,536. `numbers`: uint16 (H, W). `into`: (N,) of the table's type, room for
    what is returned, (H, W), at its beginning.
    """
    cv2, whole = opencv(), table
    if len(table) < _NUMBERS:
        whole = np.zeros(_NUMBERS, table.dtype)
        whole[: len(table)] = table
    place = np.empty(numbers.shape, table.dtype) if into is None else into[: numbers.size].reshape(numbers.shape)
    if numbers.size:
        kind = np.int32 if table.dtype.itemsize == 4 else np.uint8  # what it has of four bytes that are only copied
        cv2.LUT(numbers, whole.view(kind), dst=place.view(kind))
    return place


class Halves:
    """A film, and what is left of it each time it is halved: made once for all who want it smaller."""

    def __init__(self, film: Grey) -> None:
        self.film = film
        self._halved: list[Grey] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the film itself."""
        height, width = self.film.shape
        return height, width

    def scaled(self, size: tuple[int, int]) -> Grey:
        """The film at another size (width, height), averaged where it shrinks, interpolated where it grows.

        It is halved while it is more than twice as large, softened as the rest asks for, and interpolated. Of fine
        lines that keeps and loses what Pillow does when it averages, at a quarter of the cost.
        """
        (width, height), film, times = size, self.film, 0
        while film.shape[1] > 2 * width and film.shape[0] > 2 * height:
            if times == len(self._halved):
                self._halved.append(_halved(film))
            film = self._halved[times]
            times += 1
        across, down = film.shape[1] / width, film.shape[0] / height
        if max(across, down) > 1:
            cv2, deviations = opencv(), (_softening(across), _softening(down))
            softened = cv2.GaussianBlur(film, (3, 3), deviations[0], None, deviations[1], hint=cv2.ALGO_HINT_ACCURATE)
            film = cast(Grey, softened)
        return enlarged(film, size)


def scaled(film: Grey, size: tuple[int, int]) -> Grey:
    """As `Halves.scaled`, of a film that is wanted at one size alone."""
    return Halves(film).scaled(size)


def _softening(smaller: float) -> float:
    """The pixels of deviation that lose what Pillow's triangle does, where a side shrinks so many times, up to two."""
    return max(0.1, 0.6 * smaller - 0.25) if smaller > 1 else 0.1


def fitted(shape: tuple[int, ...], width: int, height: int) -> tuple[int, int]:
    """Width and height of a film of this shape (H, W), made to fit a box of this width and height."""
    scale = min(width / shape[1], height / shape[0])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def enlarged(film: Grey, size: tuple[int, int]) -> Grey:
    """The film interpolated between the middles of its pixels, at another size (width, height)."""
    cv2 = opencv()
    return cast(Grey, cv2.resize(film, size, interpolation=cv2.INTER_LINEAR_EXACT))


def _halved(film: Grey) -> Grey:
    """The mean of each four pixels; an odd number of rows or columns is made even first, so that nothing moves."""
    height, width = film.shape[0] // 2, film.shape[1] // 2
    if film.shape != (2 * height, 2 * width):
        film = enlarged(film, (2 * width, 2 * height))
    cv2 = opencv()
    return cast(Grey, cv2.resize(film, (width, height), interpolation=cv2.INTER_AREA))


def jpeg(film: Grey, quality: int) -> bytes:
    """The film as a grey JPEG. Pillow's encoder holds the interpreter's lock, OpenCV's does not."""
    cv2 = opencv()
    _, coded = cv2.imencode(".jpg", film, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return bytes(coded)


def put_grey(place: Picture, film: Grey) -> None:
    """Put a film into a place of its size, a view of a picture."""
    _put(place, film, "COLOR_GRAY2RGB")


def put_packed(place: Picture, colours: npt.NDArray[np.uint8]) -> None:
    """Put colours of four bytes each (H, W, 4), the last unused, into a place of their size, a view of a picture."""
    _put(place, colours, "COLOR_RGBA2RGB")


def _put(place: Picture, pixels: npt.NDArray[np.uint8], conversion: str) -> None:
    if place.shape[:2] != pixels.shape[:2]:  # OpenCV would write elsewhere and say nothing
        raise ValueError(f"pixels of {pixels.shape[:2]} do not fit a place of {place.shape[:2]}")
    if place.size:
        cv2 = opencv()
        cv2.cvtColor(pixels, getattr(cv2, conversion), dst=place)
