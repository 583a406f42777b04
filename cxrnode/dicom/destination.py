"""A destination of each kind, what it answers, and what can be wrong with the way to it: values and errors.

It opens no socket. `Way` is what the send role sees of an association, a web connection or an MLLP connection alike.
"""

from __future__ import annotations

import dataclasses
import os
import ssl
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from cxrnode.dicom.statuses import StatusClass
from cxrnode.errors import ConfigError, Transient


class FaultKind(StrEnum):
    """What went wrong with an association."""

    UNREACHABLE = "unreachable"
    TLS = "tls"
    CALLED_AET = "called_aet"
    CALLING_AET = "calling_aet"
    UNAUTHORISED = "unauthorised"
    BUSY = "busy"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    ABORTED = "aborted"
    NO_CONTEXT = "no_context"
    NO_QUERY = "no_query"


class Stage(StrEnum):
    """How far the association had come."""

    CONNECT = "connect"
    NEGOTIATE = "negotiate"
    TRANSFER = "transfer"


class Reached(Protocol):
    """What every kind of destination has: a name for people, an address, and a remedy for each fault of the way."""

    @property
    def name(self) -> str:
        """The name in the configuration."""

    @property
    def address(self) -> str:
        """Where it is, as its administrator would write it; without a secret."""

    def remedy(self, kind: FaultKind) -> str:
        """What a person changes."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A DICOM node: a name for people, and the triple (AET, host, port); over TLS if there is a context.

    `configured`: the name is that of a table of the configuration, where a person mends it.
    """

    name: str
    aet: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    configured: bool = True

    @property
    def address(self) -> str:
        """`AET@host:port`."""
        return f"{self.aet}@{self.host}:{self.port}"

    def remedy(self, kind: FaultKind) -> str:
        """What a person changes."""
        remedy = _REMEDIES[kind].format(d=self)
        return remedy if self.configured else remedy.replace(f"[nodes.{self.name}] ", "")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a web server asks for: a user's password, or without a user a bearer token.

    It is read from a file or a variable when it is needed, so that a renewed one is taken, and never kept.
    """

    user: str = ""
    file: Path | None = None
    variable: str = ""

    def secret(self) -> str:
        """Read it. Raises ConfigError where it is not there or cannot stand in a header."""
        if self.file is not None:
            try:
                text = self.file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise ConfigError(f"the secret in {self.file} cannot be read: {why}") from None
        else:
            text = os.environ.get(self.variable, "")
        if not text or not text.isprintable():
            where = str(self.file) if self.file else f"the variable {self.variable}"
            raise ConfigError(f"there is no secret of one line in {where}")
        return text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StowDestination:
    """A DICOMweb server that stores over the web (STOW-RS, PS3.18 10.5); `url` is what `/studies` is appended to.

    `tls` is there for https alone.
    """

    name: str
    url: str
    tls: ssl.SSLContext | None = None
    credential: Credential | None = None

    @property
    def host(self) -> str:
        """The server's host name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port that the URL names, else that of its scheme."""
        parts = urlsplit(self.url)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def address(self) -> str:
        """The URL."""
        return self.url

    def remedy(self, kind: FaultKind) -> str:
        """What a person changes."""
        return (_WEB_REMEDIES.get(kind) or _OTHER_REMEDIES[kind]).format(d=self)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hl7Destination:
    """A receiver of HL7 version 2 messages over MLLP; over TLS if there is a context."""

    name: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None

    @property
    def address(self) -> str:
        """`mllp://host:port`."""
        return f"mllp://{self.host}:{self.port}"

    def remedy(self, kind: FaultKind) -> str:
        """What a person changes."""
        return _OTHER_REMEDIES[kind].format(d=self)


AnyDestination = Destination | StowDestination | Hl7Destination


