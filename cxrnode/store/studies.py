"""Studies of several films: which are at rest and have no summary of what was read, and the record of those made.

A summary is of one study and one model. It is sent under the newest of its jobs, as deliveries of an act of its own; a
study that changes (a film more, one read again, one withdrawn) gets the next revision, and the one before is cancelled
where it did not go out, named as predecessor and retracted where it did.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Report
from cxrnode.core.lifecycle import DeliveryEvent, DeliveryState, JobState, advance_delivery
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import RETRACTION, move
from cxrnode.store.notices import announce
from cxrnode.store.reports import SentOutput, StoredOutput, sent_outputs
from cxrnode.store.schema import delivery, delivery_output, identity, instance, job, notice, reader, study_summary

_UNREAD = (JobState.QUEUED, JobState.READING)
_UNDER_WAY = (DeliveryState.PENDING, DeliveryState.SENDING)
#: How long a transaction may take from its start to its commit, in seconds.
_SLOWEST_COMMIT = 120.0
_NAMES = ("study_instance_uid", "patient_id", "issuer")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Key:
    """Which study, of whom, read by which model. It identifies a person: never log one."""

    study_instance_uid: str
    patient_id: str
    issuer: str
    model: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it: what stands for the study where no identifier may."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Read:
    """One film of the study with its newest reading.

    `report` is the job's, or that of its notice; None for a film that was withdrawn or about which nothing was said,
    with the `reason`. `reader` is who reads under the model's name, as JSON, "" where that is not known.
    """

    job_id: int
    instance_id: int
    report: Report | None
    reason: str
    settled_at: float
    header: bytes
    transfer_syntax_uid: str
    preview_key: str | None
    preview_digest: str
    reader: str
    bundle_digest: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Due:
    """A summary that is to be made. `at` is when it came to be due, by the database's clock: its only time.

    `job_id` is the job under which it is sent; `replaces` the jobs of earlier summaries.
    """

    study_digest: str
    revision: int
    readings_digest: str
    job_id: int
    at: float
    films: tuple[Read, ...]
    send_to: tuple[str, ...]
    predecessors: tuple[SentOutput, ...]
    replaces: tuple[int, ...]

    @property
    def act(self) -> str:
        """The act of its deliveries."""
        return f"study-{self.revision}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a look at a study gave: a summary that is due, or that it is to be looked at again when it is quiet."""

    due: Due | None = None
    wait: bool = False


def touched(database: Database, *, since: float | None, back: float, page: int = 500) -> tuple[list[Key], float]:
    """The studies of which a job settled after `since`, and the database's time before the look: the next `since`.

    In seconds since 1970; None looks `back` so many seconds, and `since` always looks a little further back than it
    says, since what settled then may have been committed later.

    By keyset pages, so that no read lasts long (design, rule 13).
    """
    found: dict[Key, None] = {}
    with database.read() as transaction:
        began = transaction.now
    last = (began - back if since is None else min(since, began) - _SLOWEST_COMMIT, 0)
    while True:
        with database.read() as transaction:
            rows = transaction.rows(
                sa.select(job.c.settled_at, job.c.id, job.c.model, *(identity.c[name] for name in _NAMES))
                .join(identity, identity.c.instance_id == job.c.instance_id)
                .where(
                    job.c.mode == "active",
                    job.c.settled_at >= last[0],
                    sa.or_(
                        job.c.settled_at > last[0],
                        sa.and_(job.c.settled_at == last[0], job.c.id > last[1]),
                    ),
                )
                .order_by(job.c.settled_at, job.c.id)
                .limit(page)
            )
        for row in rows:
            found[Key(model=row.model, **{name: getattr(row, name) for name in _NAMES})] = None
        if len(rows) < page:
            return list(found), began
        last = (rows[-1].settled_at, rows[-1].id)


