"""What pynetdicom 3.0.4 leaves open towards slow, broken and hostile peers, closed. It speaks no DIMSE.

Each point was seen to fail without it (tests/integration/test_listener.py and test_sender.py):

- a PDU's length is believed up to 4 GiB and buffered: capped here, in both directions;
- a peer that stops in the middle of a PDU, or stops reading, blocks its thread for ever: every read and write of a
  socket has a deadline here;
- the reason why a connection failed is logged and forgotten: kept here as `fault`;
- the TLS handshake runs inside accept(), so one idle peer stops all others: it has a thread and 5 s here;
- a PDU out of turn ends the association, and our answer that was on its way then ends a thread with an exception: here
  what comes too late for the state is dropped;
- an idle association is polled by two threads a thousand times a second: here both wait (see `reactor`);
- a TCP health check costs an association with two threads for the ACSE time-out: here it costs one for an instant;
- the port is always bound anew: here a socket bound by the supervisor can be adopted, and is left listening.
"""

from __future__ import annotations

import errno
import logging
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Sequence
from typing import Any

import pynetdicom.ae
import pynetdicom.association
import pynetdicom.dul
import pynetdicom.transport
from pydicom.errors import BytesLengthException
from pynetdicom import _config, evt
from pynetdicom.fsm import TRANSITION_TABLE, StateMachine
from pynetdicom.transport import (
    T_CONNECT,
    AddressInformation,
    AssociationSocket,
    ThreadedAssociationServer,
)

from cxrnode.dicom.outgoing import Outgoing, Piece
from cxrnode.dicom.reactor import WholeMessages, WokenProvider

#: Bytes of the largest PDU read. We announce 256 KiB for P-DATA; an A-ASSOCIATE-RQ with 128 contexts needs about 200.
PDU_CAP = 1 << 20
#: The maximum length we announce (PS3.8 annex D.1).
MAX_PDU = 256 * 1024
#: Within a PDU a peer must move at least this many bytes a second, after the network time-out's grace.
SLOWEST = 1024
HANDSHAKE_S = 5.0
#: Pieces that one call hands to the kernel (IOV_MAX is 1024); over TLS, so many are copied together.
_GATHERED = 32
#: What a malformed PDU or message makes pydicom and pynetdicom raise; the association ends with it.
MALFORMED = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError, OSError),
    *(BytesLengthException, RecursionError, TypeError, ValueError, struct.error),
)
BACKLOG = 128


