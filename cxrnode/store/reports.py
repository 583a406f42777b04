"""What a reading ends in: a report with its outputs and deliveries, or the word that the film was read before.

Everything here is one transaction, fenced by the claim's token; files are durable in the spool before it starts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Report
from cxrnode.core.kept import Kept
from cxrnode.core.lifecycle import DeliveryEvent, JobEvent, JobState, advance_delivery
from cxrnode.errors import Transient
from cxrnode.store.audit import note, note_unlinked
from cxrnode.store.database import Database, Transaction
from cxrnode.store.deliveries import NOTICE, cancel_notices, lock_deliveries, lock_job, takes_back
from cxrnode.store.disputes import (
    Dispute,
    Known,
    Policy,
    another_patients,
    known_film,
    lock_pixels,
    other_identities,
    settle_identity,
)
from cxrnode.store.jobs import Claim, fence, move
from cxrnode.store.schema import delivery, delivery_output, film, finding, job, output
from cxrnode.store.withdrawals import Cause, take_back, withdraw_locked

#: The kind of an output that is no DICOM object: an HL7 message, for `messages_to` alone.
MESSAGE = "hl7"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutput:
    """An output whose bytes are durable in the spool."""

    kind: str
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    instance_number: int
    file: Kept


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SentOutput:
    """An output that a destination has, or may have, as later objects refer to it."""

    kind: str
    label: str
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What became of a report: whether it stands, and the jobs with the same pixels under another identity."""

    stands: bool
    dispute: Dispute = dataclasses.field(default_factory=Dispute)


class PredecessorSent(Transient):
    """More of the predecessor was sent since the outputs that name its documents were built: build them again."""


def sent_outputs(
    transaction: Transaction, job_id: int, *, destination: str | None = None, act: str | None = None
) -> tuple[SentOutput, ...]:
    """The outputs of a job that a destination, or any, has or may have; what was withdrawn with them is none.

    `act`: only those of such deliveries.
    """
    where = [delivery.c.job_id == job_id, ~takes_back(delivery.c.act), delivery_output.c.had.is_(True)]
    if act is not None:
        where.append(delivery.c.act == act)
    if destination is not None:
        where.append(delivery.c.destination == destination)
    its = (
        sa.select(delivery_output.c.output_id)
        .join(delivery, delivery.c.id == delivery_output.c.delivery_id)
        .where(*where)
    )
    columns = [getattr(output.c, field.name) for field in dataclasses.fields(SentOutput)]
    rows = transaction.rows(sa.select(*columns).where(output.c.id.in_(its)).order_by(output.c.id))
    return tuple(SentOutput(**row._mapping) for row in rows)


def predecessor_sent(database: Database, job_id: int) -> tuple[SentOutput, ...]:
    """What was sent of the job that this one is the next revision of, and was not withdrawn by a person.

    Of a first revision: what was sent to say that it has no result.
    """
    with database.read() as transaction:
        return _predecessor_sent(transaction, job_id)


def taking_a_place(database: Database, job_ids: Sequence[int]) -> frozenset[int]:
    """Those of these jobs for which `predecessor_sent` may find something."""
    noticed = sa.select(delivery.c.job_id).where(delivery.c.job_id.in_(job_ids), delivery.c.act == NOTICE)
    later = sa.select(job.c.id).where(job.c.id.in_(job_ids), job.c.predecessor.is_not(None))
    with database.read() as transaction:
        return frozenset(row[0] for row in transaction.rows(sa.union_all(noticed, later)))


def _predecessor_sent(transaction: Transaction, job_id: int) -> tuple[SentOutput, ...]:
    before = job.alias()
    chosen = sa.select(before.c.id).join(job, job.c.predecessor == before.c.id)
    standing = transaction.scalar(chosen.where(job.c.id == job_id, before.c.state != JobState.WITHDRAWN))
    if standing is None:
        return sent_outputs(transaction, job_id, act=NOTICE)
    # Its own notice, if it had one, is what its report took the place of.
    return sent_outputs(transaction, standing, act="report") or sent_outputs(transaction, standing, act=NOTICE)


def look_up(database: Database, held: Claim, *, pixel_digest: str, identity_digest: str) -> tuple[int | None, int]:
    """End the job as `settle_duplicate` does; return its twin, else None, and its `revision_of`. Raises LeaseLost.

    Of a film that was never read, one short read says both: the settle of its report looks again.
    """
    with database.read() as transaction:
        known = _known_film(transaction, held, pixel_digest, identity_digest)
    if known is None:
        return None, held.revision
    twin = settle_duplicate(database, held, pixel_digest=pixel_digest, identity_digest=identity_digest)
    return twin, revision_of(held, known)


