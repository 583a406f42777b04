"""The tables of docs/dicom-conformance.md, made from the code: contexts, syntaxes, statuses, IODs, templates, codes.

`python -m tests.conformance` writes them anew between their marks (`make docs`); a test compares. An IOD table is what
the builders really write: each object is made from several films, and a column says what was the same in all of them,
what was copied from the film, and what is there only sometimes. The films are made ones; no patient's is needed.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import io
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import dictionary_description
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID

from cxrnode import __version__
from cxrnode.config import Config
from cxrnode.core import gate
from cxrnode.core.findings import NIH14, Report
from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.dicom import commitment, contexts, hardening, query, statuses
from cxrnode.dicom.admission import Refusal
from cxrnode.dicom.association import _REJECTIONS
from cxrnode.dicom.destination import Destination, FaultKind
from cxrnode.dicom.incoming import IMPLEMENTATION_VERSION_NAME
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.withdrawal import Rejection, Withdrawal, build_withdrawal
from cxrnode.dicom.statuses import StatusClass
from cxrnode.sections import RemoteNode
from tests.unit.outputs.sources import (
    READ_AT,
    SCORES,
    make_film,
    make_reader,
    make_report,
    make_saliency,
    make_source,
    sent_object,
)

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "dicom-conformance.md"

#: Where a receiving association's answers come from: each module, and the status of what it raises.
_ANSWERING = (
    "roles/receive.py",
    "roles/room.py",
    "dicom/header.py",
    "dicom/part10.py",
    "dicom/incoming.py",
    "dicom/listener.py",
)


# ----------------------------------------------------------------------------------------------- Markdown


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown; bars within cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def named(uid: str) -> str:
    """The name of a UID in the registry of PS3.6."""
    return UID(uid).name


# ------------------------------------------------------------------------------------------------ network


_BECOMES = {
    "1.2.840.10008.1.1": "C-ECHO",
    commitment.PUSH_MODEL: "N-EVENT-REPORT, as SCU",
    **{str(uid): "read" for uid in contexts.READ},
    gate._SC: "read, where its header is that of a radiograph",
}


def accepted_classes() -> str:
    """What the listener accepts, SOP class by SOP class: the classes that are read first."""
    contexts_ = contexts.accepted([commitment.report_context()])
    rows = []
    for context in contexts_:
        uid = str(context.abstract_syntax)
        what = _BECOMES.get(uid, "kept, not read")
        rows.append((named(uid), uid, what, str(len(context.transfer_syntax or ()))))
    order = {what: number for number, what in enumerate((*_BECOMES.values(), "kept, not read"))}
    rows.sort(key=lambda row: (order[row[2]], row[0]))
    return table(("SOP class", "UID", "what becomes of it", "syntaxes"), rows)


def accepted_syntaxes() -> str:
    """The transfer syntaxes of the listener, in the order in which they are preferred."""
    every = [str(uid) for context in contexts.accepted() for uid in context.transfer_syntax or ()]
    others = sorted({uid for uid in every} - {str(uid) for uid in contexts.DECODABLE}, key=named)
    rows = [(str(n), named(uid), uid, "yes", "yes") for n, uid in enumerate(map(str, contexts.DECODABLE), 1)]
    rows += [("-", named(uid), uid, "no", "yes") for uid in others]
    return table(("preferred", "transfer syntax", "UID", "classes that are read", "other classes"), rows)


def proposed_contexts() -> str:
    """What the sender proposes for each kind of object."""
    rows = []
    for kind, output in made().items():
        for context in contexts.proposed([(output.sop_class_uid, output.transfer_syntax_uid)]):
            for syntax in map(str, context.transfer_syntax or ()):
                rows.append((kind, named(output.sop_class_uid), output.sop_class_uid, named(syntax), syntax))
    asked = {"commitment = true": commitment.report_context(), "require_source = true": query.query_context()}
    for why, context in asked.items():
        uid = str(context.abstract_syntax)
        rows += [(why, named(uid), uid, named(str(one)), str(one)) for one in context.transfer_syntax or ()]
    return table(("object", "SOP class", "UID", "transfer syntax", "UID"), rows)


def created_classes() -> str:
    """Each SOP class that is created, with the kinds of object that are of it."""
    kinds: dict[str, list[str]] = {}
    for kind, output in made().items():
        kinds.setdefault(output.sop_class_uid, []).append(kind)
    rows = [(named(uid), uid, ", ".join(said)) for uid, said in kinds.items()]
    return table(("SOP class", "UID", "objects"), rows)


def association_parameters() -> str:
    """What every association of ours says of itself, with the defaults of the configuration."""
    config = Config()
    listen, send = config.listen, config.send
    seconds = "{:g} s".format
    rows = [
        ("Application context name", "1.2.840.10008.3.1.1.1", "-"),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID, "-"),
        ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME, "-"),
        ("Maximum PDU that is announced", f"{hardening.MAX_PDU} bytes", "-"),
        ("Largest PDU that is read", f"{hardening.PDU_CAP} bytes; the association is aborted beyond it", "-"),
        ("Asynchronous operations", "not offered; (1, 1) is answered", "-"),
        ("Associations accepted at a time", str(listen.max_associations), "listen.max_associations"),
        ("Associations initiated at a time", "one a destination and sending process", "-"),
        ("Acceptor: negotiation", seconds(listen.acse_timeout), "listen.acse_timeout"),
        ("Acceptor: silence within a message", seconds(listen.dimse_timeout), "listen.dimse_timeout"),
        ("Acceptor: silence between messages", seconds(listen.network_timeout), "listen.network_timeout"),
        ("Acceptor: TLS handshake", seconds(hardening.HANDSHAKE_S), "-"),
        ("Largest object that is received", f"{listen.max_instance} bytes", "listen.max_instance"),
        ("Initiator: connection", seconds(send.connect_timeout), "send.connect_timeout"),
        ("Initiator: negotiation", seconds(send.acse_timeout), "send.acse_timeout"),
        ("Initiator: silence before an answer", seconds(send.dimse_timeout), "send.dimse_timeout"),
        ("Objects of how many results in one association", str(send.batch), "send.batch"),
    ]
    return table(("parameter", "value, by default", "configured by"), rows)


def configuration() -> str:
    """The keys that concern the network, with their defaults."""
    config = Config()
    sections = {"node": config.node, "listen": config.listen, "send": config.send}
    rows = []
    for section, values in sections.items():
        for name, value in values:
            if section == "node" and name not in ("ae_title", "timezone"):
                continue
            rows.append((f"`{section}.{name}`", "-" if value is None else str(value)))
    for name, field in RemoteNode.model_fields.items():
        said = "required" if field.is_required() else "-" if field.default is None else str(field.default)
        rows.append((f"`nodes.X.{name}`", said))
    return table(("key", "default"), rows)


# ----------------------------------------------------------------------------------------------- statuses


def statuses_sent() -> str:
    """Each answer to C-STORE with the Error Comment that says why, from the places in the code that give it."""
    rows: dict[tuple[str, str], None] = {}
    for name in _ANSWERING:
        for status, comment in _answers(REPOSITORY / "cxrnode" / name):
            rows[status, comment] = None
    order = ["A700", "A900", "C000"]
    listed = sorted(rows, key=lambda row: (order.index(row[0]), row[1]))
    meaning = {
        "A700": "Refused: out of resources. It passes: send again later",
        "A900": "Error: data set does not match SOP class. Lasting",
        "C000": "Error: cannot understand. Lasting",
    }
    return table(
        ("status", "meaning", "Error Comment (0000,0902), the first 64 characters of"),
        [
            ("0000", "Success: the bytes are durable, and the rows committed", "none"),
            *[(s, meaning[s], c) for s, c in listed],
        ],
    )


def _answers(path: Path) -> Iterator[tuple[str, str]]:
    by_class = {"Transient": "A700", "Rejected": "C000"}
    if path.name == "room.py":
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr) and (said := _text(node)).startswith("no room"):
                yield "A700", said
    by_constant = {"OUT_OF_RESOURCES": "A700", "MISMATCH": "A900", "CANNOT_UNDERSTAND": "C000"}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in by_class and node.args and (said := _text(node.args[0])):
            yield by_class[called], said
        elif called == "_fail" and node.args and (said := _text(node.args[0])):
            yield ("C000" if "larger" in said else "A700"), said
        elif called == "Answer":
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            status, comment = given.get("status"), given.get("comment")
            if (
                isinstance(status, ast.Attribute)
                and status.attr in by_constant
                and comment
                and (said := _text(comment))
            ):
                yield by_constant[status.attr], said


def _text(node: ast.expr) -> str:
    """A string of the code; "..." stands for what is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)  # type: ignore[misc]
    if isinstance(node, ast.BoolOp):
        return "the operating system's reason, or: " + _text(node.values[-1])
    return ""


