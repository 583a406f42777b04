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
from cxrnode.store.resend import lock_withdrawals
from cxrnode.store.schema import delivery, delivery_output, job

#: Why results are taken back, as a person says it (PS3.16 CID 7031 has a title for each), the mildest first. What was
#: said can be made graver later, never milder: an archive does not show again what it has hidden.
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

    Of a superseded job whose objects were left in the archives, these are withdrawn. What was withdrawn before is
    withdrawn again where the cause is graver now. Raises Rejected where the job does not exist, was withdrawn for a
    cause as grave or is a duplicate, ValueError for a rejection that does not exist.
    """
    if cause.rejection not in REJECTIONS:
        raise ValueError(f"a rejection is one of {', '.join(REJECTIONS)}, not {cause.rejection!r}")
    with database.write() as transaction:
        rows = lock_deliveries(transaction, job_id)
        notes = lock_withdrawals(transaction, job_id)
        its = sa.select(job.c.state, job.c.rejection, job.c.duplicate_of).where(job.c.id == job_id)
        row = transaction.row(its.with_for_update())
        if row is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        if row.rejection and REJECTIONS.index(cause.rejection) <= REJECTIONS.index(row.rejection):
            raise Rejected(
                f"job {job_id}: its result is withdrawn already, for {row.rejection}; "
                "`cxrnode jobs resend` sends the note again"
            )
        if row.duplicate_of is not None:
            raise Rejected(f"job {job_id} is a duplicate and sent nothing; withdraw job {row.duplicate_of}")
        # Again: what settled while the job's row was waited for made deliveries of its own.
        rows = lock_deliveries(transaction, job_id)
        if row.rejection:
            return _make_graver(transaction, job_id, rows, notes, cause, before=row.rejection)
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
    return _take_back_all(transaction, job_id, deliveries, cause)


def _take_back_all(transaction: Transaction, job_id: int, deliveries: Sequence[Row], cause: Cause) -> TakenBack:
    """Take back what was sent of this job, and of all readings of the film where it is another patient's."""
    if cause.rejection == "worklist":
        _stop_revisions(transaction, job_id, cause)
        _withdraw_predecessors(transaction, job_id, cause)
    return take_back(transaction, job_id, deliveries, cause)


def _make_graver(
    transaction: Transaction, job_id: int, deliveries: Sequence[Row], notes: Sequence[Row], cause: Cause, *, before: str
) -> TakenBack:
    """Say of what was withdrawn, to all that were or are to be told, that the cause is a graver one.

    A note that was made and did not go yet does not go any more. Raises Rejected where one goes at this moment.
    """
    detail: dict[str, Any] = {"rejection": cause.rejection, "reason": cause.note, "by": cause.by, "before": before}
    note(transaction, "withdrawal_asked", job_id=job_id, **detail)
    ordered = 0
    for row in notes:
        state = DeliveryState(row.state)
        if state is DeliveryState.SENDING:
            raise Rejected(f"job {job_id}: its note goes to {row.destination} at this moment; ask again in a minute")
        if state is DeliveryState.CANCELLED:  # the destination has nothing of it
            continue
        ordered += 1
        if state is DeliveryState.WAITING:  # it is made from what the job says by then
            continue
        transaction.connection.execute(
            sa.delete(delivery_output).where(
                delivery_output.c.delivery_id == row.id,
                delivery_output.c.done.is_(False),
                delivery_output.c.had.is_(False),
            )
        )
        move(transaction, row.id, state, DeliveryEvent.ORDERED, attempts=0, not_before=0.0, reason="", commit_at=None)
        note(transaction, DeliveryEvent.ORDERED, job_id=job_id, delivery_id=row.id, destination=row.destination)
    taken = _take_back_all(transaction, job_id, deliveries, cause)
    return TakenBack(cancelled=taken.cancelled, ordered=taken.ordered + ordered)


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