def revision_of(held: Claim, known: Known | None) -> int:
    """The revision that the film's outputs are to have: its job's, unless its identity comes back.

    Where a film's identity was changed and is changed back, what was made under it stands withdrawn: it is made anew,
    under new UIDs.
    """
    back = known is not None and known.same_identity and known.withdrawn
    return max(held.revision, known.revision + 1) if known is not None and back else held.revision


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
    known = _known_film(transaction, held, pixel_digest, identity_digest)
    if known is None or not known.same_identity:
        return None
    if known.withdrawn and other_identities(
        transaction, model=held.model, pixel_digest=pixel_digest, identity_digest=identity_digest
    ):  # its identity was changed, and is changed back
        return None
    if held.mode == "active" and known.mode != "active":  # what a shadow model said was never sent
        return None
    if outcome is Outcome.ANALYSED and known.outcome is not Outcome.ANALYSED:  # the header was corrected since, say
        return None
    reason = f"duplicate of job {known.job_id}: same pixels, patient, accession and study"
    _end_as_duplicate(transaction, held, known.job_id, reason, pixel_digest, identity_digest)
    return known.job_id


def _known_film(transaction: Transaction, held: Claim, pixel_digest: str, identity_digest: str) -> Known | None:
    return known_film(
        transaction,
        model=held.model,
        instance_id=held.instance_id,
        pixel_digest=pixel_digest,
        identity_digest=identity_digest,
    )


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
    cancel_notices(transaction, held.job_id)


def _has_outputs(transaction: Transaction, held: Claim, outputs: Sequence[StoredOutput]) -> int | None:
    """The other job that has these very outputs, or None: a film without pixels that came twice, say.

    Their UIDs say that they are the same, and a destination must never get two objects under one UID.
    """
    if not outputs:
        return None
    lock_pixels(transaction, hashlib.sha256(outputs[0].sop_instance_uid.encode()).hexdigest())
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
    predecessors: Sequence[SentOutput] = (),
    on_identity_change: Policy = "hold",
    withdraw_superseded: bool = True,
) -> Settled:
    """Record the report, its outputs and deliveries, and move the job to `reported`, in one transaction.

    It does not stand where the film turned out to be a duplicate that another worker reported meanwhile; the caller
    then removes the files that it spooled. `predecessors` are the documents that the outputs take the place of. Raises
    LeaseLost, and PredecessorSent where these are more by now.
    """
    text = report.to_json()
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    with database.write() as transaction:
        before = fence(transaction, held)
        if report.pixel_digest:
            lock_pixels(transaction, report.pixel_digest)
            key = {"pixel_digest": report.pixel_digest, "identity_digest": report.identity_digest, "model": held.model}
            twin = _settle_duplicate(transaction, held, report.pixel_digest, report.identity_digest, report.outcome)
            if twin is not None:
                return Settled(stands=False)
        twin = _has_outputs(transaction, held, outputs)
        if twin is not None:
            reason = f"duplicate of job {twin}, which has the same outputs"
            _end_as_duplicate(transaction, held, twin, reason, report.pixel_digest, report.identity_digest)
            return Settled(stands=False)
        # Its row is locked: no notice can come up until the commit.
        its = (delivery.c.job_id == held.job_id, delivery.c.act == NOTICE)
        noticed = transaction.scalar(sa.select(delivery.c.id).where(*its).limit(1)) is not None
        if before is not None or noticed:
            _lock_predecessor(transaction, held, before, predecessors)
        elif predecessors:
            raise PredecessorSent(f"nothing stands that job {held.job_id} takes the place of")
        if report.pixel_digest:
            transaction.upsert(film, {**key, "job_id": held.job_id}, key=tuple(key))
        said = {"outcome": report.outcome, "report_sha256": sha256, "outputs": len(outputs)}
        link = note_unlinked(transaction, JobEvent.REPORTED, job_id=held.job_id, detail=said)
        move(
            transaction,
            held.job_id,
            JobState.READING,
            JobEvent.REPORTED,
            outcome=report.outcome,
            reason=report.reason,
            revision=report.revision,
            report=text,
            report_sha256=sha256,
            pixel_digest=report.pixel_digest,
            identity_digest=report.identity_digest,
            saliency_key=saliency.key if saliency else None,
            saliency_sha256=saliency.digest if saliency else "",
            preview_key=preview.key if preview else None,
            preview_sha256=preview.digest if preview else "",
            chain_head=link,
        )
        if noticed:
            cancel_notices(transaction, held.job_id)
        found = finding_rows(held.job_id, report)
        if found:
            transaction.connection.execute(sa.insert(finding), found)
        made = insert_outputs(transaction, [(held.job_id, one) for one in outputs])
        output_ids = {one: kind.kind for one, kind in zip(made, outputs, strict=True)}
        dispute = settle_identity(transaction, held, report, on_identity_change, first=before is None)
        if dispute.stale or (before is not None and another_patients(transaction, held.job_id)):
            cause = Cause(rejection="worklist", note="the film is stored under another identity", by="cxrnode")
            # What was sent is a notice at most: that it had no result yet.
            rows = lock_deliveries(transaction, held.job_id)
            withdraw_locked(transaction, held.job_id, JobState.REPORTED, rows, cause)
        elif held.mode == "active" and output_ids:
            objects = [one for one, kind in output_ids.items() if kind != MESSAGE]
            messages = [one for one, kind in output_ids.items() if kind == MESSAGE]
            for destinations, ids in ((held.send_to, objects), (held.messages_to, messages)):
                for destination in destinations if ids else ():
                    create_delivery(transaction, held.job_id, destination, ids, held_reason=dispute.held)
        if before is not None:
            _supersede(transaction, held, report, before, withdraw=withdraw_superseded)
        return Settled(stands=True, dispute=dispute)


