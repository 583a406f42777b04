"""Several reports in one transaction: the plain ones, of films that nothing else in the store speaks of.

What needs a second look - another reading of the same pixels, a predecessor, a notice, a lost lease - is left for
`reports.settle_report`, which looks. Either all that is done here stands, or nothing of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.findings import Report
from cxrnode.core.kept import Kept
from cxrnode.core.lifecycle import DeliveryEvent, JobEvent, JobState, advance_delivery, advance_job
from cxrnode.store.audit import chained, insert_events
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import NOTICE
from cxrnode.store.disputes import lock_all_pixels
from cxrnode.store.jobs import Claim, fence_all
from cxrnode.store.reports import MESSAGE, Settled, StoredOutput, finding_rows, insert_outputs
from cxrnode.store.schema import delivery, delivery_output, film, finding, job, output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A reading that is ready to be settled: its report and the files that are durable in the spool."""

    held: Claim
    report: Report
    outputs: Sequence[StoredOutput]
    saliency: Kept | None
    preview: Kept | None


def settle_together(database: Database, finished: Sequence[Finished]) -> dict[int, Settled]:
    """Make the jobs of plain reports `reported` in one transaction; return what became of these, by job.

    A job that is not in the answer is as it was. Raises Transient: then nothing stands, but for CommitUnknown.
    """
    candidates = {one.held.job_id: one for one in _candidates(finished)}
    if not candidates:
        return {}
    with database.write() as transaction:
        ours = fence_all(transaction, [one.held for one in candidates.values()])
        lock_all_pixels(transaction, [key for one in candidates.values() for key in _keys(one)])
        spoken_of = _spoken_of(transaction, candidates)
        plain = [
            one
            for job_id, one in candidates.items()
            if job_id in ours and ours[job_id].predecessor is None and job_id not in spoken_of
        ]
        if plain:
            _settle(transaction, plain, ours)
    return {one.held.job_id: Settled(stands=True) for one in plain}


def _candidates(finished: Sequence[Finished]) -> Iterator[Finished]:
    """Those of decoded films in their first revision, of the same pixels only the first."""
    seen: set[tuple[str, str]] = set()
    for one in sorted(finished, key=lambda one: one.held.job_id):
        key = (one.report.pixel_digest, one.held.model)
        if one.report.pixel_digest and one.report.revision == one.held.revision == 1 and key not in seen:
            seen.add(key)
            yield one


def _keys(one: Finished) -> Iterator[str]:
    """What settles of the same film or of the same outputs lock (`reports.settle_report`)."""
    yield one.report.pixel_digest
    if one.outputs:
        yield hashlib.sha256(one.outputs[0].sop_instance_uid.encode()).hexdigest()


_IDS: sa.BindParameter[int] = sa.bindparam("ids", expanding=True)
_PIXELS: sa.BindParameter[str] = sa.bindparam("pixels", expanding=True)
_UIDS: sa.BindParameter[str] = sa.bindparam("uids", expanding=True)
#: Every other reading of these pixels, whatever its identity and state, and what was read before under them.
_SAME_PIXELS = sa.union_all(
    sa.select(film.c.model, film.c.pixel_digest).where(film.c.pixel_digest.in_(_PIXELS)),
    sa.select(job.c.model, job.c.pixel_digest).where(job.c.pixel_digest.in_(_PIXELS), job.c.id.not_in(_IDS)),
)
_SAME_UIDS = sa.select(output.c.sop_instance_uid).where(output.c.sop_instance_uid.in_(_UIDS))
_NOTICED = sa.select(delivery.c.job_id).where(delivery.c.job_id.in_(_IDS), delivery.c.act == NOTICE)


def _spoken_of(transaction: Transaction, candidates: Mapping[int, Finished]) -> set[int]:
    """The jobs of which something else in the store speaks."""
    ids = list(candidates)
    pixels = [one.report.pixel_digest for one in candidates.values()]
    known = {(row.model, row.pixel_digest) for row in transaction.rows(_SAME_PIXELS, pixels=pixels, ids=ids)}
    uids = [made.sop_instance_uid for one in candidates.values() for made in one.outputs]
    taken = {row.sop_instance_uid for row in transaction.rows(_SAME_UIDS, uids=uids)} if uids else set()
    noticed = {row.job_id for row in transaction.rows(_NOTICED, ids=ids)}
    return noticed | {
        job_id
        for job_id, one in candidates.items()
        if (one.held.model, one.report.pixel_digest) in known
        or any(made.sop_instance_uid in taken for made in one.outputs)
    }


