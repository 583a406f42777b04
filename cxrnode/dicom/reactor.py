"""The upper layer's thread of an association: woken by what there is to do, and quick with what is most, P-DATA.

pynetdicom's asks a thousand times a second whether there is anything: that cost a core for fifty idle associations, and
up to a millisecond for each message. Here it waits for the socket and for a bell that every request rings. And it
copies each fragment of an object four times; here whoever takes fragments gets them where they were received.
"""

from __future__ import annotations

import errno
import os
import queue
import select
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_primitives import DimsePrimitiveType
from pynetdicom.dul import DULServiceProvider
from pynetdicom.pdu_primitives import A_RELEASE

if TYPE_CHECKING:
    import socket

    from pynetdicom.association import Association

#: Seconds between looks at timers and at what rings no bell.
_LOOK_SECONDS = 0.05
#: pynetdicom's own pause, while there is no connection to wait for.
_POLL_SECONDS = 0.001
#: P-DATA-TF (PS3.8 9.3.5), its header, and that of each value in it: item length, context.
_P_DATA_TF = 0x04
_HEADER = 6
_ITEM = struct.Struct(">IB")
#: Reads in one turn, of many PDUs each: between turns timers and requests are looked at.
_IN_A_TURN = 16

#: PDUs that are taken along at most: a peer may send them by the byte.
_GATHERED = 256

#: Presentation context and fragment, which begins with the message control header (PS3.8 annex E.2).
Value = tuple[int, memoryview]


@runtime_checkable
class TakesValues(Protocol):
    """A DIMSE provider that takes fragments where they were received."""

    def take(self, values: list[Value]) -> None:
        """Take the values of some PDUs; what is kept of them is copied, since the memory is used again."""


@runtime_checkable
class Connection(Protocol):
    """What must be known of a socket to read PDUs from it fast."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Read so many bytes, or fewer at the end of the stream. Raises OSError."""

    def received(self, nr_bytes: int) -> memoryview:
        """As `recv`, into memory that is used again by the next call."""

    def put_back(self, count: int) -> None:
        """Let the next call begin with the last `count` bytes of the one before it."""

    def held(self, kind: int, most: int) -> memoryview:
        """The next PDUs as far as they are of this kind and were read already, whole; in that memory, too."""

    def more(self) -> bool:
        """Whether bytes wait to be read now."""


def values_of(body: memoryview) -> Iterator[Value]:
    """The values of a P-DATA-TF PDU, its header left out. Raises ValueError where lengths do not fit."""
    at, size = 0, len(body)
    while at < size:
        if size - at < _ITEM.size:
            raise ValueError("a value has no length")
        length, context_id = _ITEM.unpack_from(body, at)
        end = at + 4 + length
        if length < 2 or end > size:
            raise ValueError("a value has another length than it says")
        yield context_id, body[at + _ITEM.size : end]
        at = end


def add_values(pdus: memoryview, values: list[Value]) -> None:
    """Add the values of some whole P-DATA-TF PDUs. Raises as `values_of`, when those of the PDUs before were added."""
    at, size = 0, len(pdus)
    while at < size:
        begun = at + _HEADER
        at = begun + int.from_bytes(pdus[at + 2 : begun])
        values += list(values_of(pdus[begun:at]))


