"""The queue of jobs: claim, renew, give back, fault, park, retry. Every settle is fenced by the claim's token.

It never opens a film; what a reading ends in is recorded by `store.reports`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.lifecycle import JobEvent, JobState, advance_job
from cxrnode.errors import LeaseLost, Rejected
from cxrnode.store.audit import note, note_all
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.receipt import Order, enqueue
from cxrnode.store.schema import instance, job


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A worker's time-limited right to a job, with what it needs to read the film."""

    job_id: int
    token: int
    instance_id: int
    model: str
    revision: int
    mode: str
    alone: bool
    attempts: int
    claimed_at: float
    outputs: tuple[str, ...]
    send_to: tuple[str, ...]
    messages_to: tuple[str, ...]
    spool_key: str | None
    dataset_digest: str
    header: Mapping[str, Any]
    calling_aet: str = ""
    #: A worker was lost, or an engine broke, while it was under way before.
    suspect: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How often a job is tried (design, rule 7): `losses` counts workers lost, `attempts` faults of its own."""

    attempts: int = 3
    losses: int = 6


def claim(
    database: Database,
    *,
    owner: str,
    models: Mapping[str, str],
    engine: str | Mapping[str, str],
    limit: int,
    lease: float,
    limits: Limits,
    spread: int = 1,
    modes: Mapping[str, str] | None = None,
) -> list[Claim]:
    """Take up to `limit` queued jobs of the loaded `models` (name -> bundle digest) for `lease` seconds.

    `engine`: what runs them, or each of them by its name. `spread`: of what waits take one part of so many, so that the
    steps of batches, or several workers, overlap; one film is taken at once.
    A job whose worker was lost before is claimed alone, so that a poison film costs nobody else an attempt.
    A job works in the mode of `modes` (name -> active or shadow), which may have changed since it was queued: like the
    bundle, the mode is that of the claim. A revision that takes the place of what was sent waits for an active model.
    """
    modes = modes or {}
    engines = dict.fromkeys(models, engine) if isinstance(engine, str) else engine
    shadows = tuple(name for name, mode in modes.items() if mode == "shadow")
    asked = _asked(tuple(models.items()), tuple(engines.items()), shadows)
    with database.read() as transaction:  # an idle worker takes no writer's lock
        found = transaction.row(asked.look, now=transaction.now, most=limit * spread)
    waiting, lost = (found.waiting, found.lost) if found is not None else (0, False)
    if not (waiting or lost):
        return []
    limit = max(1, -(-waiting // spread))
    with database.write() as transaction:
        if lost:
            expire(transaction, limits)
        until = transaction.now + lease
        claimed = transaction.rows(asked.take, now=transaction.now, most=limit, owner=owner, until=until)
        if not claimed:
            return []
        films = {row.id: row for row in transaction.rows(_FILMS, ids=[row.instance_id for row in claimed])}
        by_itself = len(claimed) == 1 and (claimed[0].alone or waiting <= 1)
        claims, details = [], {}
        for row in sorted(claimed, key=lambda one: (one.rank, one.id)):
            transaction.heads[row.id] = row.chain_head
            one = _claim(row, films[row.instance_id], alone=by_itself, mode=modes.get(row.model, row.mode))
            changed: dict[str, Any] = {"mode": one.mode} if one.mode != row.mode else {}
            if changed:
                transaction.connection.execute(sa.update(job).where(job.c.id == one.job_id).values(**changed))
            its = {"owner": owner, "token": one.token, "alone": one.alone, "bundle": models[one.model]}
            claims.append(one)
            details[one.job_id] = its | changed
        note_all(transaction, JobEvent.CLAIMED, details)
        return claims


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The two statements of a claim: how many wait and whether leases ran out, and to take some."""

    look: sa.Executable
    take: sa.Executable


