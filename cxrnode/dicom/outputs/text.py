"""The same report as Basic Text SR, for viewers that show an SR as text alone or break on measurements without a place.

OHIF (3.13.2) opens no TID 1500 report whose measurements have no coordinates, and ours have none: a score belongs to
the whole film. This one has headings and sentences. It says what the structured report says and never more; it is
no substitute for it, since nothing in it can be computed with.
"""

from __future__ import annotations

from cxrnode.core.findings import Decision, Finding, Outcome
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.common import DISCLAIMER, Subject, limits_in_words, quantity
from cxrnode.dicom.outputs.content import Container, Item, Relation
from cxrnode.dicom.outputs.encoding import ascii_text
from cxrnode.dicom.outputs.report import document_file, observer, plausibility_text, summary_text
from cxrnode.dicom.outputs.settings import BASIC_TEXT_SR, TEXT_SERIES_NUMBER, Output


def build_text(subject: Subject) -> Output:
    """The text report (PS3.3 A.35.1) as a file."""
    return document_file(
        subject,
        _document(subject),
        kind="text",
        sop_class_uid=BASIC_TEXT_SR,
        series_number=TEXT_SERIES_NUMBER,
        description="text",
    )


def _document(subject: Subject) -> Item:
    report = subject.report
    findings: tuple[Item, ...] = ()
    if report.outcome is Outcome.ANALYSED:
        told = tuple(_told(subject, f) for f in report.ranked())
        findings = (Item(Relation.CONTAINS, codes.FINDINGS_HEADING, Container(separate=True), told),) if told else ()
    return Item(
        Relation.CONTAINS,
        codes.AI_READING,
        Container(separate=True),
        (
            # The answer first: viewers print the items as they stand, and those of context are many.
            Item(Relation.CONTAINS, codes.SUMMARY, summary_text(report)),
            Item(Relation.CONTAINS, codes.COMMENT, DISCLAIMER),
            *findings,
            _provenance(subject),
            Item(Relation.MODIFIER, codes.LANGUAGE, codes.US_ENGLISH),
            *observer(subject),
        ),
    )


def _told(subject: Subject, finding: Finding) -> Item:
    """One finding as question and answer; what was not assessed is given no score."""
    settings, scale = subject.settings, subject.report.scale
    concept = codes.finding_concept(finding.label, settings.scheme, settings.concepts)
    if finding.decision is Decision.NOT_ASSESSED:
        text = "not assessed"
    else:
        text = f"{finding.decision}: {quantity(finding, scale)}; {limits_in_words(finding, scale)}"
    return Item(Relation.CONTAINS, concept, text)


def _provenance(subject: Subject) -> Item:
    """Which film, when, by what; whether the film is one that the model may speak about; notes."""
    report = subject.report
    read = f"{subject.moment.spoken} by {subject.model}, {subject.bundle}"
    items = [
        Item(Relation.CONTAINS, codes.FILM, ascii_text(subject.film)),
        Item(Relation.CONTAINS, codes.READ, ascii_text(read)),
    ]
    if report.plausibility is not None:
        items.append(Item(Relation.CONTAINS, codes.PLAUSIBILITY, plausibility_text(report.plausibility)))
    items += [Item(Relation.CONTAINS, codes.COMMENT, note) for note in report.notes]
    return Item(Relation.CONTAINS, codes.PROVENANCE_HEADING, Container(separate=True), tuple(items))
