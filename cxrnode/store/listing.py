"""What the store lists for people: instances and jobs, the newest first. Reads alone, in short steps.

No read lasts long (design, rule 13): a listing walks back from the newest row in windows of ids, and ends by itself
before the time asked for. Whose films they are is `store.details`'s to tell.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.store.database import Database, Row
from cxrnode.store.deliveries import WITHDRAWAL
from cxrnode.store.schema import delivery, instance, job

#: Ids looked at in one read, and rows fetched by it. The header's JSON makes an instance about a kilobyte.
WINDOW = 2000
PAGE = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFilter:
    """What `instances` selects; None leaves a condition out. Times are seconds since 1970 in UTC."""

    verdict: str | None = None
    calling_aet: str | None = None
    rule: str | None = None
    since: float | None = None
    until: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRow:
    """One received instance. `header` is the routing header, whose free text may name the patient."""

    id: int
    received_at: float
    calling_aet: str
    called_aet: str
    verdict: str
    reason: str
    rule: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    kept: bool
    jobs: tuple[int, ...]
    header: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """What `jobs` selects; None leaves a condition out. Times are seconds since 1970 in UTC."""

    state: str | None = None
    model: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    """One job. `deliveries` maps each destination to the state of its delivery, `withdrawals` to that of the undoing.

    `predecessor` is the job that it is the next revision of; `disputed` says that its film came under two identities.
    """

    id: int
    instance_id: int
    model: str
    revision: int
    mode: str
    state: str
    outcome: str
    reason: str
    created_at: float
    claimed_at: float | None
    settled_at: float | None
    received_at: float
    calling_aet: str
    deliveries: Mapping[str, str]
    predecessor: int | None = None
    disputed: bool = False
    rejection: str = ""
    withdrawals: Mapping[str, str] = dataclasses.field(default_factory=dict)


def list_instances(database: Database, chosen: InstanceFilter, *, limit: int) -> Iterator[InstanceRow]:
    """Yield up to `limit` instances, the newest first."""
    conditions = _equal(
        (instance.c.verdict, chosen.verdict),
        (instance.c.calling_aet, chosen.calling_aet),
        (instance.c.rule, chosen.rule),
    )
    conditions += _between(instance.c.received_at, chosen.since, chosen.until)
    pages = _pages(
        database, sa.select(instance), instance.c.id, instance.c.received_at, conditions, chosen.since, limit
    )
    for rows in pages:
        yield from instances_of(database, rows)


def list_jobs(database: Database, chosen: JobFilter, *, limit: int) -> Iterator[JobRow]:
    """Yield up to `limit` jobs, the newest first. The time of a job is that of its making."""
    conditions = _equal((job.c.state, chosen.state), (job.c.model, chosen.model), (job.c.outcome, chosen.outcome))
    conditions += _between(job.c.created_at, chosen.since, chosen.until)
    for rows in _pages(database, JOBS, job.c.id, job.c.created_at, conditions, chosen.since, limit):
        yield from jobs_of(database, rows)


#: The columns of a JobRow.
JOBS = sa.select(
    *(job.c.id, job.c.instance_id, job.c.model, job.c.revision, job.c.mode, job.c.state, job.c.outcome, job.c.reason),
    *(job.c.predecessor, job.c.disputed, job.c.rejection),
    *(job.c.created_at, job.c.claimed_at, job.c.settled_at, instance.c.received_at, instance.c.calling_aet),
).join_from(job, instance, instance.c.id == job.c.instance_id)


def _equal(*pairs: tuple[sa.Column[Any], Any]) -> list[sa.ColumnElement[bool]]:
    return [column == value for column, value in pairs if value is not None]


def _between(column: sa.Column[Any], since: float | None, until: float | None) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if since is not None:
        found.append(column >= since)
    if until is not None:
        found.append(column < until)
    return found


def _pages(
    database: Database,
    statement: sa.Select[Any],
    key: sa.Column[Any],
    time: sa.Column[Any],
    conditions: Sequence[sa.ColumnElement[bool]],
    since: float | None,
    limit: int,
) -> Iterator[Sequence[Row]]:
    """Yield the chosen rows, newest first, one window of ids after the other, up to `limit` rows in all.

    Ids grow with time: a window whose rows are all older than `since` is the last.
    """
    with database.read() as transaction:
        high = transaction.scalar(sa.select(sa.func.max(key))) or 0
    while high > 0 and limit > 0:
        window = (key <= high, key > high - WINDOW)
        chosen = statement.where(*window, *conditions).order_by(key.desc()).limit(min(limit, PAGE))
        with database.read() as transaction:
            rows = transaction.rows(chosen)
            newest = None
            if since is not None and not rows:
                newest = transaction.scalar(sa.select(sa.func.max(time)).where(*window))
        if rows:
            yield rows
        if since is not None and newest is not None and newest < since:
            return
        limit -= len(rows)
        # A full page may have left rows of its window behind.
        high = rows[-1].id - 1 if len(rows) == PAGE else high - WINDOW


def instances_of(database: Database, rows: Sequence[Row]) -> list[InstanceRow]:
    """The rows of the table with the jobs of each."""
    jobs: dict[int, list[int]] = {}
    for start in range(0, len(rows), 500):
        ids = [row.id for row in rows[start : start + 500]]
        with database.read() as transaction:
            statement = sa.select(job.c.id, job.c.instance_id).where(job.c.instance_id.in_(ids)).order_by(job.c.id)
            for found in transaction.rows(statement):
                jobs.setdefault(found.instance_id, []).append(found.id)
    return [
        InstanceRow(
            id=row.id,
            received_at=row.received_at,
            calling_aet=row.calling_aet,
            called_aet=row.called_aet,
            verdict=row.verdict,
            reason=row.reason,
            rule=row.rule,
            sop_class_uid=row.sop_class_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            size=row.size,
            kept=row.spool_key is not None,
            jobs=tuple(jobs.get(row.id, ())),
            header=json.loads(row.header),
        )
        for row in rows
    ]


def jobs_of(database: Database, rows: Sequence[Row]) -> list[JobRow]:
    """The rows of `JOBS` with the deliveries of each."""
    states: dict[str, dict[int, dict[str, str]]] = {"report": {}, WITHDRAWAL: {}}
    for start in range(0, len(rows), 500):
        ids = [row.id for row in rows[start : start + 500]]
        columns = (delivery.c.job_id, delivery.c.destination, delivery.c.act, delivery.c.state, delivery.c.held)
        with database.read() as transaction:
            found = transaction.rows(
                sa.select(*columns)
                .where(delivery.c.job_id.in_(ids), delivery.c.act.in_(states))
                .order_by(delivery.c.id)
            )
        for one in found:
            held = one.held and one.state == "pending"
            states[one.act].setdefault(one.job_id, {})[one.destination] = "held" if held else one.state
    return [
        JobRow(
            id=row.id,
            instance_id=row.instance_id,
            model=row.model,
            revision=row.revision,
            mode=row.mode,
            state=row.state,
            outcome=row.outcome,
            reason=row.reason,
            created_at=row.created_at,
            claimed_at=row.claimed_at,
            settled_at=row.settled_at,
            received_at=row.received_at,
            calling_aet=row.calling_aet,
            deliveries=states["report"].get(row.id, {}),
            predecessor=row.predecessor,
            disputed=row.disputed,
            rejection=row.rejection,
            withdrawals=states[WITHDRAWAL].get(row.id, {}),
        )
        for row in rows
    ]
