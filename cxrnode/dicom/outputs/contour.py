"""The border of a region of influence as closed polygons: marching squares over the same smooth map as the picture's.

A region that runs out of the film is closed along the film's edge. Knows no DICOM.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrnode.dicom.outputs.influence import CONTOUR_LEVEL, Influence

Point: TypeAlias = tuple[float, float]
Polygon: TypeAlias = tuple[Point, ...]

#: The longer side of the grid on which the border is followed, in cells; between them it is interpolated.
_GRID = 160
#: How near to a corner, in parts of a side, the border may cross it: at the corner itself four sides would meet.
_NEAREST = 1e-6
#: The two ends of the border in a square, by its corners inside (1 top left, 2 top right, 4 bottom right, 8 bottom
#: left); sides count clockwise from the top. The inside stays at the right hand, so that all ends meet beginnings.
_ENDS: dict[int, tuple[tuple[int, int], ...]] = {
    1: ((0, 3),),
    2: ((1, 0),),
    3: ((1, 3),),
    4: ((2, 1),),
    6: ((2, 0),),
    7: ((2, 3),),
    8: ((3, 2),),
    9: ((0, 2),),
    11: ((1, 2),),
    12: ((3, 1),),
    13: ((0, 1),),
    14: ((3, 0),),
}
#: Two opposite corners inside: joined where the middle lies inside, else apart.
_SADDLES = {5: {True: ((0, 1), (2, 3)), False: ((0, 3), (2, 1))}, 10: {True: ((3, 0), (1, 2)), False: ((1, 0), (3, 2))}}
_SIDES = (((0, 0), (0, 1)), ((0, 1), (1, 1)), ((1, 1), (1, 0)), ((1, 0), (0, 0)))


def contours(shown: Influence, width: int, height: int) -> tuple[Polygon, ...]:
    """The closed borders of what lies at or above CONTOUR_LEVEL, the longest first; () where nothing does.

    Points are (x, y) in pixels of a film of this size, 0 at its left and upper edges; the last is the first again.
    """
    if shown.peak < CONTOUR_LEVEL:
        return ()
    scale = _GRID / max(width, height)
    columns, rows = (max(8, round(side * scale)) for side in (width, height))
    smooth = np.asarray(Image.fromarray(shown.cells).resize((columns, rows), Image.Resampling.BICUBIC), np.float64)
    # A ring outside the film that is never inside closes every border.
    field = np.pad(smooth - CONTOUR_LEVEL, 1, constant_values=-1.0)
    followed = []
    for border in _followed(field):
        points = [
            (
                min(max((column - 0.5) * width / columns, 0.0), float(width)),
                min(max((row - 0.5) * height / rows, 0.0), float(height)),
            )
            for row, column in border
        ]
        followed.append((*points, points[0]))
    return tuple(sorted((p for p in followed if len(p) > 4), key=len, reverse=True))


def _followed(field: npt.NDArray[np.float64]) -> list[list[Point]]:
    """Each border of what is not below 0, as (row, column) in cells, once around."""
    inside = field >= 0
    corners = (
        inside[:-1, :-1] * 1 + inside[:-1, 1:] * 2 + inside[1:, 1:] * 4 + inside[1:, :-1] * 8
    )  # each square by its corners
    following: dict[Point, Point] = {}
    for row, column in np.argwhere((corners > 0) & (corners < 15)).tolist():
        case = int(corners[row, column])
        if case in _SADDLES:
            middle = bool(field[row : row + 2, column : column + 2].mean() >= 0)
            ends: tuple[tuple[int, int], ...] = _SADDLES[case][middle]
        else:
            ends = _ENDS[case]
        for first, last in ends:
            following[_crossing(field, row, column, first)] = _crossing(field, row, column, last)
    borders = []
    while following:
        start, at = following.popitem()
        border = [start]
        while at != start:
            border.append(at)
            at = following.pop(at)
        borders.append(border)
    return borders


def _crossing(field: npt.NDArray[np.float64], row: int, column: int, side: int) -> Point:
    """Where the border crosses a side of a square; the same point whichever of its two squares asks."""
    (down, across), (down_too, across_too) = sorted(_SIDES[side])
    low, high = field[row + down, column + across], field[row + down_too, column + across_too]
    part = min(max(float(low / (low - high)), _NEAREST), 1 - _NEAREST)
    return row + down + part * (down_too - down), column + across + part * (across_too - across)