def parse_destination(text: str) -> Destination:
    """Read `AET@host:port` (an IPv6 address in brackets). Raises ValueError with what is wrong."""
    aet, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and 0 < len(aet.strip()) <= 16 and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not AET@host:port")
    aet = aet.strip()
    return Destination(name=aet, aet=aet, host=host.strip("[]"), port=int(port), configured=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: to connect, to negotiate, without any byte taken or answered while an object is under way."""

    connect: float = 10.0
    acse: float = 15.0
    dimse: float = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The answer to one object. `converted` says that it went as Implicit VR Little Endian, by the peer's wish.

    `status` is of C-STORE; for an answer over the web or of HL7 it is the one that stands for it, and `said` tells
    that answer itself, in our words.
    """

    status: int
    kind: StatusClass
    comment: str = ""
    converted: bool = False
    said: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an object stands in an archive: its three UIDs."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str

    def __repr__(self) -> str:
        """Nothing of the values: a repr ends in logs and tracebacks."""
        return "Place(...)"


class Way(Protocol):
    """An open way to a destination. Leaving its `with` block ends it in good order, or cuts it after an error."""

    @property
    def welcomed(self) -> bool:
        """Whether being open already says that the destination is well; else its first answer does."""

    def store(self, data: bytes) -> Sent:
        """Send one object and return the answer. Raises AssociationFault, DeadlineReached, or Rejected for `data`."""

    def has(self, place: Place) -> bool:
        """Whether the destination has an object. Raises AssociationFault, of kind NO_QUERY where it does not tell."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class AssociationFault(Transient):
    """An association could not be made or broke: a matter of the destination, not of the object.

    `stage` is TRANSFER where it broke with an object under way; the same object may then be the cause.
    `remedy` says to a person what to change; `pause` is how long the destination asks to be left alone, in seconds.
    """

    def __init__(
        self, kind: FaultKind, stage: Stage, destination: Reached, detail: str = "", *, pause: float = 0.0
    ) -> None:
        self.kind = kind
        self.stage = stage
        self.destination = destination.name
        self.detail = detail
        self.pause = pause
        self.remedy = destination.remedy(kind)
        why = f" ({detail})" if detail else ""
        super().__init__(f"{destination.name}: {kind.value.replace('_', ' ')}{why}. {self.remedy}")


class DeadlineReached(Transient):
    """The deadline came first; nothing is known to be wrong with the destination or the object."""


_REMEDIES = {
    FaultKind.UNREACHABLE: "Check [nodes.{d.name}] host = {d.host!r} and port = {d.port}, the network, and that the "
    "peer is running",
    FaultKind.TLS: "Check [nodes.{d.name}] tls: the authority, that the certificate names {d.host!r}, and that the "
    "peer speaks TLS on port {d.port}",
    FaultKind.CALLED_AET: "Check [nodes.{d.name}] aet = {d.aet!r}: the peer does not answer to it",
    FaultKind.CALLING_AET: "Add this node's AE title and address to the peer's list of known AEs",
    FaultKind.UNAUTHORISED: "Add this node's AE title and address to the peer's list of known AEs",
    FaultKind.BUSY: "The peer has no room for another association; it is tried again",
    FaultKind.REFUSED: "The peer refused the association; its log says why",
    FaultKind.TIMEOUT: "The peer at {d.host}:{d.port} does not answer in time; check that it is well",
    FaultKind.ABORTED: "The peer at {d.host}:{d.port} ended the association; its log says why, often that this "
    "node is not in its list of known AEs",
    FaultKind.NO_CONTEXT: "The peer takes none of the SOP classes offered; check what it accepts for storage",
    FaultKind.NO_QUERY: "The peer does not say whether it has a film: let this node query it (C-FIND, Study Root), or "
    "set [nodes.{d.name}] require_source = false",
}

#: For what is no DICOM association.
_OTHER_REMEDIES = {
    **dict.fromkeys(FaultKind, "The server at {d.host}:{d.port} refuses; its log says why"),
    FaultKind.UNREACHABLE: _REMEDIES[FaultKind.UNREACHABLE],
    FaultKind.TLS: _REMEDIES[FaultKind.TLS],
    FaultKind.BUSY: "The server asks to be left alone for a while; it is tried again",
    FaultKind.TIMEOUT: "The server at {d.host}:{d.port} does not answer in time; check that it is well",
    FaultKind.ABORTED: "The server at {d.host}:{d.port} ended the connection; its log says why",
}

_WEB_REMEDIES = {
    FaultKind.UNREACHABLE: "Check [nodes.{d.name}] url = {d.url!r}, the network, and that the server is running",
    FaultKind.UNAUTHORISED: "Check [nodes.{d.name}] auth: the server does not let this node store",
    FaultKind.REFUSED: "Check [nodes.{d.name}] url = {d.url!r}: `/studies` below it must take STOW-RS",
    FaultKind.NO_QUERY: "The server does not say whether it has a film: let this node query it (QIDO-RS), or set "
    "[nodes.{d.name}] require_source = false",
}
