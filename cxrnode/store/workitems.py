"""The steps of worklists that this node works off: claimed, fetched, told; and what became of their films.

The key to a step (its Transaction UID) is written down before the step is claimed under it, so that a claim whose
answer was lost is known again. Nothing here speaks to a worklist.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from enum import StrEnum

import sqlalchemy as sa

from cxrnode.core.findings import Outcome
from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row
from cxrnode.store.schema import delivery, delivery_output, identity, instance, job, output, workitem, workitem_film

_TO_BE_SENT = (DeliveryState.WAITING, DeliveryState.PENDING, DeliveryState.SENDING)


class Stage(StrEnum):
    """How far a step is. The last three rest."""

    ASKED = "asked"
    OURS = "ours"
    FETCHED = "fetched"
    STOPPING = "stopping"
    COMPLETED = "completed"
    CANCELED = "canceled"
    LOST = "lost"


_UNDER_WAY = (Stage.ASKED, Stage.OURS, Stage.FETCHED, Stage.STOPPING)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step that is under way, and when it was written down."""

    id: int
    uid: str
    transaction_uid: str
    stage: Stage
    created_at: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One output of a step's films as an archive has it; `destinations` are the nodes that it was sent to.

    It identifies a person by its study: never log one.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    destinations: tuple[str, ...]

    def __repr__(self) -> str:
        """Nothing of the values: a repr ends in logs and tracebacks."""
        return "Sent(...)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What became of a step's films. `reasons` say of each that has no result why."""

    at_rest: bool
    read: int
    refused: int
    failed: int
    reasons: tuple[str, ...]
    sent: tuple[Sent, ...]


def under_way(database: Database, worklist: str, *, limit: int) -> list[Step]:
    """The steps that are due now, oldest first."""
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(workitem)
            .where(
                workitem.c.worklist == worklist,
                workitem.c.state.in_(_UNDER_WAY),
                workitem.c.not_before <= transaction.now,
            )
            .order_by(workitem.c.id)
            .limit(limit)
        )
    return [_step(row) for row in rows]


def count_under_way(database: Database, worklist: str) -> int:
    """How many steps of a worklist do not rest."""
    with database.read() as transaction:
        its = workitem.c.worklist == worklist, workitem.c.state.in_(_UNDER_WAY)
        return int(transaction.scalar(sa.select(sa.func.count()).select_from(workitem).where(*its)) or 0)


def ask_for(database: Database, worklist: str, uid: str) -> Step | None:
    """Write down the key under which a step is to be claimed; None where it is under way already."""
    with database.write() as transaction:
        its = workitem.c.worklist == worklist, workitem.c.uid == uid, workitem.c.state.in_(_UNDER_WAY)
        known = sa.exists().where(*its)
        if transaction.scalar(sa.select(known)):
            return None
        key = {"worklist": worklist, "uid": uid, "transaction_uid": f"2.25.{uuid.uuid4().int}"}
        made = transaction.insert_new(
            workitem, {**key, "state": Stage.ASKED, "created_at": transaction.now}, unique=tuple(key)
        )
        return None if made is None else _step(made)


def move(database: Database, step: Step, stage: Stage, *, reason: str = "") -> None:
    """Say how far a step is. Each move is an event; those at rest stay as they are."""
    rests = stage in (Stage.COMPLETED, Stage.CANCELED, Stage.LOST)
    with database.write() as transaction:
        moved = transaction.count(
            sa.update(workitem)
            .where(workitem.c.id == step.id, workitem.c.state == step.stage)
            .values(
                state=stage,
                reason=reason,
                not_before=0.0,
                settled_at=transaction.now if rests else None,
            )
        )
        if moved:
            note(transaction, f"workitem_{stage}", workitem=step.id, reason=reason)


def stop(database: Database, worklist: str, uid: str) -> Step | None:
    """A step is not wanted any more; None where it is not under way, or known to be unwanted."""
    with database.write() as transaction:
        its = workitem.c.worklist == worklist, workitem.c.uid == uid, workitem.c.state.in_(_UNDER_WAY)
        row = transaction.row(sa.select(workitem).where(*its).with_for_update())
        if row is None or row.state == Stage.STOPPING:
            return None
        values = {"state": Stage.STOPPING, "reason": "", "not_before": 0.0}
        transaction.connection.execute(sa.update(workitem).where(workitem.c.id == row.id).values(**values))
        note(transaction, f"workitem_{Stage.STOPPING}", workitem=row.id, before=row.state)
        return dataclasses.replace(_step(row), stage=Stage.STOPPING)


