"""A Key Object Selection that flags a film with an urgent positive finding (TID 2010), for worklists that sort by it.

Which findings are urgent the site says. Only a finding that is present flags; a model for demonstration never does.
That there is no flag means nothing: not that the film was read, and never that it can wait.
"""

from __future__ import annotations

from cxrnode.core.findings import Decision, Finding, Outcome
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.common import NOT_FOR_DIAGNOSIS, Subject, limits_in_words, put_common, quantity
from cxrnode.dicom.outputs.content import Container, Image, Item, Relation, put_content
from cxrnode.dicom.outputs.encoding import EXPLICIT_LITTLE, Attributes, ascii_text, part10
from cxrnode.dicom.outputs.report import evidence, observer, requests
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
    """The flag for these findings as a file (PS3.3 A.35.4). Raises ValueError without any."""
    if not findings:
        raise ValueError("a key object flags at least one finding")
    uid = subject.uid("key-object")
    target = Attributes()
    put_common(subject, target, sop_class_uid=KEY_OBJECT_SELECTION, sop_instance_uid=uid)
    target.put("Modality", "KO").put("SeriesInstanceUID", subject.uid("key-object-series"))
    target.put("SeriesNumber", KEY_OBJECT_SERIES_NUMBER).put("InstanceNumber", 1)
    target.put("SeriesDescription", subject.description("urgent"))
    target.put_items("ReferencedPerformedProcedureStepSequence")
    asked = requests(subject.source)
    if asked:
        target.put_items("ReferencedRequestSequence", asked)
    target.put_items("CurrentRequestedProcedureEvidenceSequence", [evidence(subject.source)])
    put_content(_document(subject, findings), target, root=True)
    data = part10(target, sop_class_uid=KEY_OBJECT_SELECTION, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT_LITTLE)
    return Output(
        kind="key_object",
        label="",
        sop_class_uid=KEY_OBJECT_SELECTION,
        sop_instance_uid=uid,
        transfer_syntax_uid=EXPLICIT_LITTLE,
        instance_number=1,
        data=data,
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
