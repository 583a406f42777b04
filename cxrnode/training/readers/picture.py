"""The pixels of one film, as the node would see it: a picture file, a DICOM file, or bytes of a record."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cxrnode.errors import Rejected, UnreadableImage
from cxrnode.training.readers.films import FilmRow

Film = npt.NDArray[np.uint8]

#: Pillow lets other threads work while it decodes; not all decoders of DICOM say that they bear it.
_DICOM = threading.Lock()


def open_row(row: FilmRow) -> Film:
    """Return the film of a row as the engine takes it: uint8 (H, W), 0 = black, row 0 = top. Raises UnreadableImage."""
    if row.span is None:
        return open_film(row.path)
    offset, length = row.span
    try:
        with row.path.open("rb") as file:
            file.seek(offset)
            return _picture(io.BytesIO(file.read(length)))
    except OSError as error:
        raise UnreadableImage(f"cannot be read ({error.strerror})") from error


def open_film(path: Path) -> Film:
    """Return a film as the engine takes it: uint8 (H, W), 0 = black, row 0 = top. An alpha channel is left out.

    DICOM files go through the node's own decoder. Raises UnreadableImage that says what is wrong, without the path.
    """
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        raise UnreadableImage(f"cannot be read ({error.strerror})") from error
    if start[128:] != b"DICM":
        return _picture(path)
    from cxrnode.dicom.pixels import decode_film

    try:
        with _DICOM:
            return decode_film(path).display
    except UnreadableImage:
        raise
    except (Rejected, OSError) as error:
        raise UnreadableImage(f"no DICOM film that can be read ({error})") from error


def squashed(film: Film, side: int) -> Film:
    """Return uint8 (side, side): squashed with Pillow's bilinear filter, as the engine does it."""
    return np.asarray(Image.fromarray(film).resize((side, side), Image.Resampling.BILINEAR))


def _picture(source: Path | io.BytesIO) -> Film:
    try:
        with Image.open(source) as image:
            if image.mode not in ("L", "LA", "RGB", "RGBA", "P", "1"):
                raise UnreadableImage(f"mode {image.mode}: grey levels of 0 to 255 are needed, as they are displayed")
            # By way of RGB, as the published models were fed; the three channels of a film are the same.
            grey = image if image.mode == "L" else image.convert("RGB").convert("L")
            return np.asarray(grey)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"no picture that can be read ({type(error).__name__})") from error