def undone(database: Database, step: Step, *, came_from: str) -> list[int]:
    """The jobs of a step that are not delivered, of films that came for it alone.

    A film that a modality sent, or that another step under way names too, is still wanted.
    """
    other = workitem_film.alias()
    wanted = sa.exists().where(
        other.c.instance_id == instance.c.id,
        other.c.workitem_id == workitem.c.id,
        workitem.c.id != step.id,
        workitem.c.state.in_(_UNDER_WAY),
        workitem.c.state != Stage.STOPPING,
    )
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(job.c.id)
            .join(instance, instance.c.id == job.c.instance_id)
            .join(workitem_film, workitem_film.c.instance_id == instance.c.id)
            .where(
                workitem_film.c.workitem_id == step.id,
                instance.c.calling_aet == came_from,
                instance.c.received_at >= step.created_at,
                job.c.state.in_((JobState.QUEUED, JobState.READING, JobState.REPORTED)),
                job.c.duplicate_of.is_(None),
                ~wanted,
            )
            .order_by(job.c.id)
        )
    return [row.id for row in rows]


def postpone(database: Database, step: Step, reason: str, *, pause: float) -> None:
    """Look at a step again in `pause` seconds."""
    with database.write() as transaction:
        transaction.connection.execute(
            sa.update(workitem)
            .where(workitem.c.id == step.id, workitem.c.state == step.stage)
            .values(not_before=transaction.now + pause, reason=reason)
        )


def add_film(database: Database, step: Step, *, sop_instance_uid: str, dataset_digest: str) -> None:
    """Note that a film, which was received, came for a step."""
    with database.write() as transaction:
        found = transaction.scalar(
            sa.select(instance.c.id).where(
                instance.c.sop_instance_uid == sop_instance_uid, instance.c.dataset_sha256 == dataset_digest
            )
        )
        if found is not None:
            key = {"workitem_id": step.id, "instance_id": int(found)}
            transaction.insert_new(workitem_film, key, unique=tuple(key))


def progress(database: Database, step: Step) -> Progress:
    """What became of the step's films: a film read under another name (a duplicate) counts with what that one sent."""
    with database.read() as transaction:
        films = transaction.rows(
            sa.select(instance.c.id, instance.c.verdict, instance.c.reason)
            .join(workitem_film, workitem_film.c.instance_id == instance.c.id)
            .where(workitem_film.c.workitem_id == step.id)
            .order_by(instance.c.id)
        )
        ids = [film.id for film in films]
        jobs = transaction.rows(
            sa.select(job.c.id, job.c.instance_id, job.c.state, job.c.outcome, job.c.reason, job.c.duplicate_of)
            .where(job.c.instance_id.in_(ids), job.c.mode == "active")
            .order_by(job.c.id)
        )
        telling = {row.duplicate_of if row.duplicate_of is not None else row.id for row in jobs}
        waits = transaction.scalar(
            sa.select(sa.func.count())
            .select_from(delivery)
            .where(delivery.c.job_id.in_(telling), delivery.c.act == "report", delivery.c.state.in_(_TO_BE_SENT))
        )
        sent = transaction.rows(
            sa.select(
                output.c.id,
                *(output.c.sop_class_uid, output.c.sop_instance_uid, output.c.series_instance_uid),
                *(identity.c.study_instance_uid, delivery.c.destination),
            )
            .join(delivery_output, delivery_output.c.output_id == output.c.id)
            .join(delivery, delivery.c.id == delivery_output.c.delivery_id)
            .join(job, job.c.id == delivery.c.job_id)
            .join(identity, identity.c.instance_id == job.c.instance_id)
            .where(delivery.c.job_id.in_(telling), delivery.c.act == "report", delivery_output.c.done.is_(True))
            .order_by(output.c.id, delivery.c.id)
        )
    reasons = [film.reason for film in films if film.verdict != "accepted"]
    reasons += [row.reason for row in jobs if row.state == JobState.FAILED]
    unread = any(row.state in (JobState.QUEUED, JobState.READING) for row in jobs)
    return Progress(
        at_rest=not unread and not waits,
        read=sum(row.outcome in (Outcome.ANALYSED, Outcome.NOT_ANALYSED, Outcome.DUPLICATE) for row in jobs),
        refused=sum(film.verdict != "accepted" for film in films),
        failed=sum(row.state == JobState.FAILED for row in jobs),
        reasons=tuple(dict.fromkeys(reasons)),
        sent=_sent(sent),
    )


def _sent(rows: Sequence[Row]) -> tuple[Sent, ...]:
    found: dict[int, Sent] = {}
    for row in rows:
        before = found.get(row.id)
        found[row.id] = Sent(
            study_instance_uid=row.study_instance_uid,
            series_instance_uid=row.series_instance_uid,
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            destinations=(*(before.destinations if before else ()), row.destination),
        )
    return tuple(one for one in found.values() if one.study_instance_uid and one.series_instance_uid)


def _step(row: Row) -> Step:
    return Step(
        id=row.id,
        uid=row.uid,
        transaction_uid=row.transaction_uid,
        stage=Stage(row.state),
        created_at=row.created_at,
    )
