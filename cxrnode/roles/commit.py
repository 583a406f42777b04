"""Storage commitment at work: asking a destination to commit to what it was sent, and what becomes of its reports.

A report may come to this process, on the association of the request, or to the listener's: both end in `hear`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from cxrnode.dicom import commitment
from cxrnode.dicom.commitment import Asking, CommitmentRefused, Remedy, Report, Reporter, open_commitment
from cxrnode.dicom.destination import AssociationFault, Destination, FaultKind, Timeouts
from cxrnode.roles.context import Context, rouse, work_until_stopped
from cxrnode.roles.destinations import open_circuit
from cxrnode.store import circuits, commitments
from cxrnode.store.audit import note
from cxrnode.store.commitments import Heard, Request, Told
from cxrnode.wakeup import Waiter

log = structlog.get_logger()

POLL_SECONDS = 1.0
#: Requests on one association.
_BATCH = 32
#: How long the association stays open for reports, in seconds. Most destinations report on one of their own.
_LINGER = 5.0


class Committer:
    """Asks one destination to commit to what it was sent."""

    def __init__(self, context: Context, destination: Destination) -> None:
        """Ask as this node's AE title."""
        self._context = context
        self._destination = destination
        send = context.config.send
        self._timeouts = Timeouts(connect=send.connect_timeout, acse=send.acse_timeout, dimse=send.dimse_timeout)
        #: Until when it is left alone, on the monotonic clock, because it does not want to commit.
        self._quiet_until = 0.0

    def run(self) -> None:
        """Ask until the role stops."""
        with Waiter(self._context.config.node.data_dir, "commit") as waiter:
            work_until_stopped(self._context, waiter, self._turn, poll=POLL_SECONDS)

    def _turn(self) -> bool:
        database, name, send = self._context.database, self._destination.name, self._context.config.send
        if time.monotonic() < self._quiet_until or not commitments.due(database, name):
            return False
        if not circuits.take_probe(database, name, lease=send.lease):
            return False
        try:
            with open_commitment(
                self._destination,
                calling_aet=self._context.config.node.ae_title,
                timeouts=self._timeouts,
                hear=lambda report, who: hear(self._context, report, who),
            ) as asking:
                circuits.close_circuit(database, name)
                self._ask(asking)
        except AssociationFault as fault:
            if fault.kind is not FaultKind.NO_CONTEXT:
                open_circuit(self._context, name, fault)
                return False
            # It takes objects all the same: only commitment waits.
            circuits.close_circuit(database, name)
            self._refused(f"{name}: it does not offer storage commitment. Set [nodes.{name}] commitment = false")
        except CommitmentRefused as fault:
            self._refused(str(fault))
        return True

    def _ask(self, asking: Asking) -> None:
        """Make the requests that are due, and stay for their reports a while. Raises Transient as `Asking.ask` does."""
        context, send = self._context, self._context.config.send
        requests, given_up = commitments.prepare(
            context.database, self._destination.name, hold=send.lease, max_age=send.max_age, limit=_BATCH
        )
        if given_up:
            log.error(
                "delivery_parked",
                destination=self._destination.name,
                deliveries=given_up,
                reason="the destination took the objects and did not commit to them in time",
            )
        late = sum(one.again for one in requests)
        if late:
            log.warning(
                "commitment_late",
                destination=self._destination.name,
                requests=late,
                remedy=_unheard(context, self._destination.name),
            )
        left = list(requests)
        try:
            while left and not context.stopping.is_set():
                context.beat()
                commitments.keep(context.database, left, hold=send.lease)  # an archive may take long over each
                asking.ask(left[0].transaction_uid, left[0].references)
                commitments.await_report(context.database, left.pop(0), wait=send.commitment_wait)
        finally:
            for request in left:
                commitments.ask_later(context.database, request, pause=min(send.probe_every, send.backoff_cap))
        asking.linger(_LINGER, lambda: self._settled(requests))

    def _settled(self, requests: Sequence[Request]) -> bool:
        self._context.beat()
        return self._context.stopping.is_set() or not commitments.unanswered(self._context.database, requests)

    def _refused(self, reason: str) -> None:
        """The destination is well and does not want to commit: say so, and leave it alone for a while."""
        every = self._context.config.send.probe_every
        self._quiet_until = time.monotonic() + every
        log.error("commitment_refused", destination=self._destination.name, reason=reason, again_in_s=round(every, 1))
        with self._context.database.write() as transaction:
            note(transaction, "commitment_refused", destination=self._destination.name, reason=reason)


def hear(context: Context, report: Report, who: Reporter) -> int:
    """Record a report durably and return the status for who brought it. Raises Transient where the store is away."""
    told = Told(
        transaction_uid=report.transaction_uid,
        committed=report.committed,
        failed=report.failed,
        again=frozenset(uid for uid, why in report.failed.items() if commitment.failure(why)[0] is Remedy.ASK_AGAIN),
        lasting=frozenset(uid for uid, why in report.failed.items() if commitment.failure(why)[0] is Remedy.PERSON),
    )
    send = context.config.send
    heard, destination = commitments.hear(
        context.database,
        told,
        of=_may_report(context, who),
        max_attempts=send.max_attempts,
        pause=send.backoff_base,
    )
    from_whom = who.destination or who.aet
    if heard in (Heard.UNKNOWN, Heard.STRANGER):
        remedy = (
            "a request that this node did not make, or does not remember"
            if heard is Heard.UNKNOWN
            else f"only [nodes.{destination}] reports on what it was asked, under its AE title or from its host"
        )
        log.warning("commitment_report_refused", calling_aet=from_whom, address=who.address, reason=remedy)
        return commitment.INVALID_ARGUMENT if heard is Heard.UNKNOWN else commitment.NOT_AUTHORISED
    if heard is Heard.PARKED:
        log.error(
            "delivery_parked",
            destination=destination,
            reason="; ".join(sorted({commitment.failure(why)[1] for why in report.failed.values()})),
        )
    log.info("commitment_heard", destination=destination, outcome=heard.value, failed=len(report.failed))
    if heard is Heard.PARTLY:
        rouse(context, "send")
    return commitment.SUCCESS


def _may_report(context: Context, who: Reporter) -> set[str]:
    """The nodes whose report this may be: an archive may call from another of its AE titles, on the same host."""
    if who.destination:
        return {who.destination}
    return {
        name
        for name, node in context.config.peers.items()
        if node.commitment and (node.aet == who.aet or node.host == who.address)
    }


def _unheard(context: Context, name: str) -> str:
    """What to look at where no report comes."""
    node, listen = context.config.node, context.config.listen
    return (
        f"tell [nodes.{name}] where to report: AE title {node.ae_title}, this machine, port {listen.port}; "
        "its log says whether it tried"
    )
