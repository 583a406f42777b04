"""The listener: a Storage and Verification SCP that streams each object to a file and asks what to answer.

It never decodes a data set, never names a file after anything a peer sent, and answers Success only where its
callback does. Broad `except` stands here once, in the C-STORE handler: whatever goes wrong, the sender gets a
status and keeps its film.
"""

from __future__ import annotations

import dataclasses
import errno
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import structlog
from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association as Wire
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext
from pynetdicom.transport import RequestHandler

from cxrnode.core.associations import Cause
from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.core.routing import Association
from cxrnode.dicom import contexts, hardening, statuses
from cxrnode.dicom.incoming import IMPLEMENTATION_VERSION_NAME, IncomingFile, IncomingMessages, sweep
from cxrnode.dicom.seats import Seats
from cxrnode.errors import Rejected, Transient

log = structlog.get_logger(__name__)

__all__ = ["Answer", "Ended", "Listener", "Received", "Refusal", "Timeouts", "sweep"]

#: Connections beyond the associations allowed: those still being negotiated, refused, or only checking the port.
SPARE_SEATS = 64
#: An object larger than this is refused with 0xC000 and not kept.
MAX_OBJECT = 2 << 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An object as it arrived: a whole Part 10 file at `path`, not yet fsynced.

    The callback owns the file if it moves it away; what still lies at `path` afterwards is removed. The UIDs are
    those of the C-STORE request, unchecked. `sha256` is of the data set alone, which begins at `dataset_offset`.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    association: Association
    size: int
    dataset_offset: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The C-STORE response: a status, and for anything but success a comment of at most 64 characters."""

    status: int
    comment: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: for negotiation, for silence within or between messages, for a response."""

    acse: float = 10.0
    network: float = 60.0
    dimse: float = 60.0


