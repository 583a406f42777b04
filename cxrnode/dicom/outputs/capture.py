"""A picture as a Secondary Capture (PS3.3 A.8.1): single-frame RGB, in a series of its own for each film and revision.

It never claims the geometry of the film: the film is resampled and a legend stands beside it, so no pixel spacing is
given and no viewer measures millimetres on it.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence

from pydicom.dataset import Dataset

from cxrnode.core.findings import Concept
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.common import DISCLAIMER, Subject, finished, put_common
from cxrnode.dicom.outputs.content import Image as Reference
from cxrnode.dicom.outputs.content import encoded_concept, reference
from cxrnode.dicom.outputs.drawing import Page
from cxrnode.dicom.outputs.encoding import EXPLICIT_LITTLE, JPEG_BASELINE, Attributes
from cxrnode.dicom.outputs.settings import SC_SERIES_NUMBER, SECONDARY_CAPTURE, Output
from cxrnode.dicom.outputs.source import plain, raw_value

_JPEG_QUALITY = 92

#: Lossy transfer syntaxes and the method each stands for (PS3.3 C.7.6.1.1.5.1): a film may forget to say so.
_LOSSY = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """A series of captures: what tells its UID from those of others, its number, and what it is in a word or two."""

    name: str
    number: int
    description: str


MAPS = Series("sc-series", SC_SERIES_NUMBER, "maps")


def build_capture(
    subject: Subject,
    page: Page,
    *,
    kind: str,
    derivation: str,
    label: str = "",
    number: int = 1,
    explanation: Concept | None = None,
    series: Series = MAPS,
    sources: Sequence[Dataset] = (),
) -> Output:
    """The picture of a page as a file; `explanation` is the coded way in which it explains a finding (CID 217).

    `sources` are the films that it was made of, where that is not the subject's alone.
    """
    syntax = JPEG_BASELINE if subject.settings.encoding == "jpeg" else EXPLICIT_LITTLE
    uid = subject.uid("sc", kind, label, syntax)
    target = Attributes()
    moment = put_common(subject, target, sop_class_uid=SECONDARY_CAPTURE, sop_instance_uid=uid)
    target.put("Modality", "OT").put("ConversionType", "SYN").put("ImageType", "DERIVED", "SECONDARY", "OTHER")
    target.put("SeriesNumber", series.number).put("SeriesDescription", subject.description(series.description))
    target.put("DateOfSecondaryCapture", moment.date).put("TimeOfSecondaryCapture", moment.time)
    target.put("BodyPartExamined", "CHEST")  # only chest films get here; it also says that there is no paired side
    target.put("BurnedInAnnotation", "YES").put("RecognizableVisualFeatures", "NO")
    target.put("ImageComments", DISCLAIMER).put("DerivationDescription", derivation)
    if explanation is not None:
        target.put_items("DerivationCodeSequence", [encoded_concept(explanation)])
    target.put("PatientOrientation", *_orientation(subject.source))
    target.put_items("SourceImageSequence", [_source_image(film) for film in sources or (subject.source,)])
    _put_pixels(subject.source, page, target, syntax)
    return finished(
        target,
        kind=kind,
        label=label,
        number=number,
        sop_class_uid=SECONDARY_CAPTURE,
        sop_instance_uid=uid,
        series_instance_uid=subject.uid(series.name),
        transfer_syntax_uid=syntax,
    )


def _source_image(source: Dataset) -> Attributes:
    film = Reference(plain(source, "SOPClassUID"), plain(source, "SOPInstanceUID"))
    target = reference(film).put("SpatialLocationsPreserved", "NO")
    return target.put_items("PurposeOfReferenceCodeSequence", [encoded_concept(codes.PROCESSED_SOURCE)])


def _orientation(source: Dataset) -> tuple[str, ...]:
    """The film's rows and columns as it states them, or nothing (type 2C): never invented."""
    parts = tuple(part.strip() for part in plain(source, "PatientOrientation").split("\\"))
    return parts if len(parts) == 2 and all(p and set(p) <= set("APRLHF") for p in parts) else ()


def _put_pixels(source: Dataset, page: Page, target: Attributes, syntax: str) -> None:
    jpeg = syntax == JPEG_BASELINE
    width, height = page.size
    target.put("Rows", height).put("Columns", width).put("SamplesPerPixel", 3)
    target.put("PhotometricInterpretation", "YBR_FULL_422" if jpeg else "RGB").put("PlanarConfiguration", 0)
    target.put("BitsAllocated", 8).put("BitsStored", 8).put("HighBit", 7).put("PixelRepresentation", 0)
    ratios, methods = _losses(source)
    if jpeg:
        buffer = io.BytesIO()
        page.image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling="4:2:2")
        frame = buffer.getvalue()
        target.put_frame(frame)
        ratios, methods = [*ratios, f"{3 * width * height / len(frame):.2f}"], [*methods, "ISO_10918_1"]
    else:
        target.put_pixels(page.pixels())
    # Once lossy, for ever lossy (PS3.3 C.7.6.1.1.5): the film's own losses are handed on.
    target.put("LossyImageCompression", "01" if methods else "00")
    if methods:
        target.put("LossyImageCompressionRatio", *ratios).put("LossyImageCompressionMethod", *methods)


def _losses(source: Dataset) -> tuple[list[str], list[str]]:
    """Ratio and method of each lossy step the film has been through; a ratio not stated is given as 1."""
    meta = getattr(source, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    if plain(source, "LossyImageCompression") != "01" and syntax not in _LOSSY:
        return [], []
    methods = [m for m in plain(source, "LossyImageCompressionMethod").split("\\") if m]
    ratios = [r for r in raw_value(source, "LossyImageCompressionRatio").decode("latin-1").split("\\") if r.strip()]
    methods = methods or [_LOSSY.get(syntax, "ISO_10918_1")]
    return (ratios + ["1"] * len(methods))[: len(methods)], methods
