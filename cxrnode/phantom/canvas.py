"""A canvas in centimetres on which tissue is projected: the grid, its brushes and its noise. Knows no anatomy.

Every brush returns path lengths through its tissue along the beam, float32 (rows, cols) in cm, so that what
lies one behind the other adds up, as it does on a radiograph.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane: TypeAlias = npt.NDArray[np.float32]

#: Side in cm of the square that clouds are drawn for; no film is larger.
_SKY = 92.0


def resized(plane: Plane, rows: int, cols: int) -> Plane:
    """Return float32 (rows, cols), interpolated bicubically (box-averaged where it shrinks)."""
    shrinks = rows < plane.shape[0]
    how = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(plane).resize((cols, rows), how), dtype=np.float32)


def softened(plane: Plane, times: int = 1) -> Plane:
    """Return the plane under the kernel (1, 2, 1) / 4 in both directions, `times` over; the edge is repeated."""
    for _ in range(times):
        padded = np.pad(plane, 1, mode="edge")
        across = padded[:, :-2] + padded[:, 2:]
        across += padded[:, 1:-1] * np.float32(2)
        plane = across[:-2] + across[2:]
        plane += across[1:-1] * np.float32(2)
        plane *= np.float32(1 / 16)
    return plane


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """A grid of rows x cols pixels, `pitch` cm apart, whose pixel (0, 0) lies at (`left`, `top`) cm."""

    rows: int
    cols: int
    pitch: float
    left: float
    top: float

    @property
    def x(self) -> Plane:
        """float32 (1, cols): cm from the midline; negative is the patient's right, at the left of the film."""
        return np.asarray(self.left + self.pitch * np.arange(self.cols), dtype=np.float32)[None, :]

    @property
    def y(self) -> Plane:
        """float32 (rows, 1): cm below the upper edge of the film."""
        return np.asarray(self.top + self.pitch * np.arange(self.rows), dtype=np.float32)[:, None]

    def empty(self) -> Plane:
        """A canvas without tissue."""
        return np.zeros((self.rows, self.cols), np.float32)

    def window(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice]:
        """The rows and columns that cover a box in cm, cut to the canvas."""
        return (
            slice(*self._span(y0, y1, self.top, self.rows)),
            slice(*self._span(x0, x1, self.left, self.cols)),
        )

    def _span(self, low: float, high: float, origin: float, count: int) -> tuple[int, int]:
        first = math.floor((min(low, high) - origin) / self.pitch)
        last = math.ceil((max(low, high) - origin) / self.pitch) + 1
        return min(max(first, 0), count), min(max(last, 0), count)

    def ellipsoid(
        self, x: float, y: float, a: float, b: float, depth: float, *, tilt: float = 0.0, power: float = 0.5
    ) -> Plane:
        """An ellipsoid, half-axes a, b cm, a turned by `tilt` radians towards +y, `depth` cm thick at its centre."""
        reach = max(a, b)
        box = self.window(x - reach, y - reach, x + reach, y + reach)
        dx, dy = self.x[:, box[1]] - np.float32(x), self.y[box[0]] - np.float32(y)
        c, s = math.cos(tilt), math.sin(tilt)
        u = (dx * np.float32(c / a) + dy * np.float32(s / a)) ** 2
        u += (dy * np.float32(c / b) - dx * np.float32(s / b)) ** 2
        plane = self.empty()
        plane[box] = np.float32(depth) * np.clip(1 - u, 0, None) ** np.float32(power)
        return plane

    def capsule(
        self, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float, *, depth: float = 1.0
    ) -> Plane:
        """A rod from start to end whose radius goes from r0 to r1 cm; `depth` stretches it along the beam."""
        (ax, ay), (bx, by), reach = start, end, max(r0, r1)
        box = self.window(min(ax, bx) - reach, min(ay, by) - reach, max(ax, bx) + reach, max(ay, by) + reach)
        dx, dy = self.x[:, box[1]] - np.float32(ax), self.y[box[0]] - np.float32(ay)
        ex, ey = bx - ax, by - ay
        along = np.clip((dx * np.float32(ex) + dy * np.float32(ey)) / np.float32(ex * ex + ey * ey), 0, 1)
        radius = np.float32(r0) + along * np.float32(r1 - r0)
        left = radius**2 - (dx - along * np.float32(ex)) ** 2 - (dy - along * np.float32(ey)) ** 2
        plane = self.empty()
        plane[box] = np.float32(2 * depth) * np.sqrt(np.clip(left, 0, None))
        return plane

    def splat(self, plane: Plane, x: Plane, y: Plane, mass: Plane) -> None:
        """Add points of `mass` (cm3 of tissue each) at x, y cm to the plane, each over its four nearest pixels.

        What lies outside the canvas is lost.
        """
        u = (x.ravel() - np.float32(self.left)) / np.float32(self.pitch)
        v = (y.ravel() - np.float32(self.top)) / np.float32(self.pitch)
        mass = mass.ravel()
        inside = (u >= 0) & (v >= 0) & (u < self.cols - 1) & (v < self.rows - 1)
        if not inside.all():
            u, v, mass = u[inside], v[inside], mass[inside]
        if not u.size:
            return
        column, row = u.astype(np.int32), v.astype(np.int32)
        u -= column
        v -= row
        # Counted over the points' own box: a bone covers little of the canvas.
        top, left = int(row.min()), int(column.min())
        high, wide = int(row.max()) - top + 2, int(column.max()) - left + 2
        at = (row - np.int32(top)) * np.int32(wide) + (column - np.int32(left))
        lower = mass * v
        upper = mass - lower
        right, below = upper * u, lower * u
        corners = ((0, upper - right), (1, right), (wide, lower - below), (wide + 1, below))
        total = sum(np.bincount(at + step, weights=weight, minlength=high * wide) for step, weight in corners)
        box = np.reshape(total, (high, wide)) / self.pitch**2
        plane[top : top + high, left : left + wide] += box.astype(np.float32)

    def clouds(self, rng: np.random.Generator, grain: float, octaves: int) -> Plane:
        """Smooth noise, standard deviation about 1: structure from `grain` cm down, halved at each octave.

        It is drawn for a square of fixed size about the origin of x, so that every grid shows the same clouds.
        """
        plane, weight, norm = self.empty(), 1.0, 0.0
        for octave in range(octaves):
            cell = grain / 2**octave
            if cell < self.pitch:
                break
            drawn = Image.fromarray(rng.standard_normal((math.ceil(_SKY / cell),) * 2, dtype=np.float32))
            left, top = (self.left + _SKY / 2) / cell, (self.top + _SKY / 4) / cell
            box = (left, top, left + self.cols * self.pitch / cell, top + self.rows * self.pitch / cell)
            part = drawn.resize((self.cols, self.rows), Image.Resampling.BICUBIC, box)
            plane += np.float32(weight) * np.asarray(part, dtype=np.float32)
            norm, weight = norm + weight**2, weight * 0.6
        return plane * np.float32(1.4 / math.sqrt(norm or 1.0))


def union(*planes: Plane) -> Plane:
    """Tissues that merge rather than lie one behind the other: a smooth maximum (the 4-norm)."""
    total = np.zeros_like(planes[0])
    for plane in planes:
        square = plane * plane
        square *= square
        total += square
    np.sqrt(total, out=total)
    return np.sqrt(total, out=total)
