"""Headers of instances on disk: read tolerantly, within limits, never with pixels.

Nothing here decodes, writes, or logs a value. pydicom's own warnings quote element values, which may name the
patient, so they are kept out of logs.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
import pydicom.config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from cxrnode.core.header import Header, Identity, age_in_years
from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.dicom.part10 import Held, Metered, dataset_digest, dataset_offset, looks_headless, opened
from cxrnode.errors import Rejected

__all__ = [
    "LARGEST_HEADER",
    "PARSE_FAULTS",
    "dataset_digest",
    "dataset_offset",
    "header_of",
    "identity_of",
    "parse",
    "quiet",
    "read_header",
    "to_header",
]

#: Everything before the pixel data, at most, in bytes.
LARGEST_HEADER = 16 * 1024 * 1024
#: What is read at once: pydicom's parser asks a file for each element.
_MOST_HEADERS = 64 * 1024
#: Sequences within sequences, at most.
DEEPEST = 32
#: The Manufacturer that cxrnode writes into its own outputs, in lower case.
OWN_MANUFACTURERS = frozenset({"cxrnode", "cxrnode project"})

#: What pydicom raises over malformed data sets and values; among them OSError without errno, for a cut sequence.
PARSE_FAULTS = (
    *(InvalidDicomError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError),
    *(NotImplementedError, RecursionError, struct.error, zlib.error, OSError, BytesLengthException),
)
_QUIET = threading.RLock()

# Values that break their VR are read as they are, and never quoted in a log: they may name the patient.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back pydicom's warnings, which quote values. One thread at a time: the filters belong to the process."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(path: Path) -> Dataset:
    """Return the data set of a file up to, and without, its pixel data (PS3.10 7.1).

    A file without preamble or meta is read where it begins like a data set. A deflated one is inflated in pieces and
    says Explicit VR Little Endian in its `file_meta`. Raises Rejected for a file that is not DICOM, is broken, or
    whose header is too large or nested too deep, and OSError where the file cannot be opened.
    """
    with path.open("rb", buffering=_MOST_HEADERS) as file:
        held = Held(memoryview(file.read(_MOST_HEADERS)))
        whole = len(held.content) < _MOST_HEADERS
        with contextlib.suppress(Rejected):
            header = header_of(held)
            if whole or held.tell() < _MOST_HEADERS:
                return header
        # It goes on behind what was read, or it is none: what there is to say of it is said of all of it.
        return header_of(file)


def header_of(file: BinaryIO | Held) -> Dataset:
    """As `read_header`, of a file that is open."""
    with quiet():
        return parse(opened(file, LARGEST_HEADER, whole=False), LARGEST_HEADER, stop_before_pixels=True)


def parse(file: BinaryIO | Held, limit: int, *, stop_before_pixels: bool, longest_value: int | None = None) -> Dataset:
    """Parse an opened data set, reading at most `limit` bytes; raises Rejected as `read_header` does.

    Values of more than `longest_value` bytes are passed over: their elements say where they stand, and hold None.
    """
    try:
        source: Any = file if isinstance(file, Held) and len(file.content) <= limit else Metered(file, limit)
        dataset = pydicom.dcmread(
            source, stop_before_pixels=stop_before_pixels, defer_size=longest_value, force=looks_headless(file)
        )
        # Nothing is read later: let the file go, so that the data set may outlive it and cross to another process.
        dataset.buffer, dataset.filename = None, None
        _check_depth(dataset)
        return dataset
    except InvalidDicomError:
        raise Rejected("not a DICOM file: it has neither preamble nor a first element of group 0008") from None
    except PARSE_FAULTS as fault:
        if isinstance(fault, OSError) and fault.errno is not None:
            raise
        # pydicom may have met it where it takes any fault for the end of the file.
        if isinstance(fault, RecursionError) or isinstance(fault.__context__, RecursionError):
            raise Rejected("sequences are nested too deep in this data set") from None
        raise Rejected(f"the data set is malformed ({type(fault).__name__}); send it again from its source") from None


def to_header(dataset: Dataset) -> Header:
    """Return what routing may look at. Values that cannot be read count as missing; this never raises."""
    with quiet():
        region_codes = _codes(dataset, "AnatomicRegionSequence")
        intent = _first(dataset, "PresentationIntentType")
        study_date = _first(dataset, "StudyDate")
        taken = study_date or _first(dataset, "AcquisitionDate") or _first(dataset, "SeriesDate")
        return Header(
            sop_class_uid=_first(dataset, "SOPClassUID"),
            modality=_first(dataset, "Modality"),
            presentation_intent=intent,
            image_type=_texts(dataset, "ImageType"),
            samples=_number(dataset, "SamplesPerPixel", absent=1),
            frames=_number(dataset, "NumberOfFrames", absent=1),
            rows=_number(dataset, "Rows"),
            columns=_number(dataset, "Columns"),
            bits_stored=_number(dataset, "BitsStored"),
            photometric=_first(dataset, "PhotometricInterpretation"),
            body_part=_joined(dataset, "BodyPartExamined"),
            region_codes=region_codes,
            view_position=_joined(dataset, "ViewPosition"),
            view_codes=_codes(dataset, "ViewCodeSequence"),
            view_modifier_codes=_modifiers(dataset),
            patient_orientation=_texts(dataset, "PatientOrientation"),
            laterality=_first(dataset, "ImageLaterality") or _first(dataset, "Laterality"),
            study_description=_joined(dataset, "StudyDescription"),
            series_description=_joined(dataset, "SeriesDescription"),
            protocol_name=_joined(dataset, "ProtocolName"),
            requested_procedure=_joined(dataset, "RequestedProcedureDescription"),
            performed_procedure=_joined(dataset, "PerformedProcedureStepDescription"),
            processing_description=_joined(dataset, "AcquisitionDeviceProcessingDescription"),
            requested_priority=_first(dataset, "RequestedProcedurePriority"),
            manufacturer=_first(dataset, "Manufacturer"),
            model_name=_first(dataset, "ManufacturerModelName"),
            station_name=_first(dataset, "StationName"),
            institution=_first(dataset, "InstitutionName"),
            department=_first(dataset, "InstitutionalDepartmentName"),
            sex=_first(dataset, "PatientSex"),
            age_years=age_in_years(_first(dataset, "PatientAge"), _first(dataset, "PatientBirthDate"), taken),
            study_date=study_date,
            own_output=_is_own(dataset),
        )


def undecoded(dataset: Dataset) -> Dataset:
    """A copy to look values up in: to look one up decodes it in its data set, and outputs copy text as it came in.

    Sequences are the data set's own.
    """
    twin = copy.copy(dataset)
    twin._dict = dict(dataset._dict)
    return twin


def identity_of(dataset: Dataset) -> Identity:
    """Return whose film it is said to be; values that cannot be read are ""."""
    with quiet():
        return Identity(
            patient_id=_joined(dataset, "PatientID"),
            issuer=_joined(dataset, "IssuerOfPatientID"),
            patient_name=_joined(dataset, "PatientName"),
            birth_date=_first(dataset, "PatientBirthDate"),
            sex=_first(dataset, "PatientSex"),
            accession=_joined(dataset, "AccessionNumber"),
            study_uid=_first(dataset, "StudyInstanceUID"),
            series_uid=_first(dataset, "SeriesInstanceUID"),
            sop_uid=_first(dataset, "SOPInstanceUID"),
        )


def _check_depth(dataset: Dataset) -> None:
    """Open every sequence, without recursion, so that none breaks later. Raises Rejected past DEEPEST."""
    waiting = [(dataset, 1)]
    while waiting:
        level, depth = waiting.pop()
        for tag in [tag for tag, element in level.items() if _is_sequence(element)]:
            if depth > DEEPEST:
                raise Rejected(f"sequences are nested deeper than {DEEPEST} in this data set")
            try:
                items = level[tag].value
            except RecursionError:
                raise Rejected(f"sequences are nested deeper than {DEEPEST} in this data set") from None
            except PARSE_FAULTS:
                # A broken private or unused sequence costs the film nothing: it is left out.
                del level[tag]
                continue
            waiting += [(item, depth + 1) for item in items or () if isinstance(item, Dataset)]


def _is_sequence(element: DataElement | RawDataElement) -> bool:
    if element.VR in (None, "UN"):  # a sender that does not know the attribute: pydicom opens it when it is looked at
        try:
            return dictionary_VR(element.tag) == "SQ"
        except KeyError:
            return False
    return element.VR == "SQ"


def _is_own(dataset: Dataset) -> bool:
    """Whether cxrnode made the instance. Group 0002 cannot tell: the receiver writes it, and that is cxrnode too."""
    if _first(dataset, "Manufacturer").casefold() in OWN_MANUFACTURERS:
        return True
    return _first(dataset, "InstanceCreatorUID") == IMPLEMENTATION_CLASS_UID


def _texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The values of an element as stripped text, at most 32 of at most 1024 characters; () where it has none."""
    tag = tag_for_keyword(keyword)
    try:
        value = dataset[tag].value if tag is not None and tag in dataset else None
    except PARSE_FAULTS:
        return ()
    if value is None or isinstance(value, pydicom.Sequence | Dataset):
        return ()
    many = value if isinstance(value, list | tuple | pydicom.multival.MultiValue) else [value]
    try:
        texts = [v.decode("latin-1") if isinstance(v, bytes) else str(v) for v in many[:32] if v is not None]
    except PARSE_FAULTS:
        return ()
    return tuple(t.replace("\0", "").strip()[:1024] for t in texts)


