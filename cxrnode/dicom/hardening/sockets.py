"""The socket of an association: a cap on every length, a deadline on every wait, and why it ended."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import struct
import time
from collections.abc import Sequence
from typing import Any

from pynetdicom import evt
from pynetdicom.transport import T_CONNECT, AddressInformation, AssociationSocket

from cxrnode.dicom.outgoing import Piece
from cxrnode.dicom.reactor import WokenProvider

#: Bytes of the largest PDU read. We announce 256 KiB for P-DATA; an A-ASSOCIATE-RQ with 128 contexts needs about 200.
PDU_CAP = 1 << 20
#: The maximum length we announce (PS3.8 annex D.1).
MAX_PDU = 256 * 1024
#: Within a PDU a peer must move at least this many bytes a second, after the network time-out's grace.
SLOWEST = 1024
#: Bytes that one read takes at most where fragments come, many PDUs of most peers: each read lets go of the
#: interpreter's lock, and other associations' threads want it. Where no more comes than fits, less is held.
_READ_AHEAD, _READ_LITTLE = 512 * 1024, 16 * 1024
#: Type, a reserved byte, and the length of what follows (PS3.8 section 9.3).
_PDU_HEADER = struct.Struct(">xxI")
#: Pieces that one call hands to the kernel (IOV_MAX is 1024); over TLS, so many are copied together.
_GATHERED = 32


class BoundedSocket(AssociationSocket):
    """The socket of an association, with a cap on lengths and a deadline on every wait.

    `fault` is why connecting failed, `unread` why reading ended; `moved_at` and `heard_at` (monotonic seconds) are when
    bytes last left and came.
    """

    fault: OSError | None = None
    unread: OSError | None = None
    moved_at: float = 0.0
    heard_at: float = 0.0
    #: Whether what comes next is acknowledged at once.
    _quick: bool = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heard_at = time.monotonic()
        #: What was read; from `_start` to `_end` nobody has taken it yet.
        self._memory = bytearray()
        self._start = self._end = 0
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
        if self._start < self._end or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
            return True  # read, or decrypted, already: the descriptor does not tell
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
        return bytearray(self.received(nr_bytes))

    def received(self, nr_bytes: int) -> memoryview:
        """As `recv`, into memory that the next call uses again."""
        count = min(nr_bytes, self._have(nr_bytes))
        begun, self._start = self._start, self._start + count
        return memoryview(self._memory)[begun : self._start]

    def put_back(self, count: int) -> None:
        """Let the next call begin with the last `count` bytes of the one before it."""
        self._start -= count

    def held(self, kind: int, most: int) -> memoryview:
        """The next PDUs as far as they are of this kind and were read already, whole; in that memory, too."""
        memory, begun, at = self._memory, self._start, self._start
        while most and self._end - at >= _PDU_HEADER.size and memory[at] == kind:
            behind = at + _PDU_HEADER.size + int(_PDU_HEADER.unpack_from(memory, at)[0])
            if behind > self._end:
                break
            at, most = behind, most - 1
        self._start = at
        return memoryview(memory)[begun:at]

    def more(self) -> bool:
        """Whether bytes wait to be read now."""
        if self._start < self._end:
            return True
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

    def _have(self, wanted: int) -> int:
        """Read on until so many bytes are there or the peer closes; how many are. Keeps what it raises in `unread`."""
        try:
            if wanted > PDU_CAP:
                raise OSError(errno.EMSGSIZE, f"a PDU of {wanted} bytes is over the cap of {PDU_CAP}")
            if self._end - self._start < wanted:
                self._read_on(wanted)
        except OSError as error:
            self.unread = error
            raise
        return self._end - self._start

    def _read_on(self, wanted: int) -> None:
        if self.socket is None:
            raise OSError(errno.ENOTCONN, "the connection is closed")
        self._make_room(wanted)
        deadline = time.monotonic() + self._patience + wanted / SLOWEST
        self._acknowledge()
        view = memoryview(self._memory)
        while self._end < wanted:
            count = self.socket.recv_into(view[self._end :])
            if not count:
                return
            self._end += count
            self._quick = self._quick and count > _READ_LITTLE
            self.heard_at = time.monotonic()
            if self.heard_at > deadline:
                raise TimeoutError("the peer sends a PDU too slowly")

    def _make_room(self, wanted: int) -> None:
        """Let what nobody has taken yet begin the memory, which holds `wanted` bytes and those that may come along."""
        left, size = self._memory[self._start : self._end], len(self._memory)
        if size == 0:
            self._memory = bytearray(max(wanted, _READ_LITTLE))
        elif size < wanted or (self._end == size < _READ_AHEAD):  # the last read filled it: more was there
            self._memory = bytearray(max(wanted, _READ_AHEAD))
        self._memory[: len(left)] = left
        self._start, self._end = 0, len(left)

    def _acknowledge(self) -> None:
        """Acknowledge what comes at once, until the kernel thinks better of it: when we answer (tcp(7)).

        A peer that writes a header and its body one after the other, as DCMTK does, waits 40 ms for the first
        acknowledgement otherwise, with each response.
        """
        if not self._quick and self.socket is not None and self.socket.family in (socket.AF_INET, socket.AF_INET6):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            self._quick = True

    def send(self, bytestream: bytes) -> None:
        """Send all bytes; a peer that takes none for the network time-out counts as gone (Evt17)."""
        try:
            if self.socket is None:
                raise OSError(errno.ENOTCONN, "the connection is closed")
            rest = memoryview(bytestream)
            self._quick = False
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
        self._quick = False
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
        line = self.socket  # looked at once: its own thread may close it meanwhile
        try:
            if line is not None:
                line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already, which is what was wanted