def statuses_received() -> str:
    """Each answer of a destination to C-STORE, and what becomes of the delivery."""
    does = {
        StatusClass.SUCCESS: "sent",
        StatusClass.WARNING: "sent; the warning stands in the event",
        StatusClass.TRANSIENT: "tried again with growing pauses, `send.max_attempts` times, `send.max_age` long",
        StatusClass.PERMANENT: "parked: a person decides",
    }
    rows = [(row.title, row.gloss, row.kind.value, does[row.kind]) for row in statuses.STATUSES.values()]
    rows.append(("any other", statuses.UNKNOWN.gloss, statuses.UNKNOWN.kind.value, does[statuses.UNKNOWN.kind]))
    return table(("status", "meaning", "class", "the delivery is"), rows)


def commitment_failures() -> str:
    """What each Failure Reason (0008,1197) of a report on storage commitment asks for."""
    does = {
        commitment.Remedy.RESEND: "the object is sent again, and asked for again; an attempt of its delivery",
        commitment.Remedy.ASK_AGAIN: "it is asked for again under a new transaction UID",
        commitment.Remedy.PERSON: "the delivery is parked",
    }
    rows = [(f"{reason:04X}", said, does[remedy]) for reason, (remedy, said) in sorted(commitment.FAILURES.items())]
    remedy, said = commitment.failure(0)
    return table(("Failure Reason", "meaning", "what is done"), [*rows, ("any other", said, does[remedy])])


