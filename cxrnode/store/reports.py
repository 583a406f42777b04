"""What a reading ends in: a report with its outputs and deliveries, or the word that the film was read before.

Everything here is one transaction, fenced by the claim's token; files are durable in the spool before it starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Report
from cxrnode.core.kept import Kept
from cxrnode.core.lifecycle import DeliveryEvent, DeliveryState, JobEvent, JobState, advance_delivery
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Transaction
from cxrnode.store.deliveries import lock_deliveries
from cxrnode.store.jobs import Claim, fence, move
from cxrnode.store.schema import delivery, delivery_output, film, finding, job, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutput:
    """An output whose bytes are durable in the spool."""

    kind: str
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int
    file: Kept


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A film that was read before, by the same model: the job, and whether it was said to be the same patient's."""

    job_id: int
    same_identity: bool
    mode: str
    outcome: Outcome


def known_film(
    transaction: Transaction, *, model: str, instance_id: int, pixel_digest: str, identity_digest: str
) -> Known | None:
    """The job that read these pixels before, for another instance; one with the same identity comes first."""
    rows = transaction.rows(
        sa.select(film.c.job_id, film.c.identity_digest, job.c.mode, job.c.outcome)
        .join(job, job.c.id == film.c.job_id)
        .where(film.c.model == model, film.c.pixel_digest == pixel_digest, job.c.instance_id != instance_id)
        .order_by(sa.desc(film.c.identity_digest == identity_digest), sa.desc(film.c.job_id))
        .limit(1)
    )
    return (
        Known(
            job_id=rows[0].job_id,
            same_identity=rows[0].identity_digest == identity_digest,
            mode=rows[0].mode,
            outcome=Outcome(rows[0].outcome),
        )
        if rows
        else None
    )


def settle_duplicate(database: Database, held: Claim, *, pixel_digest: str, identity_digest: str) -> int | None:
    """End the job as a duplicate if another job read the same film; return that job, else None. Raises LeaseLost."""
    with database.write() as transaction:
        fence(transaction, held)
        return _settle_duplicate(transaction, held, pixel_digest, identity_digest, Outcome.ANALYSED)


def _settle_duplicate(
    transaction: Transaction, held: Claim, pixel_digest: str, identity_digest: str, outcome: Outcome
) -> int | None:
    """End the job as a duplicate if the other job said at least what this one says or, unread yet, may say."""
    if held.revision > 1:  # a person asked for this reading
        return None
    known = known_film(
        transaction,
        model=held.model,
        instance_id=held.instance_id,
        pixel_digest=pixel_digest,
        identity_digest=identity_digest,
    )
    if known is None or not known.same_identity:
        return None
    if held.mode == "active" and known.mode != "active":  # what a shadow model said was never sent
        return None
    if outcome is Outcome.ANALYSED and known.outcome is not Outcome.ANALYSED:  # the header was corrected since, say
        return None
    reason = f"duplicate of job {known.job_id}: same pixels, patient, accession and study"
    _end_as_duplicate(transaction, held, known.job_id, reason, pixel_digest, identity_digest)
    return known.job_id


def _end_as_duplicate(
    transaction: Transaction, held: Claim, twin: int, reason: str, pixel_digest: str, identity_digest: str
) -> None:
    move(
        transaction,
        held.job_id,
        JobState.READING,
        JobEvent.DUPLICATE_FOUND,
        outcome=Outcome.DUPLICATE,
        reason=reason,
        duplicate_of=twin,
        pixel_digest=pixel_digest,
        identity_digest=identity_digest,
    )
    note(transaction, JobEvent.DUPLICATE_FOUND, job_id=held.job_id, duplicate_of=twin)


def _has_outputs(transaction: Transaction, held: Claim, outputs: Sequence[StoredOutput]) -> int | None:
    """The other job that has these very outputs, or None: a film without pixels that came twice, say.

    Their UIDs say that they are the same, and a destination must never get two objects under one UID.
    """
    if not outputs:
        return None
    _lock_for_settle(transaction, hashlib.sha256(outputs[0].sop_instance_uid.encode()).hexdigest())
    uids = [one.sop_instance_uid for one in outputs]
    found = transaction.scalar(
        sa.select(output.c.job_id).where(output.c.sop_instance_uid.in_(uids), output.c.job_id != held.job_id).limit(1)
    )
    return None if found is None else int(found)


def settle_report(
    database: Database,
    held: Claim,
    report: Report,
    outputs: Sequence[StoredOutput],
    *,
    saliency: Kept | None,
    preview: Kept | None,
) -> bool:
    """Record the report, its outputs and deliveries, and move the job to `reported`, in one transaction.

    Returns False where the film turned out to be a duplicate that another worker reported meanwhile; the caller
    then removes the files that it spooled. Raises LeaseLost.
    """
    with database.write() as transaction:
        fence(transaction, held)
        if report.pixel_digest:
            _lock_for_settle(transaction, report.pixel_digest)
            key = {"pixel_digest": report.pixel_digest, "identity_digest": report.identity_digest, "model": held.model}
            twin = _settle_duplicate(transaction, held, report.pixel_digest, report.identity_digest, report.outcome)
            if twin is not None:
                return False
        twin = _has_outputs(transaction, held, outputs)
        if twin is not None:
            reason = f"duplicate of job {twin}, which has the same outputs"
            _end_as_duplicate(transaction, held, twin, reason, report.pixel_digest, report.identity_digest)
            return False
        if report.pixel_digest:
            transaction.upsert(film, {**key, "job_id": held.job_id}, key=tuple(key))
        move(
            transaction,
            held.job_id,
            JobState.READING,
            JobEvent.REPORTED,
            outcome=report.outcome,
            reason=report.reason,
            report=report.to_json(),
            report_sha256=report.sha256,
            pixel_digest=report.pixel_digest,
            identity_digest=report.identity_digest,
            saliency_key=saliency.key if saliency else None,
            saliency_sha256=saliency.sha256 if saliency else "",
            preview_key=preview.key if preview else None,
            preview_sha256=preview.sha256 if preview else "",
        )
        note(
            transaction,
            JobEvent.REPORTED,
            job_id=held.job_id,
            outcome=report.outcome,
            report_sha256=report.sha256,
            outputs=len(outputs),
        )
        _insert_findings(transaction, held.job_id, report)
        output_ids = _insert_outputs(transaction, held.job_id, outputs)
        held_reason = _identity_change(transaction, held, report)
        if held.mode == "active" and output_ids:
            for destination in held.send_to:
                _create_delivery(transaction, held.job_id, destination, output_ids, held_reason=held_reason)
        _supersede(transaction, held)
        return True


