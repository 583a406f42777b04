"""The messages of an association that this node asked for: who gets them, and how long one is waited for."""

from __future__ import annotations

import queue
import threading
import time

from pynetdicom.association import Association as Wire
from pynetdicom.dimse_primitives import N_EVENT_REPORT, DimsePrimitiveType, DimseServiceType

from cxrnode.dicom.reactor import WholeMessages

#: Seconds that the association's own thread waits while somebody else asks; then it looks whether there still is one.
_OWN_THREAD_WAITS = 0.05
#: Seconds that the answer to a report is waited for before another request, or the release.
_ANSWERS_WITHIN = 5.0

#: Presentation context and message, or neither.
Found = tuple[None, None] | tuple[int, DimseServiceType]


class Messages(WholeMessages):
    """Waits for a response as long as bytes go out, then for the DIMSE time-out, and never past the deadline.

    pynetdicom's own thread of the association reads messages too, and drops a response that it did not ask for. It
    pauses that thread around a request, but may take it for paused when it just goes on: then the answer was lost,
    and the object waited for the time-out. Here that thread gets nothing while somebody waits for a response.
    """

    deadline: float | None = None

    def __init__(self, assoc: Wire) -> None:
        super().__init__(assoc)
        self._changed = threading.Condition()
        self._waited_for = False
        #: Reports that were taken and are not answered.
        self._owed = 0

    def begin(self) -> None:
        """From now on messages are for who asks, once reports that were taken are answered."""
        with self._changed:
            self.answer_first()
            self._waited_for = True

    def end(self) -> None:
        """Who asked has the answer, or gave up."""
        with self._changed:
            self._waited_for = False
            self._changed.notify_all()

    def answer_first(self) -> None:
        """Wait until reports that were taken are answered: the association must not be released before that."""
        with self._changed:
            self._changed.wait_for(lambda: self._owed <= 0, _ANSWERS_WITHIN)

    def send_msg(self, primitive: DimsePrimitiveType, context_id: int) -> None:
        """Send a message; after the answer to a report, one less is owed."""
        super().send_msg(primitive, context_id)
        if isinstance(primitive, N_EVENT_REPORT) and primitive.is_valid_response:
            self._owe(-1)

    def get_msg(self, block: bool = False) -> Found:
        """Return the next message, or (None, None) when there is none in time.

        Without `block` it is the association's own thread that asks.
        """
        if block:
            return self._counted(self._awaited())
        with self._changed:
            if self._waited_for and not self._changed.wait_for(lambda: not self._waited_for, _OWN_THREAD_WAITS):
                return None, None
            return self._counted(super().get_msg(False))

    def _awaited(self) -> Found:
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

    def _counted(self, found: Found) -> Found:
        message = found[1]
        if isinstance(message, N_EVENT_REPORT) and message.is_valid_request:
            self._owe(1)
        return found

    def _owe(self, more: int) -> None:
        with self._changed:
            self._owed += more
            self._changed.notify_all()
