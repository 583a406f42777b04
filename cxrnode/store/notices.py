"""Notices: which accepted films have no result and nobody was told, and the record of what they were told.

A film is noticed once, when its job is parked or when it is later than it may be; a result that still comes takes the
notice's place. What is sent is built by the role `tend`, durable in the spool before it is recorded here.

Told nothing: shadow jobs, which never send; rules without destinations; revisions, whose predecessor's word stands;
and a film of which a copy under the same identity was analysed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from enum import StrEnum

import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Reader, Report
from cxrnode.core.lifecycle import JobState
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import NOTICE
from cxrnode.store.disputes import lock_pixels
from cxrnode.store.reports import MESSAGE, StoredOutput, create_delivery, insert_output
from cxrnode.store.schema import identity, instance, job, notice, output, reader

#: A film that a worker took so short a time ago, in seconds, is not said to be late: it may be done any moment.
GRACE = 60.0
#: Films parked longer ago than this, in seconds, are history: notices may have been switched on since.
_OLDEST = 30 * 86400.0
_GONE = (JobState.SUPERSEDED, JobState.WITHDRAWN)


class Cause(StrEnum):
    """Why a film has no result; `covered` says that there was no need to tell."""

    PARKED = "parked"
    LATE = "late"
    COVERED = "covered"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A notice that is to be made. `at` is when it came to be due, by the database's clock: its only time.

    `reason` is the job's where it was parked, "" where it is late. `header` is the film's as `dicom.kept_header` keeps
    it; `reader` is who reads under the model's name, None where that was never loaded.
    """

    job_id: int
    cause: Cause
    reason: str
    at: float
    model: str
    bundle_digest: str
    header: bytes
    transfer_syntax_uid: str
    outputs: tuple[str, ...]
    send_to: tuple[str, ...]
    messages_to: tuple[str, ...]
    reader: Reader | None
    calling_aet: str

    def __repr__(self) -> str:
        """Nothing of the header: a repr ends in logs and tracebacks."""
        return f"Due(job_id={self.job_id}, cause={self.cause!r})"


def due(database: Database, *, late_after: float, limit: int, after: int = 0) -> list[Due]:
    """Up to `limit` films that have no result and were not noticed; those late by `late_after` seconds and more.

    By their jobs' ids, from behind `after`.
    """
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(
                *(job.c.id, job.c.state, job.c.reason, job.c.settled_at, job.c.model, job.c.bundle_digest),
                *(job.c.wanted, instance.c.received_at, instance.c.transfer_syntax_uid, identity.c.header),
                *(reader.c.reader, instance.c.calling_aet),
            )
            .join(instance, instance.c.id == job.c.instance_id)
            .join(identity, identity.c.instance_id == job.c.instance_id)
            .outerjoin(reader, reader.c.model == job.c.model)
            .where(
                *_unanswered(transaction.now, late_after),
                job.c.id > after,
                ~sa.exists().where(notice.c.job_id == job.c.id),
                sa.func.length(identity.c.header) > 0,
            )
            .order_by(job.c.id)
            .limit(limit)
        )
    return [_due(row, late_after) for row in rows]


def _unanswered(now: float, late_after: float) -> tuple[sa.ColumnElement[bool], ...]:
    parked = (job.c.state == JobState.FAILED) & job.c.report.is_(None) & (job.c.settled_at > now - _OLDEST)
    waits = (job.c.state == JobState.QUEUED) | ((job.c.state == JobState.READING) & (job.c.claimed_at <= now - GRACE))
    late = waits & (instance.c.received_at <= now - late_after)
    # The index of the states is what keeps the look short: they are asked for apart. That of predecessors would not:
    # nearly every job has none.
    some = job.c.state.in_((JobState.FAILED, JobState.QUEUED, JobState.READING))
    first = sa.func.coalesce(job.c.predecessor, 0) == 0
    return some, job.c.mode == "active", first, parked | late


def _due(row: Row, late_after: float) -> Due:
    wanted = json.loads(row.wanted)
    parked = row.state == JobState.FAILED
    return Due(
        job_id=row.id,
        cause=Cause.PARKED if parked else Cause.LATE,
        reason=row.reason if parked else "",
        at=row.settled_at if parked else row.received_at + late_after,
        model=row.model,
        bundle_digest=row.bundle_digest,
        header=row.header,
        transfer_syntax_uid=row.transfer_syntax_uid,
        outputs=tuple(wanted["outputs"]),
        send_to=tuple(wanted["send_to"]),
        messages_to=tuple(wanted.get("messages_to", ())),
        reader=Reader(**json.loads(row.reader)) if row.reader else None,
        calling_aet=row.calling_aet,
    )


