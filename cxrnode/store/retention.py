"""Retention: which bytes have had their time, and which files no row knows. Rows of the audit trail always stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.store.audit import note
from cxrnode.store.database import Database
from cxrnode.store.schema import delivery, event, instance, job, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """How long bytes are kept, in seconds: of films whose jobs rest well, of ignored ones, of failed ones."""

    accepted: float
    ignored: float
    failed: float


#: States in which nothing more happens to a job by itself. One that is reported rests where nothing is to be sent:
#: a shadow job, a duplicate, a rule without destinations.
_RESTING = (JobState.DELIVERED, JobState.FAILED, JobState.SUPERSEDED, JobState.WITHDRAWN)
_UNDER_WAY = (DeliveryState.WAITING, DeliveryState.PENDING, DeliveryState.SENDING)
#: What has something to come of it: where the destination is to commit, what it does not commit to goes once more.
_TO_COME = sa.or_(delivery.c.state.in_(_UNDER_WAY), delivery.c.commit_at.is_not(None))


def _over(now: float, periods: Periods) -> tuple[sa.ColumnElement[bool], ...]:
    """The instances whose bytes are there and have had their time.

    Few of all have bytes: those are asked for by the index of the keys and in its order, or a look would go through
    every film there ever was.
    """
    resting = sa.or_(
        job.c.state.in_(_RESTING),
        sa.and_(
            job.c.state == JobState.REPORTED,
            ~sa.exists().where(delivery.c.job_id == job.c.id, delivery.c.act == "report"),
        ),
    )
    # A withdrawal may be under way long after its job rests.
    to_come = sa.exists().where(delivery.c.job_id == job.c.id, _TO_COME)
    busy = sa.exists().where(job.c.instance_id == instance.c.id, sa.or_(sa.not_(resting), to_come))
    kept = sa.case((job.c.state == JobState.FAILED, max(periods.failed, periods.accepted)), else_=periods.accepted)
    fresh = sa.exists().where(job.c.instance_id == instance.c.id, job.c.settled_at > now - kept)
    # Somebody sent the film again to have it read again: its bytes get their time anew.
    restored = sa.exists().where(
        event.c.instance_id == instance.c.id, event.c.name == "bytes_restored", event.c.at > now - periods.accepted
    )
    accepted = sa.and_(instance.c.received_at <= now - periods.accepted, ~busy, ~fresh, ~restored)
    ignored = instance.c.received_at <= now - periods.ignored
    return instance.c.spool_key > "", sa.case((instance.c.verdict == "ignored", ignored), else_=accepted)


def retire(database: Database, periods: Periods, *, limit: int) -> list[str]:
    """Take the spool keys out of up to `limit` instances whose time is over, with an event each; return the keys.

    The caller removes the files after this commit: one that is then left over is an orphan and goes later.
    """
    with database.read() as transaction:  # most looks find nothing, and hold up no writer
        chosen = sa.select(instance.c.id).where(*_over(transaction.now, periods))
        found = [row.id for row in transaction.rows(chosen.order_by(instance.c.spool_key).limit(limit))]
    if not found:
        return []
    with database.write() as transaction:
        over = _over(transaction.now, periods)
        locked = transaction.rows(
            sa.select(instance.c.id)
            .where(instance.c.id.in_(found), *over)
            .order_by(instance.c.id)
            .with_for_update(skip_locked=True, key_share=True)
        )
        # Looked at again under the lock: PostgreSQL judged `over` by a snapshot older than the last retry's commit.
        rows = transaction.rows(
            sa.select(instance.c.id, instance.c.spool_key)
            .where(instance.c.id.in_([row.id for row in locked]), *over)
            .order_by(instance.c.id)
        )
        # All jobs at once and by their ids, as everybody locks them.
        its = job.c.instance_id.in_([row.id for row in rows])
        transaction.rows(sa.select(job.c.id).where(its).order_by(job.c.id).with_for_update())
        keys: list[str] = []
        for row in rows:
            taken = [row.spool_key]
            jobs = transaction.rows(
                sa.select(job.c.id, job.c.saliency_key, job.c.preview_key).where(job.c.instance_id == row.id)
            )
            for one in jobs:
                taken += [key for key in (one.saliency_key, one.preview_key) if key]
                taken += [
                    found.spool_key
                    for found in transaction.rows(
                        sa.select(output.c.spool_key).where(output.c.job_id == one.id, output.c.spool_key.is_not(None))
                    )
                ]
            ids = [one.id for one in jobs]
            transaction.connection.execute(
                sa.update(job).where(job.c.id.in_(ids)).values(saliency_key=None, preview_key=None)
            )
            transaction.connection.execute(sa.update(output).where(output.c.job_id.in_(ids)).values(spool_key=None))
            transaction.connection.execute(sa.update(instance).where(instance.c.id == row.id).values(spool_key=None))
            note(transaction, "bytes_removed", instance_id=row.id, files=len(taken))
            keys += taken
        return keys


def retire_notes(database: Database, periods: Periods, *, limit: int) -> list[str]:
    """As `retire`, for what was made after the film's own bytes had gone: a withdrawal, the summary of a study."""
    with database.read() as transaction:
        chosen = _notes_over(transaction.now, periods).order_by(output.c.spool_key).limit(limit)
        found = [row.id for row in transaction.rows(chosen)]
    if not found:
        return []
    with database.write() as transaction:
        chosen = _notes_over(transaction.now, periods).where(output.c.id.in_(found)).order_by(output.c.id)
        rows = transaction.rows(chosen.with_for_update(of=output, skip_locked=True))
        ids = [row.id for row in rows]
        transaction.connection.execute(sa.update(output).where(output.c.id.in_(ids)).values(spool_key=None))
        for instance_id in dict.fromkeys(row.instance_id for row in rows):
            files = sum(row.instance_id == instance_id for row in rows)
            note(transaction, "bytes_removed", instance_id=instance_id, files=files)
        return [row.spool_key for row in rows]


def _notes_over(now: float, periods: Periods) -> sa.Select[tuple[int, str, int]]:
    """The outputs whose bytes outlived their film's and have had their time; by the index of the keys, as `_over`."""
    to_come = sa.exists().where(delivery.c.job_id == output.c.job_id, _TO_COME)
    fresh = sa.exists().where(delivery.c.job_id == output.c.job_id, delivery.c.created_at > now - periods.accepted)
    return (
        sa.select(output.c.id, output.c.spool_key, instance.c.id.label("instance_id"))
        .join(job, job.c.id == output.c.job_id)
        .join(instance, instance.c.id == job.c.instance_id)
        .where(output.c.spool_key > "", sa.func.coalesce(instance.c.spool_key, "") == "", ~to_come, ~fresh)
    )


#: Where rows keep the keys of files.
_KEYS = (instance.c.spool_key, output.c.spool_key, job.c.saliency_key, job.c.preview_key)


def known_keys(database: Database, *, page: int = 1000) -> Iterator[list[str]]:
    """Every key that a row has, by pages in the order of the keys."""
    for column in _KEYS:
        last = ""
        while True:
            with database.read() as transaction:
                found = [
                    row[0]
                    for row in transaction.rows(sa.select(column).where(column > last).order_by(column).limit(page))
                ]
            if not found:
                break
            yield found
            last = found[-1]


def unknown_keys(database: Database, keys: Sequence[str]) -> list[str]:
    """Those of the keys that no row has."""
    if not keys:
        return []
    known: set[str] = set()
    with database.read() as transaction:
        for column in _KEYS:
            known |= {row[0] for row in transaction.rows(sa.select(column).where(column.in_(keys)))}
    return [key for key in keys if key not in known]
