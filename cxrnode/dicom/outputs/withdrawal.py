"""A result taken back: a rejection note for archives that understand it, and a picture and a report for people.

The rejection note is that of IHE's Imaging Object Change Management: a Key Object Selection whose title is the reason
and whose references are all objects withdrawn. An archive that knows it hides them. For others a page and a report say
"AI RESULT WITHDRAWN": which result, why, and that nothing may be concluded from it. Neither repeats a finding.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum

from pydicom.dataset import Dataset

from cxrnode.core.findings import Concept, Report
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.capture import Series, build_capture
from cxrnode.dicom.outputs.common import DISCLAIMER, NOT_FOR_DIAGNOSIS, Subject
from cxrnode.dicom.outputs.content import Composite, Container, Image, Item, Relation
from cxrnode.dicom.outputs.drawing import AMBER, BODY, HUGE, MUTED, SMALL, Page, line_height, shortened
from cxrnode.dicom.outputs.encoding import ascii_text
from cxrnode.dicom.outputs.key_object import selection_file
from cxrnode.dicom.outputs.references import referenced
from cxrnode.dicom.outputs.report import document_file, evaluations, measurement_report, observer
from cxrnode.dicom.outputs.settings import (
    REJECTION_SERIES_NUMBER,
    SECONDARY_CAPTURE,
    SR_CLASSES,
    WITHDRAWN_SC_SERIES_NUMBER,
    WITHDRAWN_SR_SERIES_NUMBER,
    Output,
    OutputSettings,
    SentObject,
)

WITHDRAWN = "AI RESULT WITHDRAWN"
DO_NOT_USE = "Do not use it. Nothing is said about any finding: this is neither positive nor negative."
#: What a withdrawal can consist of: a note for archives; a page and a report for people.
KINDS = frozenset({"rejection", "notice"})
#: What a heatmap's series and the like are called in a sentence, by the kind of the output.
_WORDS = {
    "sr": "report",
    "text": "text report",
    "summary": "summary page",
    "heatmap": "map",
    "pdf": "page as PDF",
    "key_object": "urgent flag",
    "gsps": "presentation state",
}
_MARGIN = 24
_LINES = 4


class Rejection(StrEnum):
    """Why objects are rejected, as archives tell it apart (PS3.16 CID 7031)."""

    QUALITY = "quality"
    SAFETY = "safety"
    WORKLIST = "worklist"


TITLES: dict[Rejection, Concept] = {
    Rejection.QUALITY: codes.REJECTED_FOR_QUALITY,
    Rejection.SAFETY: codes.REJECTED_FOR_SAFETY,
    Rejection.WORKLIST: codes.INCORRECT_WORKLIST_ENTRY,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawal:
    """The taking back of what one report has sent.

    `reason` is the person's own words; `at` is when they said so, in seconds since 1970; `objects` are all that were
    sent to the destination; `replaced` says that a later reading takes their place; `summary` that they are the summary
    of a study alone, and the reading stands.
    """

    rejection: Rejection
    reason: str
    at: float
    objects: tuple[SentObject, ...]
    replaced: bool = False
    summary: bool = False


def build_withdrawal(
    source: Dataset,
    report: Report,
    withdrawal: Withdrawal,
    settings: OutputSettings,
    kinds: frozenset[str] = KINDS,
) -> tuple[Output, ...]:
    """What is sent to take back the outputs of this report: of kind "rejection", "withdrawn" (SC), "withdrawn_sr".

    source: the film's data set without pixels as it was when the outputs were made: they stand in its study.
    kinds: "rejection" for an archive that knows rejection notes, "notice" for the page and the report.
    Raises ValueError for a kind that does not exist, and where no object is withdrawn.
    """
    unknown = kinds - KINDS
    if unknown:
        raise ValueError(f"there is no withdrawal of kind {', '.join(sorted(unknown))}")
    if not withdrawal.objects:
        raise ValueError("a withdrawal names at least one object that was sent")
    act = ("withdrawal", withdrawal.rejection, withdrawal.reason, repr(withdrawal.at), str(withdrawal.replaced))
    subject = Subject(
        source,
        report,
        settings,
        at=withdrawal.at,
        act=(*act, *(one.sop_instance_uid for one in withdrawal.objects)),
        predecessors=withdrawal.objects,
    )
    outputs = []
    if "rejection" in kinds:
        outputs.append(_rejection_note(subject, withdrawal))
    if "notice" in kinds:
        outputs += [_report(subject, withdrawal), _picture(subject, withdrawal)]
    return tuple(outputs)


def withdrawn_text(subject: Subject, withdrawal: Withdrawal) -> str:
    """What was withdrawn and why, in sentences that stand alone."""
    reason = ascii_text(withdrawal.reason).strip().rstrip(".") or "no reason recorded"
    if withdrawal.summary:
        return ascii_text(f"AI STUDY SUMMARY REPLACED. Reason: {reason}. The reports of the single films stand.")
    parts = [f"{WITHDRAWN}.", f"Reason: {reason}.", f"{_which(subject)}.", DO_NOT_USE, _what_now(withdrawal)]
    return ascii_text(" ".join(parts))


def _which(subject: Subject) -> str:
    """Which result it is: when it was read, by what, of which film."""
    read = dataclasses.replace(subject, at=None).moment.spoken
    return f"Withdrawn: the reading of {read} by {subject.model}, {subject.bundle}. Film: {subject.film}"


def _what_now(withdrawal: Withdrawal) -> str:
    if withdrawal.replaced:
        return "A later AI reading of the same film takes its place."
    return "No other AI reading takes its place."


def _listed(objects: Iterable[SentObject]) -> str:
    """The objects in words, each kind once and without their findings: "report, summary page, 2 maps"."""
    counted = Counter(one.kind for one in objects)
    words = [(_WORDS.get(kind, kind), count) for kind, count in counted.items()]
    return ", ".join(f"{count} {word}s" if count > 1 else word for word, count in words)


def _rejection_note(subject: Subject, withdrawal: Withdrawal) -> Output:
    """The Key Object Selection that rejects the objects (IHE RAD TF-2, IOCM; TID 2010)."""
    objects = tuple(
        Item(
            Relation.CONTAINS,
            None,
            (Image if one.sop_class_uid == SECONDARY_CAPTURE else Composite)(one.sop_class_uid, one.sop_instance_uid),
        )
        for one in withdrawal.objects
    )
    root = Item(
        Relation.CONTAINS,
        TITLES[withdrawal.rejection],
        Container(template="2010", separate=True),
        (
            Item(Relation.MODIFIER, codes.LANGUAGE, codes.US_ENGLISH),
            *observer(subject),
            *objects,
            Item(Relation.CONTAINS, codes.KEY_OBJECT_DESCRIPTION, withdrawn_text(subject, withdrawal)),
        ),
    )
    return selection_file(
        subject,
        root,
        kind="rejection",
        name="rejection",
        series_number=REJECTION_SERIES_NUMBER,
        description="REJECTION NOTE",
        evidence=referenced(subject.source, withdrawal.objects),
    )


def _report(subject: Subject, withdrawal: Withdrawal) -> Output:
    """The report that takes the place of those withdrawn, without a group: nothing is said about any finding."""
    said = evaluations(
        Item(Relation.CONTAINS, codes.SUMMARY, withdrawn_text(subject, withdrawal)),
        Item(Relation.CONTAINS, codes.COMMENT, DISCLAIMER),
    )
    return document_file(
        subject,
        measurement_report(subject, (), said),
        kind="withdrawn_sr",
        sop_class_uid=SR_CLASSES[subject.settings.sr_class],
        series_number=WITHDRAWN_SR_SERIES_NUMBER,
        description="RESULT WITHDRAWN",
        replaces=("sr", "text"),
    )


def _picture(subject: Subject, withdrawal: Withdrawal) -> Output:
    return build_capture(
        subject,
        draw_withdrawal(subject, withdrawal),
        kind="withdrawn",
        derivation=f"{WITHDRAWN}, {subject.model}",
        series=Series("withdrawn-series", WITHDRAWN_SC_SERIES_NUMBER, "RESULT WITHDRAWN"),
    )


def draw_withdrawal(subject: Subject, withdrawal: Withdrawal) -> Page:
    """The page for people; it shows no film, so that nobody takes it for one."""
    page = Page(subject.settings.max_px, subject.settings.max_px)
    width = page.width - 2 * _MARGIN

    def say(y: int, text: str, size: int = BODY, **ink: tuple[int, int, int]) -> int:
        return page.paragraph(_MARGIN, y, width, text, size, **ink) + 10

    reason = ascii_text(withdrawal.reason).strip().rstrip(".") or "no reason recorded"
    y = say(18, WITHDRAWN, HUGE, ink=AMBER)
    y = say(y + 4, f"Reason: {shortened(reason, BODY, _LINES * width)}.")
    y = say(y, DO_NOT_USE)
    y = say(y, _what_now(withdrawal))
    y = say(y + 10, f"{_which(subject)}.", SMALL, ink=MUTED)
    y = say(y, f"Objects: {shortened(_listed(withdrawal.objects), SMALL, _LINES * width)}.", SMALL, ink=MUTED)
    y = say(y, f"Withdrawn {subject.moment.spoken}.", SMALL, ink=MUTED)
    page.text(_MARGIN, y + 10, NOT_FOR_DIAGNOSIS, BODY, AMBER)
    page.cut(y + 10 + line_height(BODY) + 14)
    return page
