"""The queue of deliveries, and the circuit of each destination (design, rules 3, 6 and 8).

Faults of an association open the circuit and cost a delivery nothing; faults of an object belong to its delivery.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from cxrnode.core.lifecycle import (
    RESTING,
    DeliveryEvent,
    DeliveryState,
    JobState,
    advance_delivery,
)
from cxrnode.errors import LeaseLost
from cxrnode.store.audit import note
from cxrnode.store.changes import SENDING, stands_still
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import circuit, delivery, delivery_output, identity, job, output, study_summary

#: The act of a delivery that takes back what others brought.
WITHDRAWAL = "withdrawal"
#: How the act of a delivery begins that takes back the summary of a study that has a newer one: its revision follows.
RETRACTION = "retract-"
#: The act of a delivery that says of a film that it has no result (store.notices).
NOTICE = "notice"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """One object of a delivery that the destination does not have yet; `had`: it may have it from an earlier try."""

    output_id: int
    had: bool
    kind: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    spool_key: str
    digest: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryClaim:
    """A sender's time-limited right to a delivery; `age` in seconds since it was made."""

    delivery_id: int
    job_id: int
    token: int
    destination: str
    attempts: int
    age: float
    parcels: tuple[Parcel, ...]


def claim(database: Database, *, destination: str, owner: str, limit: int, lease: float) -> list[DeliveryClaim]:
    """Take up to `limit` deliveries for one destination; with its circuit open, one as a probe when one is due."""
    with database.read() as transaction:  # an idle sender takes no writer's lock
        found = transaction.row(_LOOK, to=destination, now=transaction.now)
    if found is None or not (found.lost or (found.waiting and not found.blocked)):
        return []
    if found.lost:
        # A transaction of its own: the jobs that it locks would stand out of order with those locked below.
        with database.write() as transaction:
            expire(transaction)
    with database.write() as transaction:
        way = transaction.row(_WAY, to=destination)
        if way is not None and way.open:
            if way.next_probe_at > transaction.now:
                return []
            limit = 1
        now, until = transaction.now, transaction.now + lease
        claimed = transaction.rows(_TAKE, to=destination, now=now, most=limit, owner=owner, until=until)
        if claimed and way is not None and way.open:
            # Whoever probes holds the probe for the length of a lease; others stay away meanwhile.
            transaction.connection.execute(
                sa.update(circuit)
                .where(circuit.c.destination == destination)
                .values(next_probe_at=transaction.now + lease)
            )
        for job_id in sorted({row.job_id for row in claimed}):
            lock_job(transaction, job_id)
        claims = []
        for row in sorted(claimed, key=lambda one: (one.rank, one.id)):
            note(
                transaction,
                DeliveryEvent.CLAIMED,
                job_id=row.job_id,
                delivery_id=row.id,
                owner=owner,
                token=row.token,
                probe=bool(way is not None and way.open),
            )
            claims.append(
                DeliveryClaim(
                    delivery_id=row.id,
                    job_id=row.job_id,
                    token=row.token,
                    destination=row.destination,
                    attempts=row.attempts,
                    age=transaction.now - row.created_at,
                    parcels=_parcels(transaction, row.id),
                )
            )
        return claims


def _expired(now: float | sa.BindParameter[float]) -> tuple[sa.ColumnElement[bool], ...]:
    return (delivery.c.state == DeliveryState.SENDING, delivery.c.lease_until < now)