def finding_rows(job_id: int, report: Report) -> list[dict[str, Any]]:
    """The rows of a report's findings."""
    return [
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


def insert_output(transaction: Transaction, job_id: int, one: StoredOutput) -> int:
    """Insert one output of a job; return its id."""
    return int(transaction.scalar(sa.insert(output).values(**_row(job_id, one)).returning(output.c.id)))


def insert_outputs(transaction: Transaction, outputs: Sequence[tuple[int, StoredOutput]]) -> list[int]:
    """Insert outputs, each with its job, in one statement; return their ids, in order."""
    if not outputs:
        return []
    statement = sa.insert(output).returning(output.c.id, sort_by_parameter_order=True)
    rows = [_row(job_id, one) for job_id, one in outputs]
    return [int(one) for one in transaction.connection.execute(statement, rows).scalars()]


_OF_OUTPUT = tuple(field.name for field in dataclasses.fields(StoredOutput) if field.name != "file")


def _row(job_id: int, one: StoredOutput) -> dict[str, Any]:
    row = {name: getattr(one, name) for name in _OF_OUTPUT}
    return {**row, "job_id": job_id, "spool_key": one.file.key, "sha256": one.file.digest, "size": one.file.size}


def create_delivery(
    transaction: Transaction,
    job_id: int,
    destination: str,
    output_ids: Sequence[int],
    *,
    act: str = "report",
    held_reason: str = "",
) -> None:
    """Insert a delivery of these outputs, with its event; "" holds nothing. The job's row is locked."""
    rank = transaction.scalar(sa.select(job.c.rank).where(job.c.id == job_id))
    delivery_id = transaction.scalar(
        sa.insert(delivery)
        .values(
            job_id=job_id,
            destination=destination,
            act=act,
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
        act=act,
        held=bool(held_reason),
    )


def _lock_predecessor(transaction: Transaction, held: Claim, before: int | None, named: Sequence[SentOutput]) -> None:
    """Lock the job that this one takes the place of, and make sure that its documents are those that were named.

    Raises PredecessorSent.
    """
    if before is not None:
        lock_deliveries(transaction, before)
        lock_job(transaction, before)
    if set(_predecessor_sent(transaction, held.job_id)) != set(named):
        raise PredecessorSent(f"more was sent meanwhile of what job {held.job_id} takes the place of")


def _supersede(transaction: Transaction, held: Claim, report: Report, before: int, *, withdraw: bool) -> None:
    rows = lock_deliveries(transaction, before)
    state = lock_job(transaction, before)
    if state is JobState.WITHDRAWN:  # a person did so, before or after the film was asked to be read again
        return
    move(transaction, before, state, JobEvent.SUPERSEDED, disputed=False)
    note(transaction, JobEvent.SUPERSEDED, job_id=before, by=held.job_id, withdraw=withdraw)
    cause = Cause(rejection="quality", note=f"read again, revision {report.revision}", by="cxrnode")
    take_back(transaction, before, rows, cause if withdraw else None)
