"""Pictures of a job: the spooled preview, the map of a finding over it, a capture as PNG. No film is ever decoded here.

The preview and the maps are what `infer` spooled; the captures are our own outputs, whose pixels are plain RGB.
"""

from __future__ import annotations

import io

import numpy as np
import pydicom
from PIL import Image

from cxrnode.core.findings import Finding
from cxrnode.dicom.outputs.influence import Influence, influence, overlay
from cxrnode.errors import Rejected

#: The largest preview and map that are opened, in pixels and in values: they are ours, and small.
_MOST_PIXELS = 4 << 20
_MOST_VALUES = 1 << 22


def map_of(maps: bytes, finding: Finding) -> Influence:
    """The map of a finding from the spooled float16 (C, h, w). Raises Rejected for anything else."""
    try:
        values = np.load(io.BytesIO(maps), allow_pickle=False)
    except ValueError:
        raise Rejected("the spooled maps cannot be read") from None
    if values.dtype != np.float16 or values.ndim != 3 or values.size > _MOST_VALUES:
        raise Rejected("the spooled maps have another form than they should")
    if finding.index >= values.shape[0]:
        raise Rejected("the spooled maps have none of this finding")
    return influence(values, finding)


def with_map(preview: bytes, shown: Influence) -> bytes:
    """The preview, a grey JPEG, with the map over it as the captures show it; JPEG."""
    picture = Image.open(io.BytesIO(preview), formats=("JPEG",))
    if picture.width * picture.height > _MOST_PIXELS:
        raise Rejected("the spooled preview is larger than it should be")
    film = np.asarray(picture.convert("L"))
    buffer = io.BytesIO()
    Image.fromarray(overlay(film, shown, colour=True)).save(buffer, "JPEG", quality=88, subsampling=0)
    return buffer.getvalue()


def capture_png(data: bytes) -> bytes:
    """The picture of a capture that we made and did not compress, as PNG. Raises Rejected for any other object."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    rows, columns = int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0))
    syntax = dataset.file_meta.TransferSyntaxUID
    samples = int(dataset.get("SamplesPerPixel", 0))
    if syntax.is_compressed and "PixelData" in dataset:
        frames = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
        # A baseline JPEG of ours (`heatmap.encoding`).
        picture: Image.Image = Image.open(io.BytesIO(frames[0]), formats=("JPEG",))
    elif samples == 3 and rows * columns * 3 <= len(dataset.get("PixelData", b"")) and rows * columns <= _MOST_PIXELS:
        picture = Image.frombytes("RGB", (columns, rows), bytes(dataset.PixelData)[: rows * columns * 3])
    else:
        raise Rejected("this output is no picture")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=False, compress_level=6)
    return buffer.getvalue()