class BoundedSocket(AssociationSocket):
    """The socket of an association, with a cap on lengths and a deadline on every wait.

    `fault` is why connecting failed, `unread` why reading ended; `moved_at` and `heard_at` (monotonic seconds) are when
    bytes last left and came.
    """

    fault: OSError | None = None
    unread: OSError | None = None
    moved_at: float = 0.0
    heard_at: float = 0.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard_at = time.monotonic()
        self._pushed_back = bytearray()
        self._memory = bytearray()
        if self._is_connected:
            self._bound_waits()

    @property
    def idle(self) -> bool:
        """Whether nothing has passed for a second."""
        return time.monotonic() - max(self.heard_at, self.moved_at) > 1.0

    @property
    def ready(self) -> bool:
        """Whether bytes wait to be read. Asked in a loop, which waits here while there is nothing to do."""
        provider = self.assoc.dul
        if not isinstance(provider, WokenProvider) or self.socket is None or not self._is_connected:
            if isinstance(provider, WokenProvider):
                provider.unconnected()
            return super().ready
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True  # decrypted already: the descriptor does not tell
        try:
            return provider.readable(self.socket)
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
            return False

    @property
    def _patience(self) -> float:
        """Seconds without a byte. A sender sets no network time-out: pynetdicom's counts only what is received."""
        return self.assoc.network_timeout or self.assoc.dimse_timeout or 60.0

    def _bound_waits(self) -> None:
        if self.socket is None:
            return
        self.socket.settimeout(self._patience)
        # A C-STORE response is one small segment: without this it waits for the peer's delayed acknowledgement.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect(self, primitive: T_CONNECT) -> None:
        """Connect to the peer, TLS handshake included, within the connection time-out; keep the fault if it fails."""
        if self.socket is None:
            raise ValueError("this association has no socket to connect")
        try:
            self.socket.settimeout(self.assoc.connection_timeout)
            # A large buffer would swallow a whole object at once, and a slow peer could not be told from a dead one.
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_PDU)
            self.socket.connect(primitive.address_info.as_tuple)
            if self.tls_args:
                context, name = self.tls_args
                self.socket = context.wrap_socket(self.socket, server_hostname=name)
            self._bound_waits()
            self.assoc.requestor.address_info = AddressInformation.from_tuple(self.socket.getsockname())
        except OSError as error:
            self.fault = error
            self._shutdown_socket()
            self.socket = None
            primitive.result = "Evt17"
        else:
            self._is_connected = True
            primitive.result = "Evt2"
            evt.trigger(self.assoc, evt.EVT_CONN_OPEN, {"address": primitive.address_info.as_tuple})
        finally:
            self.provider_queue.put(primitive)
            self._ready.set()

    def recv(self, nr_bytes: int) -> bytearray:
        """Read `nr_bytes`, or fewer if the peer closes. Raises OSError past the cap, TimeoutError past the deadline."""
        self._require_room(nr_bytes)
        start, self._pushed_back = self._pushed_back[:nr_bytes], self._pushed_back[nr_bytes:]
        received = bytearray(nr_bytes)
        received[: len(start)] = start
        with memoryview(received) as view:
            filled = len(start) + self._fill(view[len(start) :])
        del received[filled:]
        return received

    def received(self, nr_bytes: int) -> memoryview:
        """As `recv`, into memory that the next call uses again."""
        self._require_room(nr_bytes)
        if len(self._memory) < nr_bytes:
            self._memory = bytearray(max(nr_bytes, min(2 * nr_bytes, PDU_CAP)))
        view = memoryview(self._memory)[:nr_bytes]
        return view[: self._fill(view)]

    def push_back(self, start: bytearray) -> None:
        """Let the next `recv` begin with these bytes."""
        self._pushed_back = start + self._pushed_back

    def more(self) -> bool:
        """Whether bytes wait to be read now."""
        if self.socket is None:
            return False
        if isinstance(self.socket, ssl.SSLSocket):
            return self.socket.pending() > 0
        poll = select.poll()
        try:
            poll.register(self.socket, select.POLLIN)
        except ValueError:  # closed by another thread
            return False
        return bool(poll.poll(0))

    def _fill(self, view: memoryview) -> int:
        """Read until it is full or the peer closes; how many bytes came. Keeps what it raises in `unread`."""
        try:
            return self._filled(view)
        except OSError as error:
            self.unread = error
            raise

    def _require_room(self, nr_bytes: int) -> None:
        if nr_bytes > PDU_CAP:
            self.unread = OSError(errno.EMSGSIZE, f"a PDU of {nr_bytes} bytes is over the cap of {PDU_CAP}")
            raise self.unread

    def _filled(self, view: memoryview) -> int:
        if self.socket is None:
            raise OSError(errno.ENOTCONN, "the connection is closed")
        deadline = time.monotonic() + self._patience + len(view) / SLOWEST
        self._acknowledge()
        filled = 0
        while filled < len(view):
            count = self.socket.recv_into(view[filled:])
            if not count:
                break
            filled += count
            self.heard_at = time.monotonic()
            if self.heard_at > deadline:
                raise TimeoutError("the peer sends a PDU too slowly")
        return filled

    def _acknowledge(self) -> None:
        """Acknowledge what comes at once, until the kernel thinks better of it (tcp(7)).

        A peer that writes a header and its body one after the other, as DCMTK does, waits 40 ms for the first
        acknowledgement otherwise, with each response.
        """
        if self.socket is not None and self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def send(self, bytestream: bytes) -> None:
        """Send all bytes; a peer that takes none for the network time-out counts as gone (Evt17)."""
        try:
            if self.socket is None:
                raise OSError(errno.ENOTCONN, "the connection is closed")
            rest = memoryview(bytestream)
            while rest:
                rest = rest[self.socket.send(rest) :]
                self.moved_at = time.monotonic()
        except (OSError, ValueError):
            self.event_queue.put("Evt17")
        else:
            evt.trigger(self.assoc, evt.EVT_DATA_SENT, {"data": bytestream})

    def send_pieces(self, pieces: Sequence[Piece]) -> None:
        """Send pieces one after the other, gathered by the kernel; else as `send`."""
        try:
            for start in range(0, len(pieces), _GATHERED):
                self._gather(pieces[start : start + _GATHERED])
            self._acknowledge()  # the answer
        except (OSError, ValueError):
            self.event_queue.put("Evt17")

    def _gather(self, pieces: Sequence[Piece]) -> None:
        if self.socket is None:
            raise OSError(errno.ENOTCONN, "the connection is closed")
        if isinstance(self.socket, ssl.SSLSocket):  # it cannot gather; a record for each header would be a waste
            pieces = [b"".join(pieces)]
        rest = [memoryview(piece) for piece in pieces]
        while rest:
            sent = self.socket.send(rest[0]) if len(rest) == 1 else self.socket.sendmsg(rest)
            self.moved_at = time.monotonic()
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][sent:]

    def _shutdown_socket(self) -> None:
        """Close, also where there is no connection to shut down, as after a failed one."""
        self.hang_up()
        if self.socket is not None:
            self.socket.close()

    def hang_up(self) -> None:
        """Wake whatever waits on this socket: it reads the end of the stream."""
        try:
            if self.socket is not None:
                self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already, which is what was wanted


