"""The summary page as an Encapsulated PDF (PS3.3 A.45.1), for destinations that file documents and show no captures.

One page of A4 that holds the summary as a picture. The PDF is written here, byte by byte: a library would put the
time and itself into it. There is nothing in it but the picture: no script, no link, no name of a patient.
"""

from __future__ import annotations

import hashlib
import io

from PIL import Image

from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.common import DISCLAIMER, Subject, finished, put_common
from cxrnode.dicom.outputs.content import Image as Reference
from cxrnode.dicom.outputs.content import encoded_concept, reference
from cxrnode.dicom.outputs.encoding import Attributes
from cxrnode.dicom.outputs.settings import ENCAPSULATED_PDF, PDF_SERIES_NUMBER, Output
from cxrnode.dicom.outputs.source import plain

#: A4 and its margin in points (1/72 inch).
_WIDTH, _HEIGHT, _MARGIN = 595, 842, 28
_JPEG_QUALITY = 92


def build_pdf(subject: Subject, summary: Image.Image) -> Output:
    """The summary page, RGB, as a document file in a series of its own."""
    content = pdf_page(summary)
    # The page has thumbnails or none, by what else is sent: it is the page itself that decides the UID.
    uid = subject.uid("pdf", hashlib.sha256(content).hexdigest())
    target = Attributes()
    moment = put_common(subject, target, sop_class_uid=ENCAPSULATED_PDF, sop_instance_uid=uid)
    target.put("Modality", "DOC").put("ConversionType", "SYN")
    target.put("SeriesNumber", PDF_SERIES_NUMBER).put("SeriesDescription", subject.description("page"))
    target.put("AcquisitionDateTime", f"{moment.date}{moment.time}{moment.offset}")
    target.put("BurnedInAnnotation", "YES").put("RecognizableVisualFeatures", "NO")
    target.put("DocumentTitle", f"{codes.AI_READING.meaning}. {DISCLAIMER}")
    target.put_items("ConceptNameCodeSequence", [encoded_concept(codes.AI_READING)])
    film = Reference(plain(subject.source, "SOPClassUID"), plain(subject.source, "SOPInstanceUID"))
    source = reference(film).put_items("PurposeOfReferenceCodeSequence", [encoded_concept(codes.PROCESSED_SOURCE)])
    target.put_items("SourceInstanceSequence", [source])
    target.put("MIMETypeOfEncapsulatedDocument", "application/pdf").put("VerificationFlag", "UNVERIFIED")
    target.put_raw(0x00420011, "OB", content)
    target.put_raw(0x00420015, "UL", len(content).to_bytes(4, "little"))
    return finished(
        target,
        kind="pdf",
        sop_class_uid=ENCAPSULATED_PDF,
        sop_instance_uid=uid,
        series_instance_uid=subject.uid("pdf-series"),
    )


def pdf_page(picture: Image.Image) -> bytes:
    """A PDF 1.4 (ISO 32000-1 section 7.5) of one A4 page with the picture, RGB, at its top; the same every time."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling="4:4:4")
    frame = buffer.getvalue()
    factor = min((_WIDTH - 2 * _MARGIN) / picture.width, (_HEIGHT - 2 * _MARGIN) / picture.height)
    width, height = round(picture.width * factor, 2), round(picture.height * factor, 2)
    drawing = f"q {width} 0 0 {height} {_MARGIN} {round(_HEIGHT - _MARGIN - height, 2)} cm /Page Do Q".encode()
    image = (
        f"<< /Type /XObject /Subtype /Image /Width {picture.width} /Height {picture.height}"
        f" /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode /Length {len(frame)} >>"
    )
    page = (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {_WIDTH} {_HEIGHT}] /Contents 5 0 R"
        " /Resources << /XObject << /Page 4 0 R >> >> >>"
    )
    title = f"({codes.AI_READING.meaning})"
    return _written(
        (
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            page.encode(),
            _stream(image, frame),
            _stream(f"<< /Length {len(drawing)} >>", drawing),
            f"<< /Title {title} >>".encode(),
        )
    )


def _stream(dictionary: str, content: bytes) -> bytes:
    return b"".join((dictionary.encode(), b"\nstream\n", content, b"\nendstream"))


def _written(objects: tuple[bytes, ...]) -> bytes:
    """The file: header, the objects from number 1 on, the table of where each begins, the trailer. The last is Info."""
    # Four bytes over 127 in a comment say that the file is binary.
    file, places = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"), []
    for number, content in enumerate(objects, start=1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = len(file)
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    file += b"".join(b"%010d 00000 n \n" % place for place in places)
    file += b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\n" % (len(objects) + 1, len(objects))
    file += b"startxref\n%d\n%%%%EOF\n" % table
    return bytes(file)
