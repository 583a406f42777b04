"""Erasure: whose film it was is forgotten, and the audit trail stands. An event says that it was done, and by whom.

The row of `identity` goes, and with it what else names the patient or their study: the UIDs of the film and of its
outputs, the free text of the routing header, and the bytes themselves. What a model said stays, without a person to it;
no event is touched, so no chain breaks. A film that is still being read or sent is refused: wait, or withdraw it first.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import delivery, film, identity, instance, job, output

#: Attributes of the routing header that may say who the patient is.
_TEXTS = (
    *("study_description", "series_description", "protocol_name", "requested_procedure", "performed_procedure"),
    *("processing_description", "institution", "department", "study_date"),
)
_UNDER_WAY = (DeliveryState.WAITING, DeliveryState.PENDING, DeliveryState.SENDING)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was erased, by instance; the spool keys whose files the caller removes; what was refused, and why."""

    instances: tuple[int, ...]
    keys: tuple[str, ...]
    refused: tuple[tuple[int, str], ...]


def of_patient(database: Database, patient_id: str, *, issuer: str = "") -> tuple[int, ...]:
    """The instances of a patient; where an issuer is given, of that one alone."""
    where = [identity.c.patient_id == patient_id]
    if issuer:
        where.append(identity.c.issuer == issuer)
    with database.read() as transaction:
        rows = transaction.rows(sa.select(identity.c.instance_id).where(*where).order_by(identity.c.instance_id))
    return tuple(row.instance_id for row in rows)


def erase(database: Database, instance_ids: Sequence[int], *, by: str, reason: str) -> Erased:
    """Erase the identities of these films, each in a transaction of its own."""
    done: list[int] = []
    keys: list[str] = []
    refused: list[tuple[int, str]] = []
    for one in instance_ids:
        with database.write() as transaction:
            why, taken = _erase(transaction, one, by=by, reason=reason)
        if why:
            refused.append((one, why))
        else:
            done.append(one)
            keys += taken
    return Erased(instances=tuple(done), keys=tuple(keys), refused=tuple(refused))


def retire(database: Database, *, older: float, limit: int) -> Erased:
    """Erase up to `limit` identities of films received more than `older` seconds ago whose bytes are gone already."""
    rest = ~sa.exists().where(job.c.instance_id == instance.c.id, job.c.state.in_((JobState.QUEUED, JobState.READING)))
    sent = ~sa.exists().where(
        job.c.instance_id == instance.c.id, delivery.c.job_id == job.c.id, delivery.c.state.in_(_UNDER_WAY)
    )
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(instance.c.id)
            .join(identity, identity.c.instance_id == instance.c.id)
            .where(
                instance.c.received_at <= transaction.now - older,
                instance.c.spool_key.is_(None),
                rest,
                sent,
            )
            .order_by(instance.c.received_at)
            .limit(limit)
        )
    return erase(database, [row.id for row in rows], by="cxrnode", reason="retention.identity")


def _erase(transaction: Transaction, instance_id: int, *, by: str, reason: str) -> tuple[str, list[str]]:
    row = transaction.row(sa.select(instance).where(instance.c.id == instance_id).with_for_update())
    if row is None:
        return f"there is no instance {instance_id}", []
    jobs = transaction.rows(sa.select(job).where(job.c.instance_id == instance_id).order_by(job.c.id).with_for_update())
    ids = [one.id for one in jobs]
    if any(one.state in (JobState.QUEUED, JobState.READING) for one in jobs):
        return "the film is being read", []
    if transaction.scalar(sa.select(sa.exists().where(delivery.c.job_id.in_(ids), delivery.c.state.in_(_UNDER_WAY)))):
        return "its results are being sent", []
    known = transaction.count(sa.delete(identity).where(identity.c.instance_id == instance_id))
    if not known:
        return "its identity was erased before", []
    keys = _forget_files(transaction, row, jobs)
    header = {name: value for name, value in json.loads(row.header).items() if name not in _TEXTS}
    transaction.connection.execute(
        sa.update(instance)
        .where(instance.c.id == instance_id)
        .values(sop_instance_uid=f"erased {instance_id}", header=json.dumps(header, sort_keys=True), spool_key=None)
    )
    # Digests of who it was: with the patient's number and the study's UID at hand they could be made again.
    transaction.connection.execute(sa.delete(film).where(film.c.job_id.in_(ids)))
    transaction.connection.execute(sa.update(job).where(job.c.id.in_(ids)).values(identity_digest=""))
    note(transaction, "identity_erased", instance_id=instance_id, by=by, reason=reason, files=len(keys))
    return "", keys


def _forget_files(transaction: Transaction, row: Row, jobs: Sequence[Row]) -> list[str]:
    """Take the spool keys out of all that belongs to a film, and its outputs' UIDs; return the keys."""
    ids = [one.id for one in jobs]
    keys = [row.spool_key, *(one.saliency_key for one in jobs), *(one.preview_key for one in jobs)]
    for one in transaction.rows(sa.select(output.c.id, output.c.spool_key).where(output.c.job_id.in_(ids))):
        keys.append(one.spool_key)
        values = {"sop_instance_uid": f"erased {one.id}", "series_instance_uid": "", "spool_key": None}
        transaction.connection.execute(sa.update(output).where(output.c.id == one.id).values(**values))
    transaction.connection.execute(sa.update(job).where(job.c.id.in_(ids)).values(saliency_key=None, preview_key=None))
    return [key for key in keys if key]