class TolerantMachine(StateMachine):
    """The state machine of PS3.8 table 9-10, where an event that the table does not have for a state changes nothing.

    They are our own primitives, sent while the peer was ending the association: everything that a peer can do is in
    the table.
    """

    def do_action(self, event: str) -> None:
        """Do what the table says, if it says anything.

        A peer that was told A-ABORT and sends on what is no PDU is hung up on, as if the timer had run out: the table
        would answer each six bytes of it with another A-ABORT.
        """
        if self.current_state == "Sta13" and event == "Evt19":
            event = "Evt18"
        if event == "Evt9" and self.current_state == "Sta6" and self._send_whole():
            return
        if (event, self.current_state) not in TRANSITION_TABLE:
            if event == "Evt9":  # it stays at the head of the queue, and nothing else would ever be looked at again
                self.dul.to_provider_queue.get(False)
            return
        try:
            super().do_action(event)
        except MALFORMED:
            # An A-ABORT for a reason that there is not, say: as if the peer had hung up.
            if isinstance(self.dul.socket, BoundedSocket):
                self.dul.socket.hang_up()
            self.dul.event_queue.put("Evt17")

    def _send_whole(self) -> bool:
        """Action DT-1 for an object that goes as it lies in memory; False where it is another request's turn."""
        request = self.dul.to_provider_queue.queue[0]
        if not isinstance(request, Outgoing) or not isinstance(self.dul.socket, BoundedSocket):
            return False
        self.dul.to_provider_queue.get(False)
        self.dul.socket.send_pieces(request.pieces)
        return True


