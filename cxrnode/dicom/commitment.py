"""Storage commitment (PS3.4 annex J) as its user: asking a destination to commit, and hearing its report.

The report comes on the association of the request or on one that the destination makes, whenever it likes; here both
end in the same callback. Nothing here remembers a request or decides what becomes of a delivery.
"""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.dimse_primitives import N_ACTION
from pynetdicom.dsutils import encode
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context

from cxrnode.dicom.association import Exchange, associate
from cxrnode.dicom.destination import AssociationFault, Destination, FaultKind, Stage, Timeouts
from cxrnode.errors import Rejected, Transient

log = structlog.get_logger(__name__)

#: The SOP class of the service, and the one instance of it that everybody has (PS3.4 J.3.5).
PUSH_MODEL = "1.2.840.10008.1.20.1"
_INSTANCE = "1.2.840.10008.1.20.1.1"
_SYNTAXES: list[str | UID] = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
#: N-ACTION "Request Storage Commitment" (PS3.4 table J.3.2-1).
_REQUEST = 1
#: N-EVENT-REPORT: all is committed to; some is not (PS3.4 table J.3.3-1).
_ALL, _SOME = 1, 2

SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
NO_SUCH_EVENT_TYPE = 0x0113
INVALID_ARGUMENT = 0x0115
NOT_AUTHORISED = 0x0124


class Remedy(StrEnum):
    """What a Failure Reason asks of us."""

    RESEND = "resend"
    ASK_AGAIN = "ask_again"
    PERSON = "person"


#: Failure Reason (0008,1197) -> what to do, and its meaning (PS3.3 C.14.1.1). One not listed is worth another sending.
FAILURES: Mapping[int, tuple[Remedy, str]] = MappingProxyType(
    {
        0x0110: (Remedy.RESEND, "processing failure"),
        0x0112: (Remedy.RESEND, "it does not have the object"),
        0x0213: (Remedy.RESEND, "it is out of resources"),
        0x0122: (Remedy.PERSON, "it does not commit to objects of this SOP class"),
        0x0119: (Remedy.PERSON, "it has another class for this object"),
        0x0131: (Remedy.ASK_AGAIN, "it knows the transaction UID from before"),
    }
)


def failure(reason: int) -> tuple[Remedy, str]:
    """What a Failure Reason asks for and means."""
    return FAILURES.get(reason, (Remedy.RESEND, "a reason that DICOM does not define"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a destination says of one request: the SOP Instance UIDs it commits to, the others with their reason."""

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Who brings a report: AE title and address of an association to us; or our own association to `destination`."""

    aet: str = ""
    address: str = ""
    destination: str = ""


#: Takes a report durably and returns the status of the N-EVENT-REPORT response.
Hear = Callable[[Report, Reporter], int]


class CommitmentRefused(Transient):
    """The destination answered the request for commitment, and not with success."""

    def __init__(self, destination: Destination, status: int) -> None:
        self.status = status
        super().__init__(
            f"{destination.name}: it refused the request for storage commitment (0x{status:04X}). Its log says why; "
            f"set [nodes.{destination.name}] commitment = false if it does not commit to storage"
        )


def report_context() -> PresentationContext:
    """What the listener accepts, so that destinations can report: they are the providers on their association to us.

    Both roles are taken, since some propose no role selection (PS3.7 D.3.3.4).
    """
    context = build_context(PUSH_MODEL, _SYNTAXES)
    context.scu_role, context.scp_role = True, True
    return context


def report_handler(hear: Hear, *, destination: str = "") -> EventHandlerType:
    """What answers N-EVENT-REPORT: on our own association to `destination`, or on any that is made to us."""

    def answer(event: Event) -> tuple[int, None]:
        wire = event.assoc
        if event.event_type not in (_ALL, _SOME):
            return NO_SUCH_EVENT_TYPE, None
        primitive = wire.requestor.primitive
        calling = str(primitive.calling_ae_title or "").strip() if primitive is not None else ""
        who = (
            Reporter(destination=destination)
            if destination
            else Reporter(aet=calling, address=wire.requestor.address or "")
        )
        try:
            return hear(parse_report(event.event_information), who), None
        except Rejected as fault:
            log.warning("commitment_report_refused", calling_aet=who.aet or who.destination, reason=str(fault))
            return INVALID_ARGUMENT, None
        except Transient as fault:
            log.warning("commitment_report_not_kept", calling_aet=who.aet or who.destination, reason=str(fault))
            return PROCESSING_FAILURE, None

    return evt.EVT_N_EVENT_REPORT, answer


def parse_report(information: Dataset) -> Report:
    """Read the event information (PS3.4 table J.3.3-1). Raises Rejected where it is none.

    An object that is listed on both sides counts as not committed to.
    """
    try:
        transaction_uid = str(information.TransactionUID)
        failed = {
            str(item.ReferencedSOPInstanceUID): int(item.get("FailureReason", PROCESSING_FAILURE))
            for item in information.get("FailedSOPSequence") or ()
        }
        committed = {str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence") or ()}
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise Rejected(f"the report on storage commitment is malformed ({type(error).__name__})") from None
    return Report(transaction_uid=transaction_uid, committed=frozenset(committed - failed.keys()), failed=failed)


#: Seconds between an answer and the next request, in which a peer that reports at once can do so: many take a request
#: that comes in between for the answer to their report.
_REPORTS_WITHIN = 0.05


class Asking(Exchange):
    """One established association on which commitment is asked for."""

    _answered_at = float("-inf")

    def ask(self, transaction_uid: str, references: Iterable[tuple[str, str]]) -> None:
        """Ask for commitment to the objects, each (SOP class UID, SOP Instance UID).

        Raises CommitmentRefused, or AssociationFault if the association breaks.
        """
        context = self.context_for(PUSH_MODEL)
        if context is None:
            raise AssociationFault(FaultKind.NO_CONTEXT, Stage.NEGOTIATE, self.destination, "storage commitment")
        syntax = context.transfer_syntax[0]
        information = Dataset()
        information.TransactionUID = transaction_uid
        information.ReferencedSOPSequence = [_reference(*one) for one in references]
        request = N_ACTION()
        request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = PUSH_MODEL, _INSTANCE
        request.ActionTypeID = _REQUEST
        encoded = encode(information, syntax.is_implicit_VR, syntax.is_little_endian)
        request.ActionInformation = io.BytesIO(encoded or b"")
        time.sleep(max(0.0, self._answered_at + _REPORTS_WITHIN - time.monotonic()))
        status = self.request(context, request, "N-ACTION")[0].Status or 0
        self._answered_at = time.monotonic()
        if status != SUCCESS:
            raise CommitmentRefused(self.destination, status)

    def linger(self, seconds: float, settled: Callable[[], bool]) -> None:
        """Stay for reports on this association, until all has `settled`, the peer goes, or the seconds are over."""
        until = time.monotonic() + seconds
        while self.wire.is_established and not settled() and time.monotonic() < until:
            time.sleep(0.1)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def open_commitment(destination: Destination, *, calling_aet: str, timeouts: Timeouts, hear: Hear) -> Asking:
    """Associate for storage commitment. Raises AssociationFault; of kind NO_CONTEXT where it does not offer that."""
    wire = associate(
        destination,
        calling_aet,
        [build_context(PUSH_MODEL, _SYNTAXES)],
        timeouts,
        handlers=[report_handler(hear, destination=destination.name)],
    )
    return Asking(wire, destination)