@functools.lru_cache(maxsize=64)
def _asked(
    models: tuple[tuple[str, str], ...], engines: tuple[tuple[str, str], ...], shadows: tuple[str, ...]
) -> _Asked:
    """Made once for what is loaded: to put them together costs several times what a database takes to execute them.

    The first in the order of rank is taken; with it those of the next that need not be alone, unless it must be.
    """
    now, most = sa.bindparam("now", type_=sa.Double), sa.bindparam("most", type_=sa.Integer)
    due = [job.c.state == JobState.QUEUED, job.c.model.in_([name for name, _ in models]), job.c.not_before <= now]
    if shadows:
        revision = job.c.predecessor.is_not(None) & (job.c.mode == "active") & job.c.model.in_(shadows)
        due.append(sa.not_(revision))
    some = sa.select(job.c.id).where(*due).limit(most).subquery()
    pick = (
        sa.select(job.c.id, job.c.alone, job.c.rank)
        .where(*due)
        .order_by(job.c.rank, job.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("pick")
    )
    first = sa.select(pick.c.id, pick.c.alone).order_by(pick.c.rank, pick.c.id).limit(1).cte("first")
    fits = (pick.c.id == first.c.id) | (pick.c.alone.is_(False) & first.c.alone.is_(False))
    take = (
        sa.update(job)
        .where(job.c.id.in_(sa.select(pick.c.id).select_from(pick.join(first, fits))))
        .values(
            state=advance_job(JobState.QUEUED, JobEvent.CLAIMED),
            token=job.c.token + 1,
            lease_owner=sa.bindparam("owner"),
            lease_until=sa.bindparam("until", type_=sa.Double),
            claimed_at=now,
            bundle_digest=sa.case(dict(models), value=job.c.model) if models else job.c.bundle_digest,
            engine=sa.case(dict(engines), value=job.c.model) if engines else job.c.engine,
        )
        .returning(*(job.c[name] for name in _CLAIMED))
    )
    return _Asked(
        look=sa.select(
            sa.select(sa.func.count()).select_from(some).scalar_subquery().label("waiting"),
            sa.exists().where(*_expired(now)).label("lost"),
        ),
        take=take,
    )


#: What a claim says of its job.
_CLAIMED = (
    *("id", "token", "instance_id", "model", "revision", "mode", "alone", "attempts", "claimed_at", "wanted", "rank"),
    "chain_head",
)
_FILMS = sa.select(
    instance.c.id, instance.c.spool_key, instance.c.dataset_sha256, instance.c.header, instance.c.calling_aet
).where(instance.c.id.in_(sa.bindparam("ids", expanding=True)))


def _claim(row: Row, film: Row, *, alone: bool, mode: str) -> Claim:
    wanted = json.loads(row.wanted)
    return Claim(
        job_id=row.id,
        token=row.token,
        instance_id=row.instance_id,
        model=row.model,
        revision=row.revision,
        mode=mode,
        alone=alone,
        attempts=row.attempts,
        claimed_at=row.claimed_at,
        outputs=tuple(wanted["outputs"]),
        send_to=tuple(wanted["send_to"]),
        messages_to=tuple(wanted.get("messages_to", ())),
        spool_key=film.spool_key,
        dataset_digest=film.dataset_sha256,
        header=json.loads(film.header),
        calling_aet=film.calling_aet,
        suspect=row.alone,
    )


def _expired(now: float | sa.BindParameter[float]) -> tuple[sa.ColumnElement[bool], ...]:
    return (job.c.state == JobState.READING, job.c.lease_until < now)


def expire(transaction: Transaction, limits: Limits) -> int:
    """Return jobs whose lease ran out to the queue, alone from now on; park those that lost too many workers."""
    lost = transaction.rows(
        sa.select(job.c.id, job.c.losses, job.c.lease_owner)
        .where(*_expired(transaction.now))
        .order_by(job.c.id)
        .limit(100)
        .with_for_update(skip_locked=True)
    )
    for row in lost:
        losses = row.losses + 1
        if losses >= limits.losses:
            reason = f"{losses} workers were lost while they read this film; look at the film before a retry"
            move(transaction, row.id, JobState.READING, JobEvent.PARKED, reason=reason, losses=losses)
            note(transaction, JobEvent.PARKED, job_id=row.id, reason=reason)
        else:
            move(transaction, row.id, JobState.READING, JobEvent.LEASE_EXPIRED, losses=losses, alone=True)
            note(transaction, JobEvent.LEASE_EXPIRED, job_id=row.id, owner=row.lease_owner, losses=losses)
    return len(lost)


def waiting(database: Database) -> Mapping[str, int]:
    """How many jobs wait for each model."""
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(job.c.model, sa.func.count()).where(job.c.state == JobState.QUEUED).group_by(job.c.model)
        )
    return {row[0]: int(row[1]) for row in rows}


def queued(database: Database, *, most: int) -> int:
    """How many jobs wait to be read or are read now; no more than `most` are counted."""
    some = sa.select(job.c.id).where(job.c.state.in_((JobState.QUEUED, JobState.READING))).limit(most).subquery()
    with database.read() as transaction:
        return int(transaction.scalar(sa.select(sa.func.count()).select_from(some)) or 0)


def release_owner(database: Database, owner: str) -> int:
    """End at once the leases of a worker that is known to be dead, rather than wait for their time; return how many."""
    with database.write() as transaction:
        return transaction.count(
            sa.update(job)
            .where(job.c.lease_owner == owner, job.c.state == JobState.READING)
            .values(lease_until=transaction.now - 0.001)
        )


