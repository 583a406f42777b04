"""The report as an HL7 message for worklists: ORU^R01 of version 2.5.1, with what the structured report says.

Each finding decided is a coded answer and a number, with the thresholds beside it; what was not assessed stands in the
summary alone. The result is preliminary, never final: no physician has seen it. A demonstration is marked as training
(MSH-11) and calls nothing abnormal. The control ID is derived, so that a message sent again is known to be the same.
"""

from __future__ import annotations

import base64
import hashlib

from pydicom.dataset import Dataset

from cxrnode.core.findings import Concept, Decision, Finding, Outcome, Scale
from cxrnode.dicom.outputs import codes, hl7
from cxrnode.dicom.outputs.common import (
    DEMONSTRATION,
    DISCLAIMER,
    Subject,
    device_uid,
    figures,
    limits_in_words,
)
from cxrnode.dicom.outputs.hl7 import coded, components, escaped, person, segment, text_of
from cxrnode.dicom.outputs.report import plausibility_text, summary_text
from cxrnode.dicom.outputs.settings import Output
from cxrnode.dicom.outputs.source import clean_date, clean_sex, clean_time, items_of, plain

KIND = "hl7"
WITHDRAWN = "AI RESULT WITHDRAWN"
_DO_NOT_USE = "Do not use it. Nothing is said about any finding: this is neither positive nor negative."

# Observation identifiers (OBX-3). That of the study is IHE's (Radiology TF-2, 4.7).
_STUDY = "113014^DICOM Study^DCM"
_SUMMARY = "59776-5^Procedure findings Narrative^LN"
#: What a film without a procedure of its own is of, in LOINC beside SNOMED CT.
_LOINC_CHEST = ("30745-4", "XR Chest Views", "LN")

# OBX-11 (table 0085) and OBR-25 (table 0123).
_PRELIMINARY, _NO_RESULT, _NO_DETAIL, _WRONG, _CORRECTED = "P", "X", "O", "W", "C"


def build_message(subject: Subject) -> Output:
    """The message; its `sop_instance_uid` is the one that its control ID is derived from."""
    report = subject.report
    analysed = report.outcome is Outcome.ANALYSED
    rows = _Rows(subject)
    rows.add("TX", _SUMMARY, escaped(summary_text(report)))
    for note in (*report.notes, DISCLAIMER):
        rows.add("TX", coded(codes.COMMENT), escaped(note))
    if report.plausibility is not None:
        rows.add("TX", coded(codes.PLAUSIBILITY), escaped(plausibility_text(report.plausibility)))
    rows.add_provenance()
    if analysed:
        decided = [f for f in report.findings if f.decision in codes.PRESENCE]
        for number, finding in enumerate(decided, start=1):
            rows.add_finding(finding, str(number))
    return _output(subject, rows, _PRELIMINARY if analysed else _NO_RESULT)


def build_withdrawn_message(subject: Subject, reason: str) -> Output:
    """What takes a message back: each of its answers and numbers is posted as wrong, and a sentence says why."""
    rows = _Rows(subject, status=_WRONG)
    why = f"{WITHDRAWN}: {reason.rstrip('. ')}. {_DO_NOT_USE}"
    rows.add("TX", _SUMMARY, escaped(why))
    decided = [f for f in subject.report.findings if f.decision in codes.PRESENCE]
    if subject.report.outcome is Outcome.ANALYSED:
        for number, finding in enumerate(decided, start=1):
            concept = codes.finding_concept(finding.label, subject.settings.scheme, subject.settings.concepts)
            rows.add("CE", coded(concept), '""', sub_id=str(number))
            rows.add("NM", coded(_measured(subject)[0]), '""', sub_id=str(number))
    return _output(subject, rows, _CORRECTED)


class _Rows:
    """The OBX segments, numbered as they are added."""

    def __init__(self, subject: Subject, *, status: str = _PRELIMINARY) -> None:
        self._subject = subject
        self._status = status
        self.segments: list[str] = []
        self.add("ST", _STUDY, escaped(plain(subject.source, "StudyInstanceUID")), status=_NO_DETAIL)

    def add(self, kind: str, name: str, value: str, *, sub_id: str = "", status: str = "", **more: str) -> None:
        """One observation: value type, identifier, value, and further fields by their number."""
        number = str(len(self.segments) + 1)
        more["f11"] = status or self._status
        self.segments.append(segment("OBX", number, kind, name, sub_id, value, **more))

    def add_provenance(self) -> None:
        """Which film, and which model read it."""
        reader = self._subject.report.reader
        model = f"{reader.name} ({DEMONSTRATION})" if reader.demonstration else reader.name
        self.add("ST", coded(codes.FILM), escaped(self._subject.film))
        self.add("ST", coded(codes.ALGORITHM_NAME), escaped(model))
        self.add("ST", coded(codes.ALGORITHM_VERSION), escaped(reader.version))
        for name, value in (
            ("weights", reader.weights_digest),
            ("bundle", reader.bundle_digest),
            ("calibration", reader.calibration or "none"),
        ):
            prefix = "" if name == "calibration" else "sha256:"
            self.add("ST", coded(codes.ALGORITHM_PARAMETERS), escaped(f"{name}={prefix}{value.removeprefix(prefix)}"))

    def add_finding(self, finding: Finding, sub_id: str) -> None:
        """The decision and the score of one finding, under one sub-ID."""
        subject, settings = self._subject, self._subject.settings
        scale, demonstration = subject.report.scale, subject.report.reader.demonstration
        concept = codes.finding_concept(finding.label, settings.scheme, settings.concepts)
        read = {
            "f14": moment_of(subject),
            "f17": coded(codes.ARTIFICIAL_INTELLIGENCE),
            "f18": components(settings.device_name, "", device_uid(settings), "ISO"),
        }
        abnormal = finding.decision is Decision.PRESENT and not demonstration
        answer = coded(codes.PRESENCE[finding.decision])
        self.add("CE", coded(concept), answer, sub_id=sub_id, f8="A" if abnormal else "", **read)
        measured, unit = _measured(subject)
        limits = escaped(limits_in_words(finding, scale))
        value = figures(finding, scale)[0]
        self.add("NM", coded(measured), value, sub_id=sub_id, f6=coded(unit), f7=limits, **read)


