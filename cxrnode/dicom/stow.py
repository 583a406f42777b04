"""Storing over the web: STOW-RS (PS3.18 10.5), one instance a request, its bytes as they are.

One request an instance, so that each has an answer of its own and memory holds one. The URL names no study. It decides
nothing about retries: what the server as a whole says is an AssociationFault, what it says of the instance a Sent.
Redirections are not followed, and neither variables nor files of the machine name a proxy.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import ssl
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

from cxrnode.dicom import hardening
from cxrnode.dicom.destination import AssociationFault, FaultKind, Place, Sent, Stage, StowDestination, Timeouts
from cxrnode.dicom.part10 import Part10
from cxrnode.dicom.stow_answer import FAULTS, answered, is_told, parsed, pause_asked
from cxrnode.errors import ConfigError
from cxrnode.https import Line, LineFault, Trouble

#: The answer of a server, at most, in bytes.
_LARGEST_ANSWER = 1024 * 1024
_CHUNK = 256 * 1024
#: The slowest that a server may take an instance, in bytes a second, past its first time-out.
_SLOWEST = 16 * 1024


def open_stow(destination: StowDestination, *, timeouts: Timeouts) -> StowWay:
    """Connect. Raises AssociationFault."""
    way = StowWay(destination, timeouts)
    way.connect()
    return way


def reach(destination: StowDestination, *, timeouts: Timeouts) -> str:
    """Offer an empty request, and return in words how it was answered. Raises AssociationFault.

    That the server finds it wrong is good: it is there, knows us, and takes STOW-RS at this URL.
    """
    with open_stow(destination, timeouts=timeouts) as way:
        return f"takes STOW-RS (HTTP {way.probe()} to an empty request)"


class StowWay:
    """One connection to a server, made anew where the server ended it between two instances."""

    #: A connection may end at a proxy before a server that is down.
    welcomed = False

    def __init__(self, destination: StowDestination, timeouts: Timeouts) -> None:
        self._destination = destination
        self._timeouts = timeouts
        self._path = f"{urlsplit(destination.url).path.rstrip('/')}/studies"
        self._authorisation = self._authorised()
        self._line = Line(
            destination.host,
            destination.port,
            tls=destination.tls,
            connect_timeout=timeouts.connect,
            timeout=timeouts.dimse,
        )

    def connect(self) -> None:
        """Connect, over TLS where the destination has it. Raises AssociationFault."""
        try:
            self._line.connect()
        except LineFault as fault:
            raise self._way_fault(fault) from None

    def store(self, data: bytes) -> Sent:
        """Send one Part 10 file and return what the server says of it.

        Raises AssociationFault for what concerns the server or the connection, Rejected if `data` is no Part 10 file.
        """
        uid = Part10.of(data).sop_instance_uid
        boundary = f"cxrnode-{hashlib.sha256(data).hexdigest()[:32]}"  # the same request for the same bytes
        status, answer, body = self._post(boundary, data)
        self._complain(status, answer)
        return answered(status, parsed(body), uid)

    def probe(self) -> int:
        """Post a request without any instance; return the HTTP status. Raises AssociationFault."""
        status, answer, _ = self._post("cxrnode-empty", None)
        self._complain(status, answer)
        if status >= 500:
            raise self._fault(FaultKind.REFUSED, Stage.NEGOTIATE, f"HTTP {status}")
        return status

    def _complain(self, status: int, answer: Mapping[str, str]) -> None:
        fault = FAULTS.get(status)
        if fault is None and 300 <= status < 400:
            fault = (FaultKind.REFUSED, Stage.NEGOTIATE)
        if fault is not None:
            raise self._fault(*fault, f"HTTP {status}", pause=pause_asked(answer.get("Retry-After", "")))

    def _post(self, boundary: str, data: bytes | None) -> tuple[int, Mapping[str, str], bytes]:
        """HTTP status, headers, and body of the answer. Raises AssociationFault."""
        head, tail = _frame(boundary, data)
        length = len(head) + len(data or b"") + len(tail)
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        }
        status, answer, body = self._request("POST", self._path, headers, lambda: _chunks(head, data, tail), length)
        if not is_told(status, answer.get("Content-Type", ""), body):
            # TRANSFER: nobody knows whether it has the instance.
            detail = f"HTTP {status}, and no answer of STOW-RS"
            raise self._fault(FaultKind.REFUSED, Stage.TRANSFER, detail)
        return status, answer, body

    def has(self, place: Place) -> bool:
        """Whether the server has an object, by QIDO-RS (PS3.18 10.6). Raises AssociationFault."""
        study, series, instance = (quote(uid, safe="") for uid in dataclasses.astuple(place))
        path = f"{self._path}/{study}/series/{series}/instances?SOPInstanceUID={instance}&limit=1"
        status, answer, body = self._request("GET", path, {}, lambda: iter(()), 0)
        if status == 204 or (status == 404 and not body.lstrip().startswith(b"<")):
            return False  # some answer so to a study that they do not have
        if status in (401, 403, 407, 429, 502, 503, 504):
            self._complain(status, answer)
        try:
            found = json.loads(body) if status == 200 else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list):
            raise self._fault(FaultKind.NO_QUERY, Stage.NEGOTIATE, f"HTTP {status} to QIDO-RS")
        return bool(found)

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], chunks: Callable[[], Iterator[bytes]], length: int
    ) -> tuple[int, Mapping[str, str], bytes]:
        """HTTP status, headers, and body of the answer to one request. Raises AssociationFault."""
        sent = {**headers, "Accept": "application/dicom+json", "User-Agent": "cxrnode", **self._authorisation}
        try:
            answer = self._line.request(
                method,
                path,
                headers=sent,
                body=chunks if method == "POST" else None,
                length=length,
                largest=_LARGEST_ANSWER,
                seconds=self._timeouts.dimse * 2,
                slowest=_SLOWEST,
            )
        except LineFault as fault:
            raise self._way_fault(fault) from None
        framed = answer.body or "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers
        clear = answer.status in FAULTS or 300 <= answer.status < 400 or (method == "GET" and answer.status == 204)
        if not (framed or clear):
            # http.client takes headers that break off for whole ones: "200" alone says nothing then.
            self._line.close()
            raise self._fault(FaultKind.ABORTED, Stage.TRANSFER, "the answer broke off")
        return answer.status, answer.headers, answer.body if answer.whole else b"too long"

    def _way_fault(self, fault: LineFault) -> AssociationFault:
        match fault.trouble:
            case Trouble.TLS:
                return self._fault(FaultKind.TLS, Stage.CONNECT, _tls_reason(fault.error))
            case Trouble.UNREACHABLE:
                return self._fault(FaultKind.UNREACHABLE, Stage.CONNECT, str(fault))
            case Trouble.SILENT:
                return self._fault(FaultKind.TIMEOUT, Stage.TRANSFER, str(fault))
            case Trouble.ENDED:
                return self._fault(FaultKind.ABORTED, Stage.TRANSFER, str(fault))

    def _authorised(self) -> dict[str, str]:
        credential = self._destination.credential
        if credential is None:
            return {}
        try:
            secret = credential.secret()
        except ConfigError as error:
            raise self._fault(FaultKind.UNAUTHORISED, Stage.CONNECT, str(error)) from None
        if not credential.user:
            if not secret.isascii():
                raise self._fault(FaultKind.UNAUTHORISED, Stage.CONNECT, "the token is not in ASCII")
            return {"Authorization": f"Bearer {secret}"}
        return {"Authorization": "Basic " + base64.b64encode(f"{credential.user}:{secret}".encode()).decode()}

    def _fault(self, kind: FaultKind, stage: Stage, detail: str, *, pause: float = 0.0) -> AssociationFault:
        return AssociationFault(kind, stage, self._destination, detail, pause=pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()


def _frame(boundary: str, data: bytes | None) -> tuple[bytes, bytes]:
    """What stands before and after the instance in the body (RFC 2387); without one, a body without parts."""
    if data is None:
        return b"", f"--{boundary}--\r\n".encode()
    return f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(), f"\r\n--{boundary}--\r\n".encode()


def _chunks(head: bytes, data: bytes | None, tail: bytes) -> Iterator[bytes]:
    yield head
    view = memoryview(data or b"")
    for start in range(0, len(view), _CHUNK):
        yield bytes(view[start : start + _CHUNK])
    yield tail


def _tls_reason(error: Exception) -> str:
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__ or (error.args[0] if error.args else None)
    return hardening.tls_reason(cause) if isinstance(cause, ssl.SSLError) else type(error).__name__