def _first(dataset: Dataset, keyword: str) -> str:
    return next(iter(_texts(dataset, keyword)), "")


def _joined(dataset: Dataset, keyword: str) -> str:
    """All values, with the backslash between them that free text often holds without meaning two values."""
    return "\\".join(_texts(dataset, keyword)).strip("\\")


def _number(dataset: Dataset, keyword: str, *, absent: int = 0) -> int:
    """The first value as a whole number; `absent` where there is none, 0 where it is none."""
    text = _first(dataset, keyword)
    if not text:
        return absent
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return 0


def _items(dataset: Dataset, keyword: str) -> list[Dataset]:
    tag = tag_for_keyword(keyword)
    try:
        value = dataset[tag].value if tag is not None and tag in dataset else None
    except PARSE_FAULTS:
        return []
    return list(value)[:16] if isinstance(value, pydicom.Sequence) else []


def _codes(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The code values of a code sequence (PS3.3 section 8)."""
    values = (
        _first(i, "CodeValue") or _first(i, "LongCodeValue") or _first(i, "URNCodeValue")
        for i in _items(dataset, keyword)
    )
    return tuple(value for value in values if value)


def _modifiers(dataset: Dataset) -> tuple[str, ...]:
    """Codes of ViewModifierCodeSequence, which stands within the view code (PS3.3 C.8.11.5.1)."""
    within = [code for item in _items(dataset, "ViewCodeSequence") for code in _codes(item, "ViewModifierCodeSequence")]
    return (*within, *_codes(dataset, "ViewModifierCodeSequence"))
