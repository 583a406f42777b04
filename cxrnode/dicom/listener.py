"""The listener: a Storage and Verification SCP that streams each object to a file and asks what to answer.

It never decodes a data set, never names a file after anything a peer sent, and answers Success only where its
callback does. Broad `except` stands here once, in the C-STORE handler: whatever goes wrong, the sender gets a
status and keeps its film.
"""

from __future__ import annotations

import dataclasses
import re
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Sequence
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
from cxrnode.core.digests import Kind
from cxrnode.core.identity import IMPLEMENTATION_CLASS_UID
from cxrnode.core.routing import Association
from cxrnode.dicom import contexts, hardening, statuses
from cxrnode.dicom.admission import Admission, Admit, Observe, titles
from cxrnode.dicom.incoming import IMPLEMENTATION_VERSION_NAME, IncomingFile, IncomingMessages, sweep
from cxrnode.dicom.seats import Seats
from cxrnode.errors import Rejected, Transient

log = structlog.get_logger(__name__)

__all__ = ["Answer", "Listener", "Received", "Timeouts", "sweep"]

#: Connections beyond the associations allowed: those still being negotiated, refused, or only checking the port.
SPARE_SEATS = 64
#: An object larger than this is refused with 0xC000 and not kept.
MAX_OBJECT = 2 << 30


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An object as it arrived: a whole Part 10 file at `path`, not yet fsynced.

    The callback owns the file if it moves it away; what still lies at `path` afterwards is removed. The UIDs are
    those of the C-STORE request, unchecked. `digest` is of the data set alone, which begins at `dataset_offset`.
    """

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    association: Association
    size: int
    dataset_offset: int
    digest: str


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


Receive = Callable[[Received], Answer]
Shortage = Callable[[], str]


class Listener:
    """Accepts associations on an adopted, listening socket or on host and port. Use as a context manager.

    `folder` must lie on the spool's file system. `admit` is asked once an association, `receive` once an object, and
    `shortage` before its bytes are kept (why there is no room for it, or ""): all from many threads at once.
    `digests` is the kind that data sets get; `aliases` are further AE titles that peers may call; `extra_contexts` and
    `extra_handlers` add services to the port; `seats` are those of all processes on the socket. Raises OSError if the
    port cannot be bound.
    """

    def __init__(
        self,
        *,
        ae_title: str,
        folder: Path,
        admit: Admit,
        receive: Receive,
        shortage: Shortage = lambda: "",
        digests: Kind = Kind.BLAKE3,
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
        self.folder = folder
        self.max_object = max_object
        self.digests = digests
        self._receive = receive
        self.shortage = shortage
        self.admission = Admission(
            titles=(ae_title, *sorted(aliases)), admit=admit, limit=max_associations, seats=seats, observe=observe
        )

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
                (evt.EVT_REQUESTED, self.admission.requested),
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
        return self.admission.active

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
        # Who has spoken and is not let in yet is waited for, too.
        while self.admission.connected and time.monotonic() < until:
            time.sleep(0.02)
        aborted = self.active
        self._end(_abort, 0.5)
        self._end(_hang_up, 2.0)
        return aborted

    def _end(self, how: Callable[[Wire], None], patience: float) -> None:
        for wire in self.admission.connected:
            how(wire)
        until = time.monotonic() + patience
        while self.admission.connected and time.monotonic() < until:
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
        self.admission.count(event.assoc, stored=answer.status == statuses.SUCCESS)
        status = Dataset()
        status.Status = answer.status
        if answer.status != statuses.SUCCESS and answer.comment:
            status.ErrorComment = _comment(answer.comment)
        return status

    def _answer(self, event: Event, file: IncomingFile) -> Answer:
        request = event.request
        if file.fault:
            self.admission.report("object_not_kept", file.fault, event.assoc, fault=file.fault)
            code = statuses.CANNOT_UNDERSTAND if file.too_large else statuses.OUT_OF_RESOURCES
            return Answer(status=code, comment=file.fault)
        if not isinstance(request, C_STORE) or request.AffectedSOPClassUID != event.context.abstract_syntax:
            return Answer(status=statuses.MISMATCH, comment="SOP class is not that of the presentation context")
        calling, called, address = titles(event.assoc)
        received = Received(
            path=file.path,
            sop_class_uid=str(request.AffectedSOPClassUID),
            sop_instance_uid=str(request.AffectedSOPInstanceUID),
            transfer_syntax_uid=str(event.context.transfer_syntax),
            association=Association(calling_aet=calling, called_aet=called, host=address),
            size=file.size,
            dataset_offset=file.dataset_offset,
            digest=file.digest,
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
        messages = IncomingMessages(wire, listener.folder, listener.max_object, listener.shortage, listener.digests)
        wire.dimse = messages
        wire.dul.daemon = True
        listener.admission.seated(wire)
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
            listener.admission.left(wire)


class _Server(hardening.BoundedServer):
    listener: Listener

    def overcrowded(self, client_address: Any) -> None:
        address, said = client_address[0], "too many connections"
        self.listener.admission.report_address("connection_closed", address, Cause.CONNECTIONS, reason=said)

    def handshake_failed(self, client_address: Any, error: OSError) -> None:
        self.listener.admission.report_address(
            *("tls_handshake_failed", client_address[0], Cause.TLS),
            reason=hardening.tls_reason(error),
            remedy="[listen.tls] ca",
        )

    def speaks_tls(self, client_address: Any) -> None:
        self.listener.admission.report_address(
            *("tls_handshake_failed", client_address[0], Cause.SPEAKS_TLS),
            reason="the peer speaks TLS, this port does not",
            remedy="[listen.tls]",
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.listener.admission.report_address(
            "connection_failed", client_address[0], Cause.BROKEN, reason="it was given up"
        )


def _abort(wire: Wire) -> None:
    if wire.is_established:
        wire.abort(block=False)


def _hang_up(wire: Wire) -> None:
    if isinstance(wire.dul.socket, hardening.BoundedSocket):
        wire.dul.socket.hang_up()


def _comment(text: str) -> str:
    """Error Comment (0000,0902) is LO: 64 characters of the default repertoire, no backslash, no control characters.

    A peer need not know where things lie on this machine: paths are left out. The log has them.
    """
    told = re.sub(r"(?<!\S)/\S+", "...", text)
    return "".join(c if " " <= c <= "~" and c != "\\" else "?" for c in told)[:64].strip()