class Bell:
    """Wakes one waiting thread from others: eventfd(2). Ringing after the end does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def ring(self) -> None:
        """Wake who waits, or let the next wait end at once."""
        with self._lock:
            if self._descriptor >= 0:
                os.eventfd_write(self._descriptor, 1)

    def wait(self, waited_for: socket.socket, seconds: float) -> bool:
        """Wait until the socket can be read (True), or the bell rang or the time is over. Raises OSError, ValueError.

        Asked by the one thread that also ends the bell.
        """
        poll = select.poll()
        poll.register(waited_for, select.POLLIN)
        poll.register(self._descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(1000 * seconds)}
        if self._descriptor in ready:
            os.eventfd_read(self._descriptor)
        return bool(ready - {self._descriptor})

    def end(self) -> None:
        """Give the descriptor back."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        """A thread that never began ends no bell."""
        self.end()


class _Rung(queue.Queue[Any]):
    """A queue whose bell rings for what comes in."""

    def __init__(self, bell: Bell) -> None:
        super().__init__()
        self._bell = bell

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._bell.ring()


class WholeMessages(DIMSEServiceProvider):
    """Sends one message after the other, from whichever thread.

    A report on commitment is answered in a thread of its own (pynetdicom's), and may be while another request goes
    out: without this the fragments of one would stand between those of the other.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        #: Held by who sends, until all of a message is on its way.
        self.sending = threading.Lock()

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send all fragments of a message behind each other."""
        with self.sending:
            super().send_msg(primitive, context_id)


class WokenProvider(DULServiceProvider):
    """The upper layer service provider of one association (PS3.8 section 9.2), waiting rather than polling."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._bell = Bell()
        self.to_provider_queue = _Rung(self._bell)
        self._run_loop_delay = 0.0  # it begins because there is something to do

    def readable(self, waited_for: socket.socket) -> bool:
        """Whether bytes wait on the connected socket: waits for them while there is nothing else to do.

        Raises OSError, ValueError.
        """
        self._run_loop_delay = 0.0
        # In Sta13 the connection is closed as soon as nothing more comes (PS3.8 table 9-10).
        busy = self.event_queue.qsize() or self.to_provider_queue.qsize() or self.state_machine.current_state == "Sta13"
        return self._bell.wait(waited_for, 0.0 if busy or self._kill_thread else _LOOK_SECONDS)

    def peek_next_pdu(self) -> Any:
        """The next indication. A release is none while requests that came before it wait for their answers.

        pynetdicom looks for a message, and then for a release: one that came between the two would never be answered.
        """
        coming = super().peek_next_pdu()
        asked = isinstance(coming, A_RELEASE) and coming.result is None
        return None if asked and self.assoc.is_acceptor and self.assoc.dimse.msg_queue.qsize() else coming

    def unconnected(self) -> None:
        """There is no socket to wait on: poll."""
        self._run_loop_delay = _POLL_SECONDS

    def _read_pdu_data(self) -> None:
        """Read one PDU, and those that wait behind it where they are fragments that somebody takes."""
        taker: object = self.assoc.dimse
        connection: object = self.socket
        if not isinstance(taker, TakesValues) or not isinstance(connection, Connection):
            super()._read_pdu_data()
            return
        for _ in range(_IN_A_TURN):
            values = self._fragments(connection)
            if values is None:
                return
            # Those that came in one read are taken in one: for each by itself the reading costs more than the bytes.
            try:
                add_values(connection.held(_P_DATA_TF, _GATHERED), values)
            except ValueError:
                self.event_queue.put("Evt19")
            taker.take(values)
            if not self.event_queue.empty() or not connection.more():
                return

    def _fragments(self, connection: Connection) -> list[Value] | None:
        """Read a PDU and return its fragments; None where it was none of them, in a state that takes them (Sta6)."""
        try:
            header = connection.recv(_HEADER)
        except OSError:
            self.event_queue.put("Evt17")
            return None
        if len(header) < _HEADER or header[0] != _P_DATA_TF or self.state_machine.current_state != "Sta6":
            connection.put_back(len(header))
            super()._read_pdu_data()
            return None
        length = int.from_bytes(header[2:])
        try:
            body = connection.received(length)
        except OSError as error:
            # One that is longer than is taken is an invalid PDU, and the peer is told so (PS3.8 table 9-10, AA-8).
            self.event_queue.put("Evt19" if error.errno == errno.EMSGSIZE else "Evt17")
            return None
        if len(body) < length:
            self.event_queue.put("Evt17")
            return None
        try:
            return list(values_of(body))
        except ValueError:
            self.event_queue.put("Evt19")
            return None

    def run_reactor(self) -> None:
        """Run until the association is over."""
        try:
            super().run_reactor()
        finally:
            self._bell.end()

    def kill_dul(self) -> None:
        """End the thread, which may be waiting."""
        super().kill_dul()
        self._bell.ring()

    def stop_dul(self) -> bool:
        """End the thread where the state machine is idle, and wait for it; False where it is not."""
        if self.state_machine.current_state != "Sta1":
            return False
        self.kill_dul()
        if self.is_alive() and self is not threading.current_thread():
            self.join()
        return True
