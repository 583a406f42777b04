"""Syslog messages (RFC 5424) over UDP (RFC 5426) or TLS (RFC 5425). It sends, and never receives.

Shared by alerts, the seals of the audit trail, and the audit messages of DICOM PS3.15 A.5.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

from cxrnode.errors import ConfigError, Transient

#: RFC 5424 table 2: severities that are used here.
ERROR, WARNING, NOTICE, INFORMATION = 3, 4, 5, 6
#: RFC 5424 table 1: "log audit" is 13, 10 is security and authorisation, which IHE ATNA wants.
DAEMON, SECURITY = 3, 10
#: A datagram that is longer is lost on some way (RFC 5426 3.2); over TLS there is no such bound.
LARGEST_DATAGRAM = 65_000
_TIMEOUT = 10.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where messages go. With `tls` the connection is verified against `ca`, else this machine's authorities.

    `cert` and `key` are ours, where the server asks for them (IHE ATNA does).
    """

    host: str
    port: int
    tls: bool = False
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. `text` is UTF-8 text, `kind` its MSGID; `at` is in seconds since 1970."""

    at: float
    severity: int
    kind: str
    text: str
    facility: int = DAEMON
    application: str = "cxrnode"


def encode(message: Message, *, host: str | None = None) -> bytes:
    """The bytes of a message: header, no structured data, and the text with the mark of UTF-8 before it."""
    moment = datetime.datetime.fromtimestamp(message.at, datetime.UTC).isoformat(timespec="milliseconds")
    name = _word(host or socket.gethostname(), 255)
    head = (
        f"<{message.facility * 8 + message.severity}>1 {moment.replace('+00:00', 'Z')} {name} "
        f"{_word(message.application, 48)} {os.getpid()} {_word(message.kind, 32)} - "
    )
    return head.encode("ascii") + b"\xef\xbb\xbf" + message.text.encode()


def _word(text: str, most: int) -> str:
    """A field of the header: visible ASCII without spaces, "-" for nothing."""
    return "".join(c for c in text if "!" <= c <= "~")[:most] or "-"


def send(server: Server, messages: Sequence[Message]) -> None:
    """Send messages in their order. Raises Transient where the server does not take them, ConfigError for TLS files.

    UDP says nothing of a message that is lost; over TLS nothing is known of what was not read before the server ended.
    """
    if not messages:
        return
    try:
        if server.tls:
            _send_tls(server, [encode(one) for one in messages])
        else:
            _send_udp(server, [encode(one) for one in messages])
    except OSError as error:  # ssl.SSLError is one
        reason = error.strerror or str(error) or type(error).__name__
        raise Transient(f"the syslog server {server.host}:{server.port} took nothing: {reason}") from None


def _send_udp(server: Server, datagrams: Sequence[bytes]) -> None:
    found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as line:
        line.settimeout(_TIMEOUT)
        for one in datagrams:
            line.sendto(one[:LARGEST_DATAGRAM], address)


def _send_tls(server: Server, frames: Sequence[bytes]) -> None:
    context = _context(server)
    with (
        socket.create_connection((server.host, server.port), timeout=_TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=server.host) as line,
    ):
        for one in frames:
            line.sendall(b"%d " % len(one) + one)  # RFC 5425 4.3: octet counting
        with contextlib.suppress(OSError):  # some servers end without a word
            line.unwrap()


def _context(server: Server) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if server.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(server.ca)
        if server.cert is not None:
            context.load_cert_chain(server.cert, server.key)
    except OSError as error:
        files = f"ca {server.ca}, cert {server.cert}, key {server.key}"
        raise ConfigError(f"TLS files of the syslog server cannot be used ({files}): {error}") from None
    return context
