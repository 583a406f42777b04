"""Resending: the same bytes once more because a person asked, or the release of what was held."""

from __future__ import annotations

import sqlalchemy as sa

from cxrnode.core.lifecycle import RESTING, DeliveryEvent, DeliveryState, JobEvent, JobState, advance_job
from cxrnode.errors import Rejected
from cxrnode.store.audit import note
from cxrnode.store.database import Database
from cxrnode.store.deliveries import lock_deliveries, move
from cxrnode.store.schema import delivery, delivery_output, job, output


def resend(database: Database, job_id: int, *, reason: str) -> int:
    """Send a job's stored bytes again, or release them where they are held; return the number of deliveries.

    Raises Rejected where the job does not exist, is not reported, or retention took its outputs.
    """
    with database.write() as transaction:
        rows = lock_deliveries(transaction, job_id)
        state = transaction.scalar(sa.select(job.c.state).where(job.c.id == job_id).with_for_update())
        if state is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        if state in (JobState.SUPERSEDED, JobState.WITHDRAWN):
            raise Rejected(f"job {job_id} is {state}: its results are not sent again")
        if not rows:
            raise Rejected(f"job {job_id} is {state} and has nothing to send")
        gone = transaction.scalar(
            sa.select(sa.func.count()).where(output.c.job_id == job_id, output.c.spool_key.is_(None))
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
                note(transaction, "delivery_released", job_id=job_id, delivery_id=row.id, reason=reason)
                again += 1
            elif before in RESTING and before is not DeliveryState.CANCELLED:
                transaction.connection.execute(
                    sa.update(delivery_output)
                    .where(delivery_output.c.delivery_id == row.id)
                    .values(done=False, status=None, comment="")
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
                )
                note(transaction, DeliveryEvent.RESENT, job_id=job_id, delivery_id=row.id, reason=reason)
                again += 1
        if not again:
            raise Rejected(f"job {job_id}: its deliveries are under way already")
        if JobState(state) in (JobState.DELIVERED, JobState.FAILED):
            after = advance_job(JobState(state), JobEvent.RESENT)
            transaction.connection.execute(sa.update(job).where(job.c.id == job_id).values(state=after))
            note(transaction, JobEvent.RESENT, job_id=job_id, reason=reason)
        return again