def look(database: Database, key: Key, *, quiet: float) -> Look:
    """Whether a summary of this study is due: several films, or one made before; all at rest; `quiet` seconds long."""
    with database.read() as transaction:
        rows = _rows(transaction, key)
        before = _before(transaction, key.digest)
        if any(row.state in _UNREAD or row.under_way for row in rows):
            return Look()  # its settling touches the study again
        if any(row.disputed for row in rows):
            return Look(wait=True)  # whose films these are nobody knows: nothing more of them is sent
        listed = _newest([r for r in rows if r.outcome != Outcome.DUPLICATE and r.state != JobState.SUPERSEDED])
        films = [_read(row) for row in listed]
        standing = [row.id for row in listed if row.state != JobState.WITHDRAWN]
        if not standing or (len({one.instance_id for one in films}) < 2 and not before):
            return Look()
        digest = _digest(listed)
        if before and before[0].readings_digest == digest:
            return Look()
        quiet_from = max(row.received_at for row in rows) + quiet
        if transaction.now < quiet_from:
            return Look(wait=True)
        wanted = [name for row in rows for name in json.loads(row.wanted)["send_to"]]
        return Look(
            due=Due(
                study_digest=key.digest,
                revision=before[0].revision + 1 if before else 1,
                readings_digest=digest,
                job_id=max(standing),
                at=max(quiet_from, *(one.settled_at for one in films)),
                films=tuple(films),
                send_to=tuple(dict.fromkeys(wanted)),
                predecessors=_predecessors(transaction, before),
                replaces=tuple({row.job_id for row in before}),
            )
        )


def _newest(rows: Sequence[Row]) -> list[Row]:
    """One row a film, by their ids: its newest reading, but for one that was withdrawn or of which nothing came."""
    chosen: dict[int, Row] = {}
    for row in rows:
        before = chosen.get(row.instance_id)
        if before is None or _says(row) >= _says(before):
            chosen[row.instance_id] = row
    return sorted(chosen.values(), key=lambda row: int(row.id))


def _says(row: Row) -> tuple[bool, bool]:
    return row.state != JobState.WITHDRAWN, bool(row.report or row.told)


def _rows(transaction: Transaction, key: Key) -> Sequence[Row]:
    under_way = sa.exists().where(
        delivery.c.job_id == job.c.id, delivery.c.act == "report", delivery.c.state.in_(_UNDER_WAY)
    )
    return transaction.rows(
        sa.select(
            *(job.c.id, job.c.instance_id, job.c.state, job.c.outcome, job.c.reason, job.c.report, job.c.settled_at),
            *(job.c.report_sha256, job.c.disputed),
            *(job.c.wanted, job.c.preview_key, job.c.preview_sha256, job.c.bundle_digest, instance.c.received_at),
            *(instance.c.transfer_syntax_uid, identity.c.header, reader.c.reader, under_way.label("under_way")),
            notice.c.report.label("told"),
        )
        .join(instance, instance.c.id == job.c.instance_id)
        .join(identity, identity.c.instance_id == job.c.instance_id)
        .outerjoin(reader, reader.c.model == job.c.model)
        .outerjoin(notice, notice.c.job_id == job.c.id)
        .where(
            job.c.model == key.model,
            job.c.mode == "active",
            *(identity.c[name] == getattr(key, name) for name in _NAMES),
        )
        .order_by(job.c.id)
    )


def _read(row: Row) -> Read:
    withdrawn = row.state == JobState.WITHDRAWN
    said = None if withdrawn else row.report or row.told or None
    return Read(
        job_id=row.id,
        instance_id=row.instance_id,
        report=Report.from_json(said) if said else None,
        reason="the AI result of this film was withdrawn" if withdrawn else row.reason,
        settled_at=row.settled_at,
        header=row.header,
        transfer_syntax_uid=row.transfer_syntax_uid,
        preview_key=None if withdrawn else row.preview_key,
        preview_digest=row.preview_sha256,
        reader=row.reader or "",
        bundle_digest=row.bundle_digest,
    )


def _digest(rows: Sequence[Row]) -> str:
    """What tells one set of readings from another. A notice changes nothing: its film is listed with it or without."""
    said = [[row.id, row.state == JobState.WITHDRAWN, row.report_sha256, row.reason] for row in rows]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _before(transaction: Transaction, digest: str) -> Sequence[Row]:
    """The summaries made of a study, the newest first."""
    return transaction.rows(
        sa.select(study_summary, job.c.state)
        .join(job, job.c.id == study_summary.c.job_id)
        .where(study_summary.c.study_digest == digest)
        .order_by(sa.desc(study_summary.c.revision))
    )