# Made once: to put a statement together costs several times what a database takes to execute it.
_TO, _NOW = sa.bindparam("to", type_=sa.String), sa.bindparam("now", type_=sa.Double)
_DUE = (
    delivery.c.destination == _TO,
    delivery.c.state == DeliveryState.PENDING,
    delivery.c.held.is_(False),
    delivery.c.not_before <= _NOW,
)
_BLOCKED = (circuit.c.destination == _TO) & circuit.c.open & (circuit.c.next_probe_at > _NOW)
_LOOK = sa.select(
    sa.exists().where(*_DUE).label("waiting"),
    sa.exists().where(*_expired(_NOW)).label("lost"),
    sa.exists().where(_BLOCKED).label("blocked"),
)
_WAY = sa.select(circuit).where(circuit.c.destination == _TO).with_for_update()
_PICK = (
    sa.select(delivery.c.id)
    .where(*_DUE)
    .order_by(delivery.c.rank, delivery.c.id)
    .limit(sa.bindparam("most", type_=sa.Integer))
    .with_for_update(skip_locked=True)
    .cte("pick")
)
_TAKE = (
    sa.update(delivery)
    .where(delivery.c.id.in_(sa.select(_PICK.c.id)))
    .values(
        state=advance_delivery(DeliveryState.PENDING, DeliveryEvent.CLAIMED),
        token=delivery.c.token + 1,
        lease_owner=sa.bindparam("owner", type_=sa.String),
        lease_until=sa.bindparam("until", type_=sa.Double),
    )
    .returning(*delivery.c)
)
_PARCELS = (
    sa.select(output, delivery_output.c.had)
    .join(delivery_output, delivery_output.c.output_id == output.c.id)
    .where(delivery_output.c.delivery_id == sa.bindparam("its_id"), delivery_output.c.done.is_(False))
    .order_by(output.c.id)
)


def _parcels(transaction: Transaction, delivery_id: int) -> tuple[Parcel, ...]:
    rows = transaction.rows(_PARCELS, its_id=delivery_id)
    return tuple(
        Parcel(
            output_id=row.id,
            had=row.had,
            kind=row.kind,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            spool_key=row.spool_key or "",
            digest=row.sha256,
        )
        for row in rows
    )


def lock_job(transaction: Transaction, job_id: int) -> JobState:
    """Lock the job's row: its chain head and its closing hang on it.

    Jobs are always locked after deliveries, and several of them by their ids upwards: so there is no deadlock.
    """
    return JobState(transaction.scalar(_LOCK_JOB, its_id=job_id))


def lock_deliveries(transaction: Transaction, *job_ids: int) -> Sequence[Row]:
    """Lock and return the deliveries of jobs but for withdrawals, before the jobs' rows are locked."""
    return transaction.rows(
        sa.select(delivery)
        .where(delivery.c.job_id.in_(job_ids), ~takes_back(delivery.c.act))
        .order_by(delivery.c.id)
        .with_for_update()
    )


