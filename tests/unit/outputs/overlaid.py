"""A presentation state as a viewer shows it: its words and lines drawn over a film, from the object alone.

DCMTK renders the grey levels of a presentation state and none of its annotations; this draws these, so that they can
be looked at and held against the picture of the same finding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset


def overlaid(film: npt.NDArray[np.uint8], state: Dataset) -> Image.Image:
    """The film, uint8 (H, W), with all that the state lays over it, RGB; layers in their order and colours."""
    picture = Image.fromarray(film).convert("RGB")
    draw = ImageDraw.Draw(picture)
    colours = {one.GraphicLayer: _rgb(one) for one in state.GraphicLayerSequence}
    for note in state.GraphicAnnotationSequence:
        ink = colours[note.GraphicLayer]
        for border in note.get("GraphicObjectSequence", []):
            draw.line(polygon(border), fill=ink, width=max(2, picture.width // 400))
        for text in note.get("TextObjectSequence", []):
            left, top = (float(v) for v in text.BoundingBoxTopLeftHandCorner)
            low = float(text.BoundingBoxBottomRightHandCorner[1])
            place = (left * picture.width, top * picture.height)
            font = ImageFont.load_default((low - top) * picture.height * 0.75)
            if "AnchorPoint" in text:
                to = [float(v) - 0.5 for v in text.AnchorPoint]
                draw.line([place[0], low * picture.height, to[0], to[1]], fill=ink)
            draw.text(place, text.UnformattedTextValue, fill=ink, font=font, stroke_width=1, stroke_fill=(0, 0, 0))
    return picture


def polygon(border: Dataset) -> list[tuple[float, float]]:
    """The points of a graphic object as (x, y), 0 at the film's left and upper edges."""
    values = [float(v) - 0.5 for v in border.GraphicData]
    return list(zip(values[::2], values[1::2], strict=True))


def _rgb(layer: Dataset) -> tuple[int, int, int]:
    """The colour of a layer (PS3.3 C.10.7.1.1), CIELab to sRGB."""
    words = [int(v) for v in layer.GraphicLayerRecommendedDisplayCIELabValue]
    lightness, red, blue = words[0] / 655.35, words[1] / 257 - 128, words[2] / 257 - 128
    fy = (lightness + 16) / 116
    xyz = [w * _cube(f) for w, f in zip((0.9505, 1.0, 1.089), (fy + red / 500, fy, fy - blue / 200), strict=True)]
    linear = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]) @ xyz
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0.0031308) ** (1 / 2.4) - 0.055)
    one, two, three = (int(v) for v in np.clip(np.rint(srgb * 255), 0, 255))
    return one, two, three


def _cube(value: float) -> float:
    return value**3 if value > 6 / 29 else 3 * (6 / 29) ** 2 * (value - 4 / 29)
