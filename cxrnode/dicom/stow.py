"""Storing over the web: STOW-RS (PS3.18 10.5), one instance a request, its bytes as they are.

One request an instance, so that each has an answer of its own and memory holds one. The URL names no study. It decides
nothing about retries: what the server as a whole says is an AssociationFault, what it says of the instance a Sent.
Redirections are not followed, and neither variables nor files of the machine name a proxy.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as WrappedSSLError

from cxrnode.dicom import hardening
from cxrnode.dicom.destination import AssociationFault, FaultKind, Place, Sent, Stage, StowDestination, Timeouts
from cxrnode.dicom.part10 import Part10
from cxrnode.dicom.stow_answer import FAULTS, answered, is_told, parsed, pause_asked
from cxrnode.errors import ConfigError

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
        self._connection = _connection(destination, timeouts)
        self._fresh = False

    def connect(self) -> None:
        """Connect, over TLS where the destination has it. Raises AssociationFault."""
        self._connection.timeout = self._timeouts.connect
        try:
            self._connection.connect()
        except (ssl.SSLError, WrappedSSLError) as error:
            raise self._fault(FaultKind.TLS, Stage.CONNECT, _tls_reason(error)) from None
        except (ConnectTimeoutError, TimeoutError):
            raise self._fault(FaultKind.UNREACHABLE, Stage.CONNECT, "no answer") from None
        except (NewConnectionError, HTTPError, OSError) as error:
            cause = error.__cause__ if isinstance(error, HTTPError) else error
            detail = (getattr(cause, "strerror", None) or type(cause or error).__name__).lower()
            raise self._fault(FaultKind.UNREACHABLE, Stage.CONNECT, detail) from None
        self._connection.timeout = self._timeouts.dimse
        self._fresh = True

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
            "Content-Length": str(length),
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
        if not self._fresh and not self._connection.is_connected:
            self._connection.close()
            self.connect()
        fresh, self._fresh = self._fresh, False
        sent = {**headers, "Accept": "application/dicom+json", "User-Agent": "cxrnode", **self._authorisation}
        cut = _Cut(self._connection, self._timeouts.dimse * 2 + length / _SLOWEST)
        body_of: Iterator[bytes] | None = chunks() if method == "POST" else None
        try:
            # Who refuses may answer before it has all, and end the connection: its answer counts.
            with cut, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._connection.request(method, path, body=body_of, headers=sent, preload_content=False)
            with cut:
                response = self._connection.getresponse()
                body = _read(response)
        except TimeoutError:
            self._connection.close()
            raise self._fault(FaultKind.TIMEOUT, Stage.TRANSFER, "no answer to the request") from None
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            self._connection.close()
            if cut.made or isinstance(error.__cause__, TimeoutError):
                raise self._fault(FaultKind.TIMEOUT, Stage.TRANSFER, "the answer took too long") from None
            if fresh or not isinstance(error, http.client.RemoteDisconnected | ConnectionError):
                detail = "the connection ended before the answer"
                raise self._fault(FaultKind.ABORTED, Stage.TRANSFER, detail) from None
            # The server ended an older connection just then: on a new one it will say what is wrong, if anything is.
            self.connect()
            return self._request(method, path, headers, chunks, length)
        framed = body or "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
        clear = (
            response.status in FAULTS or 300 <= response.status < 400 or (method == "GET" and response.status == 204)
        )
        if cut.made or not (framed or clear):
            # http.client takes headers that break off for whole ones: "200" alone says nothing then.
            self._connection.close()
            kind = FaultKind.TIMEOUT if cut.made else FaultKind.ABORTED
            raise self._fault(kind, Stage.TRANSFER, "the answer broke off")
        if len(body) > _LARGEST_ANSWER:
            self._connection.close()
            body = b"too long"
        return response.status, response.headers, body

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
        self._connection.close()


class _Cut:
    """Ends a connection that gives an answer byte by byte: each byte keeps within the time-out, and the whole does not.

    The seconds hold for all its `with` blocks together.
    """

    def __init__(self, connection: HTTPConnection, seconds: float) -> None:
        self.made = False
        self._connection = connection
        self._until = time.monotonic() + seconds
        self._timer: threading.Timer | None = None

    def __enter__(self) -> Self:
        self._timer = threading.Timer(max(0.0, self._until - time.monotonic()), self._end)
        self._timer.daemon = True
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _end(self) -> None:
        self.made = True
        line = self._connection.sock
        if line is not None:
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _connection(destination: StowDestination, timeouts: Timeouts) -> HTTPConnection:
    if destination.tls is None:
        return HTTPConnection(destination.host, destination.port, timeout=timeouts.connect)
    return HTTPSConnection(destination.host, destination.port, timeout=timeouts.connect, ssl_context=destination.tls)


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


def _read(response: BaseHTTPResponse) -> bytes:
    """The body, or a byte more than the largest that is looked at."""
    return response.read(_LARGEST_ANSWER + 1)


def _tls_reason(error: Exception) -> str:
    cause = error if isinstance(error, ssl.SSLError) else error.__cause__ or (error.args[0] if error.args else None)
    return hardening.tls_reason(cause) if isinstance(cause, ssl.SSLError) else type(error).__name__
