"""The summary of a study: each frontal film with what was found on it, and where the films disagree.

It never averages and never combines: every score stands under the film that it came from. It is made from the reports
alone, one for each film; a film that was not analysed is listed as such. A page (SC) for people, more than one where
the films are many, and the same as Basic Text SR.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cxrnode.core.findings import Decision, Outcome
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.capture import Series, build_capture
from cxrnode.dicom.outputs.common import DEMONSTRATION, DISCLAIMER, Subject, quantity
from cxrnode.dicom.outputs.content import Container, Item, Relation
from cxrnode.dicom.outputs.encoding import ascii_text
from cxrnode.dicom.outputs.films import (
    NEVER_AVERAGED,
    TAKES_THE_PLACE,
    FilmRead,
    Row,
    Study,
    arranged,
    film_line,
    headline,
)
from cxrnode.dicom.outputs.report import document_file, observer
from cxrnode.dicom.outputs.settings import (
    BASIC_TEXT_SR,
    STUDY_SC_SERIES_NUMBER,
    STUDY_SR_SERIES_NUMBER,
    Output,
    OutputSettings,
    SentObject,
)
from cxrnode.dicom.outputs.source import plain
from cxrnode.dicom.outputs.study_page import draw_study

__all__ = ["FilmRead", "build_study_summary"]


def build_study_summary(
    films: Sequence[FilmRead],
    settings: OutputSettings,
    *,
    at: float,
    predecessors: tuple[SentObject, ...] = (),
) -> tuple[Output, ...]:
    """Make the summary: a report of kind "study_sr", then pages of kind "study", numbered from 1.

    `at` is when it is made, in seconds since 1970: its only clock. `predecessors` are the objects of an earlier summary
    of the same study that this one takes the place of. Raises ValueError for no film, and for films of several studies
    or patients.
    """
    study = arranged(films, settings)
    first = study.subjects[0]
    act = ["study", repr(at)]
    for one in study.subjects:
        act += [plain(one.source, "SOPInstanceUID"), one.report.sha256]
    count = f"{len(films)} frontal film{'s' if len(films) > 1 else ''}"
    subject = dataclasses.replace(
        first, at=at, act=tuple(act), scope=count, predecessors=predecessors, settings=settings
    )
    sources = [one.source for one in study.subjects]
    outputs = [
        document_file(
            subject,
            _document(subject, study),
            kind="study_sr",
            sop_class_uid=BASIC_TEXT_SR,
            series_number=STUDY_SR_SERIES_NUMBER,
            description="study summary,",
            sources=sources,
        )
    ]
    for number, page in enumerate(draw_study(subject, study), start=1):
        outputs.append(
            build_capture(
                subject,
                page,
                kind="study",
                number=number,
                derivation=f"Summary of the AI readings of {count}",
                series=Series("study-series", STUDY_SC_SERIES_NUMBER, "study summary,"),
                sources=sources,
            )
        )
    return tuple(outputs)


def _document(subject: Subject, study: Study) -> Item:
    settings = subject.settings
    findings = tuple(
        Item(
            Relation.CONTAINS,
            codes.finding_concept(row.label, settings.scheme, settings.concepts),
            _told(row, study),
        )
        for row in study.rows
    )
    said = [*headline(study), NEVER_AVERAGED]
    if subject.predecessors:
        said.append(TAKES_THE_PLACE)
    if study.demonstration:
        said.append(f"{DEMONSTRATION}.")
    films = tuple(
        Item(Relation.CONTAINS, codes.FILM, ascii_text(film_line(number, one)))
        for number, one in enumerate(study.subjects, start=1)
    )
    return Item(
        Relation.CONTAINS,
        codes.AI_STUDY,
        Container(separate=True),
        (
            Item(Relation.CONTAINS, codes.SUMMARY, ascii_text(" ".join(said))),
            Item(Relation.CONTAINS, codes.COMMENT, DISCLAIMER),
            *(
                (Item(Relation.CONTAINS, codes.FINDINGS_HEADING, Container(separate=True), findings),)
                if findings
                else ()
            ),
            Item(Relation.CONTAINS, codes.PROVENANCE_HEADING, Container(separate=True), films),
            Item(Relation.MODIFIER, codes.LANGUAGE, codes.US_ENGLISH),
            *observer(subject),
        ),
    )


def _told(row: Row, study: Study) -> str:
    """One finding over all films; the score of each stays its own."""
    parts = []
    for number, (finding, one) in enumerate(zip(row.cells, study.subjects, strict=True), start=1):
        if finding is None:
            said = "nothing said" if one.report.outcome is Outcome.ANALYSED else "not analysed"
        elif finding.decision is Decision.NOT_ASSESSED:
            said = "not assessed"
        else:
            said = f"{finding.decision}, {quantity(finding, one.report.scale)}"
        parts.append(f"film {number}: {said}")
    return f"{'; '.join(parts)}.{' The films disagree.' if row.differs else ''}"
