"""Withdrawal: what was sent of a job is taken back, what was not is never sent (design, rule 9).

Here it is asked for, in the transaction that supersedes or withdraws the job; what is then sent is made by the role
`tend` from `store.rejections`. Nothing here builds an object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryEvent, DeliveryState, JobEvent, JobState, advance_delivery
from cxrnode.errors import Rejected
from cxrnode.store import jobs
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import WITHDRAWAL, lock_deliveries, move
from cxrnode.store.schema import delivery, delivery_output, job

#: Why results are taken back, as a person says it (PS3.16 CID 7031 has a title for each).
REJECTIONS = ("quality", "patient-safety", "worklist")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Why a result is taken back: one of REJECTIONS, in words for those who read the archive, and who said so."""

    rejection: str
    note: str
    by: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """How many deliveries were cancelled before they went, and how many destinations a withdrawal goes to.

    A destination whose sender is busy with the job at this moment counts among the second.
    """

    cancelled: int
    ordered: int


def withdraw(database: Database, job_id: int, cause: Cause) -> TakenBack:
    """Withdraw a job's result, or the job itself where it was not read yet.

    Of a superseded job whose objects were left in the archives, these are withdrawn. Raises Rejected where the job
    does not exist, was withdrawn before or is a duplicate, ValueError for a rejection that does not exist.
    """
    if cause.rejection not in REJECTIONS:
        raise ValueError(f"a rejection is one of {', '.join(REJECTIONS)}, not {cause.rejection!r}")
    with database.write() as transaction:
        rows = lock_deliveries(transaction, job_id)
        its = sa.select(job.c.state, job.c.rejection, job.c.duplicate_of).where(job.c.id == job_id)
        row = transaction.row(its.with_for_update())
        if row is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        if row.rejection or row.state == JobState.WITHDRAWN:
            raise Rejected(f"job {job_id}: its result is withdrawn already; `cxrnode jobs resend` sends the note again")
        if row.duplicate_of is not None:
            raise Rejected(f"job {job_id} is a duplicate and sent nothing; withdraw job {row.duplicate_of}")
        # Again: what settled while the job's row was waited for made deliveries of its own.
        rows = lock_deliveries(transaction, job_id)
        return withdraw_locked(transaction, job_id, JobState(row.state), rows, cause)


def withdraw_locked(
    transaction: Transaction, job_id: int, state: JobState, deliveries: Sequence[Row], cause: Cause, **said: Any
) -> TakenBack:
    """Withdraw a job whose deliveries and row are locked, in this order; `said` goes into the event as well."""
    detail: dict[str, Any] = {"rejection": cause.rejection, "reason": cause.note, "by": cause.by, **said}
    if state is JobState.SUPERSEDED:
        note(transaction, "withdrawal_asked", job_id=job_id, **detail)
    else:
        jobs.move(transaction, job_id, state, JobEvent.WITHDRAWN, disputed=False)
        note(transaction, JobEvent.WITHDRAWN, job_id=job_id, **detail)
    if cause.rejection == "worklist":
        _stop_revisions(transaction, job_id, cause)
        _withdraw_predecessors(transaction, job_id, cause)
    return take_back(transaction, job_id, deliveries, cause)


def _stop_revisions(transaction: Transaction, job_id: int, cause: Cause) -> None:
    """Withdraw the revision that a person asked for before and that is not read yet: the film is the wrong one.

    One whose worker settles it right now is passed over, since that waits for this job: it will see what became of it.
    """
    asked = sa.select(job.c.id, job.c.state).where(
        job.c.predecessor == job_id, job.c.state.in_((JobState.QUEUED, JobState.READING))
    )
    for row in transaction.rows(asked.order_by(job.c.id).with_for_update(skip_locked=True)):
        withdraw_locked(transaction, row.id, JobState(row.state), (), cause, with_job=job_id)


def _withdraw_predecessors(transaction: Transaction, job_id: int, cause: Cause) -> None:
    """Withdraw what earlier revisions left in the archives (`withdraw_superseded = false`): it is the same wrong film.

    The successor's row is locked before its predecessor's, as where a revision is settled.
    """
    before = transaction.scalar(sa.select(job.c.predecessor).where(job.c.id == job_id))
    if before is None:
        return
    rows = lock_deliveries(transaction, before)
    its = sa.select(job.c.state, job.c.rejection).where(job.c.id == before).with_for_update()
    row = transaction.row(its)
    if row is not None and row.state == JobState.SUPERSEDED and not row.rejection:
        withdraw_locked(transaction, before, JobState.SUPERSEDED, rows, cause, with_job=job_id)
    else:
        _withdraw_predecessors(transaction, before, cause)


def take_back(transaction: Transaction, job_id: int, deliveries: Sequence[Row], cause: Cause | None) -> TakenBack:
    """Cancel what was not sent and order the withdrawal of what was, or may have been; without a cause nothing of it.

    The job is superseded or withdrawn in this transaction, its deliveries and its row are locked.
    """
    cancelled = ordered = 0
    for row in deliveries:
        state = DeliveryState(row.state)
        if state is DeliveryState.PENDING:
            move(transaction, row.id, state, DeliveryEvent.CANCELLED)
            note(transaction, DeliveryEvent.CANCELLED, job_id=job_id, delivery_id=row.id)
            cancelled += 1
        # What a sender is busy with is judged when it rests.
        if cause is not None and (state is DeliveryState.SENDING or _had(transaction, row.id)):
            ordered += _order(transaction, job_id, row)
    if cause is not None:
        transaction.connection.execute(
            sa.update(job)
            .where(job.c.id == job_id)
            .values(rejection=cause.rejection, rejection_note=cause.note, rejected_at=transaction.now)
        )
    return TakenBack(cancelled=cancelled, ordered=ordered)


def _had(transaction: Transaction, delivery_id: int) -> bool:
    its = sa.exists().where(delivery_output.c.delivery_id == delivery_id, delivery_output.c.had.is_(True))
    return bool(transaction.scalar(sa.select(its)))


def _order(transaction: Transaction, job_id: int, of: Row) -> int:
    """Order the withdrawal from one destination, once."""
    key = {"job_id": job_id, "destination": of.destination, "act": WITHDRAWAL}
    made = transaction.insert_new(
        delivery,
        {
            **key,
            "state": advance_delivery(None, DeliveryEvent.ORDERED),
            "rank": of.rank,
            "created_at": transaction.now,
        },
        unique=tuple(key),
    )
    if made is None:
        return 0
    note(transaction, DeliveryEvent.ORDERED, job_id=job_id, delivery_id=made.id, destination=of.destination)
    return 1
