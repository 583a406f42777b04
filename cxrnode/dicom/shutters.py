"""Display shutters (PS3.3 C.7.6.11): what lies outside them is hidden. Never hides a whole film."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset

from cxrnode.dicom.values import many_numbers, many_texts, number

#: A shutter that leaves less of the film than this is taken for a mistake.
_LEAST_VISIBLE = 0.01
_LARGEST = 1e6
#: The shapes, and the attributes that each has.
SHAPES = {
    "RECTANGULAR": (
        "ShutterLeftVerticalEdge",
        "ShutterRightVerticalEdge",
        "ShutterUpperHorizontalEdge",
        "ShutterLowerHorizontalEdge",
    ),
    "CIRCULAR": ("CenterOfCircularShutter", "RadiusOfCircularShutter"),
    "POLYGONAL": ("VerticesOfThePolygonalShutter",),
}


def outside_shutters(header: Dataset, shape: tuple[int, ...], notes: list[str]) -> npt.NDArray[np.bool_] | None:
    """Return which pixels are hidden, bool (H, W); None where no shutter applies. Adds to `notes` what was left out.

    Several shutters hide what any of them hides. Rows and columns in the header count from 1.
    """
    shapes = many_texts(header, "ShutterShape")
    if not shapes:
        return None
    rows, columns = shape[0], shape[1]
    visible = np.ones((rows, columns), dtype=bool)
    for name in shapes:
        part = _VISIBLE[name](header, rows, columns) if name in _VISIBLE else None
        if part is None:
            notes.append("a shutter of another shape or without its edges was left out")
            continue
        visible &= part
    if visible.mean() < _LEAST_VISIBLE:
        notes.append("the shutters hide the whole film: they were left out")
        return None
    return None if visible.all() else ~visible


def _rectangle(header: Dataset, rows: int, columns: int) -> npt.NDArray[np.bool_] | None:
    left, right = number(header, "ShutterLeftVerticalEdge"), number(header, "ShutterRightVerticalEdge")
    top, bottom = number(header, "ShutterUpperHorizontalEdge"), number(header, "ShutterLowerHorizontalEdge")
    if left is None or right is None or top is None or bottom is None:
        return None
    row, column = np.arange(1, rows + 1)[:, None], np.arange(1, columns + 1)[None, :]
    return np.asarray((row >= top) & (row <= bottom) & (column >= left) & (column <= right))


def _circle(header: Dataset, rows: int, columns: int) -> npt.NDArray[np.bool_] | None:
    centre, radius = many_numbers(header, "CenterOfCircularShutter"), number(header, "RadiusOfCircularShutter")
    if len(centre) != 2 or radius is None or radius <= 0:
        return None
    row, column = np.arange(1, rows + 1)[:, None], np.arange(1, columns + 1)[None, :]
    return np.asarray((row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius**2)


def _polygon(header: Dataset, rows: int, columns: int) -> npt.NDArray[np.bool_] | None:
    points = many_numbers(header, "VerticesOfThePolygonalShutter")
    if len(points) < 6 or len(points) % 2 or max(map(abs, points)) > _LARGEST:
        return None
    canvas = Image.new("1", (columns, rows))
    corners = [(column - 1, row - 1) for row, column in zip(points[::2], points[1::2], strict=True)]
    ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
    return np.asarray(canvas, dtype=bool)


_VISIBLE = {"RECTANGULAR": _rectangle, "CIRCULAR": _circle, "POLYGONAL": _polygon}
