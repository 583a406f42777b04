"""Sending what is due to one destination: outputs go as they are, and each delivery is settled by what was answered.

Faults of an association open the destination's circuit and cost a delivery nothing; faults of an object belong to its
delivery (design, rule 6). Never torch.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from cxrnode.config import RemoteNode, StowNode
from cxrnode.dicom.destination import AnyDestination, AssociationFault, FaultKind, Place, Sent, Stage, Timeouts, Way
from cxrnode.dicom.statuses import StatusClass, classify
from cxrnode.dicom.ways import open_way
from cxrnode.errors import LeaseLost, Rejected, Transient
from cxrnode.quantities import duration_text
from cxrnode.roles.context import Context, places, roused, work_until_stopped
from cxrnode.roles.destinations import open_circuit
from cxrnode.roles.leases import LeaseKeeper
from cxrnode.store import changes, circuits, deliveries, originals, settlements
from cxrnode.store.deliveries import DeliveryClaim, Parcel
from cxrnode.store.settlements import Answer

log = structlog.get_logger()

POLL_SECONDS = 1.0


class Sender:
    """Sends what is due to one destination."""

    def __init__(self, context: Context, destination: AnyDestination) -> None:
        """Send for `destination` as this node's AE title."""
        self._context = context
        self._destination = destination
        node = context.config.nodes[destination.name]
        self._to_commit = isinstance(node, RemoteNode) and node.commitment
        self._to_ask = isinstance(node, RemoteNode | StowNode) and node.require_source
        self._settings = context.config.send
        self._timeouts = Timeouts(
            connect=self._settings.connect_timeout, acse=self._settings.acse_timeout, dimse=self._settings.dimse_timeout
        )
        self._jitter = random.Random()
        self._well = False
        #: Reads an object, and checks its digest, while the destination takes the one before.
        self._reading = ThreadPoolExecutor(1, f"read for {destination.name}")

    def run(self) -> None:
        """Send until the role stops."""
        lease = self._settings.lease
        with (
            self._reading,
            roused(self._context, "send") as waiter,
            LeaseKeeper[DeliveryClaim](
                lambda held: deliveries.renew(self._context.database, held, lease=lease), lease=lease
            ) as keeper,
        ):
            work_until_stopped(self._context, waiter, lambda: self._turn(keeper), poll=POLL_SECONDS)

    def _turn(self, keeper: LeaseKeeper[DeliveryClaim]) -> bool:
        if self._paused():
            return False
        asked = time.monotonic()
        claims = deliveries.claim(
            self._context.database,
            destination=self._destination.name,
            owner=self._context.owner,
            limit=self._settings.batch,
            lease=self._settings.lease,
        )
        if not claims:
            return False
        keeper.hold(claims, asked=asked)
        try:
            self._send(claims, keeper)
        finally:
            for claim in claims:
                keeper.drop(claim)
        return True

    def _send(self, claims: Sequence[DeliveryClaim], keeper: LeaseKeeper[DeliveryClaim]) -> None:
        """One association for the batch, each delivery settled alone."""
        waiting = list(claims)
        pairs = sorted({(p.sop_class_uid, p.transfer_syntax_uid) for c in claims for p in c.parcels})
        try:
            with open_way(
                self._destination,
                calling_aet=self._context.config.node.ae_title,
                pairs=pairs,
                timeouts=self._timeouts,
                to_ask=self._to_ask,
            ) as way:
                self._well = False
                if way.welcomed:
                    self._close_circuit()
                while waiting and not self._context.stopping.is_set():
                    self._deliver(way, waiting.pop(0), keeper)
        except AssociationFault as fault:
            open_circuit(self._context, self._destination.name, fault)
        finally:
            for claim in waiting:
                self._give_back(claim)

    def _paused(self) -> bool:
        """Looked up each time, and by `deliveries.begin` again: who stopped the queue sees it stand at once."""
        return changes.in_force(self._context.database).paused(changes.SENDING)

    def _deliver(self, way: Way, claim: DeliveryClaim, keeper: LeaseKeeper[DeliveryClaim]) -> None:
        """Send one delivery's objects and settle it. Raises Transient after giving it back."""
        started = time.monotonic()
        if self._to_ask and self._paused():  # before a question goes out, too
            self._give_back(claim)
            keeper.drop(claim)
            return
        if self._to_ask and not self._has_film(way, claim):
            keeper.drop(claim)
            return
        try:
            if not deliveries.begin(self._context.database, claim):
                keeper.drop(claim)
                return
        except LeaseLost as lost:
            keeper.drop(claim)
            log.warning("lease_lost", delivery=claim.delivery_id, reason=str(lost))
            return
        answers: list[Answer] = []
        worst: tuple[StatusClass, str] | None = None
        for parcel, read in self._read_ahead(claim.parcels):
            self._context.beat()
            try:
                if not keeper.good:  # another sender may have this delivery by now
                    raise Transient("the lease ended before the last object")
                sent = way.store(read())
                self._close_circuit()
            except Transient as fault:
                self._break(claim, answers, parcel, fault)
                raise
            except Rejected as fault:
                worst = (StatusClass.PERMANENT, f"{parcel.kind}: {fault}")
                answers.append(Answer(output_id=parcel.output_id, status=None, done=False, comment="not in the spool"))
                continue
            except Exception as bug:  # noqa: BLE001 - as in `infer`: else one delivery ends the role again and again
                log.error("bug", job=claim.job_id, error=type(bug).__name__, where=places(bug))
                reason = f"an internal fault ({type(bug).__name__}); the log says where"
                self._conclude(claim, answers, (StatusClass.PERMANENT, reason), unsure=parcel.output_id)
                raise Transient(reason) from None  # nobody knows what state the association is in
            answers.append(
                Answer(output_id=parcel.output_id, status=sent.status, done=sent.kind.delivered, comment=sent.comment)
            )
            if not sent.kind.delivered and (worst is None or sent.kind is StatusClass.PERMANENT):
                worst = (sent.kind, _said(parcel, sent))
        self._conclude(claim, answers, worst)
        keeper.drop(claim)
        log.info(
            "delivery_tried",
            job=claim.job_id,
            destination=claim.destination,
            objects=len(answers),
            taken=sum(a.done for a in answers),
            ms=round(1000 * (time.monotonic() - started)),
        )

    def _has_film(self, way: Way, claim: DeliveryClaim) -> bool:
        """Whether the film itself is at the destination; else the delivery waits for it, or has waited long enough.

        Raises AssociationFault after giving it back.
        """
        database, wait = self._context.database, self._settings.source_wait
        original = originals.original_of(database, claim)
        try:
            if original is None or way.has(Place(**dataclasses.asdict(original))):
                return True
        except Transient as fault:
            why = str(fault)
            self._settle(claim, lambda: settlements.give_back(database, claim, (), why))
            raise
        self._close_circuit()
        if claim.age >= wait:
            reason = (
                f"the film itself is not in {claim.destination} after {duration_text(wait)}: send it there, then "
                f"`cxrnode jobs resend {claim.job_id}`; or set [nodes.{claim.destination}] require_source = false"
            )
            log.error("delivery_parked", job=claim.job_id, destination=claim.destination, reason=reason)
            self._settle(claim, lambda: settlements.settle_parked(database, claim, (), reason))
            return False
        # The longer it has not come, the less often it is asked for.
        pause = min(max(claim.age / 2, self._settings.backoff_base), self._settings.backoff_cap)
        reason = f"waits until the film itself is in {claim.destination}"

        def wait_for_it() -> None:
            if originals.await_original(database, claim, reason, pause=pause):
                log.info("original_awaited", job=claim.job_id, destination=claim.destination)

        self._settle(claim, wait_for_it)
        return False

    def _conclude(
        self,
        claim: DeliveryClaim,
        answers: Sequence[Answer],
        worst: tuple[StatusClass, str] | None,
        *,
        unsure: int | None = None,
    ) -> None:
        database = self._context.database
        if worst is None:
            self._settle(claim, lambda: settlements.settle_sent(database, claim, answers, to_commit=self._to_commit))
            return
        kind, reason = worst
        if kind is StatusClass.TRANSIENT and not self._too_often(claim):
            pause = self._pause(claim.attempts)
            self._settle(claim, lambda: settlements.settle_faulted(database, claim, answers, reason, pause=pause))
            return
        if kind is StatusClass.TRANSIENT:
            reason = f"{reason} (after {claim.attempts + 1} attempts)"
        log.error("delivery_parked", job=claim.job_id, destination=claim.destination, reason=reason)
        self._settle(claim, lambda: settlements.settle_parked(database, claim, answers, reason, unsure=unsure))

    def _too_often(self, claim: DeliveryClaim) -> bool:
        return claim.attempts + 1 >= self._settings.max_attempts or self._too_old(claim)

    def _too_old(self, claim: DeliveryClaim) -> bool:
        return claim.age >= self._settings.max_age

    def _pause(self, attempts: int) -> float:
        """Back-off with full jitter, so that a recovering PACS is not met by all at once."""
        cap = min(self._settings.backoff_cap, self._settings.backoff_base * 2.0 ** min(attempts, 30))
        return cap * (0.5 + self._jitter.random() / 2)

    def _break(self, claim: DeliveryClaim, answers: Sequence[Answer], parcel: Parcel, fault: Transient) -> None:
        """The delivery ends with this object under way: where that is the peer's doing, the object may be the cause.

        Its attempt is the delivery's then, so that others go first meanwhile; a peer that ends the association on it
        every time will not take it as it is, one that is silent on it every time until the delivery is too old.
        """
        database = self._context.database
        reason = f"{parcel.kind}: {fault}"
        if not (isinstance(fault, AssociationFault) and fault.stage is Stage.TRANSFER):
            self._settle(claim, lambda: settlements.give_back(database, claim, answers, reason))
            return
        unsure = parcel.output_id  # it may have arrived, and its answer not
        ended = self._too_often(claim) if fault.kind is FaultKind.ABORTED else self._too_old(claim)
        if ended:
            self._settle(claim, lambda: settlements.settle_parked(database, claim, answers, reason, unsure=unsure))
            return
        pause = self._pause(claim.attempts)
        self._settle(
            claim, lambda: settlements.settle_faulted(database, claim, answers, reason, pause=pause, unsure=unsure)
        )

    def _close_circuit(self) -> None:
        """The destination is well: said once for each association."""
        if not self._well:
            circuits.close_circuit(self._context.database, self._destination.name)
            self._well = True

    def _read(self, parcel: Parcel) -> bytes:
        return self._context.spool.read(parcel.spool_key, digest=parcel.digest)

    def _read_ahead(self, parcels: Sequence[Parcel]) -> Iterator[tuple[Parcel, Callable[[], bytes]]]:
        """Each object with what gives its bytes, or raises as `_read` does; one at most is read before its turn."""
        coming: deque[Callable[[], bytes]] = deque()
        for place, parcel in enumerate(parcels):
            for one in parcels[place + len(coming) : place + 2]:
                coming.append(self._reading.submit(self._read, one).result)
            yield parcel, coming.popleft()

    def _give_back(self, claim: DeliveryClaim) -> None:
        self._settle(claim, lambda: settlements.give_back(self._context.database, claim, (), "not sent"))

    def _settle(self, claim: DeliveryClaim, settle: Callable[[], None]) -> None:
        try:
            settle()
        except LeaseLost as lost:
            log.warning("lease_lost", delivery=claim.delivery_id, reason=str(lost))


def _said(parcel: Parcel, sent: Sent) -> str:
    """What an object met, for events and logs: never in the peer's words, which may name the patient."""
    if sent.said:
        return f"{parcel.kind}: {sent.said}"
    return f"{parcel.kind} answered 0x{sent.status:04X}, {classify(sent.status).gloss}"
