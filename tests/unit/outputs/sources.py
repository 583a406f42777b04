"""Sources for the tests of the outputs: a small DX header, films of any shape, reports with every kind of finding."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian

from cxrnode.core.findings import (
    NIH14,
    Finding,
    Outcome,
    Plausibility,
    Reader,
    Report,
    Scale,
    Thresholds,
    decide,
)
from cxrnode.core.identity import derived_uid
from cxrnode.dicom.outputs import SentObject

_CHARSET = "SpecificCharacterSet"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
READ_AT = 1_788_225_600.25  # 2026-09-01 01:20:00.25 UTC

SCORES = (0.12, 0.91, 0.62, 0.33, 0.31, 0.02, 0.04, 0.01, 0.41, 0.03, 0.18, 0.05, 0.22, 0.008)


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded entry."""
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = value, scheme, meaning
    return ds


def make_source(rows: int = 1024, columns: int = 848, **changes: Any) -> Dataset:
    """A DX header for presentation without pixels, as it is after a round trip through a file.

    Changes are by keyword; None deletes the attribute; bytes are written as they are.
    """
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = DX, derived_uid("test", "sop")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = derived_uid("test", "study"), derived_uid("test", "series")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260901"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.TimezoneOffsetFromUTC = "+0900"
    ds.AccessionNumber, ds.StudyID, ds.Modality = "ACC0001", "S1", "DX"
    ds.Manufacturer, ds.ManufacturerModelName = "SynthCo", "SynthDR"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.ReferringPhysicianName, ds.StudyDescription, ds.SeriesDescription = "", "XR CHEST 1 VIEW", "Chest PA"
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    ds.PatientID, ds.IssuerOfPatientID = "SYN001", "SYNHOSP"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19700101", "O", "056Y"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.PresentationIntentType, ds.BodyPartExamined, ds.ViewPosition = "FOR PRESENTATION", "CHEST", "PA"
    ds.ImageLaterality, ds.PatientOrientation = "U", ["L", "F"]
    ds.AnatomicRegionSequence = Sequence([code("816094009", "SCT", "Chest")])
    view = code("272479007", "SCT", "postero-anterior")
    view.ViewModifierCodeSequence = Sequence([])
    ds.ViewCodeSequence = Sequence([view])
    ds.ImageType, ds.AcquisitionContextSequence = ["ORIGINAL", "PRIMARY", ""], Sequence([])
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.ImagerPixelSpacing = [0.4, 0.4]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    ds.PresentationLUTShape, ds.BurnedInAnnotation, ds.LossyImageCompression = "IDENTITY", "NO", "00"
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    ds.DetectorType, ds.PositionerType = "DIRECT", "NONE"
    ds.ReferencedPerformedProcedureStepSequence = Sequence([])
    request = Dataset()
    request.AccessionNumber, request.RequestedProcedureID = "ACC0001", "RP1"
    request.ScheduledProcedureStepID, request.RequestedProcedureDescription = "SPS1", "XR CHEST"
    request.PlacerOrderNumberImagingServiceRequest = "PL1"
    request.FillerOrderNumberImagingServiceRequest = "FI1"
    ds.RequestAttributesSequence = Sequence([request])
    as_bytes = {
        k: v for k, v in changes.items() if isinstance(v, bytes) and not (k == _CHARSET and v.isascii() and 0 not in v)
    }
    for keyword, value in changes.items():
        if value is None or keyword in as_bytes:
            ds.pop(keyword, None)
        else:
            setattr(ds, keyword, value.decode().split("\\") if isinstance(value, bytes) else value)
    read = reread(ds)
    for keyword, value in as_bytes.items():  # anything goes, also what no VR allows
        number = pydicom.datadict.tag_for_keyword(keyword)
        assert number is not None
        tag = Tag(number)
        vr = pydicom.datadict.dictionary_VR(tag)
        read[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)
    return read


def reread(ds: Dataset) -> Dataset:
    """The data set after a round trip: its elements undecoded, as the node reads them."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    buffer.seek(0)
    return pydicom.dcmread(buffer)


def make_film(rows: int = 1024, columns: int = 848) -> npt.NDArray[np.uint8]:
    """Two dark lungs and a bright heart in a grey body: uint8 (rows, columns)."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    y, x = y / rows, x / columns
    film = 0.75 - 0.15 * y
    for lung in (0.3, 0.7):
        film = film - 0.55 * np.exp(-((((x - lung) / 0.14) ** 2 + ((y - 0.45) / 0.26) ** 2) ** 2))
    film = film + 0.25 * np.exp(-((((x - 0.55) / 0.14) ** 2 + ((y - 0.62) / 0.14) ** 2) ** 2))
    return np.asarray(np.clip(film + 0.02 * np.sin(y * 60), 0, 1) * 255, np.uint8)


def make_saliency(size: int = 7, channels: int = 14) -> npt.NDArray[np.float16]:
    """One round region for each finding, at a place of its own; the last channel is empty."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / (size - 1)
    maps = []
    for channel in range(channels):
        across, down = 0.2 + 0.6 * ((channel * 5) % 14) / 13, 0.25 + 0.5 * ((channel * 3) % 14) / 13
        maps.append(2.0 * np.exp(-(((x - across) / 0.22) ** 2 + ((y - down) / 0.18) ** 2)))
    maps[-1] = np.zeros_like(x)
    return np.stack(maps).astype(np.float16)


def make_reader(*, demonstration: bool = False) -> Reader:
    """A model."""
    return Reader(
        name="chest-densenet121",
        version="1.4.0",
        bundle_digest="ab" * 32,
        weights_digest="cd" * 32,
        calibration="temperature:v3",
        demonstration=demonstration,
        engine="torch-cpu-float32",
    )


def make_report(scores: tuple[float, ...] = SCORES, *, demonstration: bool = False, **changes: Any) -> Report:
    """A report with findings present, undetermined, absent and, for the last two labels, not assessed."""
    findings = []
    for index, (label, score) in enumerate(zip(NIH14, scores, strict=True)):
        limits = None if index >= 12 else Thresholds(rule_out=0.2, rule_in=0.5)
        decision = decide(score, limits)
        findings.append(
            Finding(
                label=label,
                index=index,
                score=score,
                decision=decision,
                thresholds=limits,
                map_floor=0.2,
                map_ceiling=2.0,
            )
        )
    report = Report(
        outcome=Outcome.ANALYSED,
        reason="",
        read_at=READ_AT,
        revision=1,
        reader=make_reader(demonstration=demonstration),
        scale=Scale.SCORE,
        findings=tuple(findings),
        plausibility=Plausibility(distance=11.5, limit=20.0),
        pixel_digest="11" * 32,
        identity_digest="22" * 32,
    )
    return dataclasses.replace(report, **changes)


def sent_object(kind: str, label: str, data: bytes) -> SentObject:
    """An output as later objects refer to it, from its bytes. Raises pydicom's InvalidDicomError for other bytes."""
    tags = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"]
    ds = pydicom.dcmread(io.BytesIO(data), specific_tags=tags, stop_before_pixels=True)
    return SentObject(
        kind=kind,
        label=label,
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        series_instance_uid=str(ds.SeriesInstanceUID),
    )
