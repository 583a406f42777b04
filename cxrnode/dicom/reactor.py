"""The upper layer's thread of an association, woken by what there is to do. It decides nothing about a PDU.

pynetdicom's asks a thousand times a second whether there is anything: that cost a core for fifty idle associations, and
up to a millisecond for each message. Here it waits for the socket and for a bell that every request rings.
"""

from __future__ import annotations

import os
import queue
import select
import threading
from typing import TYPE_CHECKING, Any

from pynetdicom.dul import DULServiceProvider

if TYPE_CHECKING:
    import socket

    from pynetdicom.association import Association

#: Seconds between looks at timers and at what rings no bell.
_LOOK_SECONDS = 0.05
#: pynetdicom's own pause, while there is no connection to wait for.
_POLL_SECONDS = 0.001


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


class WokenProvider(DULServiceProvider):
    """The upper layer service provider of one association (PS3.8 section 9.2), waiting rather than polling."""

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._bell = Bell()
        self.to_provider_queue = _Rung(self._bell)

    def readable(self, waited_for: socket.socket) -> bool:
        """Whether bytes wait on the connected socket: waits for them while there is nothing else to do.

        Raises OSError, ValueError.
        """
        self._run_loop_delay = 0.0
        # In Sta13 the connection is closed as soon as nothing more comes (PS3.8 table 9-10).
        busy = self.event_queue.qsize() or self.to_provider_queue.qsize() or self.state_machine.current_state == "Sta13"
        return self._bell.wait(waited_for, 0.0 if busy or self._kill_thread else _LOOK_SECONDS)

    def unconnected(self) -> None:
        """There is no socket to wait on: poll."""
        self._run_loop_delay = _POLL_SECONDS

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