def renew(database: Database, claims: Sequence[Claim], *, lease: float) -> int:
    """Lengthen the leases still held; return how many are."""
    with database.write() as transaction:
        return sum(
            transaction.count(
                sa.update(job)
                .where(job.c.id == one.job_id, job.c.token == one.token, job.c.state == JobState.READING)
                .values(lease_until=transaction.now + lease)
            )
            for one in sorted(claims, key=lambda one: one.job_id)  # as a settle of several locks them
        )


_CHANGE = sa.update(job).where(job.c.id == sa.bindparam("its_id"))


def move(transaction: Transaction, job_id: int, before: JobState, happened: JobEvent, **values: Any) -> None:
    """Change the state as the table allows and end the lease. The caller notes the event in the same transaction."""
    after = advance_job(before, happened)
    freed = {"lease_owner": None, "lease_until": None}
    if after is not JobState.QUEUED:
        freed["settled_at"] = transaction.now  # type: ignore[assignment]
    transaction.connection.execute(_CHANGE, {"its_id": job_id, "state": after, **freed, **values})


#: What a settle needs to know of jobs, whose rows it locks by their ids upwards, as everybody does.
_HELD = (
    sa.select(job.c.id, job.c.token, job.c.state, job.c.predecessor, job.c.chain_head, job.c.rank)
    .where(job.c.id.in_(sa.bindparam("ids", expanding=True)))
    .order_by(job.c.id)
    .with_for_update()
)


def fence(transaction: Transaction, held: Claim) -> int | None:
    """Lock the claimed row and make sure that it is still ours; return its predecessor. Raises LeaseLost."""
    row = transaction.row(_HELD, ids=[held.job_id])
    if row is None or row.token != held.token or row.state != JobState.READING:
        raise LeaseLost(f"job {held.job_id} is no longer held under token {held.token}")
    transaction.heads[held.job_id] = row.chain_head
    return None if row.predecessor is None else int(row.predecessor)


def fence_all(transaction: Transaction, held: Sequence[Claim]) -> dict[int, Row]:
    """Lock the rows of these claims and return those that are still ours, by their ids: predecessor and rank."""
    tokens = {one.job_id: one.token for one in held}
    rows = transaction.rows(_HELD, ids=sorted(tokens))
    ours = {row.id: row for row in rows if row.token == tokens[row.id] and row.state == JobState.READING}
    transaction.heads.update({row.id: row.chain_head for row in ours.values()})
    return ours


def give_back(database: Database, held: Claim) -> None:
    """Return a job to the queue because the worker stops; nothing is counted against it. Raises LeaseLost."""
    with database.write() as transaction:
        fence(transaction, held)
        move(transaction, held.job_id, JobState.READING, JobEvent.GIVEN_BACK)
        note(transaction, JobEvent.GIVEN_BACK, job_id=held.job_id)


def fault(
    database: Database, held: Claim, reason: str, *, pause: float, limits: Limits, counts: bool, alone: bool = True
) -> bool:
    """Return a job to the queue after a passing fault, or park it at the limit; True where it was parked.

    `counts`: whether it is the film's own fault (its decode child died, or it was claimed alone). Raises LeaseLost.
    """
    with database.write() as transaction:
        fence(transaction, held)
        attempts = held.attempts + int(counts)
        if attempts >= limits.attempts:
            said = f"{reason} ({attempts} attempts)"
            move(transaction, held.job_id, JobState.READING, JobEvent.PARKED, reason=said, attempts=attempts)
            note(transaction, JobEvent.PARKED, job_id=held.job_id, reason=said)
            return True
        later = transaction.now + pause
        move(
            transaction,
            held.job_id,
            JobState.READING,
            JobEvent.FAULTED,
            attempts=attempts,
            not_before=later,
            alone=alone,
        )
        note(transaction, JobEvent.FAULTED, job_id=held.job_id, reason=reason, attempts=attempts, not_before=later)
        return False


def park(database: Database, held: Claim, reason: str) -> None:
    """Park a job that will not work as it is. Raises LeaseLost."""
    with database.write() as transaction:
        fence(transaction, held)
        move(transaction, held.job_id, JobState.READING, JobEvent.PARKED, reason=reason)
        note(transaction, JobEvent.PARKED, job_id=held.job_id, reason=reason)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Who is to read a film again, where that is not for the job's own model in its own mode to do."""

    model: str
    mode: str


