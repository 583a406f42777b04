"""The map over the film: hue says where the evidence lies, the film's luminance stays, a line closes the region.

Colour keeps the luma of every pixel (Y of PS3.3 C.7.6.3.1.2), so that a film converted to grey comes out as it went
in and no shadow is hidden or made by the map. The scale is fixed for each finding: nothing below its floor, full
colour from its ceiling on. The contour is the border of what lies at or above CONTOUR_LEVEL of that scale.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrnode.core.findings import Finding
from cxrnode.dicom.raster import Grey, Picture, enlarged, looked_up, put_grey, put_packed

CONTOUR_LEVEL = 0.5

#: Hue angles in the chroma plane of YCbCr, in degrees, over the scale: blue, violet, pink, red.
_RAMP = ((0.0, 345.0), (0.35, 25.0), (0.65, 75.0), (1.0, 116.0))
_COARSE = 4
_REACH = 16.0
_LINE_PX = 1.6
_HALO_PX = 3.4


@dataclasses.dataclass(frozen=True, slots=True)
class Influence:
    """The map of one finding on the scale of its bundle.

    `cells`: float32 (h, w), 0 at the floor, 1 at the ceiling, row 0 = top; may exceed 1. `peak` is its highest value.
    """

    cells: npt.NDArray[np.float32]
    peak: float

    @property
    def empty(self) -> bool:
        """Whether nothing lies above the floor: no localisation."""
        return self.peak <= 0.0


def influence(saliency: npt.NDArray[np.float16], finding: Finding) -> Influence:
    """The map of a finding from the saliency, float16 (C, h, w). Values that are no numbers count as nothing."""
    cells = np.nan_to_num(saliency[finding.index].astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    span = finding.map_ceiling - finding.map_floor
    if not span > 0:
        return Influence(np.zeros_like(cells), 0.0)
    cells = np.maximum((cells - np.float32(finding.map_floor)) / np.float32(span), np.float32(0))
    return Influence(cells, float(cells.max(initial=0.0)))


def overlay(film: Grey, shown: Influence, *, colour: bool) -> Picture:
    """The film, uint8 (H, W), with the map and its contour, or with the contour alone."""
    picture = np.empty((*film.shape, 3), np.uint8)
    put_grey(picture, film)
    put_map(picture, film, shown, colour=colour)
    return picture


def put_map(place: Picture, film: Grey, shown: Influence, *, colour: bool) -> None:
    """Put the map and its contour, or the contour alone, on a place that holds the film, a view of a picture."""
    levels = None if shown.empty else _levels(shown, film.shape[1], film.shape[0])
    if levels is None:
        return
    left, top, right, bottom = levels.box
    colours = np.zeros(levels.value.shape, np.uint16)
    if colour:
        np.left_shift(levels.value, 8, out=colours, dtype=np.uint16)
    colours |= film[top:bottom, left:right]
    pixels = looked_up(_table(), colours).view(np.uint8).reshape(-1, 4)
    if levels.distance is not None:
        away = levels.distance.reshape(-1)
        reach = math.floor(8 * (_HALO_PX + 1))
        near = np.flatnonzero(away - np.uint8(128 - reach) <= 2 * reach)  # what lies further out wraps round
        halo, line = (stroke[away[near]][:, None] for stroke in _strokes())
        pixels[near] = np.rint((pixels[near] * (1 - halo)) * (1 - line) + 255 * line).astype(np.uint8)
    put_packed(place[top:bottom, left:right], pixels.reshape(bottom - top, right - left, 4))


@functools.cache
def colour_bar(width: int, height: int) -> Picture:
    """The colours of the scale from 0 (left) to 1 (right) over a middle grey; nobody draws on it."""
    value = np.linspace(0, 255, width).astype(np.uint16)
    row = np.take(_table(), (value << 8) | np.uint16(118)).view(np.uint8).reshape(1, width, 4)
    bar = np.repeat(row[:, :, :3], height, axis=0)
    bar.setflags(write=False)
    return bar


@dataclasses.dataclass(frozen=True, slots=True)
class _Levels:
    """What is drawn in `box` (left, top, right, bottom, in pixels), outside of which there is nothing to draw.

    `value` is the scale as 0..255; `distance` 128 + 8 times the pixels from the contour, inside it above 128, or None
    where the map is too weak for one.
    """

    box: tuple[int, int, int, int]
    value: Grey
    distance: Grey | None


def _levels(shown: Influence, width: int, height: int) -> _Levels | None:
    """The map at the size of the film; None where nothing of it is seen."""
    across, down = math.ceil(width / _COARSE), math.ceil(height / _COARSE)
    if min(across, down) < 2:  # a film of a few pixels has no place for a map
        return None
    smooth = np.asarray(Image.fromarray(shown.cells).resize((across, down), Image.Resampling.BICUBIC))
    value = np.rint(np.clip(smooth, 0, 1) * 255).astype(np.uint8)
    by_row, by_column = np.gradient(smooth)
    steep = np.sqrt((by_row * (down / height)) ** 2 + (by_column * (across / width)) ** 2)
    away = (smooth - CONTOUR_LEVEL) / np.maximum(steep, 1e-4)
    distance = np.rint(np.clip(away, -_REACH, _REACH - 0.5) * 8 + 128).astype(np.uint8)
    seen = (value > 0) | (distance > 0)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not rows.size:
        return None
    # One cell more on each side: between two cells the map is interpolated.
    left, right = _span(columns, across, width)
    top, bottom = _span(rows, down, height)

    def fine(coarse: Grey) -> Grey:
        return enlarged(coarse, (width, height))[top:bottom, left:right]

    if shown.peak < CONTOUR_LEVEL:
        return _Levels((left, top, right, bottom), fine(value), None)
    # The contour closes along the edge of the film where the region runs out of it.
    away = np.minimum(fine(distance), _closing(height)[top:bottom, None])
    np.minimum(away, _closing(width)[None, left:right], out=away)
    return _Levels((left, top, right, bottom), fine(value), away)


def _span(seen: npt.NDArray[np.intp], cells: int, pixels: int) -> tuple[int, int]:
    """The pixels, from the first to one past the last, that cells of these numbers reach."""
    first, last = max(0, int(seen[0]) - 1), min(cells, int(seen[-1]) + 2)
    return math.floor(first * pixels / cells), math.ceil(last * pixels / cells)


def _closing(pixels: int) -> Grey:
    """The highest coded distance for each pixel between two edges of the film."""
    depth = np.minimum(np.arange(pixels), np.arange(pixels)[::-1])
    limit = np.minimum(255, np.rint(128 + 8 * (depth + 0.5 - _LINE_PX)))
    return np.where(depth < int(_REACH), limit, 255).astype(np.uint8)


@functools.cache
def _strokes() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Coverage in [0, 1] of the black halo and of the white line, for each coded distance."""
    away = np.abs(np.arange(256) - 128) / 8.0
    halo, line = (np.clip(reach + 0.5 - away, 0, 1).astype(np.float32) for reach in (_HALO_PX, _LINE_PX))
    return halo * np.float32(0.75), line


