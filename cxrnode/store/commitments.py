"""Storage commitment: which deliveries are to be committed to, what was asked of whom, and what was answered.

A request is written down under its transaction UID before it is made, so that its report is known whenever it comes
and whichever process hears it (PS3.4 annex J). Nothing here speaks DICOM.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from enum import StrEnum

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryEvent, DeliveryState
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import lock_job, move, replaced
from cxrnode.store.schema import commitment, delivery, delivery_output, output
from cxrnode.store.settlements import close_job


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: the objects, as (SOP class UID, SOP Instance UID), that the destination is to commit to.

    `again`: no report came to an earlier one.
    """

    transaction_uid: str
    delivery_id: int
    job_id: int
    references: tuple[tuple[str, str], ...]
    again: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A report: the SOP Instance UIDs committed to, and those that are not with their Failure Reason.

    `again` are those of the failures that ask for nothing but another request, `lasting` those that no try will mend.
    """

    transaction_uid: str
    committed: frozenset[str]
    failed: Mapping[str, int]
    again: frozenset[str] = frozenset()
    lasting: frozenset[str] = frozenset()


class Heard(StrEnum):
    """What became of a report."""

    COMMITTED = "committed"
    PARTLY = "partly"
    PARKED = "parked"
    #: It was told before, or is of a request that a later sending has overtaken.
    KNOWN = "known"
    LATE = "late"
    UNKNOWN = "unknown"
    STRANGER = "stranger"


def due(database: Database, destination: str) -> bool:
    """Whether the destination is to be asked for something now."""
    with database.read() as transaction:
        return bool(transaction.scalar(sa.select(sa.exists().where(*_due(destination, transaction.now)))))


def _due(destination: str, now: float) -> tuple[sa.ColumnElement[bool], ...]:
    return delivery.c.destination == destination, delivery.c.commit_at <= now


def prepare(
    database: Database, destination: str, *, hold: float, max_age: float, limit: int
) -> tuple[list[Request], int]:
    """Write down up to `limit` requests that are due, oldest first, and return them and how many were given up.

    For `hold` seconds nobody else asks for the same. A delivery older than `max_age` that was asked for before is
    parked instead; one whose job was superseded or withdrawn meanwhile is no longer to be committed to.
    """
    requests: list[Request] = []
    given_up = 0
    with database.write() as transaction:
        rows = transaction.rows(
            sa.select(delivery)
            .where(*_due(destination, transaction.now))
            .order_by(delivery.c.commit_at, delivery.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        for row in sorted(rows, key=lambda one: (one.job_id, one.id)):
            state = lock_job(transaction, row.job_id)
            asked = transaction.scalar(
                sa.select(sa.func.count())
                .select_from(commitment)
                .where(commitment.c.delivery_id == row.id, commitment.c.token == row.token)
            )
            if replaced(transaction, row.id, state):
                _waive(transaction, row, "its job was superseded or withdrawn")
            elif asked and transaction.now - row.created_at >= max_age:
                reason = f"{destination} took the objects and did not commit to them in {asked} requests"
                _park(transaction, row, reason)
                given_up += 1
            else:
                requests.append(_written(transaction, row, again=bool(asked), hold=hold))
    return requests, given_up


def _written(transaction: Transaction, row: Row, *, again: bool, hold: float) -> Request:
    references = transaction.rows(
        sa.select(output.c.sop_class_uid, output.c.sop_instance_uid)
        .join(delivery_output, delivery_output.c.output_id == output.c.id)
        .where(delivery_output.c.delivery_id == row.id, delivery_output.c.committed.is_(False))
        .order_by(output.c.id)
    )
    # Random: to know it is part of what makes a report credible.
    uid = f"2.25.{uuid.uuid4().int}"
    transaction.connection.execute(
        sa.insert(commitment).values(
            transaction_uid=uid,
            delivery_id=row.id,
            destination=row.destination,
            token=row.token,
            asked_at=transaction.now,
        )
    )
    _set(transaction, row.id, commit_at=transaction.now + hold)
    note(
        transaction,
        "commitment_asked",
        job_id=row.job_id,
        delivery_id=row.id,
        transaction_uid=uid,
        objects=len(references),
        again=again,
    )
    return Request(
        transaction_uid=uid,
        delivery_id=row.id,
        job_id=row.job_id,
        references=tuple((one.sop_class_uid, one.sop_instance_uid) for one in references),
        again=again,
    )


def await_report(database: Database, request: Request, *, wait: float) -> None:
    """The destination took the request: ask again if no report has come in `wait` seconds."""
    _postpone(database, [request], wait)


def ask_later(database: Database, request: Request, *, pause: float) -> None:
    """The request could not be made, or was refused as a whole: make another in `pause` seconds."""
    _postpone(database, [request], pause)


def keep(database: Database, requests: Collection[Request], *, hold: float) -> None:
    """These requests are still to be made: nobody else asks for the same for `hold` seconds from now."""
    _postpone(database, requests, hold)


def _postpone(database: Database, requests: Collection[Request], seconds: float) -> None:
    """Move the next request, unless the report of this one has come already."""
    unanswered = sa.exists().where(
        commitment.c.delivery_id == delivery.c.id,
        commitment.c.transaction_uid.in_([one.transaction_uid for one in requests]),
        commitment.c.answered_at.is_(None),
    )
    ours = delivery.c.id.in_([one.delivery_id for one in requests]), delivery.c.commit_at.is_not(None), unanswered
    with database.write() as transaction:
        # By their ids, as everybody locks them: an update alone takes them as they come.
        transaction.rows(sa.select(delivery.c.id).where(*ours).order_by(delivery.c.id).with_for_update(of=delivery))
        transaction.connection.execute(sa.update(delivery).where(*ours).values(commit_at=transaction.now + seconds))


def unanswered(database: Database, requests: Collection[Request]) -> int:
    """How many of these requests have no report yet."""
    uids = [one.transaction_uid for one in requests]
    with database.read() as transaction:
        its = commitment.c.transaction_uid.in_(uids), commitment.c.answered_at.is_(None)
        return int(transaction.scalar(sa.select(sa.func.count()).select_from(commitment).where(*its)) or 0)


def hear(database: Database, told: Told, *, of: Collection[str], max_attempts: int, pause: float) -> tuple[Heard, str]:
    """Record a report, in one transaction, and return what became of it and the destination that it is of.

    `of` are the destinations whose report it may be, by who brought it: another's changes nothing. What is not
    committed to goes again in `pause` seconds, `max_attempts` times at most. A second report changes nothing.
    """
    with database.write() as transaction:
        asked = transaction.row(sa.select(commitment).where(commitment.c.transaction_uid == told.transaction_uid))
        if asked is None:
            return Heard.UNKNOWN, ""
        if asked.destination not in of:
            return Heard.STRANGER, asked.destination
        row = transaction.row(sa.select(delivery).where(delivery.c.id == asked.delivery_id).with_for_update())
        if row is None:
            return Heard.UNKNOWN, asked.destination
        state = lock_job(transaction, row.job_id)
        first = transaction.count(
            sa.update(commitment)
            .where(commitment.c.id == asked.id, commitment.c.answered_at.is_(None))
            .values(answered_at=transaction.now)
        )
        if not first:
            return Heard.KNOWN, asked.destination
        late = row.commit_at is None or row.state != DeliveryState.SENT or asked.token != row.token
        note(
            transaction,
            "commitment_reported",
            job_id=row.job_id,
            delivery_id=row.id,
            transaction_uid=told.transaction_uid,
            committed=len(told.committed),
            failed=_counted(told),
            late=late,
        )
        if late:
            return Heard.LATE, asked.destination
        _write(transaction, row.id, told)
        left = _uncommitted(transaction, row.id)
        refused = left & set(told.failed)
        if not left:
            move(transaction, row.id, DeliveryState.SENT, DeliveryEvent.COMMITTED, commit_at=None, reason="")
            note(transaction, DeliveryEvent.COMMITTED, job_id=row.job_id, delivery_id=row.id)
            close_job(transaction, row.job_id)
            return Heard.COMMITTED, asked.destination
        if not refused:  # the report left objects out: they are asked for again in their time
            return Heard.PARTLY, asked.destination
        if replaced(transaction, row.id, state):
            _waive(transaction, row, "its job was superseded or withdrawn")
            return Heard.LATE, asked.destination
        reason = f"{row.destination} did not commit to {len(refused)} objects: {', '.join(_counted(told))}"
        if refused & told.lasting or row.attempts + 1 >= max_attempts:
            _park(transaction, row, reason)
            return Heard.PARKED, asked.destination
        _again(transaction, row, sorted(refused - told.again), reason, pause)
        return Heard.PARTLY, asked.destination


def _again(transaction: Transaction, row: Row, uids: list[str], reason: str, pause: float) -> None:
    """Send once more what the destination says that it does not have, and ask for all that is not committed to."""
    if not uids:
        _set(transaction, row.id, commit_at=transaction.now + pause, attempts=row.attempts + 1)
        return
    transaction.connection.execute(
        sa.update(delivery_output)
        .where(delivery_output.c.delivery_id == row.id, delivery_output.c.output_id.in_(_outputs(uids)))
        .values(done=False)
    )
    move(
        transaction,
        row.id,
        DeliveryState.SENT,
        DeliveryEvent.UNCOMMITTED,
        attempts=row.attempts + 1,
        not_before=transaction.now + pause,
        commit_at=None,
        reason=reason,
    )
    note(
        transaction,
        DeliveryEvent.UNCOMMITTED,
        job_id=row.job_id,
        delivery_id=row.id,
        objects=len(uids),
        attempts=row.attempts + 1,
        reason=reason,
    )


def waive(database: Database, destinations: Collection[str], *, limit: int) -> int:
    """Await no commitment of these destinations any more, since they are asked for none; return how many did."""
    with database.write() as transaction:
        rows = transaction.rows(
            sa.select(delivery)
            .where(delivery.c.commit_at.is_not(None), delivery.c.destination.in_(destinations))
            .order_by(delivery.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        for row in sorted(rows, key=lambda one: (one.job_id, one.id)):
            lock_job(transaction, row.job_id)
            _waive(transaction, row, "commitment is configured no more")
        return len(rows)


def awaited(database: Database) -> Mapping[str, int]:
    """For each destination that is to commit to something: to how many deliveries."""
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(delivery.c.destination, sa.func.count())
            .where(delivery.c.commit_at.is_not(None))
            .group_by(delivery.c.destination)
        )
    return {row[0]: int(row[1]) for row in rows}


def _waive(transaction: Transaction, row: Row, reason: str) -> None:
    _set(transaction, row.id, commit_at=None)
    note(transaction, "commitment_waived", job_id=row.job_id, delivery_id=row.id, reason=reason)
    close_job(transaction, row.job_id)


def _park(transaction: Transaction, row: Row, reason: str) -> None:
    move(transaction, row.id, DeliveryState.SENT, DeliveryEvent.PARKED, commit_at=None, reason=reason)
    note(transaction, DeliveryEvent.PARKED, job_id=row.job_id, delivery_id=row.id, reason=reason)
    close_job(transaction, row.job_id)


def _set(transaction: Transaction, delivery_id: int, **values: object) -> None:
    transaction.connection.execute(sa.update(delivery).where(delivery.c.id == delivery_id).values(**values))


def _write(transaction: Transaction, delivery_id: int, told: Told) -> None:
    """Write down what was said of each object of the delivery; what it says of others is none of ours."""
    of = delivery_output.c.delivery_id == delivery_id
    transaction.connection.execute(
        sa.update(delivery_output)
        .where(of, delivery_output.c.output_id.in_(_outputs(sorted(told.committed))))
        .values(committed=True, commit_failure=None)
    )
    for reason in sorted(set(told.failed.values())):
        uids = sorted(uid for uid, why in told.failed.items() if why == reason and uid not in told.committed)
        transaction.connection.execute(
            sa.update(delivery_output)
            .where(of, delivery_output.c.committed.is_(False), delivery_output.c.output_id.in_(_outputs(uids)))
            .values(commit_failure=reason)
        )


def _outputs(uids: Collection[str]) -> sa.Select[tuple[int]]:
    return sa.select(output.c.id).where(output.c.sop_instance_uid.in_(uids))


def _uncommitted(transaction: Transaction, delivery_id: int) -> set[str]:
    """The objects of a delivery that are not committed to."""
    rows = transaction.rows(
        sa.select(output.c.sop_instance_uid)
        .join(delivery_output, delivery_output.c.output_id == output.c.id)
        .where(delivery_output.c.delivery_id == delivery_id, delivery_output.c.committed.is_(False))
    )
    return {row[0] for row in rows}


def _counted(told: Told) -> dict[str, int]:
    """How many objects were not committed to, by their Failure Reason."""
    return dict(Counter(f"0x{reason:04X}" for _, reason in sorted(told.failed.items())))