class Refusal(Enum):
    """A-ASSOCIATE-RJ: result, source and reason (PS3.8 section 9.3.4)."""

    CALLING_AET = (1, 1, 3)
    CALLED_AET = (1, 1, 7)
    CONGESTION = (2, 3, 1)
    LIMIT = (2, 3, 2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An association that is over or was not granted: `refusal` says which, None where it was.

    `cause`: why a connection did not get as far as to be granted or refused.

    `accepted`: (SOP class, transfer syntax) of the presentation contexts; `refused`: (SOP class, proposed transfer
    syntaxes, why). Of a refused association `refused` holds all that was proposed, without a why. `objects` were
    answered with Success, `faults` with anything else.
    """

    calling_aet: str
    called_aet: str
    address: str
    refusal: Refusal | None
    cause: Cause | None = None
    reason: str = ""
    accepted: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, tuple[str, ...], str], ...] = ()
    objects: int = 0
    faults: int = 0
    seconds: float = 0.0


#: Why an AE may not associate, or None. Transient says: not now.
Admit = Callable[[str, str, str], str | None]
Receive = Callable[[Received], Answer]
Shortage = Callable[[], str]
#: Told of each association once it is over, in its own thread; must return at once and raise nothing.
Observe = Callable[[Ended], None]


class Listener:
    """Accepts associations on an adopted, listening socket or on host and port. Use as a context manager.

    `folder` must lie on the spool's file system. `admit` is asked once an association, `receive` once an object, and
    `shortage` before its bytes are kept (why there is no room for it, or ""): all from many threads at once.
    `aliases` are further AE titles that peers may call. `extra_contexts` and `extra_handlers` add services to the
    port; `seats` are those of all processes on the socket. Raises OSError if the port cannot be bound.
    """

    def __init__(
        self,
        *,
        ae_title: str,
        folder: Path,
        admit: Admit,
        receive: Receive,
        shortage: Shortage = lambda: "",
        adopted: socket.socket | None = None,
        host: str = "0.0.0.0",
        port: int = 0,
        max_associations: int = 50,
        aliases: frozenset[str] = frozenset(),
        timeouts: Timeouts | None = None,
        tls: ssl.SSLContext | None = None,
        max_object: int = MAX_OBJECT,
        seats: Seats | None = None,
        extra_contexts: Sequence[PresentationContext] = (),
        extra_handlers: Sequence[EventHandlerType] = (),
        observe: Observe | None = None,
    ) -> None:
        hardening.install()
        timeouts = timeouts or Timeouts()
        self.ae_title = ae_title
        self._titles = frozenset(t.strip() for t in (ae_title, *aliases))
        self.folder = folder
        self.max_object = max_object
        self._admit = admit
        self._receive = receive
        self.shortage = shortage
        self._observe = observe
        #: Of each connection: when it spoke, its objects stored and not stored.
        self._counts: dict[Wire, list[float]] = {}
        self._limit = max_associations
        self._lock = threading.Lock()
        self._seats = seats
        self._admitted: dict[Wire, int] = {}
        self._connected: set[Wire] = set()
        self._refused: set[Wire] = set()
        self._said = hardening.Throttle()

        entity = ApplicationEntity(ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.maximum_pdu_size = hardening.MAX_PDU
        entity.maximum_associations = max_associations + SPARE_SEATS  # ours counts associations, theirs connections
        entity.acse_timeout = timeouts.acse
        entity.network_timeout = timeouts.network
        entity.dimse_timeout = timeouts.dimse
        self._server = _Server(
            entity,
            adopted.getsockname()[:2] if adopted is not None else (host, port),
            ae_title,
            contexts.accepted(extra_contexts),
            ssl_context=tls,
            evt_handlers=[
                (evt.EVT_REQUESTED, self._requested),
                (evt.EVT_C_STORE, self._store),
                *extra_handlers,
            ],
            request_handler=_Seat,
            adopted=adopted,
            seats=max_associations + SPARE_SEATS,
        )
        self._server.listener = self
        entity._servers.append(self._server)
        self._accepting: threading.Thread | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that the socket is bound to."""
        host, port = self._server.server_address[:2]
        return str(host), port

    @property
    def active(self) -> int:
        """How many associations there are."""
        return len(self._admitted)

    def start(self) -> None:
        """Accept from now on, in threads; returns at once."""
        if self._accepting is None:
            self._accepting = threading.Thread(
                target=self._server.serve_forever, args=(0.1,), name="listener", daemon=True
            )
            self._accepting.start()

    def drain(self, deadline: float) -> int:
        """Accept no more, let associations finish for `deadline` seconds, abort the rest; return how many those were.

        An adopted socket goes on listening wherever else it is open.
        """
        if self._accepting is not None:
            self._server.shutdown()
            self._accepting.join()
            self._accepting = None
        else:
            self._server.server_close()
        until = time.monotonic() + deadline
        while self._admitted and time.monotonic() < until:
            time.sleep(0.02)
        aborted = len(self._admitted)
        self._end(_abort, 0.5)
        self._end(_hang_up, 2.0)
        return aborted

    def _end(self, how: Callable[[Wire], None], patience: float) -> None:
        with self._lock:
            left = tuple(self._connected)
        for wire in left:
            how(wire)
        until = time.monotonic() + patience
        while self._connected and time.monotonic() < until:
            time.sleep(0.02)

    def close(self) -> None:
        """Stop at once."""
        self.drain(0.0)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def seated(self, wire: Wire) -> None:
        """A connection has spoken."""
        with self._lock:
            self._connected.add(wire)
            self._counts[wire] = [time.monotonic(), 0, 0]

    def left(self, wire: Wire) -> None:
        """A connection is over."""
        with self._lock:
            self._connected.discard(wire)
            seat = self._admitted.pop(wire, None)
            told = wire in self._refused
            self._refused.discard(wire)
            began, objects, faults = self._counts.pop(wire, (time.monotonic(), 0, 0))
        if seat is not None and self._seats is not None:
            self._seats.give(seat)
        cause, reason = _why_unread(wire)
        if seat is None and not told:
            *_, address = _titles(wire)
            self.report_address("connection_failed", address, cause or Cause.BROKEN, reason=reason)
        if seat is not None and self._observe is not None:
            calling, called, address = _titles(wire)
            self._observe(
                Ended(
                    calling_aet=calling,
                    called_aet=called,
                    address=address,
                    refusal=None,
                    reason=reason if cause is not None else "",
                    accepted=_accepted(wire),
                    refused=_not_accepted(wire),
                    objects=int(objects),
                    faults=int(faults),
                    seconds=time.monotonic() - began,
                )
            )

    def _requested(self, event: Event) -> None:
        wire = event.assoc
        refusal: Refusal | None = Refusal.CONGESTION  # what stands if deciding fails
        try:
            refusal = self._refusal(wire)
        finally:
            if refusal is not None:
                wire.acse.send_reject(*refusal.value)
                wire.kill()

    def _refusal(self, wire: Wire) -> Refusal | None:
        calling, called, address = _titles(wire)
        if called not in self._titles:
            remedy = f'the sender must call "{self.ae_title}", or set [node] ae_title = "{called}"'
            self.report("association_rejected", Refusal.CALLED_AET, wire, reason="called AE title", remedy=remedy)
            return Refusal.CALLED_AET
        try:
            objection = self._admit(calling, called, address)
        except Transient as error:
            self.report("association_rejected", Refusal.CONGESTION, wire, reason=str(error), remedy="it may come again")
            return Refusal.CONGESTION
        if objection is not None:
            remedy = f'[nodes.{_key(calling)}] aet = "{calling}", host = "{address}", can_send = true'
            self.report("association_rejected", Refusal.CALLING_AET, wire, reason=objection, remedy=remedy)
            return Refusal.CALLING_AET
        with self._lock:
            seat = self._seats.take() if self._seats is not None else 0
            if seat is not None and len(self._admitted) < self._limit:
                self._admitted[wire] = seat
                return None
        remedy = f"[listen] max_associations = {self._limit} is reached"
        self.report("association_rejected", Refusal.LIMIT, wire, reason="too many associations", remedy=remedy)
        return Refusal.LIMIT

    def report(self, event: str, kind: object, wire: Wire, **fields: str) -> None:
        """Log a warning about a peer, at most once a minute for the same one and the same kind."""
        calling, called, address = _titles(wire)
        if isinstance(kind, Refusal):
            with self._lock:
                self._refused.add(wire)
        if isinstance(kind, Refusal) and self._observe is not None:
            self._observe(
                Ended(
                    calling_aet=calling,
                    called_aet=called,
                    address=address,
                    refusal=kind,
                    reason=fields.get("reason", ""),
                    refused=_proposed(wire),
                )
            )
        held = self._said.admits((event, kind, calling, called, address))
        if held is not None:
            log.warning(event, calling_aet=calling, called_aet=called, address=address, held_back=held, **fields)

    def report_address(self, event: str, address: str, cause: Cause, **fields: str) -> None:
        """Log a warning about an address that has not said who it is, at most once a minute."""
        if self._observe is not None:
            reason = fields.get("reason", "")
            self._observe(
                Ended(calling_aet="", called_aet="", address=address, refusal=None, cause=cause, reason=reason)
            )
        held = self._said.admits((event, address))
        if held is not None:
            log.warning(event, address=address, held_back=held, **fields)

    def _store(self, event: Event) -> Dataset:
        messages: IncomingMessages = event.assoc.dimse  # type: ignore[assignment]
        # A request that says that no data set follows, or that came in pieces out of turn, has no file.
        file = messages.files.get(event.dataset_path)
        if file is None:
            answer = Answer(status=statuses.CANNOT_UNDERSTAND, comment="no data set came with the request")
        else:
            file.close()
            try:
                answer = self._answer(event, file)
            finally:
                messages.forget(file.path)
        with self._lock:
            if (counts := self._counts.get(event.assoc)) is not None:
                counts[1 if answer.status == statuses.SUCCESS else 2] += 1
        status = Dataset()
        status.Status = answer.status
        if answer.status != statuses.SUCCESS and answer.comment:
            status.ErrorComment = _comment(answer.comment)
        return status

    def _answer(self, event: Event, file: IncomingFile) -> Answer:
        request = event.request
        if file.fault:
            self.report("object_not_kept", file.fault, event.assoc, fault=file.fault)
            code = statuses.CANNOT_UNDERSTAND if file.too_large else statuses.OUT_OF_RESOURCES
            return Answer(status=code, comment=file.fault)
        if not isinstance(request, C_STORE) or request.AffectedSOPClassUID != event.context.abstract_syntax:
            return Answer(status=statuses.MISMATCH, comment="SOP class is not that of the presentation context")
        calling, called, address = _titles(event.assoc)
        received = Received(
            path=file.path,
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            association=Association(calling_aet=calling, called_aet=called, host=address),
            size=file.size,
            dataset_offset=file.dataset_offset,
            sha256=file.sha256,
        )
        try:
            return self._receive(received)
        except Transient as fault:
            return Answer(status=statuses.OUT_OF_RESOURCES, comment=str(fault))
        except Rejected as fault:
            return Answer(status=statuses.CANNOT_UNDERSTAND, comment=str(fault))
        except Exception as bug:  # noqa: BLE001 - a bug of ours must not cost the sender its film
            frames = traceback.extract_tb(bug.__traceback__)
            where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
            log.error("receive_failed", error=type(bug).__name__, where=where)
            return Answer(status=statuses.OUT_OF_RESOURCES, comment=f"internal fault ({type(bug).__name__})")


class _Seat(RequestHandler):
    """One connection from its first byte to its last, in the thread that the server gave it."""

    def handle(self) -> None:
        listener = self.server.listener  # type: ignore[attr-defined]
        wire = self._create_association()
        messages = IncomingMessages(wire, listener.folder, listener.max_object, listener.shortage)
        wire.dimse = messages
        wire.dul.daemon = True
        listener.seated(wire)
        try:
            evt.trigger(wire, evt.EVT_CONN_OPEN, {"address": self.client_address})
            wire.start()
            wire.join()
        finally:
            _hang_up(wire)
            if wire.dul.is_alive():
                wire.dul.kill_dul()
                wire.dul.join(timeout=5.0)
            messages.discard()
            listener.left(wire)


class _Server(hardening.BoundedServer):
    listener: Listener

    def overcrowded(self, client_address: Any) -> None:
        address, said = client_address[0], "too many connections"
        self.listener.report_address("connection_closed", address, Cause.CONNECTIONS, reason=said)

    def handshake_failed(self, client_address: Any, error: OSError) -> None:
        self.listener.report_address(
            *("tls_handshake_failed", client_address[0], Cause.TLS),
            reason=hardening.tls_reason(error),
            remedy="[listen.tls] ca",
        )

    def speaks_tls(self, client_address: Any) -> None:
        self.listener.report_address(
            *("tls_handshake_failed", client_address[0], Cause.SPEAKS_TLS),
            reason="the peer speaks TLS, this port does not",
            remedy="[listen.tls]",
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.listener.report_address("connection_failed", client_address[0], Cause.BROKEN, reason="it was given up")


def _abort(wire: Wire) -> None:
    if wire.is_established:
        wire.abort(block=False)


def _hang_up(wire: Wire) -> None:
    if isinstance(wire.dul.socket, hardening.BoundedSocket):
        wire.dul.socket.hang_up()


def _titles(wire: Wire) -> tuple[str, str, str]:
    primitive = wire.requestor.primitive
    if primitive is None:
        return "", "", wire.requestor.address
    calling, called = primitive.calling_ae_title, primitive.called_ae_title
    return (calling or "").strip(), (called or "").strip(), wire.requestor.address


def _why_unread(wire: Wire) -> tuple[Cause | None, str]:
    """Why nothing more was read of a peer: in one word, None where it closed by itself, and in words."""
    unread = wire.dul.socket.unread if isinstance(wire.dul.socket, hardening.BoundedSocket) else None
    if isinstance(unread, TimeoutError):
        return Cause.SILENT, "it fell silent in the middle of a PDU"
    if unread is not None and unread.errno == errno.EMSGSIZE:
        return Cause.PDU, str(unread.strerror)
    return None, "what came was no association request"


#: Presentation contexts that are told of one association, at most: PS3.8 allows 128.
_TOLD = 40
#: PS3.8 section 9.3.3.2.
_RESULTS = {
    1: "user rejection",
    2: "no reason given",
    3: "SOP class not supported",
    4: "transfer syntaxes not supported",
}


def _proposed(wire: Wire) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    contexts = wire.requestor.primitive.presentation_context_definition_list if wire.requestor.primitive else []
    return tuple((str(c.abstract_syntax), tuple(map(str, c.transfer_syntax)), "") for c in contexts[:_TOLD])


def _accepted(wire: Wire) -> tuple[tuple[str, str], ...]:
    return tuple(
        (str(c.abstract_syntax), str(c.transfer_syntax[0]) if c.transfer_syntax else "")
        for c in wire.accepted_contexts[:_TOLD]
    )


def _not_accepted(wire: Wire) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    primitive = wire.requestor.primitive
    proposed = {c.context_id: c for c in primitive.presentation_context_definition_list} if primitive else {}
    found = []
    for context in wire.rejected_contexts[:_TOLD]:
        asked = proposed.get(context.context_id, context)
        why = _RESULTS.get(context.result or 0, "refused")
        found.append((str(asked.abstract_syntax), tuple(map(str, asked.transfer_syntax)), why))
    return tuple(found)


def _key(title: str) -> str:
    """An AE title as a bare TOML key."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in title) or "NAME"


def _comment(text: str) -> str:
    """Error Comment (0000,0902) is LO: 64 characters of the default repertoire, no backslash, no control characters."""
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in text)[:64].strip()
