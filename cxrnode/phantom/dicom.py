"""Phantoms as DX images For Presentation (PS3.3 A.26), labelled as synthetic in every place a person looks.

The patient is called PHANTOM, the study says that it shows nobody, the film bears the letters. The same arguments
give the same data set, UIDs and dates included. Nothing here sends or reads a network.
"""

from __future__ import annotations

import copy
import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
)

from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID, derived_uid
from cxrnode.phantom.anatomy import FILM_HEIGHT, PhantomFinding, View, plan
from cxrnode.phantom.film import MAXIMUM, draw_film, mark

#: What every phantom's StudyDescription says.
STUDY_DESCRIPTION = "SYNTHETIC PHANTOM - not a patient"
#: The films of a demonstration, in their order: without a finding, then each that can be drawn.
GALLERY: tuple[PhantomFinding | None, ...] = (None, *PhantomFinding)

_FIRST_DAY = datetime.date(2026, 1, 5)


def phantom_dx(
    seed: int,
    finding: PhantomFinding | None = None,
    rows: int = 2500,
    cols: int = 2048,
    *,
    view: View = "PA",
    photometric: Literal["MONOCHROME2", "MONOCHROME1"] = "MONOCHROME2",
    transfer_syntax: str = ExplicitVRLittleEndian,
    patient_name: str | None = None,
    charset: str | list[str] = "ISO_IR 192",
    **overrides: Any,
) -> Dataset:
    """Return a DX data set with file meta information, ready for `save_as(..., enforce_file_format=True)`.

    Stored values are 12 bits; the window is the whole range. UIDs depend on seed, finding, size, view and
    photometric interpretation, not on the transfer syntax: compressed, it is the same instance. `overrides` are
    attributes by keyword, set last; None deletes one. Raises ValueError for a transfer syntax that is neither
    native little endian nor JPEG 2000 lossless, and for what `draw_film` refuses.
    """
    if transfer_syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless):
        raise ValueError(f"a phantom is native little endian or JPEG 2000 lossless, not {transfer_syntax}")
    film = mark(draw_film(seed, finding, rows, cols, view), ("L", "SYNTHETIC", "PHANTOM"))
    inverse = photometric == "MONOCHROME1"
    ds = Dataset()
    ds.SpecificCharacterSet = charset
    _identify(ds, seed, finding, patient_name or f"PHANTOM^{finding.value if finding else 'Normal'}", view)
    key = (seed, str(finding), rows, cols, view, photometric)
    ds.SOPClassUID = DigitalXRayImageStorageForPresentation
    ds.SOPInstanceUID = derived_uid("phantom", "instance", *key)
    ds.StudyInstanceUID = derived_uid("phantom", "study", seed, str(finding))
    ds.SeriesInstanceUID = derived_uid("phantom", "series", *key)
    _acquire(ds, view, rows)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.Rows, ds.Columns = rows, cols
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if inverse else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.WindowCenter, ds.WindowWidth = (MAXIMUM + 1) // 2, MAXIMUM + 1
    ds.WindowCenterWidthExplanation = "FULL RANGE"
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.LossyImageCompression = "00"
    stored = np.asarray(MAXIMUM - film if inverse else film, dtype="<u2")
    ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    compressed = transfer_syntax == JPEG2000Lossless
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if compressed else UID(transfer_syntax)
    if compressed:
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    for keyword, value in overrides.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    return ds


def write_phantoms(
    folder: Path,
    seeds: Iterable[int] = range(len(GALLERY)),
    *,
    findings: tuple[PhantomFinding | None, ...] = GALLERY,
    **options: Any,
) -> tuple[Path, ...]:
    """Write one film a seed, the findings taking turns, as Part 10 files; return their paths in order.

    `options` go to `phantom_dx`. The folder is made where it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, seed in enumerate(seeds):
        finding = findings[number % len(findings)]
        path = folder / f"phantom-{seed:04d}-{(finding.value if finding else 'normal').lower()}.dcm"
        phantom_dx(seed, finding, **options).save_as(path, enforce_file_format=True)
        paths.append(path)
    return tuple(paths)


def as_coerced(ds: Dataset) -> Dataset:
    """The same film after a router has been at it: equal pixels and identity, other bytes in the header.

    Identifiers gain insignificant spaces (PS3.5 6.2), descriptive attributes change, and attributes are added.
    """
    other = copy.deepcopy(ds)
    other.PatientID = f"{ds.PatientID} "
    other.AccessionNumber = f" {ds.AccessionNumber} "
    other.InstitutionName = "Coerced General Hospital"
    other.InstitutionalDepartmentName = "Radiology"
    other.StationName = "ROUTER1"
    other.StudyDescription = f"XR {ds.StudyDescription}"[:64]
    return other


def _identify(ds: Dataset, seed: int, finding: PhantomFinding | None, name: str, view: View) -> None:
    """Patient, study, series and equipment: nobody, and said so."""
    body = plan(seed, finding, view)
    day = _FIRST_DAY + datetime.timedelta(days=seed % 300)
    age = 28 + (seed * 7) % 55
    ds.PatientName = name
    # A letter for the finding: one PatientID must not go by two names.
    ds.PatientID = f"PHANTOM-{seed:04d}{finding.value[0] if finding else ''}"
    ds.IssuerOfPatientID = "CXRNODE-PHANTOM"
    ds.PatientBirthDate = f"{day.year - age}0101"
    ds.PatientSex = "F" if body.woman else "M"
    ds.PatientAge = f"{age:03d}Y"
    ds.PatientComments = "Synthetic image drawn by software. Shows no person."
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = f"{day:%Y%m%d}"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{8 + seed % 10:02d}{seed % 60:02d}00"
    ds.StudyID = f"{seed % 10**8}"
    ds.AccessionNumber = f"PH{seed:06d}{finding.value[0] if finding else ''}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = STUDY_DESCRIPTION
    ds.SeriesDescription = f"SYNTHETIC CHEST {view}"
    ds.Modality = "DX"
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.Manufacturer = "cxrnode phantom"  # not the node's own name: the node ignores what it made itself
    ds.ManufacturerModelName = "Drawn film"
    ds.DeviceSerialNumber = "PHANTOM"
    ds.SoftwareVersions = "1"


def _acquire(ds: Dataset, view: View, rows: int) -> None:
    """Anatomy, positioning and detector (PS3.3 C.8.11.2 to C.8.11.5)."""
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.AcquisitionNumber = 1
    ds.BodyPartExamined = "CHEST"
    ds.ImageLaterality = "U"
    ds.ViewPosition = view
    ds.PatientOrientation = ["L", "F"]
    ds.BurnedInAnnotation = "NO"  # the letters identify nobody
    ds.AnatomicRegionSequence = [_coded("51185008", "Chest")]
    code = codes.SCT.PosteroAnterior if view == "PA" else codes.SCT.AnteroPosterior
    ds.ViewCodeSequence = [_coded(code.value, code.meaning)]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    ds.AcquisitionContextSequence = []
    ds.PositionerType = "COLUMN"
    ds.DetectorType = "SCINTILLATOR"
    spacing = f"{FILM_HEIGHT * 10 / rows:.6g}"
    ds.ImagerPixelSpacing = [spacing, spacing]
    ds.KVP = "125"
    ds.DistanceSourceToDetector = "1800" if view == "PA" else "1000"


def _coded(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item
