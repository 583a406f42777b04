"""The films of a torture run: many cheap ones, each of a patient of its own, from a handful of drawings."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from enum import StrEnum
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ComputedRadiographyImageStorage, JPEG2000Lossless

from cxrnode.core.identity import derived_uid
from cxrnode.dicom.part10 import dataset_digest
from cxrnode.phantom.dicom import GALLERY, as_coerced, phantom_dx

#: The smallest film that is read has 512 pixels on its short side.
ROWS, COLUMNS = 600, 512
_DRAWN = 12


class Kind(StrEnum):
    """What is special about a film."""

    PLAIN = "plain"
    PICTURES = "pictures"  # CR: the rule asks for heatmaps, and for a second destination
    COMPRESSED = "compressed"
    IGNORED = "ignored"  # a hand
    UNREADABLE = "unreadable"  # its pixels are no codestream
    COERCED = "coerced"  # the film before it once more, with another header


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """One object to send; `digest` is of its data set as it lies in the file."""

    path: Path
    kind: Kind
    uid: str
    digest: str
    patient_id: str
    patient_name: str
    study_uid: str


def make_films(folder: Path, count: int) -> tuple[Film, ...]:
    """Write `count` films. The same count gives the same films."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [phantom_dx(n, GALLERY[n % len(GALLERY)], ROWS, COLUMNS) for n in range(min(_DRAWN, count))]
    films: list[Film] = []
    before: Dataset | None = None
    for number in range(count):
        kind = _kind(number)
        if kind is Kind.COERCED and before is not None:
            film = as_coerced(before)
            film.file_meta = before.file_meta
        else:
            film = _varied(drawn[number % len(drawn)], number, kind)
            before = film
        path = folder / f"film-{number:05d}.dcm"
        film.save_as(path, enforce_file_format=True)
        films.append(
            Film(
                path=path,
                kind=kind,
                uid=str(film.SOPInstanceUID),
                digest=dataset_digest(path),
                patient_id=str(film.PatientID).strip(),
                patient_name=str(film.PatientName),
                study_uid=str(film.StudyInstanceUID),
            )
        )
    return tuple(films)


def _kind(number: int) -> Kind:
    """Of a hundred films: 11 with pictures, 9 compressed, 6 ignored, 4 unreadable, 4 coerced, the others plain."""
    place = number % 100
    if place % 25 == 24:
        return Kind.COERCED  # the one before it is a plain one
    if place % 25 == 7:
        return Kind.UNREADABLE
    if place % 17 == 3:
        return Kind.IGNORED
    if place % 11 == 5:
        return Kind.COMPRESSED
    return Kind.PICTURES if place % 9 == 2 else Kind.PLAIN


def _varied(drawn: Dataset, number: int, kind: Kind) -> Dataset:
    """The drawing as a film of its own: shifted and a little brighter, of a patient, study and instance of its own."""
    film = copy.deepcopy(drawn)
    pixels = np.frombuffer(drawn.PixelData, "<u2").reshape(ROWS, COLUMNS)
    pixels = np.minimum(np.roll(pixels, number % 97, axis=1) + number // 97, 4095).astype("<u2")
    film.SOPInstanceUID = derived_uid("torture", "instance", str(number))
    film.StudyInstanceUID = derived_uid("torture", "study", str(number))
    film.SeriesInstanceUID = derived_uid("torture", "series", str(number))
    film.PatientID, film.AccessionNumber = f"TORTURE-{number:06d}", f"TA{number:08d}"
    film.PatientName = f"Phantasma^Torquata{hashlib.sha256(str(number).encode()).hexdigest()[:8]}"
    film.PixelData = pixels.tobytes()
    match kind:
        case Kind.PICTURES:
            film.Modality, film.SOPClassUID = "CR", ComputedRadiographyImageStorage
        case Kind.IGNORED:
            film.BodyPartExamined, film.SeriesDescription, film.StudyDescription = "HAND", "HAND", "HAND"
            del film.AnatomicRegionSequence
        case Kind.COMPRESSED:
            film.compress(JPEG2000Lossless, generate_instance_uid=False)
        case Kind.UNREADABLE:
            film.PixelData = encapsulate([b"\xff\x4f\xff\x51" + bytes(range(200)) * 20])
            film["PixelData"].is_undefined_length = True
            film.file_meta.TransferSyntaxUID = JPEG2000Lossless
        case _:
            pass
    film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID
    film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
    return film
