"""Asking a web server: one connection kept, bounded answers, a secret and TLS as the configuration names them.

A `Line` is the connection, and says of what kind a fault is; an `HttpClient` asks over it, and takes every fault for a
server that is Away, which is Transient. What answers mean is the caller's to know. Redirections are not followed, and
neither variables nor files of the machine name a proxy.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Self
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError
from urllib3.exceptions import SSLError as WrappedSSLError

from cxrnode.errors import ConfigError, Transient
from cxrnode.sections import Auth, ClientTls

_CHUNK = 1 << 20


class Away(Transient):
    """The server does not answer, or not as it should, now."""


class Trouble(Enum):
    """What can be wrong with a connection."""

    UNREACHABLE = "no connection came about"
    TLS = "the two did not agree on TLS"
    SILENT = "it did not answer in time"
    ENDED = "it ended the connection"


class LineFault(Exception):
    """No answer came: of what kind that is, and the error below it, whose text may quote the server."""

    def __init__(self, trouble: Trouble, error: Exception, words: str) -> None:
        super().__init__(words)
        self.trouble = trouble
        self.error = error


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said: the HTTP status, its headers, and the body unless it was taken piece by piece.

    One that is not `whole` was longer than was asked for, and only its beginning is here.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


class Line:
    """One connection to a server, made anew where the server ended it between two requests."""

    def __init__(
        self, host: str, port: int, *, tls: ssl.SSLContext | None, connect_timeout: float, timeout: float
    ) -> None:
        """Connect with the first request, or with `connect`. `timeout`: each silence of the server, in seconds."""
        self._connect_timeout = connect_timeout
        self._timeout = timeout
        self._connection: HTTPConnection = (
            HTTPConnection(host, port, timeout=connect_timeout)
            if tls is None
            else HTTPSConnection(host, port, timeout=connect_timeout, ssl_context=tls)
        )
        self._fresh = False
        # As urllib3's pools do: who forgets a line leaves no socket open.
        weakref.finalize(self, self._connection.close)

    def connect(self) -> None:
        """Connect, over TLS where it has it. Raises LineFault."""
        self.close()
        self._connection.timeout = self._connect_timeout
        try:
            self._connection.connect()
        except (ssl.SSLError, WrappedSSLError) as error:
            self.close()
            raise LineFault(Trouble.TLS, error, "the two did not agree on TLS") from None
        except (HTTPError, OSError) as error:
            self.close()
            words = "no answer" if isinstance(error, ConnectTimeoutError | TimeoutError) else _why(error)
            raise LineFault(Trouble.UNREACHABLE, error, words) from None
        self._connection.timeout = self._timeout
        self._fresh = True

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: Callable[[], Iterator[bytes]] | None = None,
        length: int = 0,
        largest: int,
        seconds: float,
        slowest: int = 0,
        take: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Ask, and return the answer, whatever its status. Raises LineFault.

        `body` gives `length` bytes, and is asked anew where the request is made anew: when the server had ended an
        older connection just then. No more than `largest` bytes of the answer are read. `seconds` are for the whole,
        past which it may go on at `slowest` bytes a second. `take` is given the body of a status 200 piece by piece;
        what it raises goes through.
        """
        if not self._fresh and not self._connection.is_connected:
            self.connect()
        fresh, self._fresh = self._fresh, False
        until = time.monotonic() + seconds + (length / slowest if slowest else 0.0)
        cut = _Cut(self._connection, until)
        sent = {**headers, "Content-Length": str(length)} if body is not None else dict(headers)
        try:
            # Who refuses may answer before it has all, and end the connection: its answer counts.
            with cut, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._connection.request(
                    method, path, body=body() if body is not None else None, headers=sent, preload_content=False
                )
            with cut:
                response = self._connection.getresponse()
            answer = self._read(response, until, largest, slowest, take)
        except TimeoutError as error:
            self.close()
            raise LineFault(Trouble.SILENT, error, "no answer to the request") from None
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            self.close()
            if cut.made or isinstance(error.__cause__, TimeoutError):
                raise LineFault(Trouble.SILENT, TimeoutError(), "the answer took too long") from None
            if fresh or not isinstance(error, http.client.RemoteDisconnected | ConnectionError):
                raise LineFault(Trouble.ENDED, error, "the connection ended before the answer") from None
        except BaseException:  # an answer half read must not be taken for the next one; it goes on
            self.close()
            raise
        else:
            if cut.made:  # within its headers, of which those that came look like all
                self.close()
                raise LineFault(Trouble.SILENT, TimeoutError(), "the answer broke off")
            return answer
        # The server ended an older connection just then: on a new one it will say what is wrong, if anything is.
        self.connect()
        return self.request(
            method,
            path,
            headers=headers,
            body=body,
            length=length,
            largest=largest,
            seconds=seconds,
            slowest=slowest,
            take=take,
        )

    def _read(
        self,
        response: BaseHTTPResponse,
        until: float,
        largest: int,
        slowest: int,
        take: Callable[[bytes], None] | None,
    ) -> Answer:
        """The answer with its body. Raises TimeoutError where it trickles: each piece keeps within the time-out."""
        kept, size = bytearray(), 0
        while piece := response.read1(_CHUNK):
            size += len(piece)
            if time.monotonic() > until + (size / slowest if slowest else 0.0):
                raise TimeoutError
            if size > largest:
                self.close()
                return Answer(status=response.status, headers=response.headers, body=bytes(kept), whole=False)
            if take is not None and response.status == 200:
                take(piece)
            else:
                kept += piece
        return Answer(status=response.status, headers=response.headers, body=bytes(kept))

    def close(self) -> None:
        """End the connection; the next request makes another."""
        self._connection.close()
        self._fresh = False


