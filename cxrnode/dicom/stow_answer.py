"""What a STOW-RS server answers and what it means (PS3.18 10.5.3 and annex I.2): tables, and reading the answer.

What is said of the server as a whole is a fault of the way, what is said of our instance a Sent. Opens no socket.
"""

from __future__ import annotations

import datetime
import email.utils
import json
from collections.abc import Mapping
from typing import Any

from cxrnode.dicom import statuses
from cxrnode.dicom.destination import FaultKind, Sent, Stage
from cxrnode.dicom.statuses import Status, StatusClass

#: The longest that a server is left alone because it asks for it, in seconds.
_LONGEST_PAUSE = 3600.0

#: What the server as a whole says, by HTTP status. TRANSFER where the instance may be the cause.
FAULTS: Mapping[int, tuple[FaultKind, Stage]] = {
    401: (FaultKind.UNAUTHORISED, Stage.NEGOTIATE),
    403: (FaultKind.UNAUTHORISED, Stage.NEGOTIATE),
    404: (FaultKind.REFUSED, Stage.NEGOTIATE),
    405: (FaultKind.REFUSED, Stage.NEGOTIATE),
    407: (FaultKind.UNAUTHORISED, Stage.NEGOTIATE),
    408: (FaultKind.TIMEOUT, Stage.TRANSFER),
    410: (FaultKind.REFUSED, Stage.NEGOTIATE),
    429: (FaultKind.BUSY, Stage.NEGOTIATE),
    501: (FaultKind.REFUSED, Stage.NEGOTIATE),
    502: (FaultKind.BUSY, Stage.TRANSFER),
    503: (FaultKind.BUSY, Stage.NEGOTIATE),
    504: (FaultKind.BUSY, Stage.TRANSFER),
}

#: The C-STORE status that stands for an HTTP status about the instance, where no failure reason was given.
_MEANT: Mapping[int, int] = {
    415: statuses.SOP_CLASS_NOT_SUPPORTED,
    500: 0x0110,
    507: statuses.OUT_OF_RESOURCES,
}

# Attributes of the answer, PS3.18 annex I.2: they are JSON keys there (annex F).
_REFERENCED, _FAILED, _OTHER_FAILURES = "00081199", "00081198", "0008119A"
_ANSWERS = frozenset({"00081190", _REFERENCED, _FAILED, _OTHER_FAILURES})
_UID, _FAILURE, _WARNING = "00081155", "00081197", "00081196"


def parsed(body: bytes) -> Mapping[str, Any]:
    """The answer's data set in the DICOM JSON model; empty where it is in another format or none."""
    try:
        found = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return {}
    if isinstance(found, list):  # some servers give a list of one
        found = found[0] if found else {}
    return found if isinstance(found, dict) else {}


def is_told(status: int, content_type: str, body: bytes) -> bool:
    """Whether an answer is one that STOW-RS knows: the log-in page of a proxy is a 200 too, and stores nothing.

    A server that stored all may say so without a body or in XML (PS3.18 10.5.3.2); what is no success needs no form.
    """
    if not 200 <= status < 300 or not body:
        return True
    kind = content_type.lower()
    if "xml" in kind and "html" not in kind:
        return True
    told = parsed(body)
    return bool(told.keys() & _ANSWERS) or body.strip() in (b"{}", b"[]", b"[{}]")


def _items(answer: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    sequence = answer.get(key)
    values = sequence.get("Value") if isinstance(sequence, dict) else None
    return [item for item in values if isinstance(item, dict)] if isinstance(values, list) else []


def _value(item: Mapping[str, Any], key: str) -> object:
    element = item.get(key)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _code(item: Mapping[str, Any], key: str) -> int | None:
    value = _value(item, key)
    try:
        return int(value) & 0xFFFF if isinstance(value, int | str | float) else None
    except (ValueError, OverflowError):
        return None


def answered(status: int, answer: Mapping[str, Any], uid: str) -> Sent:
    """What the server says of our instance: by its failure or warning reason, else by the HTTP status."""
    failed = [item for item in _items(answer, _FAILED) if _value(item, _UID) == uid] or _items(answer, _OTHER_FAILURES)
    if failed:
        code = _code(failed[0], _FAILURE)
        if code is not None:
            return _sent(code, statuses.classify_failure(code), status)
    elif status < 300:
        stored = [item for item in _items(answer, _REFERENCED) if _value(item, _UID) == uid]
        if stored:
            code = _code(stored[0], _WARNING) or statuses.SUCCESS
            row = statuses.classify(code)
            # Whatever the warning is, the instance is listed as stored.
            return _sent(code, row if row.kind.delivered else statuses.classify(0x0001), status)
        if status == 200 and not _items(answer, _REFERENCED):  # "all instances were stored"
            return _sent(statuses.SUCCESS, statuses.classify(statuses.SUCCESS), status)
    permanent = 400 <= status < 500
    code = _MEANT.get(status, statuses.CANNOT_UNDERSTAND if permanent else 0x0110)
    gloss = "the server does not take it" if permanent else "the server did not say that it has it"
    return Sent(status=code, kind=statuses.classify(code).kind, said=f"HTTP {status}, {gloss}")


def _sent(code: int, row: Status, status: int) -> Sent:
    said = "" if row.kind is StatusClass.SUCCESS else f"HTTP {status}, 0x{code:04X}, {row.gloss}"
    return Sent(status=code, kind=row.kind, said=said)


def pause_asked(text: str) -> float:
    """The seconds of a Retry-After header (RFC 9110 10.2.3), which is a number or a date; 0 where it is neither."""
    if text.strip().isdecimal() and len(text) < 10:
        seconds = float(text)
    else:
        try:
            until = email.utils.parsedate_to_datetime(text)
        except (ValueError, OverflowError):
            return 0.0
        if until.tzinfo is None:
            until = until.replace(tzinfo=datetime.UTC)
        seconds = (until - datetime.datetime.now(datetime.UTC)).total_seconds()
    return min(max(seconds, 0.0), _LONGEST_PAUSE)
