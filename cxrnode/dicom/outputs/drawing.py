"""A page to draw on: text that is measured, wrapped and recorded, in inks that stay legible in grey. No films.

Every text is recorded with its box, ink and ground, so that a test can hold all of them against the rules: inside the
page, none over another, and a contrast of at least 4.5:1 (WCAG 2.2, 1.4.3), on colour and on grey-scale monitors.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cxrnode.dicom.outputs.encoding import ascii_text
from cxrnode.dicom.raster import Picture

Colour: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[int, int, int, int]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (240, 240, 240)
MUTED: Colour = (178, 178, 178)
AMBER: Colour = (255, 196, 64)
TRACK: Colour = (58, 62, 68)
GREY: Colour = (132, 136, 142)
BLUE: Colour = (138, 190, 255)

#: The smallest text, in pixels: 11 px of height remain at half size.
SMALL = 22
BODY = 24
LARGE = 34
HUGE = 52
LEADING = 1.28


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """A text as it stands on the page; box is left, top, right, bottom in pixels."""

    text: str
    box: Box
    size: int
    ink: Colour
    ground: Colour


@functools.lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=4096)
def text_width(text: str, size: int) -> int:
    """The width of a text in pixels."""
    return int(_font(size).getlength(text) + 0.999)


@functools.lru_cache(maxsize=512)
def _written(text: str, size: int, ink: Colour, ground: Colour) -> tuple[int, int, Picture]:
    """Where the ink of a line of text begins, and its pixels; most texts come again with every film."""
    mask = Image.new("L", (text_width(text, size) + 2, line_height(size) + size // 4), 0)
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=_font(size))
    box = mask.getbbox() or (0, 0, 1, 1)
    mask = mask.crop(box)
    picture = Image.new("RGB", mask.size, ground)
    picture.paste(ink, (0, 0), mask)
    return box[0], box[1], np.asarray(picture)


@functools.lru_cache(maxsize=64)
def _plate(width: int, height: int, ground: Colour) -> Picture:
    """A filled box with round corners, on black."""
    picture = Image.new("RGB", (width, height), BLACK)
    ImageDraw.Draw(picture).rounded_rectangle((0, 0, width - 1, height - 1), radius=6, fill=ground)
    return np.asarray(picture)


def line_height(size: int) -> int:
    """The distance between two lines in pixels."""
    return round(size * LEADING)


@functools.lru_cache(maxsize=1024)
def wrapped(text: str, size: int, width: int) -> tuple[str, ...]:
    """The text in lines no wider than `width` pixels, broken between words; a word too long for a line is cut."""
    lines: list[str] = []
    line = ""
    for word in ascii_text(text).split():
        word = shortened(word, size, width)
        longer = f"{line} {word}" if line else word
        if line and text_width(longer, size) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return (*lines, line) if line else tuple(lines)


@functools.lru_cache(maxsize=1024)
def shortened(text: str, size: int, width: int) -> str:
    """The text, cut with two dots where it is wider than `width` pixels."""
    text = ascii_text(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}..", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}.."


class Page:
    """An RGB picture of `width` x `height` pixels under construction, and the record of its texts.

    It begins black, or as a copy of `ground`, which has its size. What does not fit on it is cut off.
    """

    def __init__(self, width: int, height: int, ground: Picture | None = None) -> None:
        self._canvas = np.zeros((height, width, 3), np.uint8) if ground is None else ground.copy()
        self.placed: list[Placed] = []

    @property
    def width(self) -> int:
        """The width in pixels."""
        return int(self._canvas.shape[1])

    @property
    def height(self) -> int:
        """The height in pixels of what was not cut off."""
        return int(self._canvas.shape[0])

    def text(self, x: int, y: int, text: str, size: int, ink: Colour = WHITE, ground: Colour = BLACK) -> int:
        """Write one line with its top left at (x, y); return the x behind it. The ground is what lies under it."""
        text = ascii_text(text)
        left, top, written = _written(text, size, ink, ground)
        self.put(x + left, y + top, written)
        right = x + text_width(text, size)
        self.placed.append(Placed(text, (x, y, right, y + line_height(size) - 1), size, ink, ground))
        return right

    def paragraph(self, x: int, y: int, width: int, text: str, size: int, ink: Colour = WHITE) -> int:
        """Write a text wrapped to `width` pixels; return the y below it."""
        for line in wrapped(text, size, width):
            self.text(x, y, line, size, ink)
            y += line_height(size)
        return y

    def badge(self, x: int, y: int, text: str, size: int, *, ink: Colour, ground: Colour) -> None:
        """Write a text on a filled box that begins at `x`, with half an em on either side; black lies around it."""
        width = text_width(text, size) + 2 * (size // 2) + 1
        self.put(x, y, _plate(width, line_height(size) + 3, ground))
        self.text(x + size // 2, y + 1, text, size, ink, ground)

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """Fill a box; `right` and `bottom` are one past its last pixels."""
        self.area(left, top, right, bottom)[:] = colour

    def put(self, x: int, y: int, picture: Picture) -> None:
        """Put a picture with its top left at (x, y)."""
        place = self.area(x, y, x + picture.shape[1], y + picture.shape[0])
        skipped_x, skipped_y = max(0, -x), max(0, -y)
        place[:] = picture[skipped_y : skipped_y + place.shape[0], skipped_x : skipped_x + place.shape[1]]

    def area(self, left: int, top: int, right: int, bottom: int) -> Picture:
        """A part of the picture, to be drawn on; `right` and `bottom` are one past its last pixels."""
        return self._canvas[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]

    def cut(self, height: int) -> None:
        """Take off what lies below `height` pixels."""
        self._canvas = self._canvas[:height]

    @property
    def image(self) -> Image.Image:
        """A copy of the picture, for Pillow."""
        return Image.fromarray(self._canvas)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height

    def pixels(self) -> memoryview:
        """The bytes of the picture, row by row: R, G and B of each pixel. Nothing is drawn after it."""
        return self._canvas.reshape(-1).data


def luminance(colour: Colour) -> float:
    """Relative luminance in [0, 1] of an sRGB colour (WCAG 2.2)."""
    linear = [c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def luma(colour: Colour) -> int:
    """The grey level of a colour on a grey-scale destination (PS3.3 C.7.6.3.1.2, YBR_FULL)."""
    return round(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])


def contrast(one: Colour, other: Colour) -> float:
    """The contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