class _Cut:
    """Ends a connection over which headers come byte by byte: each byte keeps within the time-out, the whole does not.

    The moment holds for all its `with` blocks together.
    """

    def __init__(self, connection: HTTPConnection, until: float) -> None:
        self.made = False
        self._connection = connection
        self._until = until
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


class HttpClient:
    """Asks one server, under one URL. Safe to use from one thread at a time."""

    def __init__(
        self,
        url: str,
        *,
        what: str,
        auth: Auth | None = None,
        tls: ClientTls | None = None,
        connect_timeout: float,
        timeout: float,
    ) -> None:
        """Connect lazily. `what` names the server in messages, such as "the inference server"; seconds.

        Raises ConfigError where TLS files or the secret cannot be used.
        """
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        #: Host and port.
        self.where = f"{parts.hostname}:{self.port}"
        #: What says who we are, for a connection of another kind to the same server; of TLS, and of the URL, too.
        self.authorisation = _authorisation(auth, what)
        self.tls = _context(tls, what) if parts.scheme == "https" else None
        self.base = parts.path.rstrip("/")
        self._what = what
        self._seconds = timeout
        self._headers = {"User-Agent": "cxrnode", **self.authorisation}
        self._line = Line(self.host, self.port, tls=self.tls, connect_timeout=connect_timeout, timeout=timeout)

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        largest: int,
        slowest: int = 0,
        take: Callable[[bytes], None] | None = None,
    ) -> Answer:
        """Ask for `path` under the URL, and return the answer, whatever its status. Raises Away.

        One that took longer than the time-out of the whole (past which it may come at `slowest` bytes a second) is
        none; nor is one of more than `largest` bytes, but where `take` has its beginning. `take` is given the body of a
        status 200 piece by piece; what it raises goes through.
        """
        try:
            answer = self._line.request(
                method,
                self.base + path,
                headers={**self._headers, **(headers or {})},
                body=(lambda: iter((body,))) if body else None,
                length=len(body),
                largest=largest,
                seconds=self._seconds,
                slowest=slowest,
                take=take,
            )
        except LineFault as fault:
            raise Away(f"{self._what} at {self.where} is away: {_kind(fault.error)}") from None
        if not answer.whole and take is None:
            raise Away(f"{self._what} at {self.where} gives an answer of more than {largest} bytes")
        return answer

    def close(self) -> None:
        """End the connection."""
        self._line.close()


def _authorisation(auth: Auth | None, what: str) -> dict[str, str]:
    if auth is None:
        return {}
    try:
        secret = auth.file.read_text().strip() if auth.file else os.environ[auth.variable].strip()
    except (OSError, KeyError, UnicodeDecodeError):
        raise ConfigError(f"the secret of {what} cannot be read; look at its auth") from None
    if not secret.isascii():
        raise ConfigError(f"the secret of {what} is not in ASCII; look at its auth")
    if not auth.user:
        return {"Authorization": f"Bearer {secret}"}
    return {"Authorization": "Basic " + base64.b64encode(f"{auth.user}:{secret}".encode()).decode()}


def _context(tls: ClientTls | None, what: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca if tls else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls is not None and tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as fault:
        raise ConfigError(f"the TLS files of {what} cannot be used: {fault}") from fault
    return context


def _kind(fault: Exception) -> str:
    """The kind of fault, without what a peer may have put into its text."""
    return type(fault.__cause__ or fault).__name__


def _why(error: Exception) -> str:
    """What the operating system says of a connection that did not come about."""
    cause = error.__cause__ if isinstance(error, HTTPError) else error
    return (getattr(cause, "strerror", None) or type(cause or error).__name__).lower()