class BoundedServer(ThreadedAssociationServer):
    """Accepts connections on an adopted or its own socket, at most `seats` at a time, each in its own thread.

    The thread does the TLS handshake, waits for the first byte and then stays with the association to its end, so
    that nothing of it can be left behind.
    """

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(self, *args: Any, adopted: socket.socket | None = None, seats: int = 100, **kwargs: Any) -> None:
        self._adopted = adopted
        self._seats = threading.BoundedSemaphore(seats)
        super().__init__(*args, **kwargs)

    def server_bind(self) -> None:
        """Bind, or take over the socket that the supervisor bound."""
        if self._adopted is None:
            super().server_bind()
        else:
            if self.socket is not None:
                self.socket.close()
            self.socket = self._adopted
            self.server_address = self._adopted.getsockname()
        if self.socket is not None:
            # Several processes may wait on one socket; the one that comes second must not block in accept().
            self.socket.setblocking(False)

    def server_activate(self) -> None:
        """Listen, unless the supervisor does."""
        if self._adopted is None:
            super().server_activate()

    def server_close(self) -> None:
        """Close this process's hold of the socket; shutdown() would end listening for those that share it."""
        if self._adopted is None:
            super().server_close()
        else:
            self._adopted.close()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """Accept; nothing else happens here, since all peers wait for it."""
        if self.socket is None:
            raise OSError(errno.ENOTCONN, "this server listens no more")
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(0.1)  # the connection stays in the backlog: do not spin on it
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or close it at once when there are too many."""
        if not self._seats.acquire(blocking=False):
            self.shutdown_request(request)
            self.overcrowded(client_address)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            self._seats.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._seats.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands, wait for the first byte, then run the association."""
        try:
            if self.ssl_context is not None:
                request.settimeout(HANDSHAKE_S)
                request = self.ssl_context.wrap_socket(request, server_side=True)
            elif not self._speaks(request):
                return
            elif self._shakes_hands(request):
                self.speaks_tls(client_address)
                return
        except OSError as error:
            self.handshake_failed(client_address, error)
            return
        else:
            self.RequestHandlerClass(request, client_address, self)  # type: ignore[arg-type]
        finally:
            self.shutdown_request(request)

    def _speaks(self, request: socket.socket) -> bool:
        request.settimeout(self.ae.acse_timeout)
        try:
            return bool(request.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _shakes_hands(self, request: socket.socket) -> bool:
        """Whether the first byte is that of a TLS handshake (RFC 8446 section 5.1); no PDU begins with it."""
        try:
            return request.recv(1, socket.MSG_PEEK) == b"\x16"
        except OSError:
            return False

    def overcrowded(self, client_address: Any) -> None:
        """Say that a connection was closed because there are too many; overridden by the listener."""

    def speaks_tls(self, client_address: Any) -> None:
        """Say that a peer began a TLS handshake on a port without TLS; overridden by the listener."""

    def handshake_failed(self, client_address: Any, error: OSError) -> None:
        """Say that a TLS handshake failed; overridden by the listener."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing on standard error; overridden by the listener."""


def tls_reason(error: OSError) -> str:
    """Why a TLS handshake failed, in a few words without file names."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "TLS error").replace("_", " ").lower()
    return "no TLS handshake in time" if isinstance(error, TimeoutError) else "connection closed in the handshake"


class _NoIdentifiers(logging.Filter):
    """Takes values and tracebacks out of pynetdicom's records: they may quote the objects that pass through.

    One line of a kind a second is enough of what a broken peer can cause a thousand times.
    """

    _QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
    _NUMBERS = re.compile(r"\d+")

    def __init__(self) -> None:
        super().__init__()
        self._said = Throttle(period=1.0)

    def filter(self, record: logging.LogRecord) -> bool:
        self._clean(record)
        return self._said.admits((record.name, self._NUMBERS.sub("", str(record.msg)))) is not None

    def _clean(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, BaseException):
            record.msg = type(record.msg).__name__
            record.args = ()
        else:
            record.msg, record.args = self._QUOTED.sub("...", record.getMessage()), ()
        if record.exc_info:
            kind = record.exc_info[0]
            record.msg = f"{record.msg} ({kind.__name__ if kind else 'exception'})"
            record.exc_info = record.exc_text = None


def install() -> None:
    """Put all this in force for the process. Calling it again changes nothing."""
    for module in (pynetdicom.ae, pynetdicom.transport):
        setattr(module, "AssociationSocket", BoundedSocket)  # noqa: B010 - neither module exports the name
    setattr(pynetdicom.dul, "StateMachine", TolerantMachine)  # noqa: B010 - likewise
    setattr(pynetdicom.association, "DULServiceProvider", WokenProvider)  # noqa: B010 - likewise
    setattr(pynetdicom.association, "DIMSEServiceProvider", WholeMessages)  # noqa: B010 - likewise
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    for name in [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "pynetdicom"]:
        logger = logging.getLogger(name)
        if not any(isinstance(f, _NoIdentifiers) for f in logger.filters):
            logger.addFilter(_NoIdentifiers())


class Throttle:
    """Lets one line a key through in each period and counts the rest; remembers at most `keys` keys."""

    def __init__(self, *, period: float = 60.0, keys: int = 256) -> None:
        self._period = period
        self._keys = keys
        self._lock = threading.Lock()
        self._seen: dict[object, tuple[float, int]] = {}

    def admits(self, key: object) -> int | None:
        """Return how many lines of this key were held back since the last one, or None to hold this one back too."""
        now = time.monotonic()
        with self._lock:
            since, held = self._seen.get(key, (float("-inf"), 0))
            if now - since < self._period:
                self._seen[key] = (since, held + 1)
                return None
            if key not in self._seen and len(self._seen) >= self._keys:
                self._seen = {k: v for k, v in self._seen.items() if now - v[0] < self._period}
                if len(self._seen) >= self._keys:
                    return None  # someone makes up keys; the log must not be theirs to fill
            self._seen[key] = (now, 0)
            return held
