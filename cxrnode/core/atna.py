"""Audit messages of DICOM PS3.15 A.5 (IHE ATNA), as XML. Pure: values in, text out.

What stands in each kind of message is that of PS3.15 A.5.3; the schema is that of A.5.1. They name the patient: that is
what an audit repository is for. Where a film's identity was erased its patient is "unknown".
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from enum import StrEnum
from typing import Literal
from xml.etree import ElementTree as xml

from cxrnode.core.header import Identity

#: MSGID of syslog (PS3.15 A.6.1, A.7.1), and the schemes of codes.
MESSAGE_ID = "DICOM+RFC3881"
_DCM, _RFC = "DCM", "RFC-3881"


class Outcome(StrEnum):
    """EventOutcomeIndicator."""

    SUCCESS = "0"
    MINOR = "4"
    SERIOUS = "8"
    MAJOR = "12"


@dataclasses.dataclass(frozen=True, slots=True)
class Code:
    """A coded value; `meaning` is its originalText."""

    value: str
    meaning: str
    scheme: str = _DCM


ACTIVITY = Code("110100", "Application Activity")
BEGUN = Code("110102", "Begin Transferring DICOM Instances")
ACCESSED = Code("110103", "DICOM Instances Accessed")
TRANSFERRED = Code("110104", "DICOM Instances Transferred")
SECURITY = Code("110113", "Security Alert")
AUTHENTICATION = Code("110114", "User Authentication")
START, STOP = Code("110120", "Application Start"), Code("110121", "Application Stop")
LOGIN, LOGOUT = Code("110122", "Login"), Code("110123", "Logout")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
USER_ATTRIBUTES = Code("110137", "User Security Attributes Changed")
_APPLICATION, _DESTINATION, _SOURCE = (
    Code("110150", "Application"),
    Code("110152", "Destination Role ID"),
    Code("110153", "Source Role ID"),
)
_STUDY, _PATIENT = Code("110180", "Study Instance UID"), Code("2", "Patient Number", _RFC)
_NODE = Code("110182", "Node ID")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """Who took part: a process, an AE or a person. `requestor`: whether it asked for what happened.

    `address` is a host name or an IP address; `aets` the AE titles of a DICOM process.
    """

    user: str
    aets: tuple[str, ...] = ()
    name: str = ""
    requestor: bool = False
    role: Code | None = None
    address: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """The patient and study that a message is of; `instances` counts by SOP class."""

    identity: Identity
    instances: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One audit message. `source` names the system that reports it; `at` is in seconds since 1970."""

    event: Code
    action: Literal["C", "R", "U", "D", "E"]
    at: float
    source: str
    participants: tuple[Participant, ...]
    kinds: tuple[Code, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    said: str = ""
    patient: Patient | None = None
    nodes: tuple[str, ...] = ()


def application(process: Participant, *, started: bool, at: float, source: str) -> Record:
    """A.5.3.1: a node starts or stops."""
    who = dataclasses.replace(process, role=_APPLICATION)
    kind = START if started else STOP
    return Record(event=ACTIVITY, action="E", at=at, source=source, participants=(who,), kinds=(kind,))


def begun(sender: Participant, receiver: Participant, patient: Patient, *, at: float, source: str) -> Record:
    """A.5.3.3: a process begins to send instances of one patient to another."""
    parts = (dataclasses.replace(sender, role=_SOURCE), dataclasses.replace(receiver, role=_DESTINATION))
    return Record(event=BEGUN, action="E", at=at, source=source, participants=parts, patient=patient)


def transferred(
    sender: Participant,
    receiver: Participant,
    patient: Patient,
    *,
    at: float,
    source: str,
    outcome: Outcome = Outcome.SUCCESS,
) -> Record:
    """A.5.3.7: instances of one patient went from one process to another, which did not hold them before."""
    parts = (dataclasses.replace(sender, role=_SOURCE), dataclasses.replace(receiver, role=_DESTINATION))
    return Record(
        event=TRANSFERRED, action="C", at=at, source=source, participants=parts, outcome=outcome, patient=patient
    )


def accessed(who: Participant, patient: Patient, *, at: float, source: str) -> Record:
    """A.5.3.6: somebody looked at the instances, or the result, of one patient."""
    return Record(event=ACCESSED, action="R", at=at, source=source, participants=(who,), patient=patient)


def authenticated(who: Participant, node: Participant, *, login: bool, good: bool, at: float, source: str) -> Record:
    """A.5.3.11: a person logged in or out, or was refused."""
    return Record(
        event=AUTHENTICATION,
        action="E",
        at=at,
        source=source,
        participants=(who, node),
        kinds=(LOGIN if login else LOGOUT,),
        outcome=Outcome.SUCCESS if good else Outcome.MINOR,
    )


def security_alert(
    kind: Code, reporter: Participant, *, said: str, at: float, source: str, nodes: Sequence[str] = ()
) -> Record:
    """A.5.3.10: something that the guards of the site want to hear of."""
    return Record(
        event=SECURITY,
        action="E",
        at=at,
        source=source,
        participants=(reporter,),
        kinds=(kind,),
        outcome=Outcome.MINOR,
        said=said,
        nodes=tuple(nodes),
    )


def to_xml(record: Record) -> str:
    """The message as PS3.15 A.5.1 lays it out, on one line."""
    root = xml.Element("AuditMessage")
    event = xml.SubElement(
        root,
        "EventIdentification",
        EventActionCode=record.action,
        EventDateTime=_time(record.at),
        EventOutcomeIndicator=str(record.outcome),
    )
    _coded(event, "EventID", record.event)
    for kind in record.kinds:
        _coded(event, "EventTypeCode", kind)
    if record.said:
        xml.SubElement(event, "EventOutcomeDescription").text = _text(record.said)
    for one in record.participants:
        _participant(root, one)
    source = xml.SubElement(root, "AuditSourceIdentification", AuditSourceID=_text(record.source))
    xml.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    if record.patient is not None:
        _study(root, record.patient)
        _person(root, record.patient.identity)
    for node in record.nodes:
        subject = _object(root, node, kind="2", code=_NODE)
        xml.SubElement(subject, "ParticipantObjectName").text = _text(node)
    return xml.tostring(root, encoding="unicode")


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="milliseconds")


