"""Many films, and a node that reads them fast: what the tests of numbers share. Everything but the model is real."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID

from cxrnode.core.identity import derived_uid
from cxrnode.dicom.sender import Destination, Sent, send_files
from cxrnode.phantom.dicom import phantom_dx
from tests.acceptance.site import SENDER, Site
from tests.torture.node import make_bundle

ROWS, COLUMNS = 600, 512


def swift(site: Site, folder: Path, **changes: str) -> Site:
    """Let a site read with a model of two layers and send the report alone; `changes`: text -> other text."""
    text = site.config.read_text()
    bundle = make_bundle(folder / "bundle")
    for before, after in {
        'bundle = "demo"': f'bundle = "{bundle}"',
        'outputs = ["sr", "heatmap"]': 'outputs = ["sr"]',
        **changes,
    }.items():
        assert before in text, before
        text = text.replace(before, after)
    site.config.write_text(text)
    return site


def urgent(*, priority: int) -> dict[str, str]:
    """The change by which films of the sender STAT go before the others, as if received 10 minutes earlier a step."""
    rule = f"""[nodes.STAT]
aet = "STAT"
host = "127.0.0.1"
port = 105
can_send = true

[[rules]]
name = "urgent"
when = {{ calling_aet = "STAT" }}
unsure = "read"
models = ["chest"]
outputs = ["sr"]
send_to = ["PACS"]
priority = {priority}

"""
    return {(before := '[[rules]]\nname = "films"'): rule + before}


@cache
def _drawn() -> Dataset:
    return phantom_dx(1, rows=ROWS, cols=COLUMNS)


def uid_of(number: int) -> str:
    """The SOP Instance UID of the film of a number."""
    return derived_uid("swift", "instance", str(number))


def film(number: int, *, tiles: int = 1) -> Dataset:
    """The film of a number, of a patient of its own; `tiles`: so many times as high and as wide."""
    made = copy.deepcopy(_drawn())
    pixels = np.frombuffer(made.PixelData, "<u2").reshape(ROWS, COLUMNS)
    pixels = np.tile(
        np.minimum(np.roll(pixels, number % 97, axis=1) + number // 97, 4095).astype("<u2"), (tiles, tiles)
    )
    made.Rows, made.Columns = pixels.shape
    made.PixelData = pixels.tobytes()
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID(uid_of(number))
    made.StudyInstanceUID = derived_uid("swift", "study", str(number))
    made.SeriesInstanceUID = derived_uid("swift", "series", str(number))
    made.PatientID, made.AccessionNumber = f"SWIFT-{number:06d}", f"SW{number:08d}"
    made.PatientName = f"Phantasma^Celer{number:06d}"
    return made


def written(folder: Path, numbers: Iterable[int], *, tiles: int = 1) -> Iterator[Path]:
    """The films as files, one at a time: each is gone when the next one is asked for."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        path = folder / f"{number}.dcm"
        film(number, tiles=tiles).save_as(path, enforce_file_format=True)
        yield path
        path.unlink()


def statuses(site: Site, films: Iterable[Path], *, calling_aet: str = SENDER) -> list[int]:
    """What the node answers to each film, each over an association of its own."""
    destination = Destination(name="node", aet="CXRNODE", host="127.0.0.1", port=site.port)
    answers: list[int] = []
    for path in films:
        answers += [
            a.status for _, a in send_files([path], destination, calling_aet=calling_aet) if isinstance(a, Sent)
        ]
    return answers