def takes_back(act: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Whether a delivery of this act takes back what others brought: the one way to tell it apart in a query."""
    return sa.or_(act == WITHDRAWAL, act.startswith(RETRACTION))


def expire(transaction: Transaction) -> int:
    """Return deliveries whose sender was lost to the queue; the same bytes go again."""
    lost = transaction.rows(
        sa.select(delivery.c.id, delivery.c.job_id, delivery.c.lease_owner)
        .where(*_expired(transaction.now))
        .order_by(delivery.c.job_id, delivery.c.id)
        .limit(100)
        .with_for_update(skip_locked=True)
    )
    for row in lost:
        state = lock_job(transaction, row.job_id)
        move(transaction, row.id, DeliveryState.SENDING, DeliveryEvent.LEASE_EXPIRED)
        note(transaction, DeliveryEvent.LEASE_EXPIRED, job_id=row.job_id, delivery_id=row.id, owner=row.lease_owner)
        cancel_if_replaced(transaction, row.id, row.job_id, state)
    return len(lost)


def unsent(database: Database) -> Mapping[str, tuple[int, int]]:
    """For each destination with deliveries to come: how many, and how many of them are held."""
    under_way = (DeliveryState.WAITING, DeliveryState.PENDING, DeliveryState.SENDING)
    held = sa.func.sum(sa.case((delivery.c.held, 1), else_=0))
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(delivery.c.destination, sa.func.count(), held)
            .where(delivery.c.state.in_(under_way))
            .group_by(delivery.c.destination)
        )
    return {row[0]: (int(row[1]), int(row[2])) for row in rows}


def release_owner(database: Database, owner: str) -> int:
    """End at once the leases of a sender that is known to be dead; return how many."""
    with database.write() as transaction:
        its = (delivery.c.lease_owner == owner, delivery.c.state == DeliveryState.SENDING)
        # By their ids, as everybody locks them: an update alone takes them as they come.
        rows = transaction.rows(sa.select(delivery.c.id).where(*its).order_by(delivery.c.id).with_for_update())
        return transaction.count(
            sa.update(delivery)
            .where(delivery.c.id.in_([row.id for row in rows]), *its)
            .values(lease_until=transaction.now - 0.001)
        )


def renew(database: Database, claims: Sequence[DeliveryClaim], *, lease: float) -> int:
    """Lengthen the leases still held; return how many are."""
    with database.write() as transaction:
        return sum(
            transaction.count(
                sa.update(delivery)
                .where(
                    delivery.c.id == one.delivery_id,
                    delivery.c.token == one.token,
                    delivery.c.state == DeliveryState.SENDING,
                )
                .values(lease_until=transaction.now + lease)
            )
            for one in sorted(claims, key=lambda one: one.delivery_id)
        )


_CHANGE = sa.update(delivery).where(delivery.c.id == sa.bindparam("its_id"))
_LOCK_JOB = sa.select(job.c.state).where(job.c.id == sa.bindparam("its_id")).with_for_update()
_HELD = sa.select(delivery.c.token, delivery.c.state).where(delivery.c.id == sa.bindparam("its_id")).with_for_update()


def move(
    transaction: Transaction, delivery_id: int, before: DeliveryState, happened: DeliveryEvent, **values: object
) -> None:
    """Change the state as the table allows and end the lease; the caller notes the event in the same transaction."""
    after = advance_delivery(before, happened)
    settled = {"settled_at": transaction.now, "held": False} if after in RESTING else {}
    freed = {"lease_owner": None, "lease_until": None}
    transaction.connection.execute(_CHANGE, {"its_id": delivery_id, "state": after, **freed, **settled, **values})


def cancel_if_replaced(transaction: Transaction, delivery_id: int, job_id: int, state: JobState) -> None:
    """Cancel a report that came back to the queue after its job was superseded or withdrawn."""
    if replaced(transaction, delivery_id, state):
        move(transaction, delivery_id, DeliveryState.PENDING, DeliveryEvent.CANCELLED)
        note(transaction, DeliveryEvent.CANCELLED, job_id=job_id, delivery_id=delivery_id)


def replaced(transaction: Transaction, delivery_id: int, state: JobState) -> bool:
    """Whether a delivery brings what is no longer said.

    Of a job that was superseded or withdrawn that is everything; else a notice that there is no result where there is
    one, and a summary of a study that has a newer one or lost a film since.
    """
    row = transaction.row(_SAYS, its_id=delivery_id)
    if row is None:
        return False
    if state in (JobState.SUPERSEDED, JobState.WITHDRAWN) or row.newer:
        return True
    if row.act not in ("report", NOTICE):
        return _lists_withdrawn(transaction, delivery_id)
    return bool(row.act == NOTICE and row.outcome)


_LATER = study_summary.alias()
_NEWER = sa.exists().where(
    study_summary.c.job_id == delivery.c.job_id,
    study_summary.c.act == delivery.c.act,
    _LATER.c.study_digest == study_summary.c.study_digest,
    _LATER.c.revision > study_summary.c.revision,
)
#: What a delivery brings that takes nothing back.
_SAYS = (
    sa.select(delivery.c.act, job.c.outcome, _NEWER.label("newer"))
    .join(job, job.c.id == delivery.c.job_id)
    .where(delivery.c.id == sa.bindparam("its_id"), ~takes_back(delivery.c.act))
)


def _lists_withdrawn(transaction: Transaction, delivery_id: int) -> bool:
    """Whether a film of the study that a summary is of was withdrawn after the summary was made."""
    film, its, mine = job.alias(), identity.alias(), identity.alias()
    found = (
        sa.select(film.c.id)
        .select_from(delivery)
        .join(
            study_summary,
            (study_summary.c.job_id == delivery.c.job_id) & (study_summary.c.act == delivery.c.act),
        )
        .join(job, job.c.id == delivery.c.job_id)
        .join(mine, mine.c.instance_id == job.c.instance_id)
        .join(its, its.c.study_instance_uid == mine.c.study_instance_uid)
        .join(film, (film.c.instance_id == its.c.instance_id) & (film.c.model == job.c.model))
        .where(
            delivery.c.id == delivery_id,
            film.c.state == JobState.WITHDRAWN,
            film.c.rejected_at > study_summary.c.created_at,
        )
        .limit(1)
    )
    return transaction.scalar(found) is not None


def cancel_notices(transaction: Transaction, job_id: int) -> None:
    """Cancel the notices of a job, whose row is locked, that did not go out yet: it has its result now.

    One that a sender takes at this moment is passed over, not waited for: `begin` gives it up.
    """
    waiting = transaction.rows(
        sa.select(delivery.c.id)
        .where(delivery.c.job_id == job_id, delivery.c.act == NOTICE, delivery.c.state == DeliveryState.PENDING)
        .with_for_update(skip_locked=True)
    )
    for row in waiting:
        move(transaction, row.id, DeliveryState.PENDING, DeliveryEvent.CANCELLED)
        note(transaction, DeliveryEvent.CANCELLED, job_id=job_id, delivery_id=row.id)


def begin(database: Database, held: DeliveryClaim) -> bool:
    """Take the last look before a delivery's first object goes: False where it is not to go, and was given up.

    It was claimed some time ago, with others. From here on the destination may have its objects, whatever happens to
    this process: a withdrawal names them. Raises LeaseLost.
    """
    with database.write() as transaction:
        state = fence(transaction, held)
        whose = {"job_id": held.job_id, "delivery_id": held.delivery_id}
        if replaced(transaction, held.delivery_id, state):
            move(transaction, held.delivery_id, DeliveryState.SENDING, DeliveryEvent.CANCELLED)
            note(transaction, DeliveryEvent.CANCELLED, **whose)
            return False
        withheld = transaction.row(_WITHHELD, its_id=held.delivery_id)
        if withheld is not None and (withheld.held or withheld.paused):
            move(transaction, held.delivery_id, DeliveryState.SENDING, DeliveryEvent.GIVEN_BACK)
            reason = "held meanwhile" if withheld.held else "sending was stopped meanwhile"
            note(transaction, DeliveryEvent.GIVEN_BACK, reason=reason, **whose)
            return False
        transaction.connection.execute(_MAY_HAVE, {"its_id": held.delivery_id})
        return True


_WITHHELD = sa.select(delivery.c.held, stands_still(SENDING).label("paused")).where(
    delivery.c.id == sa.bindparam("its_id")
)
_MAY_HAVE = (
    sa.update(delivery_output)
    .where(delivery_output.c.delivery_id == sa.bindparam("its_id"), delivery_output.c.done.is_(False))
    .values(had=True)
)


def fence(transaction: Transaction, held: DeliveryClaim) -> JobState:
    """Lock the claimed row and its job, make sure that it is still ours, and return the job's state.

    Raises LeaseLost.
    """
    row = transaction.row(_HELD, its_id=held.delivery_id)
    if row is None or row.token != held.token or row.state != DeliveryState.SENDING:
        raise LeaseLost(f"delivery {held.delivery_id} is no longer held under token {held.token}")
    return lock_job(transaction, held.job_id)
