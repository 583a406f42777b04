"""Rows that contradict the life of a job, found and put right. None is made by this code as it stands: a database that
was mended by hand, brought back from a backup or written by an older version may hold some.

    a lease without an end          ends now; the work goes back to the queue
    a job all of whose deliveries rest is closed (design, rule 8)
    a report with nowhere to go     gets the deliveries that its rule asked for
    a delivery of what is said no more, or without its job, is cancelled

Each is an event. Nothing here removes a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.core.findings import Outcome
from cxrnode.core.lifecycle import DONE, RESTING, DeliveryState, JobState
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import cancel_if_replaced, lock_deliveries, lock_job
from cxrnode.store.reports import MESSAGE, create_delivery
from cxrnode.store.schema import delivery, delivery_output, job, output
from cxrnode.store.settlements import close_job

_UNDER_WAY = (DeliveryState.WAITING, DeliveryState.PENDING, DeliveryState.SENDING)


def end_endless(database: Database) -> int:
    """Let leases without an end be over, so that `expire` takes them; return how many there were."""
    endless = [
        (job, JobState.READING),
        (delivery, DeliveryState.SENDING),
    ]
    with database.read() as transaction:  # most looks find nothing, and hold up no writer
        if not any(
            transaction.scalar(sa.select(sa.exists().where(table.c.state == state, table.c.lease_until.is_(None))))
            for table, state in endless
        ):
            return 0
    ended = 0
    for table, state in reversed(endless):  # deliveries before jobs, each in a transaction of its own
        with database.write() as transaction:
            ended += transaction.count(
                sa.update(table)
                .where(table.c.state == state, table.c.lease_until.is_(None))
                .values(lease_until=transaction.now - 0.001)
            )
    return ended


def reported_after(database: Database, after: int, *, limit: int = 2000) -> list[int]:
    """The next reported jobs by their ids, a page at a time: shadow models leave many that rest in that state."""
    chosen = sa.select(job.c.id).where(job.c.state == JobState.REPORTED, job.c.id > after)
    with database.read() as transaction:
        return [row.id for row in transaction.rows(chosen.order_by(job.c.id).limit(limit))]


def close_unclosed(database: Database, job_ids: Sequence[int]) -> int:
    """Close those of the jobs whose last delivery rests; return how many."""
    its = delivery.c.job_id == job.c.id
    report = delivery.c.act == "report"
    unfinished = sa.or_(delivery.c.state.not_in(RESTING), delivery.c.commit_at.is_not(None))
    told = delivery.c.state.in_((*DONE, DeliveryState.FAILED))
    chosen = sa.select(job.c.id).where(
        job.c.id.in_(job_ids),
        job.c.state == JobState.REPORTED,
        sa.exists().where(its, report, told),
        ~sa.exists().where(its, report, unfinished),
    )
    with database.read() as transaction:
        ids = [row.id for row in transaction.rows(chosen.order_by(job.c.id))]
    closed = 0
    for job_id in ids:
        with database.write() as transaction:
            lock_deliveries(transaction, job_id)
            if lock_job(transaction, job_id) is not JobState.REPORTED:
                continue
            close_job(transaction, job_id)
            note(transaction, "healed", job_id=job_id, what="all its deliveries rested, and it was not closed")
            closed += 1
    return closed


def deliver_undelivered(database: Database, job_ids: Sequence[int]) -> int:
    """Give those of the jobs' reports that went nowhere the deliveries that their rule asked for; return how many."""
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(job.c.id, job.c.wanted)
            .where(
                job.c.id.in_(job_ids),
                job.c.state == JobState.REPORTED,
                job.c.mode == "active",
                job.c.outcome.in_((Outcome.ANALYSED, Outcome.NOT_ANALYSED)),
            )
            .order_by(job.c.id)
        )
        ids = [row.id for row in rows if _wanted(row)]
        there = {
            (row.job_id, row.destination)
            for row in transaction.rows(
                sa.select(delivery.c.job_id, delivery.c.destination).where(
                    delivery.c.job_id.in_(ids), delivery.c.act == "report"
                )
            )
        }
    lacking = [row.id for row in rows if any((row.id, name) not in there for name in _wanted(row))]
    return sum(_deliver(database, job_id) for job_id in lacking)


