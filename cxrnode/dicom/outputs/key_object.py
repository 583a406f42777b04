"""A Key Object Selection that flags a film with an urgent positive finding (TID 2010), for worklists that sort by it.

Which findings are urgent the site says. Only a finding that is present flags; a model for demonstration never does.
That there is no flag means nothing: not that the film was read, and never that it can wait.
"""

from __future__ import annotations

from cxrnode.core.findings import Decision, Finding, Outcome
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.common import NOT_FOR_DIAGNOSIS, Subject, finished, limits_in_words, put_common, quantity
from cxrnode.dicom.outputs.content import Container, Image, Item, Relation, put_content
from cxrnode.dicom.outputs.encoding import Attributes, ascii_text
from cxrnode.dicom.outputs.references import evidence, requests
from cxrnode.dicom.outputs.report import observer
from cxrnode.dicom.outputs.settings import KEY_OBJECT_SELECTION, KEY_OBJECT_SERIES_NUMBER, Output
from cxrnode.dicom.outputs.source import plain

NO_FLAG = "A study without such a flag is not thereby less urgent."


def urgent_findings(subject: Subject) -> tuple[Finding, ...]:
    """The findings that flag this film: present, and on the site's list; none for a model for demonstration."""
    report = subject.report
    if report.outcome is not Outcome.ANALYSED or report.reader.demonstration:
        return ()
    return tuple(f for f in report.having(Decision.PRESENT) if f.label in subject.settings.urgent)


def build_key_object(subject: Subject, findings: tuple[Finding, ...]) -> Output:
    """The flag for these findings as a file. Raises ValueError without any."""
    if not findings:
        raise ValueError("a key object flags at least one finding")
    return selection_file(
        subject,
        _document(subject, findings),
        kind="key_object",
        name="key-object",
        series_number=KEY_OBJECT_SERIES_NUMBER,
        description="urgent",
        evidence=evidence(subject.source),
    )


def selection_file(
    subject: Subject, root: Item, *, kind: str, name: str, series_number: int, description: str, evidence: Attributes
) -> Output:
    """A tree of TID 2010 as a Key Object Selection Document (PS3.3 A.35.4), in a series of its own.

    `name` tells its UIDs from those of other selections; `evidence` is all that the tree refers to.
    """
    uid = subject.uid(name)
    target = Attributes()
    put_common(subject, target, sop_class_uid=KEY_OBJECT_SELECTION, sop_instance_uid=uid)
    target.put("Modality", "KO").put("SeriesNumber", series_number)
    target.put("SeriesDescription", subject.description(description))
    target.put_items("ReferencedPerformedProcedureStepSequence")
    asked = requests(subject.source)
    if asked:
        target.put_items("ReferencedRequestSequence", asked)
    target.put_items("CurrentRequestedProcedureEvidenceSequence", [evidence])
    put_content(root, target, root=True)
    return finished(
        target,
        kind=kind,
        sop_class_uid=KEY_OBJECT_SELECTION,
        sop_instance_uid=uid,
        series_instance_uid=subject.uid(f"{name}-series"),
    )


def _document(subject: Subject, findings: tuple[Finding, ...]) -> Item:
    scale = subject.report.scale
    told = "; ".join(f"{f.title} ({quantity(f, scale)}, {limits_in_words(f, scale)})" for f in findings)
    text = f"AI, urgent by this site's list: {told}. {NOT_FOR_DIAGNOSIS}. {NO_FLAG} Read by {subject.model}."
    film = Image(plain(subject.source, "SOPClassUID"), plain(subject.source, "SOPInstanceUID"))
    return Item(
        Relation.CONTAINS,
        codes.OF_INTEREST,
        Container(template="2010", separate=True),
        (
            Item(Relation.MODIFIER, codes.LANGUAGE, codes.US_ENGLISH),
            *observer(subject),
            Item(Relation.CONTAINS, None, film),
            Item(Relation.CONTAINS, codes.KEY_OBJECT_DESCRIPTION, ascii_text(text)),
        ),
    )
