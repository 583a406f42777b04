"""A synthetic frontal chest film: tissue along each ray, then the film's response, then noise. No patient's film.

Nothing here touches numpy's global state; the same arguments give the same film.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cxrnode.phantom.anatomy import FILM_HEIGHT, Anatomy, PhantomFinding, View, plan
from cxrnode.phantom.canvas import Canvas, Plane, resized, softened
from cxrnode.phantom.tissue import absorbed

#: Largest stored value: 12 bits.
MAXIMUM = 4095
#: Rows of the grid on which anatomy is drawn; larger films are interpolated from it. About 0.45 mm.
_GRID_ROWS = 960
#: Centimetres drawn beyond the film on every side, so that turning it uncovers nothing.
_MARGIN = 1.5


def draw_film(
    seed: int, finding: PhantomFinding | None = None, rows: int = 2500, cols: int = 2048, view: View = "PA"
) -> npt.NDArray[np.uint16]:
    """Return a film: uint16 (rows, cols) in [0, 4095], 0 = black, row 0 = top, patient's right at the left.

    The plate is 43 cm high whatever the number of rows, and pixels are square. Raises ValueError for a film of
    less than 64 pixels either way, for one more than twice as wide as it is high, and for a negative seed.
    """
    if rows < 64 or cols < 64:
        raise ValueError(f"a phantom has at least 64 x 64 pixels, not {rows} x {cols}")
    if cols > 2 * rows:
        raise ValueError(f"a phantom is at most twice as wide as it is high, not {cols} x {rows}")
    body = plan(seed, finding, view)
    grid = min(rows, _GRID_ROWS)
    pitch = FILM_HEIGHT / grid
    wide = max(2, round(cols * grid / rows))
    edge = math.ceil(_MARGIN / pitch)
    canvas = Canvas(
        rows=grid + 2 * edge,
        cols=wide + 2 * edge,
        pitch=pitch,
        left=-(wide / 2 + edge - 0.5) * pitch,
        top=-(edge - 0.5) * pitch,
    )
    grey = _response(absorbed(canvas, body), canvas, body)
    grey = _turned(grey, canvas, body)[edge : edge + grid, edge : edge + wide]
    if (grid, wide) != (rows, cols):
        grey = resized(np.ascontiguousarray(grey), rows, cols)
    return _exposed(grey, body)


def mark(film: npt.NDArray[np.uint16], lines: tuple[str, ...]) -> npt.NDArray[np.uint16]:
    """Return the film with white lead letters in its upper right corner, the first line large (the side marker)."""
    rows, cols = film.shape
    plate = Image.new("L", (cols, rows), 0)
    brush = ImageDraw.Draw(plate)
    y = rows * 0.045
    for number, line in enumerate(lines):
        size = max(8, round(rows * (0.042 if number == 0 else 0.014)))
        brush.text((cols * 0.965, y), line, fill=255, font=ImageFont.load_default(size=size), anchor="ra")
        y += size * 1.25
    lead = np.asarray(plate, dtype=np.float32) / np.float32(255)
    marked: npt.NDArray[np.uint16] = (film + (MAXIMUM * np.float32(0.97) - film) * lead).astype(np.uint16)
    return marked


def _response(path: Plane, canvas: Canvas, body: Anatomy) -> Plane:
    """Grey in [0, 1] for a path length: a curve of the logarithm of exposure, its wide range brought together."""
    path = softened(path)
    wide = _blurred(path, canvas, 3.0)
    detail = path - _blurred(path, canvas, 0.5)
    evened = path - np.float32(0.15) * (wide - np.float32(12.0)) + np.float32(1.2) * np.tanh(detail)
    lifted = np.clip(evened / np.float32(11.6 + body.exposure), 0, None) ** np.float32(3.6 * body.contrast)
    grey = lifted / (1 + lifted)
    # Outside the body the plate is black, whatever lies near.
    return np.asarray(grey * np.clip(path / np.float32(5.0), 0.06, 1), dtype=np.float32)


def _blurred(plane: Plane, canvas: Canvas, width: float) -> Plane:
    """The plane blurred over about `width` cm, by way of a coarse grid."""
    rows, cols = plane.shape
    step = max(1.0, width / 1.5 / canvas.pitch)
    return resized(softened(resized(plane, max(4, round(rows / step)), max(4, round(cols / step))), 2), rows, cols)


def _turned(grey: Plane, canvas: Canvas, body: Anatomy) -> Plane:
    """The film with the patient turned, magnified and off centre as the seed says."""
    c, s = math.cos(body.rotation) / body.scale, math.sin(body.rotation) / body.scale
    mx, my = canvas.cols / 2, canvas.rows / 2
    shift = body.shift / canvas.pitch
    coefficients = (c, s, mx - c * (mx + shift) - s * my, -s, c, my + s * (mx + shift) - c * my)
    image = Image.fromarray(grey).transform(
        (canvas.cols, canvas.rows), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(image, dtype=np.float32)


def _exposed(grey: Plane, body: Anatomy) -> npt.NDArray[np.uint16]:
    """Stored values: quantum noise (spread over neighbours by the scintillator), collimator edges, 12 bits."""
    rows, cols = grey.shape
    rng = body.rng(13)
    edge = np.clip(rng.uniform(-0.006, 0.012, 4), 0, None)
    noise = rng.standard_normal((rows, cols), dtype=np.float32)
    noise[1:] += noise[:-1] * np.float32(0.6)
    noise[:, 1:] += noise[:, :-1] * np.float32(0.6)
    # Fewer quanta come through where the film is white; its curve is flat there, which takes most of it back.
    noise *= np.float32(0.0016) + np.float32(0.026) * grey * (1 - grey)
    # A larger pixel counts more of them.
    noise *= np.float32(min(1.0, max(0.35, rows / 1800)))
    film = grey + noise
    top, bottom, left, right = (round(e * n) for e, n in zip(edge, (rows, rows, cols, cols), strict=True))
    film[:top] *= 0.02
    film[rows - bottom :] *= 0.02
    film[:, :left] *= 0.02
    film[:, cols - right :] *= 0.02
    np.clip(film, 0, 1, out=film)
    film *= np.float32(MAXIMUM)
    return film.astype(np.uint16)
