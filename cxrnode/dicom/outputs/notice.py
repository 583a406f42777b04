"""The notice that a film has no result: "AI: not analysed", and why, as a small page and a report.

It is made from the kept header alone, since the film may be gone, altered or unreadable. It says nothing about any
finding, never Absent, and it shows no film. A result that still comes names the notice's reports as predecessors.
"""

from __future__ import annotations

from pydicom.dataset import Dataset

from cxrnode.core.findings import Report
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.capture import Series, build_capture
from cxrnode.dicom.outputs.common import DEMONSTRATION, DISCLAIMER, NOT_FOR_DIAGNOSIS, Subject
from cxrnode.dicom.outputs.content import Container, Item, Relation
from cxrnode.dicom.outputs.document import build_pdf
from cxrnode.dicom.outputs.drawing import (
    AMBER,
    BLACK,
    BODY,
    HUGE,
    MUTED,
    SMALL,
    Page,
    line_height,
    shortened,
)
from cxrnode.dicom.outputs.encoding import ascii_text
from cxrnode.dicom.outputs.frame import badge_width
from cxrnode.dicom.outputs.message import build_message
from cxrnode.dicom.outputs.report import document_file, evaluations, measurement_report, observer, summary_text
from cxrnode.dicom.outputs.settings import BASIC_TEXT_SR, SR_CLASSES, Output, OutputSettings

NOT_ANALYSED = "AI: not analysed"
SILENCE = "Nothing is said about any finding: this is neither positive nor negative."
REPLACED = "A result that still comes takes the place of this notice."
NOTICE_SC_SERIES_NUMBER = 9031
NOTICE_SR_SERIES_NUMBER = 9032
NOTICE_TEXT_SERIES_NUMBER = 9033
_MARGIN = 24
_LINES = 4


def build_notice(
    source: Dataset, report: Report, settings: OutputSettings, kinds: frozenset[str]
) -> tuple[Output, ...]:
    """What is sent of a film without a result, in the kinds of object that its rule sends.

    source: the kept header; report: outcome not analysed, with the reason; its `read_at` is when the notice was due.
    kinds: as for `build_outputs`. "sr" and "text" give reports, "heatmap" the page (kind "notice", which tells a notice
    from a result), "pdf" the page too, "hl7" the message; the others give nothing.
    """
    subject = Subject(source, report, settings, act=("notice", report.reason))
    outputs = []
    if "sr" in kinds:
        outputs.append(_report(subject))
    if "text" in kinds:
        outputs.append(_text(subject))
    if kinds & {"heatmap", "pdf"}:
        page = draw_notice(subject)
        if "heatmap" in kinds:
            outputs.append(
                build_capture(
                    subject,
                    page,
                    kind="notice",
                    derivation=f"{NOT_ANALYSED}, {subject.model.strip()}",
                    series=Series("notice-series", NOTICE_SC_SERIES_NUMBER, "NOT ANALYSED"),
                )
            )
        if "pdf" in kinds:
            outputs.append(build_pdf(subject, page.image))
    if "hl7" in kinds:
        outputs.append(build_message(subject))
    return tuple(outputs)


def _said() -> Item:
    return Item(Relation.CONTAINS, codes.COMMENT, f"{REPLACED} {DISCLAIMER}")


def _report(subject: Subject) -> Output:
    """The structured report, without a measurement group: nothing is said about any finding."""
    summary = Item(Relation.CONTAINS, codes.SUMMARY, summary_text(subject.report))
    return document_file(
        subject,
        measurement_report(subject, (), evaluations(summary, _said())),
        kind="sr",
        sop_class_uid=SR_CLASSES[subject.settings.sr_class],
        series_number=NOTICE_SR_SERIES_NUMBER,
        description="NOT ANALYSED",
    )


def _text(subject: Subject) -> Output:
    """The same as Basic Text SR."""
    root = Item(
        Relation.CONTAINS,
        codes.AI_READING,
        Container(separate=True),
        (
            Item(Relation.CONTAINS, codes.SUMMARY, summary_text(subject.report)),
            _said(),
            Item(Relation.CONTAINS, codes.FILM, ascii_text(subject.film)),
            Item(Relation.MODIFIER, codes.LANGUAGE, codes.US_ENGLISH),
            *observer(subject),
        ),
    )
    return document_file(
        subject,
        root,
        kind="text",
        sop_class_uid=BASIC_TEXT_SR,
        series_number=NOTICE_TEXT_SERIES_NUMBER,
        description="NOT ANALYSED",
    )


def draw_notice(subject: Subject) -> Page:
    """The page for people."""
    page = Page(subject.settings.max_px, subject.settings.max_px)
    width = page.width - 2 * _MARGIN
    reason = ascii_text(subject.report.reason).strip().rstrip(".") or "no reason recorded"
    y = page.paragraph(_MARGIN, 18, width, NOT_ANALYSED, HUGE, AMBER) + 14
    y = page.paragraph(_MARGIN, y, width, f"Reason: {shortened(reason, BODY, _LINES * width)}.", BODY) + 10
    y = page.paragraph(_MARGIN, y, width, f"{SILENCE} {REPLACED}", BODY) + 20
    y = page.paragraph(_MARGIN, y, width, f"Film: {subject.film}.", SMALL, MUTED)
    by = f"{subject.settings.device_name}, model {subject.model.strip()}"
    y = page.paragraph(_MARGIN, y, width, f"Said {subject.moment.spoken} by {by}.", SMALL, MUTED) + 18
    page.text(_MARGIN, y, NOT_FOR_DIAGNOSIS, BODY, AMBER)
    if subject.report.reader.demonstration:
        left = page.width - _MARGIN - badge_width(DEMONSTRATION)
        page.badge(left, y - 2, DEMONSTRATION, BODY, ink=BLACK, ground=AMBER)
    page.cut(y + line_height(BODY) + 14)
    return page