def _wanted(row: Row) -> tuple[str, ...]:
    said = json.loads(row.wanted)
    return (*said["send_to"], *said.get("messages_to", ()))


def _deliver(database: Database, job_id: int) -> bool:
    with database.write() as transaction:
        lock_deliveries(transaction, job_id)
        if lock_job(transaction, job_id) is not JobState.REPORTED:
            return False
        its = sa.select(delivery.c.destination).where(delivery.c.job_id == job_id, delivery.c.act == "report")
        there = {row.destination for row in transaction.rows(its)}
        row = transaction.rows(sa.select(job.c.wanted, job.c.disputed).where(job.c.id == job_id))[0]
        said, made = json.loads(row.wanted), _reports_outputs(transaction, job_id)
        objects = [one.id for one in made if one.kind != MESSAGE]
        messages = [one.id for one in made if one.kind == MESSAGE]
        given = []
        for names, ids in ((said["send_to"], objects), (said.get("messages_to", ()), messages)):
            for name in (one for one in names if ids and one not in there):
                held = "the same film came under two identities" if row.disputed else ""
                create_delivery(transaction, job_id, name, ids, held_reason=held)
                given.append(name)
        if given:
            note(transaction, "healed", job_id=job_id, what="its report went nowhere", destinations=given)
        return bool(given)


def _reports_outputs(transaction: Transaction, job_id: int) -> list[Row]:
    """The outputs of a job's report that have their bytes: not those of a notice, a withdrawal or a study's summary."""
    of_another = (
        sa.exists()
        .where(delivery_output.c.output_id == output.c.id)
        .where(delivery.c.id == delivery_output.c.delivery_id, delivery.c.act != "report")
    )
    chosen = sa.select(output.c.id, output.c.kind).where(
        output.c.job_id == job_id, output.c.spool_key.is_not(None), ~of_another
    )
    return list(transaction.rows(chosen.order_by(output.c.id)))


def cancel_pointless(database: Database, *, limit: int = 100) -> int:
    """Cancel deliveries of reports that are said no more, and those whose job is not there; return how many."""
    gone = ~sa.exists().where(job.c.id == delivery.c.job_id)
    replaced = sa.exists().where(
        job.c.id == delivery.c.job_id, job.c.state.in_((JobState.SUPERSEDED, JobState.WITHDRAWN))
    )
    chosen = (
        sa.select(delivery.c.id, delivery.c.job_id, gone.label("gone"))
        .where(
            delivery.c.state.in_(_UNDER_WAY),
            sa.or_(gone, sa.and_(replaced, delivery.c.state == DeliveryState.PENDING, delivery.c.act == "report")),
        )
        .order_by(delivery.c.id)
        .limit(limit)
    )
    with database.read() as transaction:
        rows = transaction.rows(chosen)
    return sum(_cancel(database, row) for row in rows)


def _cancel(database: Database, found: Row) -> bool:
    with database.write() as transaction:
        state = transaction.scalar(sa.select(delivery.c.state).where(delivery.c.id == found.id).with_for_update())
        if state not in _UNDER_WAY:
            return False
        if found.gone:  # there is no chain that the event could stand in
            transaction.connection.execute(
                sa.update(delivery)
                .where(delivery.c.id == found.id)
                .values(state=DeliveryState.CANCELLED, settled_at=transaction.now, lease_owner=None, lease_until=None)
            )
            note(transaction, "healed", delivery_id=found.id, what="its job is not there")
            return True
        if state != DeliveryState.PENDING:
            return False
        cancel_if_replaced(transaction, found.id, found.job_id, lock_job(transaction, found.job_id))
        note(transaction, "healed", job_id=found.job_id, delivery_id=found.id, what="it brings what is said no more")
        return True