def report_answers() -> str:
    """How a report on storage commitment is answered (N-EVENT-REPORT-RSP)."""
    said = {
        commitment.SUCCESS: "it is written down, also where it came before",
        commitment.PROCESSING_FAILURE: "it cannot be kept now: report again",
        commitment.NO_SUCH_EVENT_TYPE: "an event type that is neither 1 nor 2",
        commitment.INVALID_ARGUMENT: "it is malformed, or of a transaction UID that this node never asked under",
        commitment.NOT_AUTHORISED: "it comes from somebody else than the node that was asked",
    }
    return table(("status", "because"), [(f"{status:04X}", why) for status, why in said.items()])


def rejections_sent() -> str:
    """Why an association is rejected: result, source and reason of A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    said = {
        Refusal.CALLING_AET: "calling AE title not recognised: no node with `can_send` has it and this address",
        Refusal.CALLED_AET: "called AE title not recognised: it is not `node.ae_title`",
        Refusal.CONGESTION: "temporary congestion: it cannot be decided now; come again",
        Refusal.LIMIT: "local limit exceeded: `listen.max_associations`",
    }
    rows = [(*map(str, refusal.value), said[refusal]) for refusal in Refusal]
    return table(("result", "source", "reason", "because"), rows)


def rejections_received() -> str:
    """What a destination's A-ASSOCIATE-RJ is taken for."""
    rows = [(*map(str, key), kind.value) for key, kind in sorted(_REJECTIONS.items(), key=lambda item: str(item[0]))]
    rows.append(("any", "other", "one", FaultKind.REFUSED.value))
    return table(("result", "source", "reason", "circuit reason"), rows)


def circuit_reasons() -> str:
    """What can be wrong with the way to a destination, and what a person changes."""
    there = Destination(name="PACS", aet="AET", host="HOST", port=104)
    return table(("reason", "what a person changes"), [(f"`{k.value}`", there.remedy(k)) for k in FaultKind])


# ------------------------------------------------------------------------------------------------ objects

_ALL = frozenset({"sr", "text", "heatmap", "pdf", "gsps", "key_object"})
_TITLES = {
    "sr": "structured report",
    "text": "text report",
    "summary": "summary page",
    "heatmap": "heatmap",
    "pdf": "summary as PDF",
    "gsps": "presentation state",
    "key_object": "urgent flag",
    "rejection": "rejection note",
    "withdrawn": "withdrawn: page",
    "withdrawn_sr": "withdrawn: report",
}