def retry(database: Database, job_id: int, *, reason: str, by: str = "", reader: Reader | None = None) -> int:
    """Read a film again: a job never reported is reset, a reported one gets its next revision; return the job's id.

    `reader` is the model as it is configured now, or another one, whose reading then takes the place of the job's.
    Raises Rejected where the job does not exist, is under way, or its film is gone; and where nothing would be sent in
    the place of what was.
    """
    with database.write() as transaction:
        lock_instance(transaction, job_id)
        row = transaction.row(
            sa.select(job, instance.c.spool_key, instance.c.received_at)
            .join(instance, instance.c.id == job.c.instance_id)
            .where(job.c.id == job_id)
            .with_for_update(of=job)
        )
        if row is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        reader = reader or Reader(model=row.model, mode=row.mode)
        _require_retriable(transaction, row, reader)
        if row.state == JobState.FAILED and row.report is None and reader.model == row.model:
            fresh = {"attempts": 0, "losses": 0, "alone": True, "not_before": 0.0, "reason": "", "settled_at": None}
            move(transaction, job_id, JobState.FAILED, JobEvent.RETRIED, **fresh)
            note(transaction, JobEvent.RETRIED, job_id=job_id, reason=reason, by=by)
            return job_id
        return _ask_revision(transaction, row, reader, reason=reason, by=by)


def read_under_old_identity(transaction: Transaction, job_id: int, *, reason: str, by: str) -> int:
    """Read again a film that was withdrawn as another patient's, and is not; return the new job.

    The job's row and its instance are locked. Raises Rejected as `retry` does.
    """
    its = sa.select(job, instance.c.spool_key, instance.c.received_at)
    (row,) = transaction.rows(its.join(instance, instance.c.id == job.c.instance_id).where(job.c.id == job_id))
    reader = Reader(model=row.model, mode=row.mode)
    _require_retriable(transaction, row, reader, whoever=True)
    return _ask_revision(transaction, row, reader, reason=reason, by=by)


def lock_instance(transaction: Transaction, job_id: int) -> None:
    """Lock a job's instance, before its job, as retention does: the film's bytes stay until a new job stands."""
    its = sa.select(job.c.instance_id).where(job.c.id == job_id).scalar_subquery()
    # Not its key: whoever writes a job twice in a transaction looks at that, with the job locked (PostgreSQL).
    transaction.scalar(sa.select(instance.c.id).where(instance.c.id == its).with_for_update(key_share=True))


def _ask_revision(transaction: Transaction, row: Row, reader: Reader, *, reason: str, by: str) -> int:
    newest = transaction.scalar(
        sa.select(sa.func.max(job.c.revision)).where(
            job.c.instance_id == row.instance_id, job.c.model.in_((row.model, reader.model))
        )
    )
    new = enqueue(
        transaction,
        row.instance_id,
        Order(model=reader.model, mode=reader.mode, **json.loads(row.wanted)),
        received_at=row.received_at,
        ageing=0.0,
        config_digest=row.config_digest,
        rules_digest=row.rules_digest,
        revision=newest + 1,
        predecessor=row.id,
    )
    said: dict[str, Any] = {"reason": reason, "by": by, "revision": newest + 1, "job": new, "model": reader.model}
    note(transaction, "revision_asked", job_id=row.id, **said)
    return new


def _require_retriable(transaction: Transaction, row: Row, reader: Reader, *, whoever: bool = False) -> None:
    """Raise Rejected, with the remedy, where a job is not to be read again; `whoever`: the film's patient is known."""
    if row.spool_key is None:
        raise Rejected(f"job {row.id}: retention removed the film's bytes; send the film again")
    state = JobState(row.state)
    if state in (JobState.QUEUED, JobState.READING):
        raise Rejected(f"job {row.id} is {state}: it is under way already")
    if transaction.scalar(sa.select(sa.exists().where(job.c.predecessor == row.id))):
        raise Rejected(f"job {row.id} is {state} and has a later revision; retry that one")
    if state is JobState.WITHDRAWN and row.rejection == "worklist" and not whoever:
        raise Rejected(f"job {row.id} was withdrawn because the film is another's; send the corrected film")
    if row.mode == "active" and reader.mode != "active":
        raise Rejected(
            f"job {row.id}: its model is a shadow now, and nothing would take the place of what was sent; "
            "activate it, or withdraw the job"
        )
    if reader.model != row.model:
        standing = sa.select(job.c.id).where(
            job.c.instance_id == row.instance_id,
            job.c.model == reader.model,
            job.c.state.not_in((JobState.SUPERSEDED, JobState.WITHDRAWN)),
        )
        if (other := transaction.scalar(standing.limit(1))) is not None:
            raise Rejected(
                f"job {row.id}: {reader.model} reads this film already, as job {other}; withdraw one of them"
            )
