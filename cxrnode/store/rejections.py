"""The withdrawals that are to be made: of which objects, from which destination, why; and their record.

What is sent for one is built by the role `tend`, durable in the spool before it is recorded here, and then delivered
like a report: the same bytes until the destination has them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Reader, Report
from cxrnode.core.lifecycle import DeliveryEvent, DeliveryState, JobState
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import RETRACTION, lock_job, move, takes_back
from cxrnode.store.reports import SentOutput, StoredOutput, insert_output, sent_outputs
from cxrnode.store.schema import delivery, delivery_output, identity, instance, job, notice, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One withdrawal from one destination. `objects` are all that it has or may have: none where nothing reached it.

    `summary` says that they are the summary of a study alone, which has a newer one, and that the job's report stands.
    `header` is the film's header as `dicom.kept_header` keeps it, empty where the identity was erased.
    """

    delivery_id: int
    job_id: int
    destination: str
    rejection: str
    note: str
    at: float
    replaced: bool
    report: Report
    header: bytes
    transfer_syntax_uid: str
    summary: bool
    objects: tuple[SentOutput, ...]

    def __repr__(self) -> str:
        """Nothing of the header: a repr ends in logs and tracebacks."""
        return f"Order(delivery_id={self.delivery_id}, job_id={self.job_id}, destination={self.destination!r})"


def due(database: Database, destinations: Sequence[str], *, limit: int) -> list[Order]:
    """Up to `limit` withdrawals from these destinations that wait for no report's delivery any more, oldest first."""
    sent = delivery.alias()
    busy = sa.exists().where(
        sent.c.job_id == delivery.c.job_id,
        sent.c.destination == delivery.c.destination,
        ~takes_back(sent.c.act),
        sent.c.state.in_((DeliveryState.PENDING, DeliveryState.SENDING)),
    )
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(
                *(delivery.c.id, delivery.c.job_id, delivery.c.destination, delivery.c.act, delivery.c.created_at),
                job.c.state,
                # A film whose reading was late may have been withdrawn before it was read.
                sa.func.coalesce(job.c.report, notice.c.report).label("report"),
                *(job.c.rejection, job.c.rejection_note, job.c.rejected_at, job.c.reason, job.c.model),
                job.c.bundle_digest,
                *(instance.c.transfer_syntax_uid, identity.c.header),
            )
            .join(job, job.c.id == delivery.c.job_id)
            .join(instance, instance.c.id == job.c.instance_id)
            .outerjoin(identity, identity.c.instance_id == job.c.instance_id)
            .outerjoin(notice, notice.c.job_id == job.c.id)
            .where(
                delivery.c.state == DeliveryState.WAITING,
                delivery.c.not_before <= transaction.now,
                delivery.c.destination.in_(destinations),
                ~busy,
            )
            .order_by(delivery.c.id)
            .limit(limit)
        )
        return [_order(transaction, row) for row in rows]


def _order(transaction: Transaction, row: Row) -> Order:
    summary = row.act.startswith(RETRACTION)
    at = row.created_at if summary else row.rejected_at
    return Order(
        delivery_id=row.id,
        job_id=row.job_id,
        destination=row.destination,
        rejection="quality" if summary else row.rejection,
        note="a newer summary of this study takes its place" if summary else row.rejection_note,
        at=at,
        # Of a film that is not this patient's, no reading takes the place.
        replaced=summary or (row.state == JobState.SUPERSEDED and row.rejection != "worklist"),
        report=_report(row, at),
        header=row.header or b"",
        transfer_syntax_uid=row.transfer_syntax_uid,
        summary=summary,
        objects=sent_outputs(
            transaction,
            row.job_id,
            destination=row.destination,
            act=f"study-{row.act.removeprefix(RETRACTION)}" if summary else None,
        ),
    )


def _report(row: Row, at: float) -> Report:
    """What was said of the film. One that was never read may have sent the summary of its study, and nothing else."""
    if row.report:
        return Report.from_json(row.report)
    return Report(
        outcome=Outcome.NOT_ANALYSED,
        reason=row.reason,
        read_at=at,
        revision=1,
        reader=Reader(
            name=row.model,
            version="",
            bundle_digest=row.bundle_digest,
            weights_digest="",
            calibration="",
            demonstration=False,
            engine="",
        ),
    )


def record(database: Database, order: Order, made: Sequence[StoredOutput]) -> list[str]:
    """Make the withdrawal ready to be sent, or cancel it where there is nothing to send.

    Returns the keys of the files that no row has: another node was faster, or another destination of the same job has
    the same note. The caller removes them.
    """
    with database.write() as transaction:
        locked = sa.select(delivery.c.state).where(delivery.c.id == order.delivery_id).with_for_update()
        if transaction.scalar(locked) != DeliveryState.WAITING:
            return [one.file.key for one in made]
        lock_job(transaction, order.job_id)
        whose = {"job_id": order.job_id, "delivery_id": order.delivery_id}
        if not made:
            move(transaction, order.delivery_id, DeliveryState.WAITING, DeliveryEvent.CANCELLED)
            note(transaction, DeliveryEvent.CANCELLED, **whose)
            return []
        spare = []
        for one in made:
            known = _known(transaction, one.sop_instance_uid)
            if known is not None:
                spare.append(one.file.key)
            output_id = insert_output(transaction, order.job_id, one) if known is None else known
            transaction.connection.execute(
                sa.insert(delivery_output).values(delivery_id=order.delivery_id, output_id=output_id)
            )
        move(
            transaction,
            order.delivery_id,
            DeliveryState.WAITING,
            DeliveryEvent.CREATED,
            created_at=transaction.now,
            reason="",
        )
        note(
            transaction,
            DeliveryEvent.CREATED,
            destination=order.destination,
            withdrawn=len(order.objects),
            outputs=len(made),
            **whose,
        )
        return spare


def postpone(database: Database, order: Order, reason: str, *, pause: float) -> None:
    """Leave a withdrawal that could not be made for later, and say why: it is never given up."""
    with database.write() as transaction:
        transaction.connection.execute(
            sa.update(delivery)
            .where(delivery.c.id == order.delivery_id, delivery.c.state == DeliveryState.WAITING)
            .values(not_before=transaction.now + pause, reason=reason)
        )


def _known(transaction: Transaction, sop_instance_uid: str) -> int | None:
    found = transaction.scalar(sa.select(output.c.id).where(output.c.sop_instance_uid == sop_instance_uid))
    return None if found is None else int(found)