def record(database: Database, one: Due, report: Report, outputs: Sequence[StoredOutput], *, late_after: float) -> bool:
    """Record a notice with its outputs and deliveries, in one transaction.

    Returns False where nothing of it is to be sent: the film has its result by now, another node was faster, or a copy
    of the film speaks for it. The caller then removes the files that it spooled.
    """
    with database.write() as transaction:
        transaction.scalar(sa.select(job.c.id).where(job.c.id == one.job_id).with_for_update())
        # Looked at again under the lock: it may be retried, read or withdrawn by now.
        still = transaction.row(
            sa.select(job.c.instance_id, job.c.model)
            .join(instance, instance.c.id == job.c.instance_id)
            .where(job.c.id == one.job_id, *_unanswered(transaction.now, late_after))
        )
        if still is None:
            return False
        twin = _covering(transaction, one.job_id, still) or _same_outputs(transaction, outputs)
        told = twin is None and bool(outputs) and bool(one.send_to or one.messages_to)
        made = transaction.insert_new(
            notice,
            {
                "job_id": one.job_id,
                "cause": one.cause if told else Cause.COVERED,
                "at": one.at,
                "created_at": transaction.now,
                "report": report.to_json() if told else "",
                "report_sha256": report.sha256 if told else "",
            },
            unique=("job_id",),
        )
        if made is None or not told:
            return False
        note(
            transaction,
            "not_analysed_said",
            job_id=one.job_id,
            cause=one.cause,
            reason=report.reason,
            report_sha256=report.sha256,
            outputs=len(outputs),
        )
        announce(transaction, one.job_id, NOTICE, outputs, send_to=one.send_to, messages_to=one.messages_to)
        return True


def _covering(transaction: Transaction, job_id: int, its: Row) -> int | None:
    """A job of the same model that analysed another copy of this film, for the same patient, accession and study.

    Or one that says of another copy what is to be said of this one.
    """
    other, who, same = instance.alias(), identity.alias(), identity.alias()
    found = transaction.scalar(
        sa.select(job.c.id)
        .join(other, other.c.id == job.c.instance_id)
        .join(who, who.c.instance_id == other.c.id)
        .join(instance, (instance.c.sop_instance_uid == other.c.sop_instance_uid) & (instance.c.id == its.instance_id))
        .join(same, same.c.instance_id == instance.c.id)
        .where(
            job.c.id != job_id,
            job.c.model == its.model,
            job.c.mode == "active",
            (job.c.outcome == Outcome.ANALYSED) | sa.exists().where(notice.c.job_id == job.c.id, notice.c.report != ""),
            job.c.state.not_in(_GONE),
            *(who.c[name] == same.c[name] for name in ("patient_id", "issuer", "accession", "study_instance_uid")),
        )
        .limit(1)
    )
    return None if found is None else int(found)


def _same_outputs(transaction: Transaction, outputs: Sequence[StoredOutput]) -> int | None:
    """The job whose notice is these very objects: a copy of the film that is as silent as this one."""
    uids = [one.sop_instance_uid for one in outputs]
    if uids:
        lock_pixels(transaction, hashlib.sha256(uids[0].encode()).hexdigest())
    found = transaction.scalar(sa.select(output.c.job_id).where(output.c.sop_instance_uid.in_(uids)).limit(1))
    return None if found is None else int(found)


def announce(
    transaction: Transaction,
    job_id: int,
    act: str,
    outputs: Sequence[StoredOutput],
    *,
    send_to: Sequence[str],
    messages_to: Sequence[str] = (),
) -> None:
    """Insert outputs and their deliveries beside those of the job's report; the job's row is locked."""
    made = [(one.kind == MESSAGE, insert_output(transaction, job_id, one)) for one in outputs]
    for destination, is_message in (*((d, False) for d in send_to), *((d, True) for d in messages_to)):
        output_ids = [output_id for message, output_id in made if message is is_message]
        if output_ids:
            create_delivery(transaction, job_id, destination, output_ids, act=act)


def loaded(database: Database, model: str, by: Reader) -> None:
    """Record who reads under a model's name from now on."""
    said = json.dumps(dataclasses.asdict(by), sort_keys=True)
    with database.write() as transaction:
        transaction.upsert(reader, {"model": model, "reader": said, "loaded_at": transaction.now}, key=("model",))
