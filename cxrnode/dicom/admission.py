"""Who is let in: each request for an association is granted or rejected, counted, and told of once it is over.

What a rejection says to the peer are result, source and reason (PS3.8 section 9.3.4); what it says to the
administrator is a line of the log with the configuration that would admit the peer, at most once a minute for the
same peer and reason. Nothing here looks at an object.
"""

from __future__ import annotations

import dataclasses
import errno
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum

import structlog
from pynetdicom.association import Association as Wire
from pynetdicom.events import Event

from cxrnode.core.associations import Cause
from cxrnode.dicom import hardening
from cxrnode.dicom.seats import Seats
from cxrnode.errors import Transient

log = structlog.get_logger(__name__)


#: Seconds that a seat is waited for whose association is over.
_LEAVES_WITHIN = 2.0


class Refusal(Enum):
    """A-ASSOCIATE-RJ: result, source and reason (PS3.8 section 9.3.4)."""

    CALLING_AET = (1, 1, 3)
    CALLED_AET = (1, 1, 7)
    CONGESTION = (2, 3, 1)
    LIMIT = (2, 3, 2)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An association that is over or was not granted: `refusal` says which, None where it was.

    `cause`: why it was refused, or why a connection did not get as far as to be granted or refused.

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Objection:
    """Why an AE may not associate, and the lines of configuration that would admit it; `cause` in a word."""

    reason: str
    remedy: str
    cause: Cause = Cause.UNKNOWN


#: (calling AE title, called AE title, address) -> why this peer may not associate, or None. Transient says: not now.
Admit = Callable[[str, str, str], Objection | None]
#: Told of each association once it is over, in its own thread; must return at once and raise nothing.
Observe = Callable[[Ended], None]


class Admission:
    """The associations that there are, up to a limit; safe to ask from many threads."""

    def __init__(
        self, *, titles: Sequence[str], admit: Admit, limit: int, seats: Seats | None, observe: Observe | None
    ) -> None:
        """Answer to the AE `titles`, the first of which is our own; `seats` are those of all processes on the port."""
        self._title = titles[0]
        self._titles = frozenset(one.strip() for one in titles)
        self._admit = admit
        self._limit = limit
        self._seats = seats
        self._observe = observe
        self._lock = threading.Lock()
        #: A seat became free.
        self._freed = threading.Condition(self._lock)
        self._admitted: dict[Wire, int] = {}
        self._connected: set[Wire] = set()
        self._refused: set[Wire] = set()
        #: Of each connection: when it spoke, its objects stored and not stored.
        self._counts: dict[Wire, list[float]] = {}
        self._said = hardening.Throttle()

    @property
    def active(self) -> int:
        """How many associations there are."""
        return len(self._admitted)

    @property
    def connected(self) -> tuple[Wire, ...]:
        """Every connection that has spoken and is not over."""
        with self._lock:
            return tuple(self._connected)

    def count(self, wire: Wire, *, stored: bool) -> None:
        """An object of this association was answered."""
        with self._lock:
            if (counts := self._counts.get(wire)) is not None:
                counts[1 if stored else 2] += 1

    def seated(self, wire: Wire) -> None:
        """A connection has spoken."""
        with self._lock:
            self._connected.add(wire)
            self._counts[wire] = [time.monotonic(), 0, 0]

    def left(self, wire: Wire) -> None:
        """A connection is over. It counts as connected until that is told: who drains waits for it."""
        try:
            self._left(wire)
        finally:
            with self._lock:
                self._connected.discard(wire)

    def _left(self, wire: Wire) -> None:
        with self._lock:
            seat = self._admitted.pop(wire, None)
            told = wire in self._refused
            self._refused.discard(wire)
            began, objects, faults = self._counts.pop(wire, (time.monotonic(), 0, 0))
            if seat is not None and self._seats is not None:
                self._seats.give(seat)
            self._freed.notify_all()
        cause, reason = _why_unread(wire)
        if seat is None and not told:
            *_, address = titles(wire)
            self.report_address("connection_failed", address, cause or Cause.BROKEN, reason=reason)
        if seat is not None and self._observe is not None:
            calling, called, address = titles(wire)
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

    def requested(self, event: Event) -> None:
        """Grant or reject what a peer requests."""
        wire = event.assoc
        refusal: Refusal | None = Refusal.CONGESTION  # what stands if deciding fails
        try:
            refusal = self._refusal(wire)
        finally:
            if refusal is not None:
                wire.acse.send_reject(*refusal.value)
                wire.kill()

    def _refusal(self, wire: Wire) -> Refusal | None:
        calling, called, address = titles(wire)
        if called not in self._titles:
            remedy = f'the sender must call "{self._title}", or set [node] ae_title = "{called}"'
            self.report("association_rejected", Refusal.CALLED_AET, wire, reason="called AE title", remedy=remedy)
            return Refusal.CALLED_AET
        try:
            objection = self._admit(calling, called, address)
        except Transient as error:
            self.report("association_rejected", Refusal.CONGESTION, wire, reason=str(error), remedy="it may come again")
            return Refusal.CONGESTION
        if objection is not None:
            said = {"reason": objection.reason, "remedy": objection.remedy, "cause": objection.cause}
            self.report("association_rejected", Refusal.CALLING_AET, wire, **said)
            return Refusal.CALLING_AET
        with self._freed:
            # Who was told that an association is released, or ended it, may come again before its seat is free.
            self._freed.wait_for(lambda: self._sits(wire) or not any(map(_leaves, self._admitted)), _LEAVES_WITHIN)
            if wire in self._admitted:
                return None
        remedy = f"[listen] max_associations = {self._limit} is reached"
        self.report("association_rejected", Refusal.LIMIT, wire, reason="too many associations", remedy=remedy)
        return Refusal.LIMIT

    def _sits(self, wire: Wire) -> bool:
        """Take a seat for it, where there is one; the lock is held."""
        if len(self._admitted) >= self._limit:
            return False
        seat = self._seats.take() if self._seats is not None else 0
        if seat is not None:
            self._admitted[wire] = seat
        return seat is not None

    def report(self, event: str, kind: object, wire: Wire, **fields: str) -> None:
        """Log a warning about a peer, at most once a minute for the same one and the same kind."""
        calling, called, address = titles(wire)
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
                    cause=Cause(fields["cause"]) if fields.get("cause") else None,
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


def _leaves(wire: Wire) -> bool:
    """Whether an association is over and only has to be put away."""
    return wire._sent_release or wire.is_aborted or wire.acse.is_aborted() or not wire.dul.is_alive()


def titles(wire: Wire) -> tuple[str, str, str]:
    """Calling and called AE title, and the address that the connection comes from."""
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