#: Films whose headers differ in all that they may differ in: a whole one, another patient's, and one with the least.
_SOURCES: dict[str, Callable[[], Dataset]] = {
    "whole": lambda: make_source(400, 340),
    "other": lambda: _other(),
    "bare": lambda: _bare(),
}


def _other() -> Dataset:
    """Another film, patient and study: no value of the first one's that names or dates anything."""
    request = make_source().RequestAttributesSequence[0]
    for keyword in ("AccessionNumber", "RequestedProcedureID", "RequestedProcedureDescription"):
        setattr(request, keyword, "ACC2")
    request.PlacerOrderNumberImagingServiceRequest = request.FillerOrderNumberImagingServiceRequest = "O2"
    return make_source(
        500,
        420,
        RequestAttributesSequence=[request],
        SOPClassUID="1.2.840.10008.5.1.4.1.1.1",
        Modality="CR",
        SOPInstanceUID="1.2.3.4",
        StudyInstanceUID="1.2.3.5",
        SeriesInstanceUID="1.2.3.6",
        StudyDate="20250203",
        SeriesDate="20250203",
        AcquisitionDate="20250203",
        ContentDate="20250203",
        StudyTime="070809",
        SeriesTime="070809",
        AcquisitionTime="070809",
        ContentTime="070809",
        TimezoneOffsetFromUTC="+0100",
        AccessionNumber="ACC2",
        StudyID="S2",
        Manufacturer="Other",
        ManufacturerModelName="Other",
        DeviceSerialNumber="2",
        SoftwareVersions="2",
        ReferringPhysicianName="Other^Doctor",
        StudyDescription="Thorax",
        SeriesDescription="Thorax AP",
        SpecificCharacterSet="ISO_IR 100",
        PatientName="Müller^Zoë",
        PatientID="SYN002",
        IssuerOfPatientID="OTHER",
        PatientBirthDate="19500203",
        PatientSex="F",
        PatientAge="075Y",
        SeriesNumber=7,
        InstanceNumber=3,
        ViewPosition="AP",
        PatientOrientation=["R", "F"],
        ImageLaterality="B",
        WindowCenter=1000,
        WindowWidth=2000,
    )


def _bare() -> Dataset:
    """The least that is ever read: the classes, the UIDs, and the size of the film."""
    kept = {
        *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Rows", "Columns"),
        *("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"),
        "PixelRepresentation",
    }
    source = make_source(400, 340)
    return make_source(400, 340, **{e.keyword: None for e in source if e.keyword not in kept and e.keyword})


#: Their readings: at another time, by another model, with other scores, so that nothing seems fixed that is not.
_REPORTS: dict[str, Callable[[], Report]] = {
    "whole": make_report,
    "other": lambda: make_report(
        tuple(reversed(SCORES)),
        read_at=READ_AT + 90_061.5,
        revision=2,
        reader=dataclasses.replace(
            make_reader(), name="other", version="2", bundle_digest="ef" * 32, calibration="none"
        ),
    ),
    "bare": make_report,
}


@functools.cache
def _made(source: str, timezone: str = "UTC", device: str = "CXRNODE") -> dict[str, Output]:
    settings = OutputSettings(urgent=NIH14, timezone=timezone, device_name=device)
    report, size = _REPORTS[source](), (500, 420) if source == "other" else (400, 340)
    saliency = np.flip(make_saliency(), 2) if source == "other" else make_saliency()
    outputs = build_outputs(_SOURCES[source](), report, make_film(*size), saliency, settings, _ALL)
    found: dict[str, Output] = {}
    for output in outputs:
        found.setdefault(output.kind, output)
    sent = tuple(sent_object(o.kind, o.label, o.data) for o in outputs if o.kind in ("sr", "summary", "heatmap"))
    rejection = Rejection.SAFETY if source == "other" else Rejection.QUALITY
    withdrawal = Withdrawal(rejection=rejection, reason="wrong film", at=report.read_at + 60, objects=sent)
    kinds = frozenset({"rejection", "notice"})
    for output in build_withdrawal(_SOURCES[source](), report, withdrawal, settings, kinds):
        found.setdefault(output.kind, output)
    return found