@functools.cache
def _table() -> npt.NDArray[np.uint32]:
    """RGB, packed, for each level of the scale (high byte) and each grey level (low byte) at the same luma."""
    scale = np.arange(256) / 255.0
    points, angles = np.array(_RAMP).T
    angle = np.radians(np.interp(scale, points, np.unwrap(angles, period=360.0)))
    chroma_blue, chroma_red = np.cos(angle), np.sin(angle)
    # R, G, B offsets of a unit of chroma: their luma is zero by construction.
    direction = np.stack(
        [1.402 * chroma_red, -0.344136 * chroma_blue - 0.714136 * chroma_red, 1.772 * chroma_blue], axis=1
    )
    grey = np.arange(256.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(
            direction[:, None, :] > 0,
            (255.0 - grey[None, :, None]) / direction[:, None, :],
            np.where(direction[:, None, :] < 0, -grey[None, :, None] / direction[:, None, :], np.inf),
        ).min(axis=2)
    strength = np.minimum(1.0, scale / 0.1) * (0.12 + 0.88 * scale)
    reach = np.minimum(room, 150.0) * strength[:, None]
    rgb = grey[None, :, None] + reach[:, :, None] * direction[:, None, :]
    packed = np.zeros((256, 256, 4), np.uint8)
    packed[:, :, :3] = np.clip(np.rint(rgb), 0, 255)
    return packed.view(np.uint32).reshape(-1)
