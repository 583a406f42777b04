"""A destination, and what can be wrong with an association to it: values and errors. It opens no socket."""

from __future__ import annotations

import dataclasses
import ssl
from enum import StrEnum

from cxrnode.errors import Transient


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where to send: a name for people, and the triple (AET, host, port); over TLS if there is a context."""

    name: str
    aet: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None


def parse_destination(text: str) -> Destination:
    """Read `AET@host:port` (an IPv6 address in brackets). Raises ValueError with what is wrong."""
    aet, at, address = text.partition("@")
    host, colon, port = address.rpartition(":")
    if not (at and colon and 0 < len(aet.strip()) <= 16 and host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} is not AET@host:port")
    return Destination(name=aet.strip(), aet=aet.strip(), host=host.strip("[]"), port=int(port))


class FaultKind(StrEnum):
    """What went wrong with an association."""

    UNREACHABLE = "unreachable"
    TLS = "tls"
    CALLED_AET = "called_aet"
    CALLING_AET = "calling_aet"
    BUSY = "busy"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    ABORTED = "aborted"
    NO_CONTEXT = "no_context"


class Stage(StrEnum):
    """How far the association had come."""

    CONNECT = "connect"
    NEGOTIATE = "negotiate"
    TRANSFER = "transfer"


class AssociationFault(Transient):
    """An association could not be made or broke: a matter of the destination, not of the object.

    `stage` is TRANSFER where it broke with an object under way; the same object may then be the cause.
    `remedy` says to a person what to change.
    """

    def __init__(self, kind: FaultKind, stage: Stage, destination: Destination, detail: str = "") -> None:
        self.kind = kind
        self.stage = stage
        self.destination = destination.name
        self.detail = detail
        self.remedy = _REMEDIES[kind].format(d=destination)
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
    FaultKind.BUSY: "The peer has no room for another association; it is tried again",
    FaultKind.REFUSED: "The peer refused the association; its log says why",
    FaultKind.TIMEOUT: "The peer at {d.host}:{d.port} does not answer in time; check that it is well",
    FaultKind.ABORTED: "The peer at {d.host}:{d.port} ended the association; its log says why, often that this "
    "node is not in its list of known AEs",
    FaultKind.NO_CONTEXT: "The peer takes none of the SOP classes offered; check what it accepts for storage",
}
