"""What a document refers to outside its tree: the films it is about, the requests, other documents (PS3.3 C.17.2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydicom.dataset import Dataset

from cxrnode.dicom.outputs.content import Image, reference
from cxrnode.dicom.outputs.encoding import Attributes
from cxrnode.dicom.outputs.settings import SentObject
from cxrnode.dicom.outputs.source import copied_items, items_of, plain, raw_value

_REQUEST_TEXT = (
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)


def requests(source: Dataset) -> list[Attributes]:
    """The requests that the film fulfils (PS3.3 C.17.2, type 1C), as the film names them."""
    found = []
    for request in items_of(source, "RequestAttributesSequence"):
        target = Attributes().put("StudyInstanceUID", raw_value(source, "StudyInstanceUID"))
        target.put_items("ReferencedStudySequence")
        target.put(
            "AccessionNumber", raw_value(request, "AccessionNumber", source) or raw_value(source, "AccessionNumber")
        )
        for keyword in _REQUEST_TEXT:
            target.put(keyword, raw_value(request, keyword, source))
        target.put_items(
            "RequestedProcedureCodeSequence", copied_items(request, "RequestedProcedureCodeSequence", source)
        )
        found.append(target)
    return found


def evidence(*films: Dataset) -> Attributes:
    """Films of one study as evidence (PS3.3 C.17.2.3)."""
    series: dict[bytes, list[Image]] = {}
    for film in films:
        one = Image(plain(film, "SOPClassUID"), plain(film, "SOPInstanceUID"))
        series.setdefault(raw_value(film, "SeriesInstanceUID"), []).append(one)
    return _hierarchy(films[0], series)


def referenced(source: Dataset, objects: Iterable[SentObject]) -> Attributes:
    """Objects that stand in the study of the film, each once, by series (PS3.3 table 10-3b and C.17.2.3)."""
    series: dict[bytes, list[Image]] = {}
    for one in objects:
        places = series.setdefault(one.series_instance_uid.encode(), [])
        places.append(Image(one.sop_class_uid, one.sop_instance_uid))
    return _hierarchy(source, series)


def _hierarchy(source: Dataset, series: Mapping[bytes, list[Image]]) -> Attributes:
    items = [
        Attributes().put_items("ReferencedSOPSequence", map(reference, objects)).put("SeriesInstanceUID", uid)
        for uid, objects in series.items()
    ]
    study = Attributes().put_items("ReferencedSeriesSequence", items)
    return study.put("StudyInstanceUID", raw_value(source, "StudyInstanceUID"))