def _lock_for_settle(transaction: Transaction, digest: str) -> None:
    """Let the settles of the same pixels, or of the same outputs, come one after the other: the later sees the earlier.

    SQLite has one writer at a time anyway; on PostgreSQL there is no row yet that could be locked.
    """
    if transaction.connection.dialect.name == "postgresql":
        number = int(digest[:15], 16)  # below 2**60: the lock's key is a signed 64-bit number
        transaction.scalar(sa.select(sa.func.pg_advisory_xact_lock(number)))


def _insert_findings(transaction: Transaction, job_id: int, report: Report) -> None:
    rows = [
        {
            "job_id": job_id,
            "label": one.label,
            "score": one.score,
            "scale": report.scale,
            "decision": one.decision,
            "rule_out": one.thresholds.rule_out if one.thresholds else None,
            "rule_in": one.thresholds.rule_in if one.thresholds else None,
        }
        for one in report.findings
    ]
    if rows:
        transaction.connection.execute(sa.insert(finding), rows)


def _insert_outputs(transaction: Transaction, job_id: int, outputs: Sequence[StoredOutput]) -> list[int]:
    ids = []
    for one in outputs:
        row = dataclasses.asdict(one)
        file = row.pop("file")
        row.update(job_id=job_id, spool_key=file["key"], sha256=file["sha256"], size=file["size"])
        ids.append(int(transaction.scalar(sa.insert(output).values(**row).returning(output.c.id))))
    return ids


def _create_delivery(
    transaction: Transaction, job_id: int, destination: str, output_ids: Sequence[int], *, held_reason: str
) -> None:
    rank = transaction.scalar(sa.select(job.c.rank).where(job.c.id == job_id))
    delivery_id = transaction.scalar(
        sa.insert(delivery)
        .values(
            job_id=job_id,
            destination=destination,
            act="report",
            state=advance_delivery(None, DeliveryEvent.CREATED),
            rank=rank,
            created_at=transaction.now,
            held=bool(held_reason),
            reason=held_reason,
        )
        .returning(delivery.c.id)
    )
    transaction.connection.execute(
        sa.insert(delivery_output), [{"delivery_id": delivery_id, "output_id": one} for one in output_ids]
    )
    note(
        transaction,
        DeliveryEvent.CREATED,
        job_id=job_id,
        delivery_id=delivery_id,
        destination=destination,
        held=bool(held_reason),
    )


def _identity_change(transaction: Transaction, held: Claim, report: Report) -> str:
    """Hold both sides when the same pixels come under another patient, accession or study (design, rule 5)."""
    if not report.pixel_digest or held.revision > 1:
        return ""
    known = known_film(
        transaction,
        model=held.model,
        instance_id=held.instance_id,
        pixel_digest=report.pixel_digest,
        identity_digest=report.identity_digest,
    )
    if known is None:
        return ""
    lock_deliveries(transaction, known.job_id)
    transaction.scalar(sa.select(job.c.id).where(job.c.id == known.job_id).with_for_update())
    # One under way is held too: it may come back.
    under_way = (DeliveryState.PENDING, DeliveryState.SENDING)
    pending = transaction.count(
        sa.update(delivery)
        .where(delivery.c.job_id == known.job_id, delivery.c.state.in_(under_way))
        .values(held=True, reason=f"held: job {held.job_id} has the same pixels under another identity")
    )
    note(transaction, "identity_changed", job_id=known.job_id, other=held.job_id, deliveries_held=pending)
    note(transaction, "identity_changed", job_id=held.job_id, other=known.job_id)
    return f"held: job {known.job_id} has the same pixels under another identity"


def _supersede(transaction: Transaction, held: Claim) -> None:
    predecessor = transaction.scalar(sa.select(job.c.predecessor).where(job.c.id == held.job_id))
    if predecessor is None:
        return
    lock_deliveries(transaction, predecessor)
    state = JobState(transaction.scalar(sa.select(job.c.state).where(job.c.id == predecessor).with_for_update()))
    move(transaction, predecessor, state, JobEvent.SUPERSEDED)
    note(transaction, JobEvent.SUPERSEDED, job_id=predecessor, by=held.job_id)
    unsent = transaction.rows(
        sa.update(delivery)
        .where(delivery.c.job_id == predecessor, delivery.c.state == DeliveryState.PENDING)
        .values(state=advance_delivery(DeliveryState.PENDING, DeliveryEvent.CANCELLED), settled_at=transaction.now)
        .returning(delivery.c.id)
    )
    for row in unsent:
        note(transaction, DeliveryEvent.CANCELLED, job_id=predecessor, delivery_id=row.id)
