"""The sender: one association to a destination, objects sent as the very bytes they are.

It decides nothing about retries: an association that fails is an AssociationFault, an object's answer is a Sent
with the class of its status. Every wait is bounded by a time-out, and by the deadline if one is given.
"""

from __future__ import annotations

import dataclasses
import io
import queue
import ssl
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import _read_file_meta_info, dcmread, read_preamble
from pydicom.filewriter import write_dataset
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association as Wire
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import C_STORE, DimseServiceType
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.dicom import contexts, hardening, statuses
from cxrnode.dicom.destination import (
    AssociationFault,
    DeadlineReached,
    Destination,
    FaultKind,
    Sent,
    Stage,
    Timeouts,
    parse_destination,
)
from cxrnode.dicom.statuses import StatusClass
from cxrnode.errors import Rejected, Transient

__all__ = [
    "AssociationFault",
    "DeadlineReached",
    "Destination",
    "FaultKind",
    "Outbound",
    "Part10",
    "Sent",
    "Stage",
    "Timeouts",
    "echo",
    "open_association",
    "parse_destination",
    "send_files",
]

IMPLEMENTATION_VERSION_NAME = "CXRNODE"
#: Bytes a peer must be able to take in one P-DATA value for us to send to it at all.
_LEAST_PDU = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part10:
    """What must be known of a Part 10 file to send it: `offset` is where its data set begins."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int

    @classmethod
    def of(cls, data: bytes) -> Part10:
        """Read preamble and group 0002 (PS3.10 section 7.1). Raises Rejected for anything else."""
        file = io.BytesIO(data)
        try:
            read_preamble(file, False)
            meta = _read_file_meta_info(file)
            return cls(
                sop_class_uid=str(meta.MediaStorageSOPClassUID),
                sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
                transfer_syntax_uid=str(meta.TransferSyntaxUID),
                offset=file.tell(),
            )
        except (InvalidDicomError, AttributeError, EOFError, LookupError, ValueError) as error:
            raise Rejected(f"not a DICOM Part 10 file ({type(error).__name__})") from None

    @property
    def pair(self) -> tuple[str, str]:
        """SOP class and transfer syntax: what a presentation context is about."""
        return self.sop_class_uid, self.transfer_syntax_uid


class _Messages(DIMSEServiceProvider):
    """Waits for a response as long as bytes go out, then for the DIMSE time-out, and never past the deadline."""

    deadline: float | None = None

    def get_msg(self, block: bool = False) -> tuple[None, None] | tuple[int, DimseServiceType]:
        """Return the next message, or (None, None) when there is none in time."""
        if not block:
            return super().get_msg(False)
        asked_at = time.monotonic()
        while True:
            until = max(asked_at, getattr(self.dul.socket, "moved_at", 0.0)) + (self.dimse_timeout or 60.0)
            if self.deadline is not None:
                until = min(until, self.deadline)
            left = until - time.monotonic()
            if left <= 0:
                return None, None
            try:
                return self.msg_queue.get(timeout=left)
            except queue.Empty:
                continue  # bytes may have gone out meanwhile


class Outbound:
    """One established association. Leaving the `with` block releases it, or aborts it after an error."""

    #: Who accepts an association is there and knows us.
    welcomed = True

    def __init__(self, wire: Wire, destination: Destination, deadline: float | None) -> None:
        self._wire = wire
        self._destination = destination
        self._deadline = deadline
        self._messages = _Messages(wire)
        self._messages.deadline = deadline
        wire.dimse = self._messages
        self._message_id = 0
        self._accepted: dict[tuple[str, str], PresentationContext] = {
            (str(c.abstract_syntax), str(c.transfer_syntax[0])): c for c in wire.accepted_contexts
        }

    def store(self, data: bytes) -> Sent:
        """Send one Part 10 file and return the peer's answer.

        The data set goes byte for byte, unless it is in Explicit VR Little Endian and the peer takes Implicit only.
        A class or syntax the peer did not accept is answered here, with 0x0122. Raises AssociationFault if the
        association breaks, DeadlineReached at the deadline, Rejected if `data` is no Part 10 file.
        """
        part10 = Part10.of(data)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineReached()
        context = self._accepted.get(part10.pair)
        converted = False
        if context is not None:
            dataset = data[part10.offset :]
        elif contexts.convertible(part10.transfer_syntax_uid):
            context = self._accepted.get((part10.sop_class_uid, ImplicitVRLittleEndian))
            converted = context is not None
            dataset = _implicit(data) if converted else b""
        if context is None:
            return Sent(
                status=statuses.SOP_CLASS_NOT_SUPPORTED,
                kind=StatusClass.PERMANENT,
                comment="no presentation context was accepted for this class and syntax",
            )
        response = self._request(context, part10, dataset)
        return Sent(
            status=response.Status or 0,
            kind=statuses.classify(response.Status or 0).kind,
            comment=str(response.ErrorComment or "")[:64],
            converted=converted,
        )

    def _request(self, context: PresentationContext, part10: Part10, dataset: bytes) -> C_STORE:
        wire = self._wire
        if not wire.is_established:
            raise self._broken()
        self._message_id = self._message_id % 0xFFFF + 1
        request = C_STORE()
        request.MessageID = self._message_id
        request.Priority = 0  # medium
        request.AffectedSOPClassUID = part10.sop_class_uid
        request.AffectedSOPInstanceUID = part10.sop_instance_uid
        request.DataSet = io.BytesIO(dataset)
        # The association's own thread reads messages too, unless it is paused here, as pynetdicom's send_* do.
        wire._reactor_checkpoint.clear()
        try:
            while not wire._is_paused and wire.is_alive():
                time.sleep(0.0001)
            self._messages.send_msg(request, context.context_id or 0)
            _, response = self._messages.get_msg(block=True)
        finally:
            wire._reactor_checkpoint.set()
        if response is None:
            raise self._broken()
        if not (isinstance(response, C_STORE) and response.is_valid_response):
            _cut(wire)
            raise self._fault(FaultKind.ABORTED, "the answer was not to C-STORE")
        if response.MessageIDBeingRespondedTo != self._message_id:
            _cut(wire)
            raise self._fault(FaultKind.ABORTED, "the answer was to another message")
        return response

    def _broken(self) -> Transient:
        """Why there was no answer. The association ends with it."""
        wire = self._wire
        gone = wire.acse.is_aborted() or not wire.is_established
        if gone:
            return self._fault(FaultKind.ABORTED, "the association ended before the answer")
        _cut(wire)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return DeadlineReached()
        return self._fault(FaultKind.TIMEOUT, "no answer to C-STORE")

    def _fault(self, kind: FaultKind, detail: str) -> AssociationFault:
        return AssociationFault(kind, Stage.TRANSFER, self._destination, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._wire.is_established:
            self._wire.release()
        elif self._wire.is_established:
            _cut(self._wire)


def open_association(
    destination: Destination,
    *,
    calling_aet: str,
    pairs: Iterable[tuple[str, str]],
    timeouts: Timeouts | None = None,
    deadline: float | None = None,
) -> Outbound:
    """Associate for storing objects of these (SOP class, transfer syntax) pairs.

    `deadline` is on the monotonic clock: no object is begun after it and none waited for. Raises AssociationFault,
    and ValueError for more pairs than fit into one association (`contexts.MAX_CONTEXTS`).
    """
    wire = _associate(destination, calling_aet, contexts.proposed(pairs), timeouts or Timeouts())
    return Outbound(wire, destination, deadline)


def echo(destination: Destination, *, calling_aet: str, timeouts: Timeouts | None = None) -> None:
    """Verify that the destination answers C-ECHO. Raises AssociationFault."""
    wire = _associate(
        destination, calling_aet, [build_context(Verification, ImplicitVRLittleEndian)], timeouts or Timeouts()
    )
    answer: Dataset = wire.send_c_echo()
    if wire.is_established:
        wire.release()
    if "Status" not in answer:
        raise AssociationFault(FaultKind.TIMEOUT, Stage.TRANSFER, destination, "no answer to C-ECHO")
    if answer.Status != statuses.SUCCESS:
        raise AssociationFault(FaultKind.REFUSED, Stage.TRANSFER, destination, f"C-ECHO status {answer.Status:04X}")


def send_files(
    paths: Iterable[Path],
    destination: Destination,
    *,
    calling_aet: str,
    timeouts: Timeouts | None = None,
) -> Iterator[tuple[Path, Sent | Rejected]]:
    """Send files in order, each in its own transfer syntax; yield each with its answer, or why it cannot be sent.

    As many associations as the presentation contexts need, one after the other. Raises AssociationFault, and
    OSError for a file that cannot be read.
    """
    batch: list[Path] = []
    pairs: dict[tuple[str, str], None] = {}
    for path in paths:
        try:
            pair = Part10.of(path.read_bytes()).pair
        except Rejected as error:
            yield path, error
            continue
        if len(pairs) >= contexts.MAX_CONTEXTS // 2 and pair not in pairs:
            yield from _send_batch(batch, tuple(pairs), destination, calling_aet, timeouts)
            batch, pairs = [], {}
        batch.append(path)
        pairs[pair] = None
    if batch:
        yield from _send_batch(batch, tuple(pairs), destination, calling_aet, timeouts)


def _send_batch(
    paths: list[Path],
    pairs: tuple[tuple[str, str], ...],
    destination: Destination,
    calling_aet: str,
    timeouts: Timeouts | None,
) -> Iterator[tuple[Path, Sent | Rejected]]:
    with open_association(destination, calling_aet=calling_aet, pairs=pairs, timeouts=timeouts) as outbound:
        for path in paths:
            yield path, outbound.store(path.read_bytes())


def _associate(
    destination: Destination, calling_aet: str, proposed: list[PresentationContext], timeouts: Timeouts
) -> Wire:
    hardening.install()
    entity = ApplicationEntity(calling_aet)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = timeouts.connect
    entity.acse_timeout = timeouts.acse
    entity.dimse_timeout = timeouts.dimse
    entity.network_timeout = None  # _Messages and BoundedSocket watch over silence, in both directions
    aborts: list[A_ABORT] = []

    def note_abort(event: Event) -> None:
        primitive = getattr(event, "primitive", None)
        if isinstance(primitive, A_ABORT):
            aborts.append(primitive)

    try:
        wire = entity.associate(
            destination.host,
            destination.port,
            contexts=proposed,
            ae_title=destination.aet,
            max_pdu=hardening.MAX_PDU,
            tls_args=(destination.tls, destination.host) if destination.tls is not None else None,
            evt_handlers=[(evt.EVT_ACSE_RECV, note_abort)],
        )
    except OSError as error:  # the host name has no address
        detail = error.strerror or type(error).__name__
        raise AssociationFault(FaultKind.UNREACHABLE, Stage.CONNECT, destination, detail) from None
    if wire.is_established:
        least = wire.acceptor.maximum_length
        if least and least < _LEAST_PDU:
            _cut(wire)
            raise AssociationFault(FaultKind.REFUSED, Stage.NEGOTIATE, destination, f"it takes PDUs of {least} bytes")
        return wire
    _hang_up(wire)
    raise _negotiation_fault(wire, destination, bool(aborts))


def _negotiation_fault(wire: Wire, destination: Destination, peer_aborted: bool) -> AssociationFault:
    fault = getattr(wire.dul.socket, "fault", None)
    if isinstance(fault, ssl.SSLError):
        return AssociationFault(FaultKind.TLS, Stage.CONNECT, destination, hardening.tls_reason(fault))
    if fault is not None:
        detail = "no answer" if isinstance(fault, TimeoutError) else (fault.strerror or type(fault).__name__)
        return AssociationFault(FaultKind.UNREACHABLE, Stage.CONNECT, destination, detail.lower())
    answer = wire.acceptor.primitive
    if isinstance(answer, A_ASSOCIATE) and answer.result:
        key = (answer.result, answer.result_source, answer.diagnostic)
        return AssociationFault(
            _REJECTIONS.get(key, FaultKind.REFUSED), Stage.NEGOTIATE, destination, answer.reason_str.lower()
        )
    if isinstance(answer, A_ASSOCIATE) and answer.result == 0:
        return AssociationFault(FaultKind.NO_CONTEXT, Stage.NEGOTIATE, destination)
    if wire._sent_abort:
        return AssociationFault(FaultKind.TIMEOUT, Stage.NEGOTIATE, destination, "no answer to the request")
    detail = "A-ABORT" if peer_aborted else "connection closed"
    return AssociationFault(FaultKind.ABORTED, Stage.NEGOTIATE, destination, detail)


#: A-ASSOCIATE-RJ: (result, source, reason) -> kind (PS3.8 section 9.3.4).
_REJECTIONS: dict[tuple[int | None, int | None, int | None], FaultKind] = {
    (1, 1, 3): FaultKind.CALLING_AET,
    (1, 1, 7): FaultKind.CALLED_AET,
    (2, 1, 3): FaultKind.CALLING_AET,
    (2, 1, 7): FaultKind.CALLED_AET,
    (2, 3, 1): FaultKind.BUSY,
    (2, 3, 2): FaultKind.BUSY,
    (1, 3, 1): FaultKind.BUSY,
    (1, 3, 2): FaultKind.BUSY,
}


def _cut(wire: Wire) -> None:
    """Abort, and do not wait for a peer that reads no more."""
    wire.abort(block=False)
    until = time.monotonic() + 0.2
    while wire.dul.is_alive() and time.monotonic() < until:
        time.sleep(0.01)
    _hang_up(wire)
    wire.kill()


def _hang_up(wire: Wire) -> None:
    if isinstance(wire.dul.socket, hardening.BoundedSocket):
        wire.dul.socket.hang_up()


def _implicit(data: bytes) -> bytes:
    """Return the data set of a Part 10 file in Explicit VR Little Endian, re-encoded as Implicit VR Little Endian."""
    file = DicomBytesIO()
    file.is_little_endian = True
    file.is_implicit_VR = True
    write_dataset(file, dcmread(io.BytesIO(data)))
    return file.getvalue()
