"""Films and pictures as arrays: made larger or smaller, and put into a picture. The only module that knows OpenCV.

What is used of it computes in whole numbers, so that the same film gives the same bytes on every processor:
INTER_LINEAR_EXACT, INTER_AREA by two, GaussianBlur where it is asked to be accurate, and conversions that copy.
"""

from __future__ import annotations

from typing import TypeAlias, cast

import cv2
import numpy as np
import numpy.typing as npt

#: uint8 (H, W), 0 = black, row 0 = top.
Grey: TypeAlias = npt.NDArray[np.uint8]
#: uint8 (H, W, 3): R, G and B.
Picture: TypeAlias = npt.NDArray[np.uint8]

#: From so many times the size on, what is finer than two pixels of the result is softened first.
_SOFTENED = 1.4

cv2.setNumThreads(1)  # how many threads work is for a role to say, and its engine has its share of them


def scaled(film: Grey, size: tuple[int, int]) -> Grey:
    """The film at another size (width, height), averaged where it shrinks, interpolated where it grows.

    It is halved while it is more than twice as large, and then interpolated at twice the size and halved once more. Of
    fine lines that keeps and loses what Pillow does when it averages, at half the cost.
    """
    width, height = size
    while film.shape[1] > 2 * width and film.shape[0] > 2 * height:
        film = _halved(film)
    smaller = max(film.shape[1] / width, film.shape[0] / height)
    if smaller <= 1:
        return enlarged(film, size)
    if smaller > _SOFTENED:
        film = cast(Grey, cv2.GaussianBlur(film, (3, 3), 0.35 * smaller, hint=cv2.ALGO_HINT_ACCURATE))
    return _halved(enlarged(film, (2 * width, 2 * height)))


def fitted(shape: tuple[int, ...], width: int, height: int) -> tuple[int, int]:
    """Width and height of a film of this shape (H, W), made to fit a box of this width and height."""
    scale = min(width / shape[1], height / shape[0])
    return max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))


def enlarged(film: Grey, size: tuple[int, int]) -> Grey:
    """The film interpolated between the middles of its pixels, at another size (width, height)."""
    return cast(Grey, cv2.resize(film, size, interpolation=cv2.INTER_LINEAR_EXACT))


def _halved(film: Grey) -> Grey:
    """The mean of each four pixels; of an odd number of rows or columns the last is left out."""
    height, width = film.shape[0] // 2, film.shape[1] // 2
    even = film[: 2 * height, : 2 * width]
    return cast(Grey, cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA))


def put_grey(place: Picture, film: Grey) -> None:
    """Put a film into a place of its size, a view of a picture."""
    _put(place, film, cv2.COLOR_GRAY2RGB)


def put_packed(place: Picture, colours: npt.NDArray[np.uint8]) -> None:
    """Put colours of four bytes each (H, W, 4), the last unused, into a place of their size, a view of a picture."""
    _put(place, colours, cv2.COLOR_RGBA2RGB)


def _put(place: Picture, pixels: npt.NDArray[np.uint8], conversion: int) -> None:
    if place.shape[:2] != pixels.shape[:2]:  # OpenCV would write elsewhere and say nothing
        raise ValueError(f"pixels of {pixels.shape[:2]} do not fit a place of {place.shape[:2]}")
    if place.size:
        cv2.cvtColor(pixels, conversion, dst=place)
