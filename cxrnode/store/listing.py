"""What the store shows to people: instances, jobs, and one of them with all that belongs to it. Reads, in short steps.

Identifiers come from `reveal` alone, which writes down in the audit trail who looked. No read lasts long (design,
rule 13): a listing walks back from the newest row in windows of ids, and ends by itself before the time asked for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.findings import Report
from cxrnode.errors import Rejected
from cxrnode.store.audit import Event, EventFilter, note, query
from cxrnode.store.database import Database, Row
from cxrnode.store.schema import delivery, delivery_output, identity, instance, job, output

#: Rows looked at in one read. The header's JSON makes an instance about a kilobyte.
WINDOW = 4000
#: Events of one job that are shown, at most: a delivery that is tried for a week has thousands.
MOST_EVENTS = 2000


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
    """One job. `deliveries` maps each destination to the state of its delivery."""

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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OutputRow:
    """One output of a job; its UID belongs to the patient's study and is an identifier."""

    id: int
    kind: str
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int
    size: int
    kept: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRow:
    """What a destination said to one output: its C-STORE status, None while it was not asked."""

    output_id: int
    status: int | None
    done: bool
    comment: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """One delivery with its objects."""

    id: int
    destination: str
    act: str
    state: str
    reason: str
    held: bool
    attempts: int
    created_at: float
    not_before: float
    settled_at: float | None
    objects: tuple[ObjectRow, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JobDetail:
    """A job with all that belongs to it, but for whose film it is. `events` are the instance's and the job's."""

    job: JobRow
    rule: str
    outputs_wanted: tuple[str, ...]
    send_to: tuple[str, ...]
    attempts: int
    losses: int
    engine: str
    bundle_digest: str
    config_digest: str
    duplicate_of: int | None
    predecessor: int | None
    successor: int | None
    report: Report | None
    report_sha256: str
    outputs: tuple[OutputRow, ...]
    deliveries: tuple[DeliveryRow, ...]
    events: tuple[Event, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Revealed:
    """Whose film an instance is said to be. Every field identifies a person."""

    patient_id: str
    issuer: str
    patient_name: str
    birth_date: str
    sex: str
    accession: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str

    def __repr__(self) -> str:
        """Nothing of the values: a repr ends in logs and tracebacks."""
        return "Revealed(...)"


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
        yield from _instances(database, rows)


def instance_row(database: Database, instance_id: int) -> InstanceRow:
    """Return one instance. Raises Rejected where there is none."""
    with database.read() as transaction:
        row = transaction.row(sa.select(instance).where(instance.c.id == instance_id))
    if row is None:
        raise Rejected(f"there is no instance {instance_id}; `cxrnode instances ls` shows those that are")
    return _instances(database, [row])[0]


def list_jobs(database: Database, chosen: JobFilter, *, limit: int) -> Iterator[JobRow]:
    """Yield up to `limit` jobs, the newest first. The time of a job is that of its making."""
    conditions = _equal((job.c.state, chosen.state), (job.c.model, chosen.model), (job.c.outcome, chosen.outcome))
    conditions += _between(job.c.created_at, chosen.since, chosen.until)
    for rows in _pages(database, _JOBS, job.c.id, job.c.created_at, conditions, chosen.since, limit):
        yield from _jobs(database, rows)


def job_detail(database: Database, job_id: int) -> JobDetail:
    """Return a job with its report, outputs, deliveries and events. Raises Rejected where there is none."""
    whole = sa.select(*_JOBS.selected_columns, *_MORE).join_from(job, instance, instance.c.id == job.c.instance_id)
    with database.read() as transaction:
        row = transaction.row(whole.where(job.c.id == job_id))
        if row is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        successor = transaction.scalar(
            sa.select(job.c.id).where(job.c.instance_id == row.instance_id, job.c.predecessor == job_id)
        )
        outputs = transaction.rows(
            sa.select(output).where(output.c.job_id == job_id).order_by(output.c.instance_number)
        )
        deliveries = transaction.rows(sa.select(delivery).where(delivery.c.job_id == job_id).order_by(delivery.c.id))
        objects = transaction.rows(
            sa.select(delivery_output)
            .where(delivery_output.c.delivery_id.in_([one.id for one in deliveries]))
            .order_by(delivery_output.c.output_id)
        )
    wanted = json.loads(row.wanted)
    return JobDetail(
        job=_jobs(database, [row])[0],
        rule=row.rule,
        outputs_wanted=tuple(wanted["outputs"]),
        send_to=tuple(wanted["send_to"]),
        attempts=row.attempts,
        losses=row.losses,
        engine=row.engine,
        bundle_digest=row.bundle_digest,
        config_digest=row.config_digest,
        duplicate_of=row.duplicate_of,
        predecessor=row.predecessor,
        successor=successor,
        report=Report.from_json(row.report) if row.report else None,
        report_sha256=row.report_sha256,
        outputs=tuple(_output(one) for one in outputs),
        deliveries=tuple(_delivery(one, [o for o in objects if o.delivery_id == one.id]) for one in deliveries),
        events=_timeline(database, row.instance_id, job_id),
    )


def instance_events(database: Database, instance_id: int) -> tuple[Event, ...]:
    """The events of an instance itself, oldest first; those of its jobs are theirs."""
    found = query(database, EventFilter(instance_id=instance_id), limit=MOST_EVENTS)
    return tuple(event for event in found if event.job_id is None)


def reveal(database: Database, instance_ids: Sequence[int], *, by: str) -> dict[int, Revealed]:
    """Return whose films these are, with an event `identity_viewed` for each, committed before this returns.

    `by` says who looked. An instance whose identity was erased is left out.
    """
    found: dict[int, Revealed] = {}
    for start in range(0, len(instance_ids), 100):
        some = list(dict.fromkeys(instance_ids[start : start + 100]))
        with database.write() as transaction:
            rows = transaction.rows(
                sa.select(identity, instance.c.sop_instance_uid)
                .join(instance, instance.c.id == identity.c.instance_id)
                .where(identity.c.instance_id.in_(some))
            )
            for row in rows:
                note(transaction, "identity_viewed", instance_id=row.instance_id, by=by)
        names = [field.name for field in dataclasses.fields(Revealed)]
        found |= {row.instance_id: Revealed(**{name: getattr(row, name) for name in names}) for row in rows}
    return found


_JOBS = sa.select(
    *(job.c.id, job.c.instance_id, job.c.model, job.c.revision, job.c.mode, job.c.state, job.c.outcome, job.c.reason),
    *(job.c.created_at, job.c.claimed_at, job.c.settled_at, instance.c.received_at, instance.c.calling_aet),
).join_from(job, instance, instance.c.id == job.c.instance_id)
_MORE = (
    *(instance.c.rule, job.c.wanted, job.c.attempts, job.c.losses, job.c.engine, job.c.bundle_digest),
    *(job.c.config_digest, job.c.duplicate_of, job.c.predecessor, job.c.report, job.c.report_sha256),
)


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
        chosen = statement.where(*window, *conditions).order_by(key.desc()).limit(limit)
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
        high -= WINDOW


def _instances(database: Database, rows: Sequence[Row]) -> list[InstanceRow]:
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


def _jobs(database: Database, rows: Sequence[Row]) -> list[JobRow]:
    states: dict[int, dict[str, str]] = {}
    for start in range(0, len(rows), 500):
        ids = [row.id for row in rows[start : start + 500]]
        statement = sa.select(delivery.c.job_id, delivery.c.destination, delivery.c.state, delivery.c.held)
        with database.read() as transaction:
            found = transaction.rows(
                statement.where(delivery.c.job_id.in_(ids), delivery.c.act == "report").order_by(delivery.c.id)
            )
        for one in found:
            held = one.held and one.state == "pending"
            states.setdefault(one.job_id, {})[one.destination] = "held" if held else one.state
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
            deliveries=states.get(row.id, {}),
        )
        for row in rows
    ]


def _output(row: Row) -> OutputRow:
    return OutputRow(
        id=row.id,
        kind=row.kind,
        label=row.label,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        instance_number=row.instance_number,
        size=row.size,
        kept=row.spool_key is not None,
    )


def _delivery(row: Row, objects: Sequence[Row]) -> DeliveryRow:
    return DeliveryRow(
        id=row.id,
        destination=row.destination,
        act=row.act,
        state=row.state,
        reason=row.reason,
        held=row.held,
        attempts=row.attempts,
        created_at=row.created_at,
        not_before=row.not_before,
        settled_at=row.settled_at,
        objects=tuple(
            ObjectRow(output_id=one.output_id, status=one.status, done=one.done, comment=one.comment) for one in objects
        ),
    )


def _timeline(database: Database, instance_id: int, job_id: int) -> tuple[Event, ...]:
    """The instance's own events and all of the job's, oldest first."""
    own = instance_events(database, instance_id)
    mine = tuple(query(database, EventFilter(job_id=job_id), limit=MOST_EVENTS))
    return tuple(sorted((*own, *mine), key=lambda event: event.id))
