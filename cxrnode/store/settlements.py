"""How a delivery ends or goes on: what the destination answered to each object, recorded under the claim's token.

Closing a job with its last delivery belongs here too (design, rule 8). Nothing here sends, claims or opens a circuit.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from cxrnode.core.lifecycle import DONE, RESTING, DeliveryEvent, DeliveryState, JobEvent, JobState, advance_job
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Transaction
from cxrnode.store.deliveries import DeliveryClaim, cancel_if_replaced, fence, lock_job, move
from cxrnode.store.schema import delivery, delivery_output, identity, job


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the destination said to one object: its C-STORE status, and whether it has it now."""

    output_id: int
    status: int | None
    done: bool
    comment: str = ""


def _identifiers(transaction: Transaction, job_id: int) -> re.Pattern[str] | None:
    """What names the patient of a job, to be taken out of what a peer says: identifiers stand in `identity` alone."""
    row = transaction.row(
        sa.select(identity).join(job, job.c.instance_id == identity.c.instance_id).where(job.c.id == job_id)
    )
    if row is None:
        return None
    whole = (row.patient_id, row.birth_date, row.accession, row.study_instance_uid, row.series_instance_uid)
    parts = {part for part in (*whole, *re.split(r"[\^=\s]+", row.patient_name)) if len(part) > 1}
    longest_first = sorted(parts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if parts else None


_of_delivery = delivery_output.c.delivery_id == sa.bindparam("its_delivery")
_HAD = sa.update(delivery_output).where(
    _of_delivery, delivery_output.c.output_id.in_(sa.bindparam("its_outputs", expanding=True))
)
_ANSWERED = sa.update(delivery_output).where(_of_delivery, delivery_output.c.output_id == sa.bindparam("its_output"))


def _write_answers(
    transaction: Transaction, held: DeliveryClaim, answers: Sequence[Answer], *, unsure: int | None = None
) -> None:
    """Write down what was answered; `unsure` is the output whose answer never came.

    The destination has what it took and may have that one. What it refused, and what was not sent, it has as little or
    as much as before (`begin` took all of it for sent).
    """
    before = {one.output_id: one.had for one in held.parcels}
    now = {**before, **{one.output_id: one.done or before.get(one.output_id, False) for one in answers}}
    if unsure is not None:
        now[unsure] = True
    whose = _identifiers(transaction, held.job_id) if any(one.comment for one in answers) else None
    answered = []
    for one in answers:
        comment = whose.sub("[...]", one.comment) if whose else one.comment
        said = {"status": one.status, "done": one.done, "comment": comment[:128]}
        answered.append({"its_delivery": held.delivery_id, "its_output": one.output_id, **said})
    for had in (True, False):
        ids = [output_id for output_id, value in now.items() if value is had]
        if ids:
            transaction.count(_HAD, its_delivery=held.delivery_id, its_outputs=ids, had=had)
    if answered:
        transaction.connection.execute(_ANSWERED, answered)


def _statuses(answers: Sequence[Answer]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for one in answers:
        name = "none" if one.status is None else f"0x{one.status:04X}"
        counts[name] = counts.get(name, 0) + 1
    return counts


def settle_sent(database: Database, held: DeliveryClaim, answers: Sequence[Answer], *, to_commit: bool = False) -> None:
    """Record that the destination has every object, and close the job if this was the last.

    `to_commit`: the destination is asked for storage commitment next, and the job waits for it. Raises LeaseLost.
    """
    with database.write() as transaction:
        fence(transaction, held)
        _write_answers(transaction, held, answers)
        move(
            transaction,
            held.delivery_id,
            DeliveryState.SENDING,
            DeliveryEvent.SENT,
            reason="",
            commit_at=transaction.now if to_commit else None,
        )
        warned = sorted({f"0x{a.status:04X}" for a in answers if a.status})
        note(
            transaction,
            DeliveryEvent.SENT,
            job_id=held.job_id,
            delivery_id=held.delivery_id,
            statuses=_statuses(answers),
            warnings=warned,
        )
        close_job(transaction, held.job_id)


def settle_parked(
    database: Database, held: DeliveryClaim, answers: Sequence[Answer], reason: str, *, unsure: int | None = None
) -> None:
    """Park a delivery that the destination will not take as it is, and close the job if this was the last.

    `unsure` is the output that was under way without an answer, here and below. Raises LeaseLost.
    """
    with database.write() as transaction:
        fence(transaction, held)
        _write_answers(transaction, held, answers, unsure=unsure)
        move(transaction, held.delivery_id, DeliveryState.SENDING, DeliveryEvent.PARKED, reason=reason)
        note(
            transaction,
            DeliveryEvent.PARKED,
            job_id=held.job_id,
            delivery_id=held.delivery_id,
            statuses=_statuses(answers),
            reason=reason,
        )
        close_job(transaction, held.job_id)


def settle_faulted(
    database: Database,
    held: DeliveryClaim,
    answers: Sequence[Answer],
    reason: str,
    *,
    pause: float,
    unsure: int | None = None,
) -> None:
    """Return a delivery to the queue after a passing fault of an object; what was taken stays taken.

    Raises LeaseLost.
    """
    with database.write() as transaction:
        state = fence(transaction, held)
        _write_answers(transaction, held, answers, unsure=unsure)
        move(
            transaction,
            held.delivery_id,
            DeliveryState.SENDING,
            DeliveryEvent.FAULTED,
            attempts=held.attempts + 1,
            not_before=transaction.now + pause,
            reason=reason,
        )
        note(
            transaction,
            DeliveryEvent.FAULTED,
            job_id=held.job_id,
            delivery_id=held.delivery_id,
            statuses=_statuses(answers),
            attempts=held.attempts + 1,
            reason=reason,
        )
        cancel_if_replaced(transaction, held.delivery_id, held.job_id, state)


def give_back(
    database: Database, held: DeliveryClaim, answers: Sequence[Answer], reason: str, *, unsure: int | None = None
) -> None:
    """Return a delivery to the queue with nothing counted against it; what was taken stays taken. Raises LeaseLost."""
    with database.write() as transaction:
        state = fence(transaction, held)
        _write_answers(transaction, held, answers, unsure=unsure)
        move(transaction, held.delivery_id, DeliveryState.SENDING, DeliveryEvent.GIVEN_BACK)
        note(transaction, DeliveryEvent.GIVEN_BACK, job_id=held.job_id, delivery_id=held.delivery_id, reason=reason)
        cancel_if_replaced(transaction, held.delivery_id, held.job_id, state)


_REPORTS = sa.select(delivery.c.state, delivery.c.commit_at).where(
    delivery.c.job_id == sa.bindparam("its_job"), delivery.c.act == "report"
)
_CLOSE = sa.update(job).where(job.c.id == sa.bindparam("its_id"))


def close_job(transaction: Transaction, job_id: int) -> None:
    """Close the job under its row lock when its last delivery rests (design, rule 8).

    One that is sent does not rest while its destination is to commit to it.
    """
    state = lock_job(transaction, job_id)
    rows = transaction.rows(_REPORTS, its_job=job_id)
    states = [DeliveryState(row.state) for row in rows]
    awaited = any(row.commit_at is not None for row in rows)
    if state is not JobState.REPORTED or awaited or not set(states) <= RESTING:
        return
    failed = DeliveryState.FAILED in states
    if not failed and not DONE & set(states):
        return
    happened = JobEvent.UNDELIVERED if failed else JobEvent.DELIVERED
    after = advance_job(state, happened)
    transaction.count(_CLOSE, its_id=job_id, state=after, settled_at=transaction.now)
    note(transaction, happened, job_id=job_id)
