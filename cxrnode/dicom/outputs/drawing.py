"""A page to draw on: text that is measured, wrapped and recorded, in inks that stay legible in grey. No films.

Every text is recorded with its box, ink and ground, so that a test can hold all of them against the rules: inside the
page, none over another, and a contrast of at least 4.5:1 (WCAG 2.2, 1.4.3), on colour and on grey-scale monitors.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFile, ImageFont

from cxrnode.dicom.outputs.encoding import ascii_text

Colour: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[int, int, int, int]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (240, 240, 240)
MUTED: Colour = (178, 178, 178)
AMBER: Colour = (255, 196, 64)
TRACK: Colour = (58, 62, 68)
GREY: Colour = (132, 136, 142)
BLUE: Colour = (138, 190, 255)

# Pillow joins a picture's bytes from pieces of this size, 64 KiB by default: in one piece they are not copied again.
ImageFile.MAXBLOCK = 1 << 23

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
def _mask(text: str, size: int) -> tuple[int, int, Image.Image]:
    """Where the ink of a line of text begins, and its coverage; most texts come again with every film."""
    mask = Image.new("L", (text_width(text, size) + 2, line_height(size) + size // 4), 0)
    ImageDraw.Draw(mask).text((0, 0), text, fill=255, font=_font(size))
    box = mask.getbbox() or (0, 0, 1, 1)
    return box[0], box[1], mask.crop(box)


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

    It begins black, or as a copy of `ground`, which has its size.
    """

    def __init__(self, width: int, height: int, ground: Image.Image | None = None) -> None:
        self._canvas = Image.new("RGB", (width, height), BLACK) if ground is None else ground.copy()
        self._height = height
        self.draw = ImageDraw.Draw(self._canvas)
        self.placed: list[Placed] = []

    def text(self, x: int, y: int, text: str, size: int, ink: Colour = WHITE, ground: Colour = BLACK) -> int:
        """Write one line with its top left at (x, y); return the x behind it. The ground is what lies under it."""
        text = ascii_text(text)
        left, top, mask = _mask(text, size)
        self.image.paste(ink, (x + left, y + top), mask)
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
        """Write a text on a filled box that begins at `x`, with half an em on either side."""
        right = x + text_width(text, size) + 2 * (size // 2)
        self.draw.rounded_rectangle((x, y, right, y + line_height(size) + 2), radius=6, fill=ground)
        self.text(x + size // 2, y + 1, text, size, ink, ground)

    def cut(self, height: int) -> None:
        """Take off what lies below `height` pixels; nothing is drawn after it."""
        self._height = min(height, self._height)

    @property
    def image(self) -> Image.Image:
        """The picture, to be drawn on, or a copy of what was not cut off."""
        whole = self._canvas
        return whole if self._height == whole.height else whole.crop((0, 0, whole.width, self._height))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._canvas.width, self._height

    def pixels(self) -> memoryview:
        """The bytes of the picture, row by row: R, G and B of each pixel."""
        return memoryview(self._canvas.tobytes())[: 3 * self._canvas.width * self._height]


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
