"""One instance or job with all that belongs to it, and whose film it is for those who ask.

Identifiers come from `reveal` alone, which writes down in the audit trail who looked; the rest are reads.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.findings import Report
from cxrnode.core.lifecycle import DeliveryState
from cxrnode.errors import Rejected
from cxrnode.store import circuits
from cxrnode.store.audit import Event, EventFilter, note, query
from cxrnode.store.circuits import Down
from cxrnode.store.database import Database, Row
from cxrnode.store.listing import JOBS, InstanceRow, JobRow, instances_of, jobs_of
from cxrnode.store.schema import delivery, delivery_output, identity, instance, job, output

#: Events of one job that are shown, at most: a delivery that is tried for a week has thousands.
MOST_EVENTS = 2000


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
    """What a destination said to one output: its C-STORE status, None while it was not asked.

    `committed`: it committed to storage; `commit_failure` is why it would not, the last time that it was asked.
    """

    output_id: int
    status: int | None
    done: bool
    comment: str
    committed: bool
    commit_failure: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryRow:
    """One delivery with its objects. `commit_at`: when the destination is asked (again) to commit; None: it is not.

    `down`: it waits for a destination that is not reached.
    """

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
    commit_at: float | None
    down: Down | None
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
    rules_digest: str
    duplicate_of: int | None
    rejection_note: str
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


def instance_row(database: Database, instance_id: int) -> InstanceRow:
    """Return one instance. Raises Rejected where there is none."""
    with database.read() as transaction:
        row = transaction.row(sa.select(instance).where(instance.c.id == instance_id))
    if row is None:
        raise Rejected(f"there is no instance {instance_id}; `cxrnode instances ls` shows those that are")
    return instances_of(database, [row])[0]


def job_detail(database: Database, job_id: int) -> JobDetail:
    """Return a job with its report, outputs, deliveries and events. Raises Rejected where there is none."""
    whole = sa.select(*JOBS.selected_columns, *_MORE).join_from(job, instance, instance.c.id == job.c.instance_id)
    with database.read() as transaction:
        row = transaction.row(whole.where(job.c.id == job_id))
        if row is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        successor = transaction.scalar(
            sa.select(job.c.id).where(job.c.predecessor == job_id).order_by(job.c.id).limit(1)
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
    down = circuits.down(database)
    wanted = json.loads(row.wanted)
    return JobDetail(
        job=jobs_of(database, [row])[0],
        rule=row.rule,
        outputs_wanted=tuple(wanted["outputs"]),
        send_to=(*wanted["send_to"], *wanted.get("messages_to", ())),
        attempts=row.attempts,
        losses=row.losses,
        engine=row.engine,
        bundle_digest=row.bundle_digest,
        config_digest=row.config_digest,
        rules_digest=row.rules_digest,
        duplicate_of=row.duplicate_of,
        rejection_note=row.rejection_note,
        successor=successor,
        report=Report.from_json(row.report) if row.report else None,
        report_sha256=row.report_sha256,
        outputs=tuple(_output(one) for one in outputs),
        deliveries=tuple(_delivery(one, [o for o in objects if o.delivery_id == one.id], down) for one in deliveries),
        events=_timeline(database, row.instance_id, job_id),
    )


def instance_events(database: Database, instance_id: int) -> tuple[Event, ...]:
    """The events of an instance itself, oldest first; those of its jobs are theirs."""
    found = query(database, EventFilter(instance_id=instance_id), limit=MOST_EVENTS)
    return tuple(event for event in found if event.job_id is None)


def reveal(database: Database, instance_ids: Sequence[int], *, by: str, why: str = "") -> dict[int, Revealed]:
    """Return whose films these are, with an event `identity_viewed` for each, committed before this returns.

    `by` says who looked, `why` what for. An instance whose identity was erased is left out.
    """
    found: dict[int, Revealed] = {}
    said: dict[str, Any] = {"why": why} if why else {}
    for start in range(0, len(instance_ids), 100):
        some = list(dict.fromkeys(instance_ids[start : start + 100]))
        with database.write() as transaction:
            rows = transaction.rows(
                sa.select(identity, instance.c.sop_instance_uid)
                .join(instance, instance.c.id == identity.c.instance_id)
                .where(identity.c.instance_id.in_(some))
            )
            for row in rows:
                note(transaction, "identity_viewed", instance_id=row.instance_id, by=by, **said)
        names = [field.name for field in dataclasses.fields(Revealed)]
        found |= {row.instance_id: Revealed(**{name: getattr(row, name) for name in names}) for row in rows}
    return found


_MORE = (
    *(instance.c.rule, job.c.wanted, job.c.attempts, job.c.losses, job.c.engine, job.c.bundle_digest),
    *(
        job.c.config_digest,
        job.c.rules_digest,
        job.c.duplicate_of,
        job.c.rejection_note,
        job.c.report,
        job.c.report_sha256,
    ),
)


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


def _delivery(row: Row, objects: Sequence[Row], down: Mapping[str, Down]) -> DeliveryRow:
    waits = row.state == DeliveryState.PENDING or row.commit_at is not None
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
        commit_at=row.commit_at,
        down=down.get(row.destination) if waits else None,
        objects=tuple(_object(one) for one in objects),
    )


def _object(row: Row) -> ObjectRow:
    return ObjectRow(**{field.name: getattr(row, field.name) for field in dataclasses.fields(ObjectRow)})


def _timeline(database: Database, instance_id: int, job_id: int) -> tuple[Event, ...]:
    """The instance's own events and all of the job's, oldest first."""
    own = instance_events(database, instance_id)
    mine = tuple(query(database, EventFilter(job_id=job_id), limit=MOST_EVENTS))
    return tuple(sorted((*own, *mine), key=lambda event: event.id))
