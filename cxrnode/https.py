"""Asking a web server: one connection kept, bounded answers, a secret and TLS as the configuration names them.

A server that is away or slow is Away, which is Transient; what its answers mean is the caller's to know. Redirections
are not followed, and neither variables nor files of the machine name a proxy.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import urllib3

from cxrnode.errors import ConfigError, Transient
from cxrnode.sections import Auth, ClientTls

_CHUNK = 1 << 20


class Away(Transient):
    """The server does not answer, or not as it should, now."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a server said: the HTTP status, its headers, and the body unless it was taken piece by piece."""

    status: int
    headers: Mapping[str, str]
    body: bytes


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
        self._what = what
        self._seconds = timeout
        #: What says who we are, for a connection of another kind to the same server; of TLS, and of the URL, too.
        self.authorisation = _authorisation(auth, what)
        self.tls = _context(tls, what) if parts.scheme == "https" else None
        self.base = parts.path.rstrip("/")
        self._headers = {"User-Agent": "cxrnode", **self.authorisation}
        options: dict[str, Any] = {"ssl_context": self.tls} if self.tls else {}
        kind = urllib3.HTTPSConnectionPool if options else urllib3.HTTPConnectionPool
        limits = urllib3.Timeout(connect=connect_timeout, read=timeout)
        self._pool = kind(self.host, parts.port, timeout=limits, maxsize=2, retries=False, **options)

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

        An answer of more than `largest` bytes, or one that took longer than the time-out of the whole (past which it
        may come at `slowest` bytes a second), is none. `take` is given the body of a status 200 piece by piece; what it
        raises goes through. A connection that the server ended meanwhile is made anew, once.
        """
        try:
            return self._request(method, path, body, headers or {}, largest, slowest, take)
        except urllib3.exceptions.ProtocolError as fault:
            if take is not None:  # it may have been given pieces already
                raise Away(f"{self._what} at {self.where} is away: {_reason(fault)}") from None
        except (urllib3.exceptions.HTTPError, OSError) as fault:
            raise Away(f"{self._what} at {self.where} is away: {_reason(fault)}") from None
        try:
            return self._request(method, path, body, headers or {}, largest, slowest, take)
        except (urllib3.exceptions.HTTPError, OSError) as fault:
            raise Away(f"{self._what} at {self.where} is away: {_reason(fault)}") from None

    def _request(
        self,
        method: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        largest: int,
        slowest: int,
        take: Callable[[bytes], None] | None,
    ) -> Answer:
        until = time.monotonic() + self._seconds
        response = self._pool.urlopen(
            method,
            self.base + path,
            body=body or None,
            headers={**self._headers, **headers},
            redirect=False,
            preload_content=False,
        )
        kept, size = bytearray(), 0
        try:
            # An answer that trickles keeps within the time-out of each read, and not of the whole.
            while piece := response.read1(_CHUNK):
                size += len(piece)
                if time.monotonic() > until + (size / slowest if slowest else 0.0) or size > largest:
                    raise urllib3.exceptions.ReadTimeoutError(self._pool, "", "the answer took too long")
                if take is not None and response.status == 200:
                    take(piece)
                else:
                    kept += piece
        except BaseException:  # an interrupt too: an answer half read must not be taken for the next one; it goes on
            response.close()
            raise
        response.release_conn()
        return Answer(status=response.status, headers=response.headers, body=bytes(kept))

    def close(self) -> None:
        """End the connections."""
        self._pool.close()


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


def _reason(fault: Exception) -> str:
    """The kind of fault, without what a peer may have put into its text."""
    return type(fault.__cause__ or fault).__name__
