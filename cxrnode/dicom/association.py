"""An association that this node asks for: made, used for one request at a time, and ended; or why it could not be.

It knows no service: storing, asking for commitment and querying are its neighbours'. Every wait is bounded by a
time-out, and by the deadline if one is given.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association as Wire
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT
from pynetdicom.presentation import PresentationContext

from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.dicom import hardening
from cxrnode.dicom.destination import (
    AssociationFault,
    DeadlineReached,
    Destination,
    FaultKind,
    Stage,
    Timeouts,
)
from cxrnode.dicom.messages import Messages
from cxrnode.dicom.outgoing import Outgoing, StoreRequest
from cxrnode.errors import Transient

IMPLEMENTATION_VERSION_NAME = "CXRNODE"
#: Bytes a peer must be able to take in one P-DATA value for us to send to it at all.
_LEAST_PDU = 128
#: Seconds within which the association's own thread is paused, or stands still and does not say so.
_PAUSES_WITHIN = 1.0


class Exchange:
    """One established association. Leaving the `with` block releases it, or aborts it after an error."""

    #: Who accepts an association is there and knows us.
    welcomed = True

    def __init__(self, wire: Wire, destination: Destination, deadline: float | None = None) -> None:
        self.wire = wire
        self.destination = destination
        self._deadline = deadline
        self._messages: Messages = wire.dimse  # type: ignore[assignment]  # `associate` has seen to it
        self._messages.deadline = deadline
        self._message_id = 0
        #: The peer ended it; `wire` may learn of that only later.
        self._ended = False
        #: By (abstract syntax, transfer syntax).
        self.accepted: Mapping[tuple[str, str], PresentationContext] = {
            (str(c.abstract_syntax), str(c.transfer_syntax[0])): c for c in wire.accepted_contexts
        }

    def require_time(self) -> None:
        """Raise DeadlineReached where the deadline is over."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineReached()

    def context_for(self, abstract_syntax: str) -> PresentationContext | None:
        """The context that was accepted for an abstract syntax, in whichever transfer syntax."""
        return next((c for (abstract, _), c in self.accepted.items() if abstract == abstract_syntax), None)

    def request(self, context: PresentationContext, request: Any, what: str, *, many: bool = False) -> list[Any]:
        """Make one request and return its response; with `many` the pending ones, if it has such, and then the last.

        `what` names the service for people. Raises AssociationFault if the association breaks, DeadlineReached at the
        deadline.
        """

        def post(message_id: int) -> None:
            request.MessageID = message_id
            self._messages.send_msg(request, context.context_id or 0)

        return self._asked(post, type(request), what, many=many)

    def put(self, context: PresentationContext, sop_class: str, sop_instance: str, dataset: memoryview) -> C_STORE:
        """Store one object, whose data set goes as it lies in memory, and return the response. Raises as `request`."""

        def post(message_id: int) -> None:
            request = StoreRequest(
                context_id=context.context_id or 0,
                message_id=message_id,
                sop_class_uid=sop_class,
                sop_instance_uid=sop_instance,
                dataset=dataset,
            )
            self.wire.dul.send_pdu(Outgoing(request, self._messages.maximum_pdu_size))

        answer: C_STORE = self._asked(post, C_STORE, "C-STORE")[0]
        return answer

    def _asked(self, post: Callable[[int], None], kind: type, what: str, *, many: bool = False) -> list[Any]:
        """Post a request under a message ID and wait for what answers it."""
        wire = self.wire
        if self._ended or not wire.is_established:
            raise self._broken(what)
        self._message_id = self._message_id % 0xFFFF + 1
        self._messages.begin()
        try:
            post(self._message_id)
            responses = [self._response(kind, what)]
            while many and responses[-1].Status in (0xFF00, 0xFF01):
                responses.append(self._response(kind, what))
            return responses
        finally:
            self._messages.end()

    def _response(self, kind: type, what: str) -> Any:
        wire = self.wire
        _, response = self._messages.get_msg(block=True)
        if response is None:
            raise self._broken(what)
        if not (isinstance(response, kind) and response.is_valid_response):
            cut(wire)
            raise self._fault(FaultKind.ABORTED, f"the answer was not to {what}")
        if response.MessageIDBeingRespondedTo != self._message_id:
            cut(wire)
            raise self._fault(FaultKind.ABORTED, "the answer was to another message")
        return response

    def _broken(self, what: str) -> Transient:
        """Why there was no answer. The association ends with it."""
        wire = self.wire
        self._ended = self._ended or self._messages.ended or wire.acse.is_aborted() or not wire.is_established
        if self._ended:
            return self._fault(FaultKind.ABORTED, "the association ended before the answer")
        cut(wire)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return DeadlineReached()
        return self._fault(FaultKind.TIMEOUT, f"no answer to {what}")

    def _fault(self, kind: FaultKind, detail: str) -> AssociationFault:
        return AssociationFault(kind, Stage.TRANSFER, self.destination, detail)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.wire.is_established and not self._ended:
            self._messages.answer_first()
            _release(self.wire)
        elif self.wire.is_established:
            cut(self.wire)