def _predecessors(transaction: Transaction, before: Sequence[Row]) -> tuple[SentOutput, ...]:
    """What was sent of the last summary that was sent; a summary is withdrawn with the job under which it went."""
    for row in before:
        sent = sent_outputs(transaction, row.job_id, act=row.act)
        if sent:
            return () if row.state == JobState.WITHDRAWN else sent
    return ()


def record(database: Database, one: Due, outputs: Sequence[StoredOutput], *, retract: bool = True) -> bool:
    """Record a summary with its outputs and deliveries in one transaction; cancel what did not go of the one before.

    What went of it, or may have gone, is ordered back, unless `retract` is False.

    Returns False where it is not to be sent as it is: another node was faster, or one of the jobs that it lists or an
    earlier summary moved on meanwhile. The caller then removes the files that it spooled.
    """
    with database.write() as transaction:
        locked = transaction.rows(
            sa.select(job.c.id, job.c.state, job.c.report_sha256, job.c.reason, job.c.disputed)
            .where(job.c.id.in_({one.job_id, *one.replaces, *(film.job_id for film in one.films)}))
            .order_by(job.c.id)
            .with_for_update()
        )
        states = {row.id: row.state for row in locked}
        listed = [row for row in locked if row.id in {film.job_id for film in one.films}]
        if _digest(listed) != one.readings_digest or any(row.disputed for row in listed):
            return False
        before = _before(transaction, one.study_digest)
        if states.get(one.job_id) in (None, *_UNREAD, JobState.SUPERSEDED, JobState.WITHDRAWN):
            return False
        if _predecessors(transaction, before) != one.predecessors:
            return False
        made = transaction.insert_new(
            study_summary,
            {
                "study_digest": one.study_digest,
                "revision": one.revision,
                "readings_digest": one.readings_digest,
                "job_id": one.job_id,
                "act": one.act,
                "created_at": transaction.now,
            },
            unique=("study_digest", "revision"),
        )
        if made is None:
            return False
        for row in before:
            _cancel(transaction, row)
            if retract:
                _retract(transaction, row)
        note(
            transaction,
            "study_summarised",
            job_id=one.job_id,
            revision=one.revision,
            films=len(one.films),
            jobs=[film.job_id for film in one.films],
        )
        announce(transaction, one.job_id, one.act, outputs, send_to=one.send_to)
        return True


def _cancel(transaction: Transaction, before: Row) -> None:
    """Cancel an earlier summary where it waits; one that a sender takes at this moment `deliveries.begin` gives up."""
    waiting = transaction.rows(
        sa.select(delivery.c.id)
        .where(
            delivery.c.job_id == before.job_id,
            delivery.c.act == before.act,
            delivery.c.state == DeliveryState.PENDING,
        )
        .with_for_update(skip_locked=True)
    )
    for row in waiting:
        move(transaction, row.id, DeliveryState.PENDING, DeliveryEvent.CANCELLED)
        note(transaction, DeliveryEvent.CANCELLED, job_id=before.job_id, delivery_id=row.id)


def _retract(transaction: Transaction, before: Row) -> None:
    """Order an earlier summary back, once, from each destination that has or may have it.

    One that is withdrawn with its job is not ordered back a second time. Nothing is locked: what waits was
    cancelled, or `deliveries.begin` gives it up; what is being sent now is judged when it rests.
    """
    if before.state == JobState.WITHDRAWN:
        return
    had = sa.exists().where(delivery_output.c.delivery_id == delivery.c.id, delivery_output.c.had.is_(True))
    rows = transaction.rows(
        sa.select(delivery.c.destination, delivery.c.rank)
        .where(
            delivery.c.job_id == before.job_id,
            delivery.c.act == before.act,
            sa.or_(delivery.c.state == DeliveryState.SENDING, had),
        )
        .order_by(delivery.c.id)
    )
    for row in rows:
        key = {
            "job_id": before.job_id,
            "destination": row.destination,
            "act": f"{RETRACTION}{before.revision}",
        }
        ordered = {"state": advance_delivery(None, DeliveryEvent.ORDERED), "rank": row.rank}
        made = transaction.insert_new(delivery, {**key, **ordered, "created_at": transaction.now}, unique=tuple(key))
        if made is not None:
            note(
                transaction,
                DeliveryEvent.ORDERED,
                job_id=before.job_id,
                delivery_id=made.id,
                destination=row.destination,
                study_revision=before.revision,
            )