def _measured(subject: Subject) -> tuple[Concept, Concept]:
    """What the number of a finding is, and its unit."""
    if subject.report.scale is Scale.PROBABILITY:
        return codes.PROBABILITY, codes.PERCENT
    return codes.AI_SCORE, codes.NO_UNITS


def _output(subject: Subject, rows: _Rows, result_status: str) -> Output:
    settings, source = subject.settings, subject.source
    uid = subject.uid(KIND, *settings.hl7_names, result_status)
    charset, codec = hl7.character_set(source)
    ours, theirs, facility = settings.hl7_names
    head = segment(
        "MSH",
        "^~\\&",
        escaped(settings.device_name),
        escaped(ours),
        escaped(theirs),
        escaped(facility),
        moment_of(subject),
        "",
        "ORU^R01^ORU_R01",
        control_id(uid),
        "T" if subject.report.reader.demonstration else "P",
        hl7.VERSION,
        f17=charset,  # MSH-1 is the delimiter itself: MSH-18 is the seventeenth field after the name
    )
    segments = [head, _patient(source), *_order(subject, result_status), *rows.segments]
    try:
        data = hl7.message(segments, codec)
    except UnicodeEncodeError:  # a finding in letters that the film's set has not
        segments[0] = head.removesuffix(charset) + hl7.UTF8[0]
        data = hl7.message(segments, hl7.UTF8[1])
    return Output(
        kind=KIND,
        label="",
        sop_class_uid="",
        sop_instance_uid=uid,
        series_instance_uid="",
        transfer_syntax_uid="",
        instance_number=1,
        pieces=(data,),
    )


def control_id(uid: str) -> str:
    """MSH-10 for a message with this UID: 20 characters, the most that version 2.5.1 has room for."""
    return base64.b32encode(hashlib.sha256(uid.encode()).digest())[:20].decode()


def moment_of(subject: Subject) -> str:
    """When the film was read, or the message made, as TS."""
    moment = subject.moment
    return moment.date + moment.time.partition(".")[0] + (moment.offset or "+0000")


def _patient(source: Dataset) -> str:
    who = components(text_of(source, "PatientID"), "", "", text_of(source, "IssuerOfPatientID"))
    # A name of no type stands for one that is not known or cannot be read (table 0200).
    name = person(source, "PatientName") or "^^^^^^U"
    born = clean_date(plain(source, "PatientBirthDate"))
    return segment("PID", "1", "", who, "", name, f7=born, f8=clean_sex(plain(source, "PatientSex")) or "U")


def _order(subject: Subject, status: str) -> tuple[str, str]:
    """ORC and OBR: the first request that the film fulfils."""
    source = subject.source
    asked = next(iter(items_of(source, "RequestAttributesSequence")), Dataset())
    accession = text_of(source, "AccessionNumber") or text_of(asked, "AccessionNumber", source)
    placer = text_of(asked, "PlacerOrderNumberImagingServiceRequest", source)
    filler = text_of(asked, "FillerOrderNumberImagingServiceRequest", source) or accession
    return (
        segment("ORC", "RE", escaped(placer), escaped(filler)),
        segment(
            "OBR",
            "1",
            escaped(placer),
            escaped(filler),
            _procedure(source),
            f7=_studied(source),
            f18=escaped(accession),
            f19=escaped(text_of(asked, "RequestedProcedureID", source)),
            f22=moment_of(subject),
            f24="RAD",
            f25=status,
        ),
    )


def _studied(source: Dataset) -> str:
    date, time = clean_date(plain(source, "StudyDate")), clean_time(plain(source, "StudyTime"))
    return date + (time.partition(".")[0] if date and len(time) >= 4 else "")


def _procedure(source: Dataset) -> str:
    """The procedure that the film itself states, else a plain chest X-ray: as the structured report has it."""
    stated = list(items_of(source, "ProcedureCodeSequence"))
    for request in items_of(source, "RequestAttributesSequence"):
        stated += items_of(request, "RequestedProcedureCodeSequence")
    for code in stated:
        parts = [text_of(code, k, source) for k in ("CodeValue", "CodeMeaning", "CodingSchemeDesignator")]
        if all(parts):
            return components(*parts)
    return coded(codes.PLAIN_CHEST_XRAY, *_LOINC_CHEST)
