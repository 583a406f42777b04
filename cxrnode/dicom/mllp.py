"""HL7 version 2 messages over MLLP: one connection, messages one after the other, each with its acknowledgement.

The bytes of a message go as they are; what the receiver says of it is a Sent, what becomes of the connection an
AssociationFault. It knows nothing of what stands in a message but its first segment's control ID.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import ssl
import time
from types import TracebackType
from typing import Self

from cxrnode.dicom import hardening, statuses
from cxrnode.dicom.destination import AssociationFault, FaultKind, Hl7Destination, Place, Sent, Stage, Timeouts
from cxrnode.errors import Rejected

#: The frame of the Minimal Lower Layer Protocol.
_START, _END = b"\x0b", b"\x1c\r"
#: An acknowledgement, at most, in bytes.
_LARGEST_ANSWER = 64 * 1024

#: MSA-1 (HL7 table 0008), original and enhanced mode: the C-STORE status that stands for it, and what it says.
_ACKNOWLEDGED = {
    "AA": (statuses.SUCCESS, "accepted"),
    "CA": (statuses.SUCCESS, "accepted"),
    # An error in the message: the same message meets it again.
    "AE": (statuses.CANNOT_UNDERSTAND, "the receiver found an error in the message"),
    "CE": (statuses.CANNOT_UNDERSTAND, "the receiver found an error in the message"),
    # Refused for a reason that may lie in the receiver: it is busy, or not configured for it yet.
    "AR": (0x0110, "the receiver refused the message"),
    "CR": (0x0110, "the receiver refused the message"),
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """MSA of an answer: its code, the control ID of the message that it answers, and its text."""

    code: str
    control_id: str
    text: str


def open_mllp(destination: Hl7Destination, *, timeouts: Timeouts) -> MllpWay:
    """Connect, over TLS where the destination has it. Raises AssociationFault."""
    return MllpWay(_connected(destination, timeouts), destination, timeouts)


def _connected(destination: Hl7Destination, timeouts: Timeouts) -> socket.socket:
    try:
        line = socket.create_connection((destination.host, destination.port), timeout=timeouts.connect)
    except OSError as error:
        detail = "no answer" if isinstance(error, TimeoutError) else (error.strerror or type(error).__name__).lower()
        raise AssociationFault(FaultKind.UNREACHABLE, Stage.CONNECT, destination, detail) from None
    if destination.tls is None:
        return line
    try:
        line.settimeout(timeouts.acse)
        return destination.tls.wrap_socket(line, server_hostname=destination.host)
    except OSError as error:  # ssl.SSLError is one
        line.close()
        raise AssociationFault(FaultKind.TLS, Stage.CONNECT, destination, hardening.tls_reason(error)) from None


def reach(destination: Hl7Destination, *, timeouts: Timeouts) -> str:
    """Connect and send nothing: HL7 has no echo. Return in words what was seen. Raises AssociationFault."""
    with open_mllp(destination, timeouts=timeouts):
        return "takes connections" + (" over TLS" if destination.tls is not None else "")


class MllpWay:
    """One connection to a receiver, made anew where the receiver ends it after each message, as some do."""

    #: A port that takes connections may belong to a receiver that answers none.
    welcomed = False

    def __init__(self, line: socket.socket, destination: Hl7Destination, timeouts: Timeouts) -> None:
        self._line = line
        self._destination = destination
        self._timeouts = timeouts
        self._fresh = True

    def has(self, place: Place) -> bool:
        """A receiver of messages keeps no films, and none is asked for one."""
        return True

    def store(self, data: bytes) -> Sent:
        """Send one message and return what the receiver says of it.

        Raises AssociationFault where the connection breaks or the answer is to another message, Rejected where `data`
        is no HL7 message.
        """
        control_id = _control_id(data)
        if not control_id or _START in data or b"\x1c" in data:
            raise Rejected("not an HL7 message")
        found = parse_acknowledgement(self._exchange(data))
        if found is None:
            raise self._fault(FaultKind.ABORTED, "the answer was no acknowledgement")
        if found.control_id != control_id:
            raise self._fault(FaultKind.ABORTED, "the acknowledgement was of another message")
        status, gloss = _ACKNOWLEDGED.get(found.code, (0x0110, "an acknowledgement that HL7 does not define"))
        kind = statuses.classify(status).kind
        said = "" if kind.delivered else f"{found.code if found.code in _ACKNOWLEDGED else 'MSA'}, {gloss}"
        return Sent(status=status, kind=kind, comment=found.text[:64], said=said)

    def _exchange(self, data: bytes) -> bytes:
        """The answer to a message, which goes once more where an older connection turns out to have ended."""
        fresh, self._fresh = self._fresh, False
        try:
            self._line.settimeout(self._timeouts.dimse)
            self._line.sendall(_START + data + _END)
            return self._answer(time.monotonic() + self._timeouts.dimse)
        except TimeoutError:
            raise self._fault(FaultKind.TIMEOUT, "no acknowledgement") from None
        except OSError:
            if fresh:
                raise self._fault(FaultKind.ABORTED, "the connection ended before the acknowledgement") from None
        self._line.close()
        self._line = _connected(self._destination, self._timeouts)
        self._fresh = True
        return self._exchange(data)

    def _answer(self, until: float) -> bytes:
        """What stands in the next frame. Raises TimeoutError past `until`, OSError where the connection ends."""
        received = b""
        while _END not in received:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._line.settimeout(left)
            chunk = self._line.recv(4096)
            if not chunk or len(received) > _LARGEST_ANSWER:
                raise ConnectionError("no whole frame")
            received += chunk
        return received.partition(_END)[0].lstrip(_START)

    def _fault(self, kind: FaultKind, detail: str) -> AssociationFault:
        return AssociationFault(kind, Stage.TRANSFER, self._destination, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()


def parse_acknowledgement(answer: bytes) -> Acknowledgement | None:
    """Read MSA-1 to MSA-3 of an answer; None where it has none. Delimiters are those that its MSH names."""
    # Names of people may stand in its text in any character set; the codes are ASCII.
    segments = re.split(r"[\r\n]+", answer.decode("latin-1"))
    if not segments[0].startswith("MSH") or len(segments[0]) < 8:
        return None
    for segment in segments[1:]:
        if segment.startswith("MSA"):
            fields = [*segment.split(segments[0][3]), "", "", ""]
            text = "".join(c for c in fields[3] if c.isprintable() and c.isascii())
            return Acknowledgement(code=fields[1].strip(), control_id=fields[2].strip(), text=text)
    return None


def _control_id(message: bytes) -> str:
    """MSH-10 of a message that begins with its MSH; "" for anything else."""
    if not message.startswith(b"MSH|"):
        return ""
    fields = message.partition(b"\r")[0].split(b"|")
    return fields[9].decode("ascii", "replace") if len(fields) > 9 else ""