_TO_REPORTED = (
    sa.update(job)
    .where(job.c.id == sa.bindparam("its_id"))
    .values(
        state=advance_job(JobState.READING, JobEvent.REPORTED),
        lease_owner=None,
        lease_until=None,
        **{
            name: sa.bindparam(f"new_{name}", type_=job.c[name].type)
            for name in (
                *("settled_at", "outcome", "reason", "report", "report_sha256", "pixel_digest", "identity_digest"),
                *("saliency_key", "saliency_sha256", "preview_key", "preview_sha256", "chain_head"),
            )
        },
    )
)


def _settle(transaction: Transaction, plain: Sequence[Finished], ours: Mapping[int, Row]) -> None:
    """Write all of it. The rows of the jobs are locked, and so are their films and outputs."""
    execute = transaction.connection.execute
    execute(
        sa.insert(film),
        [
            {
                "pixel_digest": one.report.pixel_digest,
                "identity_digest": one.report.identity_digest,
                "model": one.held.model,
                "job_id": one.held.job_id,
            }
            for one in plain
        ],
    )
    found = [row for one in plain for row in finding_rows(one.held.job_id, one.report)]
    if found:
        execute(sa.insert(finding), found)
    made = insert_outputs(transaction, [(one.held.job_id, made) for one in plain for made in one.outputs])
    created = _create_deliveries(transaction, plain, made, ours)
    events, changes = [], []
    for one in plain:
        job_id, report = one.held.job_id, one.report
        text = report.to_json()
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        said = {"outcome": report.outcome, "report_sha256": sha256, "outputs": len(one.outputs)}
        events.append(chained(transaction, JobEvent.REPORTED, job_id=job_id, detail=said))
        for delivery_id, destination in created.get(job_id, ()):
            to = {"destination": destination, "act": "report", "held": False}
            events.append(
                chained(transaction, DeliveryEvent.CREATED, job_id=job_id, delivery_id=delivery_id, detail=to)
            )
        values = {
            "settled_at": transaction.now,
            "outcome": report.outcome,
            "reason": report.reason,
            "report": text,
            "report_sha256": sha256,
            "pixel_digest": report.pixel_digest,
            "identity_digest": report.identity_digest,
            "saliency_key": one.saliency.key if one.saliency else None,
            "saliency_sha256": one.saliency.digest if one.saliency else "",
            "preview_key": one.preview.key if one.preview else None,
            "preview_sha256": one.preview.digest if one.preview else "",
            "chain_head": transaction.heads[job_id],
        }
        changes.append({"its_id": job_id, **{f"new_{name}": value for name, value in values.items()}})
    insert_events(transaction, events)
    execute(_TO_REPORTED, changes)


def _create_deliveries(
    transaction: Transaction, plain: Sequence[Finished], made: Sequence[int], ours: Mapping[int, Row]
) -> dict[int, list[tuple[int, str]]]:
    """Insert the deliveries of active readings; return them by job, each with its destination."""
    outputs = iter(made)
    wanted: list[tuple[int, str, list[int]]] = []
    for one in plain:
        ids = [(next(outputs), each.kind) for each in one.outputs]
        objects = [each for each, kind in ids if kind != MESSAGE]
        messages = [each for each, kind in ids if kind == MESSAGE]
        if one.held.mode == "active":
            for destinations, bundle in ((one.held.send_to, objects), (one.held.messages_to, messages)):
                wanted += [(one.held.job_id, destination, bundle) for destination in destinations if bundle]
    if not wanted:
        return {}
    rows: list[dict[str, Any]] = [
        {
            "job_id": job_id,
            "destination": destination,
            "act": "report",
            "state": advance_delivery(None, DeliveryEvent.CREATED),
            "rank": ours[job_id].rank,
            "created_at": transaction.now,
        }
        for job_id, destination, _ in wanted
    ]
    statement = sa.insert(delivery).returning(delivery.c.id, sort_by_parameter_order=True)
    made_ids = transaction.connection.execute(statement, rows).scalars().all()
    created: dict[int, list[tuple[int, str]]] = {}
    parts = []
    for delivery_id, (job_id, destination, bundle) in zip(made_ids, wanted, strict=True):
        created.setdefault(job_id, []).append((int(delivery_id), destination))
        parts += [{"delivery_id": delivery_id, "output_id": each} for each in bundle]
    transaction.connection.execute(sa.insert(delivery_output), parts)
    return created
