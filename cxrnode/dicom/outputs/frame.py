"""Where film and legend stand on a picture: the arrangement that shows the film largest. It draws the legend alone.

A wide film has its legend below, a tall one at its side. The legend is laid out as parts with places, so that what is
measured is what is drawn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

from cxrnode.dicom.outputs.drawing import (
    BODY,
    GREY,
    LARGE,
    SMALL,
    WHITE,
    Colour,
    Page,
    line_height,
    shortened,
    text_width,
    wrapped,
)
from cxrnode.dicom.raster import Picture

MARGIN = 20
_NARROWEST = 760
_SIDE = 400
#: Width and height of the bar in pixels.
BAR = (260, 20)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A paragraph of the legend."""

    text: str
    size: int = SMALL
    ink: Colour = WHITE


@dataclasses.dataclass(frozen=True, slots=True)
class Badge:
    """A short text on a filled box."""

    text: str
    ink: Colour
    ground: Colour


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """The colours of the scale from 0 to 1, a picture of the size BAR, with a mark at `mark`."""

    colours: Picture
    mark: float


@dataclasses.dataclass(frozen=True, slots=True)
class Legend:
    """What a legend says: title and badge, a bar or none, paragraphs, and a last line with its badge or none."""

    title: str
    badge: Badge
    bar: Bar | None
    lines: tuple[Line, ...]
    last: Line
    warning: Badge | None


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """Sizes and places in pixels: the picture, the film in it, the legend's column."""

    width: int
    height: int
    film: tuple[int, int, int, int]
    column: tuple[int, int, int]

    @property
    def film_size(self) -> tuple[int, int]:
        """Width and height of the film."""
        return self.film[2] - self.film[0], self.film[3] - self.film[1]


_Part: TypeAlias = Line | Badge | Bar
_Placed: TypeAlias = tuple[int, int, _Part]


def frame_for(shape: tuple[int, int], legends: Sequence[Legend], max_px: int) -> Frame:
    """The frame within `max_px` that shows a film of this shape (H, W) largest, with room for the tallest legend."""
    candidates = [_below(shape, legends, max_px)]
    beside = _beside(shape, legends, max_px)
    if beside is not None:
        candidates.append(beside)
    return max(candidates, key=lambda frame: frame.film_size[0] * frame.film_size[1])


def draw_legend(page: Page, legend: Legend, frame: Frame) -> None:
    """Draw the legend into its column."""
    left, top, width = frame.column
    placed, _ = _arranged(legend, width, frame.height - top)
    for x, y, part in placed:
        match part:
            case Line():
                page.text(left + x, top + y, part.text, part.size, part.ink)
            case Badge():
                page.badge(left + x, top + y, part.text, BODY, ink=part.ink, ground=part.ground)
            case Bar():
                _draw_bar(page, part, left + x, top + y)


def badge_width(text: str) -> int:
    """The width of a badge in pixels."""
    return text_width(text, BODY) + 2 * (BODY // 2)


def _below(shape: tuple[int, int], legends: Sequence[Legend], max_px: int) -> Frame:
    rows, columns = shape
    width = max_px
    while True:
        below = max(_height(legend, width) for legend in legends)
        scale = min(width / columns, (max_px - below) / rows)
        film_width, film_height = max(1, round(columns * scale)), max(1, round(rows * scale))
        narrower = max(film_width, _NARROWEST)
        if narrower >= width:
            left = (width - film_width) // 2
            film = (left, 0, left + film_width, film_height)
            return Frame(width, film_height + below, film, (0, film_height, width))
        width = narrower


def _beside(shape: tuple[int, int], legends: Sequence[Legend], max_px: int) -> Frame | None:
    rows, columns = shape
    scale = min((max_px - _SIDE) / columns, max_px / rows)
    film_width, film_height = max(1, round(columns * scale)), max(1, round(rows * scale))
    height = max(film_height, *(_height(legend, _SIDE) for legend in legends))
    if height > max_px:
        return None
    return Frame(film_width + _SIDE, height, (0, 0, film_width, film_height), (film_width, 0, _SIDE))


def _height(legend: Legend, width: int) -> int:
    return _arranged(legend, width, 0)[1]


def _arranged(legend: Legend, width: int, height: int) -> tuple[list[_Placed], int]:
    """The parts with their places in a column, and the height they take; the last line stands at the bottom."""
    inner = width - 2 * MARGIN
    placed: list[_Placed] = []
    y = 12
    badge, bar = badge_width(legend.badge.text), _bar_width()
    title = text_width(legend.title, LARGE)
    if title + badge + bar + 4 * MARGIN <= inner:  # all in one row
        placed.append((MARGIN + inner - badge, y, legend.badge))
        if legend.bar is not None:
            placed.append((MARGIN + inner - badge - 2 * MARGIN - bar, y, legend.bar))
        placed.append((MARGIN, y - 6, Line(legend.title, LARGE)))
        y += line_height(LARGE)
    else:
        placed.append((MARGIN, y - 6, Line(shortened(legend.title, LARGE, inner), LARGE)))
        y += line_height(LARGE)
        placed.append((MARGIN, y, legend.badge))
        y += line_height(BODY) + 14
        if legend.bar is not None:
            placed.append((MARGIN, y, legend.bar))
            y += line_height(SMALL) + 6
    for line in legend.lines:
        for text in wrapped(line.text, line.size, inner):
            placed.append((MARGIN, y, Line(text, line.size, line.ink)))
            y += line_height(line.size)
        y += 4
    foot = _foot(legend, inner)
    y += 8
    top = max(y, height - foot[1])
    placed += [(x, top + down, part) for x, down, part in foot[0]]
    return placed, y + foot[1]


def _foot(legend: Legend, inner: int) -> tuple[list[_Placed], int]:
    """The last line and its warning, side by side where they fit, else one over the other."""
    placed: list[_Placed] = [(MARGIN, 0, Line(legend.last.text, BODY, legend.last.ink))]
    if legend.warning is None:
        return placed, line_height(BODY) + 10
    warning = badge_width(legend.warning.text)
    if text_width(legend.last.text, BODY) + warning + MARGIN <= inner:
        return [*placed, (MARGIN + inner - warning, -2, legend.warning)], line_height(BODY) + 10
    return [*placed, (MARGIN, line_height(BODY) + 4, legend.warning)], 2 * line_height(BODY) + 18


def _bar_width() -> int:
    return BAR[0] + text_width("0", SMALL) + text_width("1", SMALL) + 16


def _draw_bar(page: Page, bar: Bar, left: int, y: int) -> None:
    width, height = BAR
    x = page.text(left, y, "0", SMALL) + 8
    page.text(x + width + 8, y, "1", SMALL)
    page.fill(x - 1, y + 4, x + width + 1, y + height + 6, GREY)
    page.put(x, y + 5, bar.colours)
    mark = x + round(width * bar.mark)
    page.fill(mark - 1, y + 1, mark + 2, y + height + 9, WHITE)