def made() -> dict[str, Output]:
    """One object of each kind, from the film with the whole header, under its name for people."""
    return {_TITLES.get(kind, kind): output for kind, output in _made("whole").items()}


def _read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An attribute of an IOD table; `path` is its tags from the outermost sequence in."""

    path: tuple[BaseTag, ...]
    vr: str
    presence: str
    source: str
    value: str


_BYTES = ("OB", "OW", "OF", "UN")
#: Where the tree of an SR and its like begins: annex A.B has it.
_TREE = pydicom.tag.Tag("ContentSequence")


def _walk(dataset: Dataset, path: tuple[BaseTag, ...] = ()) -> Iterator[tuple[tuple[BaseTag, ...], Any]]:
    """Each attribute with its path; of a sequence the first item speaks for the others."""
    for element in dataset:
        here = (*path, element.tag)
        yield here, element
        if element.VR == "SQ" and element.tag != _TREE and element.value:
            yield from _walk(element.value[0], here)


def iod(kind: str) -> str:
    """What the builder writes into one kind of object: each attribute, when, whence, and its value where it is one."""
    builds = [_read(_made(name)[kind]) for name in _SOURCES]
    elsewhere = _read(_made("whole", "Asia/Tokyo", "ELSEWHERE")[kind])
    sources = [dict(_walk(make())) for make in _SOURCES.values()]
    walked = [dict(_walk(one)) for one in builds]
    configured = dict(_walk(elsewhere))
    rows = []
    for path in sorted({path for one in walked for path in one}):
        found = [one.get(path) for one in walked]
        values = [None if e is None else _plain(e) for e in found]
        there = [e for e in found if e is not None]
        origin = _origin(path, there[0], values, sources, configured)
        shown = _shown(there[0], values) if origin in ("FIXED", "CONFIG") else ""
        rows.append(Row(path=path, vr=there[0].VR, presence=_presence(found), source=origin, value=shown))
    cells = [
        (
            ">" * (len(row.path) - 1) + dictionary_description(row.path[-1]),
            f"({row.path[-1].group:04X},{row.path[-1].element:04X})",
            row.vr,
            row.presence,
            row.source,
            row.value,
        )
        for row in rows
    ]
    return table(("attribute", "tag", "VR", "presence of value", "source", "value"), cells)


def _plain(element: Any) -> str:
    if element.VR == "SQ":
        return f"{len(element.value)} items" if len(element.value) != 1 else "1 item"
    if element.VR in _BYTES:
        return f"{element.VR} data"
    if element.is_empty:
        return ""
    return "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value)


def _presence(found: Sequence[Any]) -> str:
    """PS3.2's words: always with a value, sometimes without one, not always there."""
    if any(element is None for element in found):
        return "ANAP"
    empty = [element.is_empty for element in found]
    return "EMPTY" if all(empty) else "VNAP" if any(empty) else "ALWAYS"


#: References to the film: the attribute of the film that is meant.
_SAME = {"ReferencedSOPClassUID": "SOPClassUID", "ReferencedSOPInstanceUID": "SOPInstanceUID"}


def _origin(
    path: tuple[BaseTag, ...],
    found: Any,
    values: Sequence[str | None],
    sources: Sequence[dict[tuple[BaseTag, ...], Any]],
    configured: dict[tuple[BaseTag, ...], Any],
) -> str:
    """Whence a value comes: FIXED, the film (COPIED), the configuration (CONFIG), or the node at run time (AUTO)."""
    if found.VR == "SQ":
        return "-"
    keyword = _SAME.get(found.keyword, found.keyword)
    theirs = [{_plain(e) for e in source.values() if e.keyword == keyword} for source in sources]
    if values[0] != values[1] and all(v in given or not v for v, given in zip(values[:2], theirs[:2], strict=True)):
        return "COPIED"
    if path in configured and values[0] is not None and _plain(configured[path]) != values[0]:
        # UIDs are derived from the settings too.
        return "AUTO" if configured[path].VR == "UI" else "CONFIG"
    given = {value for value in values if value}
    if not given:
        return "-"
    if found.VR in _BYTES:
        return "AUTO"
    return "FIXED" if len(given) == 1 and values[0] == values[1] else "AUTO"


