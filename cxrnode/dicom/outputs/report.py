"""The structured report of one film: TID 1500 Imaging Measurement Report (PS3.16), one group for each finding decided.

It says Present, Absent or Undetermined of what was assessed and nothing of what was not; the concept Finding (121071)
stands only where a finding is present, for readers that look no further. It never gives a side, an outline, or
"normal". A film that was not analysed gets a report without groups that says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from cxrnode.core.findings import Concept, Decision, Finding, Outcome, Plausibility, Report, Scale
from cxrnode.core.identity import derived_uid
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.common import (
    DEMONSTRATION,
    DISCLAIMER,
    NOTHING_FOUND,
    Subject,
    device_uid,
    figures,
    finished,
    limits_in_words,
    put_common,
    quantity,
    serial_number,
)
from cxrnode.dicom.outputs.content import (
    Container,
    CopiedConcept,
    Image,
    Item,
    Number,
    Relation,
    Uid,
    put_content,
)
from cxrnode.dicom.outputs.encoding import Attributes, ascii_text
from cxrnode.dicom.outputs.references import evidence, referenced, requests
from cxrnode.dicom.outputs.settings import MANUFACTURER, SR_CLASSES, SR_SERIES_NUMBER, Output
from cxrnode.dicom.outputs.source import items_of, plain, raw_value
from cxrnode.dicom.values import number


def build_report(subject: Subject) -> Output:
    """The structured report as a file."""
    return document_file(
        subject,
        _document(subject),
        kind="sr",
        sop_class_uid=SR_CLASSES[subject.settings.sr_class],
        series_number=SR_SERIES_NUMBER,
        description="report",
    )


def document_file(
    subject: Subject,
    root: Item,
    *,
    kind: str,
    sop_class_uid: str,
    series_number: int,
    description: str,
    replaces: tuple[str, ...] = (),
    sources: Sequence[Dataset] = (),
) -> Output:
    """A tree of content items as an SR document, in a series of its own; `description` is what the series holds.

    `replaces` are the kinds of the subject's predecessors that this one takes the place of; else its own. `sources` are
    the films that it is about, where that is not the subject's alone.
    """
    replaced = tuple(one for one in subject.predecessors if one.kind in (replaces or (kind,)))
    uid = subject.uid(kind, sop_class_uid, *(one.sop_instance_uid for one in replaced))
    target = Attributes()
    put_common(subject, target, sop_class_uid=sop_class_uid, sop_instance_uid=uid)
    target.put("Modality", "SR").put("SeriesNumber", series_number)
    target.put("SeriesDescription", subject.description(description))
    target.put("CompletionFlag", "COMPLETE").put("VerificationFlag", "UNVERIFIED").put("PreliminaryFlag", "PRELIMINARY")
    target.put_items("ReferencedPerformedProcedureStepSequence").put_items("PerformedProcedureCodeSequence")
    target.put_items("CodingSchemeIdentificationSequence", [_coding_scheme()])
    asked = requests(subject.source)
    if asked:
        target.put_items("ReferencedRequestSequence", asked)
    target.put_items("CurrentRequestedProcedureEvidenceSequence", [evidence(*(sources or (subject.source,)))])
    if replaced:
        # Type 1C of the SR Document General Module (PS3.3 C.17.2): the document takes the place of others.
        target.put_items("PredecessorDocumentsSequence", [referenced(subject.source, replaced)])
    put_content(root, target, root=True)
    return finished(
        target,
        kind=kind,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=uid,
        series_instance_uid=subject.uid(f"{kind}-series", sop_class_uid),
    )


def summary_text(report: Report) -> str:
    """What was found, in sentences that stand alone."""
    if report.outcome is not Outcome.ANALYSED:
        reason = ascii_text(report.reason).rstrip(". ") or "no reason recorded"
        return f"AI: not analysed. Reason: {reason}. Nothing is said about any finding."
    present = [
        f"{f.title} ({quantity(f, report.scale)}, {limits_in_words(f, report.scale)})"
        for f in report.having(Decision.PRESENT)
    ]
    parts = [f"AI: present: {'; '.join(present)}." if present else f"AI: {NOTHING_FOUND}"]
    for word, decision in (
        ("Undetermined", Decision.UNDETERMINED),
        ("Absent", Decision.ABSENT),
        ("Not assessed", Decision.NOT_ASSESSED),
    ):
        titles = [f.title for f in report.having(decision)]
        if titles:
            parts.append(f"{word}: {', '.join(titles)}.")
    if report.scale is Scale.SCORE:
        parts.append(
            "A score is not a probability; each finding has thresholds of its own, and scores of two findings cannot "
            "be compared."
        )
    if report.reader.demonstration:
        parts.append(f"{DEMONSTRATION}.")
    return ascii_text(" ".join(parts))


def _document(subject: Subject) -> Item:
    film = Image(plain(subject.source, "SOPClassUID"), plain(subject.source, "SOPInstanceUID"))
    report = subject.report
    groups: tuple[Item, ...] = ()
    if report.outcome is Outcome.ANALYSED:
        groups = tuple(_group(subject, f, film) for f in report.findings if f.decision in codes.PRESENCE)
    return measurement_report(subject, groups, _evaluations(subject))


def measurement_report(subject: Subject, groups: tuple[Item, ...], evaluations: Item) -> Item:
    """The frame of TID 1500 around measurement groups and what is said in words."""
    film = Image(plain(subject.source, "SOPClassUID"), plain(subject.source, "SOPInstanceUID"))
    # The title is of a context group that may be extended (PS3.16 CID 7021).
    own = subject.settings.sr_title == "ai-reading"
    return Item(
        Relation.CONTAINS,
        codes.AI_READING if own else codes.IMAGING_MEASUREMENT_REPORT,
        Container(template="1500"),
        (
            Item(Relation.MODIFIER, codes.LANGUAGE, codes.US_ENGLISH),
            *observer(subject),
            Item(Relation.MODIFIER, codes.PROCEDURE_REPORTED, _procedure(subject.source)),
            _library(subject.source, film),
            # The container stands even when it is empty: viewers look into it unasked.
            Item(Relation.CONTAINS, codes.IMAGING_MEASUREMENTS, Container(), groups),
            evaluations,
        ),
    )


def observer(subject: Subject) -> tuple[Item, ...]:
    """Who observed: this node with this model (TID 1004)."""
    return (
        Item(Relation.CONTEXT, codes.OBSERVER_TYPE, codes.DEVICE),
        Item(Relation.CONTEXT, codes.DEVICE_UID, Uid(device_uid(subject.settings))),
        Item(Relation.CONTEXT, codes.DEVICE_NAME, subject.settings.device_name),
        Item(Relation.CONTEXT, codes.DEVICE_MANUFACTURER, MANUFACTURER),
        Item(Relation.CONTEXT, codes.DEVICE_MODEL, subject.report.reader.name),
        Item(Relation.CONTEXT, codes.DEVICE_SERIAL, serial_number(subject)),
    )


def _library(source: Dataset, film: Image) -> Item:
    described = [Item(Relation.ACQUISITION, codes.MODALITY, codes.modality_concept(plain(source, "Modality")))]
    for name, keyword in ((codes.PIXEL_ROWS, "Rows"), (codes.PIXEL_COLUMNS, "Columns")):
        count = number(source, keyword)
        if count and count > 0:
            described.append(Item(Relation.ACQUISITION, name, Number(f"{count:.0f}", codes.PIXELS)))
    entry = Item(Relation.CONTAINS, codes.LIBRARY_SOURCE, film, tuple(described))
    group = Item(Relation.CONTAINS, codes.IMAGE_LIBRARY_GROUP, Container(), (entry,))
    return Item(Relation.CONTAINS, codes.IMAGE_LIBRARY, Container(), (group,))


def _group(subject: Subject, finding: Finding, film: Image) -> Item:
    """One measurement group (TID 1501) of a finding that has a decision."""
    report, settings = subject.report, subject.settings
    concept = codes.finding_concept(finding.label, settings.scheme, settings.concepts)
    tracking = derived_uid("tracking", film.sop_instance_uid, finding.label)
    present = (Item(Relation.CONTAINS, codes.FINDING, concept),) if finding.decision is Decision.PRESENT else ()
    return Item(
        Relation.CONTAINS,
        codes.MEASUREMENT_GROUP,
        Container(template="1501"),
        (
            Item(Relation.CONTEXT, codes.TRACKING_IDENTIFIER, f"CXR {finding.title}"),
            Item(Relation.CONTEXT, codes.TRACKING_UID, Uid(tracking)),
            *present,
            Item(Relation.MODIFIER, codes.FINDING_SITE, codes.finding_site(finding.label)),
            *_algorithm(subject, finding),
            _score(finding, report.scale, film),
            Item(Relation.CONTAINS, concept, codes.PRESENCE[finding.decision]),
            Item(Relation.CONTAINS, codes.SOURCE_OF_MEASUREMENT, film),
        ),
    )


def _algorithm(subject: Subject, finding: Finding) -> tuple[Item, ...]:
    """Which model with which parameters said so (TID 4019)."""
    reader = subject.report.reader
    name = f"{reader.name} ({DEMONSTRATION})" if reader.demonstration else reader.name
    limits = finding.thresholds
    parameters = [
        f"weights=sha256:{reader.weights_digest.removeprefix('sha256:')}",
        f"bundle=sha256:{reader.bundle_digest.removeprefix('sha256:')}",
        f"calibration={reader.calibration or 'none'}",
        f"engine={reader.engine}",
        f"output_label={finding.label}",
    ]
    if limits is not None:
        parameters += [f"rule_out_below={limits.rule_out!r}", f"rule_in_at_or_above={limits.rule_in!r}"]
    return (
        Item(Relation.MODIFIER, codes.ALGORITHM_NAME, name),
        Item(Relation.MODIFIER, codes.ALGORITHM_VERSION, reader.version),
        Item(Relation.MODIFIER, codes.ALGORITHM_MANUFACTURER, MANUFACTURER),
        *(Item(Relation.MODIFIER, codes.ALGORITHM_PARAMETERS, p) for p in parameters),
        Item(Relation.MODIFIER, codes.ALGORITHM_FAMILY, codes.ARTIFICIAL_INTELLIGENCE),
    )


def _score(finding: Finding, scale: Scale, film: Image) -> Item:
    name, unit = (codes.PROBABILITY, codes.PERCENT) if scale is Scale.PROBABILITY else (codes.AI_SCORE, codes.NO_UNITS)
    # OHIF looks into the items of every number unasked.
    source = Item(Relation.INFERRED, codes.SOURCE_OF_MEASUREMENT, film)
    return Item(Relation.CONTAINS, name, Number(figures(finding, scale)[0], unit), (source,))


def _evaluations(subject: Subject) -> Item:
    report = subject.report
    items = [Item(Relation.CONTAINS, codes.SUMMARY, summary_text(report))]
    if report.plausibility is not None:
        items.append(Item(Relation.CONTAINS, codes.PLAUSIBILITY, plausibility_text(report.plausibility)))
    items += [Item(Relation.CONTAINS, codes.COMMENT, note) for note in (*report.notes, DISCLAIMER)]
    return evaluations(*items)


def evaluations(*items: Item) -> Item:
    """What is said in words, in the container that TID 1500 has for it."""
    return Item(Relation.CONTAINS, codes.QUALITATIVE_EVALUATIONS, Container(separate=True), items)


def plausibility_text(checked: Plausibility) -> str:
    """Whether the film is one that the model may speak about, with the figures."""
    verdict = "plausible" if checked.plausible else "not plausible"
    return f"The film is {verdict} for the model: distance {checked.distance:.4g}, limit {checked.limit:.4g}."


def _procedure(source: Dataset) -> Concept | CopiedConcept:
    """The procedure that the film itself states, else a plain chest X-ray."""
    stated = list(items_of(source, "ProcedureCodeSequence"))
    for request in items_of(source, "RequestAttributesSequence"):
        stated += items_of(request, "RequestedProcedureCodeSequence")
    for code in stated:
        parts = {k: raw_value(code, k, source) for k in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")}
        if all(parts.values()):
            copied = Attributes()
            for keyword, value in parts.items():
                copied.put(keyword, value)
            version = raw_value(code, "CodingSchemeVersion", source)
            if version:
                copied.put("CodingSchemeVersion", version)
            return CopiedConcept(copied.encode())
    return codes.PLAIN_CHEST_XRAY


def _coding_scheme() -> Attributes:
    return (
        Attributes()
        .put("CodingSchemeDesignator", codes.PRIVATE)
        .put("CodingSchemeName", "cxrnode local codes")
        .put("CodingSchemeResponsibleOrganization", "cxrnode")
        .put("CodingSchemeVersion", "1")
    )