def associate(
    destination: Destination,
    calling_aet: str,
    proposed: list[PresentationContext],
    timeouts: Timeouts,
    *,
    handlers: Sequence[EventHandlerType] = (),
) -> Wire:
    """Associate, with `handlers` for what the peer asks of us on it. Raises AssociationFault."""
    hardening.install()
    entity = ApplicationEntity(calling_aet)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = timeouts.connect
    entity.acse_timeout = timeouts.acse
    entity.dimse_timeout = timeouts.dimse
    entity.network_timeout = None  # Messages and BoundedSocket watch over silence, in both directions
    aborts: list[A_ABORT] = []

    def take_messages(event: Event) -> None:
        event.assoc.dimse = Messages(event.assoc)  # before the peer can say anything

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
            evt_handlers=[(evt.EVT_CONN_OPEN, take_messages), (evt.EVT_ACSE_RECV, note_abort), *handlers],
        )
    except OSError as error:  # the host name has no address
        detail = error.strerror or type(error).__name__
        raise AssociationFault(FaultKind.UNREACHABLE, Stage.CONNECT, destination, detail) from None
    if wire.is_established:
        least = wire.acceptor.maximum_length
        if least and least < _LEAST_PDU:
            cut(wire)
            raise AssociationFault(FaultKind.REFUSED, Stage.NEGOTIATE, destination, f"it takes PDUs of {least} bytes")
        return wire
    _hang_up(wire)
    # pynetdicom asks whether there still is a connection before it waits for the answer: who refused at once, or hung
    # up, has closed it by then, and the answer lies there unheard.
    unheard = list(iter(wire.dul.receive_pdu, None))
    raise _negotiation_fault(wire, destination, unheard, bool(aborts))


def _negotiation_fault(
    wire: Wire, destination: Destination, unheard: Sequence[object], peer_aborted: bool
) -> AssociationFault:
    fault = getattr(wire.dul.socket, "fault", None)
    if isinstance(fault, ssl.SSLError):
        return AssociationFault(FaultKind.TLS, Stage.CONNECT, destination, hardening.tls_reason(fault))
    if fault is not None:
        detail = "no answer" if isinstance(fault, TimeoutError) else (fault.strerror or type(fault).__name__)
        return AssociationFault(FaultKind.UNREACHABLE, Stage.CONNECT, destination, detail.lower())
    heard = wire.acceptor.primitive
    answer = next((one for one in (heard, *unheard) if isinstance(one, A_ASSOCIATE)), None)
    if answer is not None and answer.result:
        key = (answer.result, answer.result_source, answer.diagnostic)
        return AssociationFault(
            _REJECTIONS.get(key, FaultKind.REFUSED), Stage.NEGOTIATE, destination, answer.reason_str.lower()
        )
    if isinstance(heard, A_ASSOCIATE) and heard.result == 0:
        return AssociationFault(FaultKind.NO_CONTEXT, Stage.NEGOTIATE, destination)
    if wire._sent_abort and not any(isinstance(one, A_ABORT | A_P_ABORT) for one in unheard):
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


def _release(wire: Wire) -> None:
    """As `wire.release` does, but for how long it waits until the association's own thread says that it is paused.

    That thread stands still from its next turn on; a report that is served to its end just then takes the word back,
    and pynetdicom would wait for ever.
    """
    wire._reactor_checkpoint.clear()
    until = time.monotonic() + _PAUSES_WITHIN
    while not wire._is_paused and time.monotonic() < until:
        time.sleep(0.0001)
    wire.acse.negotiate_release()
    wire._reactor_checkpoint.set()


def cut(wire: Wire) -> None:
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
