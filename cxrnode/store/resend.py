"""Resending: the same bytes once more because a person asked, or the release of what was held.

Of a job that was superseded or withdrawn, that is what withdraws it; nothing else of it is sent again.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.core.lifecycle import RESTING, DeliveryEvent, DeliveryState, JobEvent, JobState, advance_job
from cxrnode.errors import Rejected
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import WITHDRAWAL, lock_deliveries, move
from cxrnode.store.schema import delivery, delivery_output, job, output


def resend(database: Database, job_id: int, *, reason: str, by: str = "") -> int:
    """Send a job's stored bytes again, or release them where they are held; return the number of deliveries.

    Raises Rejected where the job does not exist, is not reported, is in dispute, or retention took its outputs.
    """
    with database.write() as transaction:
        rows = [row for row in lock_deliveries(transaction, job_id) if row.act == "report"]
        gone_back = lock_withdrawals(transaction, job_id)
        its = transaction.row(sa.select(job.c.state, job.c.disputed).where(job.c.id == job_id).with_for_update())
        if its is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        state = its.state
        if its.disputed:
            raise Rejected(
                f"job {job_id}: its film came under two identities; `cxrnode jobs decide` says which is right"
            )
        if state in (JobState.SUPERSEDED, JobState.WITHDRAWN):
            rows = list(gone_back)
            if not rows:
                raise Rejected(f"job {job_id} is {state}: its results are not sent again")
        if not rows:
            raise Rejected(f"job {job_id} is {state} and has nothing to send")
        gone = transaction.scalar(
            sa.select(sa.func.count())
            .select_from(output)
            .join(delivery_output, delivery_output.c.output_id == output.c.id)
            .where(delivery_output.c.delivery_id.in_([row.id for row in rows]), output.c.spool_key.is_(None))
        )
        if gone:
            raise Rejected(f"job {job_id}: retention removed its outputs; `cxrnode jobs retry` makes them anew")
        again = 0
        for row in rows:
            before = DeliveryState(row.state)
            if before is DeliveryState.PENDING and row.held:
                transaction.connection.execute(
                    sa.update(delivery).where(delivery.c.id == row.id).values(held=False, reason="", not_before=0.0)
                )
                note(transaction, "delivery_released", job_id=job_id, delivery_id=row.id, reason=reason, by=by)
                again += 1
            elif before in RESTING and before is not DeliveryState.CANCELLED:
                transaction.connection.execute(
                    sa.update(delivery_output)
                    .where(delivery_output.c.delivery_id == row.id)
                    .values(done=False, status=None, comment="", committed=False, commit_failure=None)
                )
                move(
                    transaction,
                    row.id,
                    before,
                    DeliveryEvent.RESENT,
                    attempts=0,
                    not_before=0.0,
                    reason="",
                    created_at=transaction.now,
                    commit_at=None,
                )
                note(transaction, DeliveryEvent.RESENT, job_id=job_id, delivery_id=row.id, reason=reason, by=by)
                again += 1
        if not again and state in (JobState.SUPERSEDED, JobState.WITHDRAWN):
            raise Rejected(f"job {job_id} is {state}: its results are not sent again; their withdrawal is on its way")
        if not again:
            raise Rejected(f"job {job_id}: its deliveries are under way already")
        if JobState(state) in (JobState.DELIVERED, JobState.FAILED):
            after = advance_job(JobState(state), JobEvent.RESENT)
            transaction.connection.execute(sa.update(job).where(job.c.id == job_id).values(state=after))
            note(transaction, JobEvent.RESENT, job_id=job_id, reason=reason, by=by)
        return again


def lock_withdrawals(transaction: Transaction, job_id: int) -> Sequence[Row]:
    """Lock and return the withdrawals of a job, before its row is locked."""
    return transaction.rows(
        sa.select(delivery)
        .where(delivery.c.job_id == job_id, delivery.c.act == WITHDRAWAL)
        .order_by(delivery.c.id)
        .with_for_update()
    )