def _text(text: str) -> str:
    """What XML 1.0 can hold: no control character."""
    return "".join(c for c in text if c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff")


def _coded(parent: xml.Element, name: str, code: Code) -> None:
    attributes = {"csd-code": code.value, "codeSystemName": code.scheme, "originalText": code.meaning}
    xml.SubElement(parent, name, attributes)


def _participant(root: xml.Element, one: Participant) -> None:
    attributes = {"UserID": _text(one.user), "UserIsRequestor": str(one.requestor).lower()}
    if one.aets:
        attributes["AlternativeUserID"] = _text("AETITLES=" + ";".join(one.aets))
    if one.name:
        attributes["UserName"] = _text(one.name)
    if one.address:
        numbers = ":" in one.address or one.address.replace(".", "").isdigit()
        attributes |= {
            "NetworkAccessPointID": _text(one.address),
            "NetworkAccessPointTypeCode": "2" if numbers else "1",
        }
    made = xml.SubElement(root, "ActiveParticipant", attributes)
    if one.role is not None:
        _coded(made, "RoleIDCode", one.role)


def _object(root: xml.Element, named: str, *, kind: str, code: Code, role: str = "") -> xml.Element:
    attributes = {"ParticipantObjectID": _text(named), "ParticipantObjectTypeCode": kind}
    if role:
        attributes["ParticipantObjectTypeCodeRole"] = role
    made = xml.SubElement(root, "ParticipantObjectIdentification", attributes)
    _coded(made, "ParticipantObjectIDTypeCode", code)
    return made


def _study(root: xml.Element, patient: Patient) -> None:
    study = _object(root, patient.identity.study_uid or "unknown", kind="2", code=_STUDY, role="3")
    # The schema wants a name or a query; a study has none.
    xml.SubElement(study, "ParticipantObjectName").text = ""
    about = xml.SubElement(study, "ParticipantObjectDescription")
    if patient.identity.accession:
        xml.SubElement(about, "Accession", Number=_text(patient.identity.accession))
    for sop_class, number in patient.instances:
        xml.SubElement(about, "SOPClass", UID=sop_class, NumberOfInstances=str(number))


def _person(root: xml.Element, identity: Identity) -> None:
    person = _object(root, identity.patient_id or "unknown", kind="1", code=_PATIENT, role="1")
    xml.SubElement(person, "ParticipantObjectName").text = _text(identity.patient_name or "unknown")
