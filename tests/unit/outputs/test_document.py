"""The summary as an Encapsulated PDF: the page as drawn, in a file that is whole and the same every time."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset

from cxrnode.core.findings import Outcome, Report
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.document import pdf_page
from tests.unit.outputs.sources import make_film, make_report, make_saliency, make_source


def made(report: Report | None = None, film: Any = None, kinds: tuple[str, ...] = ("pdf",)) -> tuple[Output, ...]:
    shown = make_film(400, 340) if film is None else film
    return build_outputs(
        make_source(), report or make_report(), shown, make_saliency(), OutputSettings(), frozenset(kinds)
    )


def read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def content(output: Output) -> bytes:
    """The document without the padding that makes its length even."""
    ds = read(output)
    return bytes(ds.EncapsulatedDocument[: ds.EncapsulatedDocumentLength])


def drawn(pdf: bytes) -> Image.Image:
    """The one picture of a PDF."""
    (length,) = re.findall(rb"/Filter /DCTDecode /Length (\d+) >>", pdf)
    start = pdf.index(b"\nstream\n") + len(b"\nstream\n")
    return Image.open(io.BytesIO(pdf[start : start + int(length)]))


def test_it_is_an_encapsulated_pdf_in_a_series_of_its_own() -> None:
    (output,) = made()
    ds = read(output)
    assert (output.kind, ds.SOPClassUID, ds.Modality) == ("pdf", "1.2.840.10008.5.1.4.1.1.104.1", "DOC")
    assert (ds.SeriesNumber, ds.MIMETypeOfEncapsulatedDocument) == (9004, "application/pdf")
    assert ds.SeriesDescription == "AI page PA 10:15:00 (not for diagnosis)"
    assert (ds.VerificationFlag, ds.BurnedInAnnotation) == ("UNVERIFIED", "YES")
    assert "Research use - not for diagnosis" in ds.DocumentTitle
    assert ds.SourceInstanceSequence[0].ReferencedSOPInstanceUID == make_source().SOPInstanceUID


def test_its_page_is_the_summary_that_is_sent_as_a_picture() -> None:
    outputs = made(kinds=("heatmap", "pdf"))
    summary = Image.fromarray(read(outputs[0]).pixel_array)
    page = drawn(content(outputs[-1]))
    assert [one.kind for one in outputs] == ["summary", "heatmap", "heatmap", "pdf"]
    assert page.size == summary.size
    assert np.abs(np.asarray(page, int) - np.asarray(summary, int)).mean() < 2


def test_without_heatmaps_it_has_no_thumbnails_and_another_uid() -> None:
    alone, beside = made()[0], made(kinds=("heatmap", "pdf"))[-1]
    assert drawn(content(alone)).height < drawn(content(beside)).height
    assert alone.sop_instance_uid != beside.sop_instance_uid


def test_the_table_of_the_pdf_says_where_each_object_begins() -> None:
    pdf = pdf_page(Image.new("RGB", (1200, 1000), "navy"))
    (table,) = re.findall(rb"startxref\n(\d+)\n%%EOF\n$", pdf)
    places = [int(p) for p in re.findall(rb"(\d{10}) 00000 n ", pdf[int(table) :])]
    assert pdf[int(table) :].startswith(b"xref\n0 7\n")
    assert [pdf[p : p + 7] for p in places] == [b"%d 0 obj" % n for n in range(1, 7)]


def test_a_tall_page_and_a_wide_one_both_stay_on_the_sheet() -> None:
    for size in ((1600, 400), (400, 1600)):
        (width, height, x, y) = (
            float(n)
            for n in re.findall(rb"q ([\d.]+) 0 0 ([\d.]+) ([\d.]+) ([\d.]+) cm", pdf_page(Image.new("RGB", size)))[0]
        )
        assert abs(width / height - size[0] / size[1]) < 0.01
        assert x >= 0 and y >= 0 and x + width <= 595 and y + height <= 842


def test_a_film_that_was_not_analysed_has_a_page_that_says_so() -> None:
    report = make_report(outcome=Outcome.NOT_ANALYSED, reason="the pixels cannot be decoded")
    (output,) = made(report)
    assert drawn(content(output)).size != drawn(content(made()[0])).size


def test_nothing_in_the_pdf_names_the_patient_or_the_time_it_was_written() -> None:
    pdf = content(made()[0])
    assert not [word for word in (b"SYN001", b"Yamada", b"ACC0001", b"Date", b"/JS", b"/URI") if word in pdf[:900]]
    assert not re.search(rb"/CreationDate|/ModDate|/Producer", pdf)


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert made()[0].data == made()[0].data
