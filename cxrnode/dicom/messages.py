"""The messages of an association that this node asked for: who gets them, and how long one is waited for."""

from __future__ import annotations

import queue
import threading
import time

from pynetdicom import evt
from pynetdicom.association import Association as Wire
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ
from pynetdicom.dimse_primitives import N_EVENT_REPORT, DimseServiceType
from pynetdicom.events import Event

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

    A report (N-EVENT-REPORT) it serves in a thread of its own. Here it is known from its arrival on that an answer is
    owed; and one that comes as soon as the peer has accepted is served once we know what it accepted.
    """

    deadline: float | None = None

    def __init__(self, assoc: Wire) -> None:
        super().__init__(assoc)
        self._changed = threading.Condition()
        self._waited_for = False
        #: Reports that came and are not served to their end.
        self._owed = 0
        self._established = threading.Event()
        self._serve = assoc._serve_request
        setattr(assoc, "_serve_request", self._served)  # noqa: B010 - a method
        assoc.bind(evt.EVT_DIMSE_RECV, self._received)
        assoc.bind(evt.EVT_ESTABLISHED, lambda event: self._established.set())
        #: No message comes any more. Whoever takes the word of that from the queue leaves it here for the other thread,
        #: which may look before the association says so of itself.
        self.ended = False

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

    def get_msg(self, block: bool = False) -> Found:
        """Return the next message, or (None, None) when there is none in time.

        Without `block` it is the association's own thread that asks.
        """
        if block:
            return self._awaited()
        with self._changed:
            if self._waited_for and not self._changed.wait_for(lambda: not self._waited_for, _OWN_THREAD_WAITS):
                return None, None
            return self._next(0.0) or (None, None)

    def _awaited(self) -> Found:
        asked_at = time.monotonic()
        while True:
            until = max(asked_at, getattr(self.dul.socket, "moved_at", 0.0)) + (self.dimse_timeout or 60.0)
            if self.deadline is not None:
                until = min(until, self.deadline)
            left = until - time.monotonic()
            found = self._next(0.0 if self.ended else max(0.0, left))
            if found is not None:
                return found
            if self.ended or left <= 0:
                return None, None
            # bytes may have gone out meanwhile

    def _next(self, seconds: float) -> Found | None:
        """What is next, or comes within the seconds; one that lies there is had, however late it is asked for."""
        try:
            found: Found = self.msg_queue.get(timeout=seconds)
        except queue.Empty:
            return None
        self.ended = self.ended or found[1] is None
        return found

    def _received(self, event: Event) -> None:
        if isinstance(event.message, N_EVENT_REPORT_RQ):
            self._owe(1)

    def _served(self, message: DimseServiceType, context_id: int) -> None:
        try:
            self._established.wait(_ANSWERS_WITHIN)
            self._serve(message, context_id)
        finally:
            if isinstance(message, N_EVENT_REPORT):
                self._owe(-1)

    def _owe(self, more: int) -> None:
        with self._changed:
            self._owed += more
            self._changed.notify_all()