def _shown(element: Any, values: Sequence[str | None]) -> str:
    """The value where it is the same in every object that has one, else nothing."""
    given = {value for value in values if value}
    names_one = element.VR in ("SQ", "UI", "OB", "OW", "DA", "TM", "DT", "PN") and element.keyword not in _KINDS
    if len(given) != 1 or names_one:
        return ""
    (value,) = given
    return value if len(value) <= 60 else value[:57] + "..."


#: UIDs that say what a thing is, not which one it is.
_KINDS = {"SOPClassUID"}


def content_tree(kind: str) -> str:
    """The tree of a structured report: relation, value type, concept; alike siblings once."""
    lines = ["```text", *_items([_read(_made("whole")[kind])], 0), "```"]
    return "\n".join(lines)


def _items(items: Sequence[Dataset], depth: int) -> Iterator[str]:
    seen: set[tuple[str, ...]] = set()
    for item in items:
        relation = str(item.get("RelationshipType", ""))
        concept = _concept(item.get("ConceptNameCodeSequence"))
        template = item.get("ContentTemplateSequence")
        tid = f" [TID {template[0].TemplateIdentifier}]" if template else ""
        value = _concept(item.get("ConceptCodeSequence")) if item.ValueType == "CODE" else ""
        key = (relation, item.ValueType, concept, tid)
        if key in seen:
            continue
        seen.add(key)
        shown = f" = {value}" if value and depth < 2 else ""
        yield ("  " * depth + f"{relation} {item.ValueType}: {concept}".strip() + shown + tid).rstrip(": ")
        yield from _items(item.get("ContentSequence", ()), depth + 1)


def _concept(sequence: Any) -> str:
    if not sequence:
        return ""
    code = sequence[0]
    return (
        f'({code.get("CodeValue", code.get("LongCodeValue", ""))}, {code.CodingSchemeDesignator}, "{code.CodeMeaning}")'
    )


def code_set() -> str:
    """Every code of the objects that is not the film's own, by scheme."""
    theirs = set(_codes(make_source(400, 340)))
    ours = {code for output in _made("whole").values() for code in _codes(_read(output))} - theirs
    return table(("scheme", "code", "meaning"), sorted(ours))


def _codes(dataset: Dataset) -> Iterator[tuple[str, str, str]]:
    for element in dataset.iterall():
        if element.VR != "SQ":
            continue
        for item in element.value:
            if "CodeMeaning" in item:
                value = item.get("CodeValue", item.get("LongCodeValue", ""))
                yield str(item.CodingSchemeDesignator), str(value), str(item.CodeMeaning)


# ------------------------------------------------------------------------------------------------ the page

_IODS = ("sr", "text", "summary", "heatmap", "gsps", "key_object", "rejection", "pdf")

TABLES: dict[str, Callable[[], str]] = {
    "version": lambda: f"This statement is of cxrnode {__version__}.",
    "created": created_classes,
    "accepted classes": accepted_classes,
    "accepted syntaxes": accepted_syntaxes,
    "proposed": proposed_contexts,
    "parameters": association_parameters,
    "configuration": configuration,
    "statuses sent": statuses_sent,
    "statuses received": statuses_received,
    "rejections sent": rejections_sent,
    "rejections received": rejections_received,
    "circuit reasons": circuit_reasons,
    "commitment failures": commitment_failures,
    "report answers": report_answers,
    **{f"iod {kind}": functools.partial(iod, kind) for kind in _IODS},
    **{f"tree {kind}": functools.partial(content_tree, kind) for kind in ("sr", "text", "key_object", "rejection")},
    "codes": code_set,
}

_BLOCK = re.compile(r"<!-- table: (?P<name>[^>]+?) -->\n(?P<body>.*?)<!-- /table -->", re.DOTALL)


def filled(text: str) -> str:
    """The page with each table made anew. Raises KeyError for a mark that names none."""
    return _BLOCK.sub(lambda m: f"<!-- table: {m['name']} -->\n{TABLES[m['name']]()}\n<!-- /table -->", text)


def marks(text: str) -> list[str]:
    """The tables that a page has a place for."""
    return [match["name"] for match in _BLOCK.finditer(text)]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    sys.stdout.write(f"{PAGE.name}: {len(marks(PAGE.read_text()))} tables\n")
