"""One film under two identities (design, rule 5): who has it, what is held meanwhile, and what a person decides.

Nothing here knows which identity is right; nothing is sent of a job in dispute.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Report
from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.errors import Rejected, Transient
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.deliveries import lock_deliveries
from cxrnode.store.jobs import Claim, lock_instance, read_under_old_identity
from cxrnode.store.schema import delivery, film, job
from cxrnode.store.withdrawals import Cause, withdraw_locked

#: What a change of identity leads to: both sides wait for a person, or the film that came last is right.
Policy = Literal["hold", "reissue"]
_GONE = (JobState.SUPERSEDED, JobState.WITHDRAWN)
_UNDER_WAY = (DeliveryState.PENDING, DeliveryState.SENDING)
_NOT_THE_FILMS = "the film is stored under another patient, accession number or study"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A film that was read before, by the same model: the job, and whether it was said to be the same patient's."""

    job_id: int
    same_identity: bool
    mode: str
    outcome: Outcome
    withdrawn: bool
    revision: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Dispute:
    """The other jobs with the same pixels under another identity.

    `held` says why the job's deliveries wait, "" where they do not; `stale` that the film came before the others and
    is withdrawn.
    """

    others: tuple[int, ...] = ()
    held: str = ""
    stale: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person's decision did: deliveries let go, jobs withdrawn, the job that reads anew what was withdrawn."""

    released: int
    withdrawn: tuple[int, ...]
    read_again: int | None = None


def known_film(
    transaction: Transaction, *, model: str, instance_id: int, pixel_digest: str, identity_digest: str
) -> Known | None:
    """The job that read these pixels before, for another instance; one with the same identity comes first."""
    found = transaction.row(
        _KNOWN, its_model=model, its_pixels=pixel_digest, its_identity=identity_digest, itself=instance_id
    )
    if found is None:
        return None
    return Known(
        job_id=found.job_id,
        same_identity=found.identity_digest == identity_digest,
        mode=found.mode,
        outcome=Outcome(found.outcome),
        withdrawn=found.state == JobState.WITHDRAWN,
        revision=found.revision,
    )


#: Made once: each film is looked up, and to put the statement together costs more than to execute it.
_KNOWN = (
    sa.select(film.c.job_id, film.c.identity_digest, job.c.mode, job.c.outcome, job.c.state, job.c.revision)
    .join(job, job.c.id == film.c.job_id)
    .where(
        film.c.model == sa.bindparam("its_model"),
        film.c.pixel_digest == sa.bindparam("its_pixels"),
        job.c.instance_id != sa.bindparam("itself"),
    )
    .order_by(sa.desc(film.c.identity_digest == sa.bindparam("its_identity")), sa.desc(film.c.job_id))
    .limit(1)
)


def other_identities(transaction: Transaction, *, model: str, pixel_digest: str, identity_digest: str) -> Sequence[Row]:
    """The jobs that stand for these pixels under another identity, by their ids: id, instance_id, disputed."""
    return transaction.rows(_standing(model, pixel_digest).where(job.c.identity_digest != identity_digest))


def _standing(model: str, pixel_digest: str) -> sa.Select[tuple[int, int, bool]]:
    """The active jobs of these pixels that say something: neither duplicates, nor superseded or withdrawn."""
    return (
        sa.select(job.c.id, job.c.instance_id, job.c.disputed)
        .where(
            job.c.model == model,
            job.c.pixel_digest == pixel_digest,
            job.c.mode == "active",
            job.c.outcome != Outcome.DUPLICATE,
            job.c.state.not_in(_GONE),
        )
        .order_by(job.c.id)
    )


def settle_identity(
    transaction: Transaction, held: Claim, report: Report, policy: Policy, *, first: bool = False
) -> Dispute:
    """Say what an identity change means for a job reported in this transaction, and hold or withdraw the others.

    Settles of the same pixels come one after the other, and the job's own row is locked. A revision that a person
    asked for is in dispute where its predecessor is; where that was withdrawn, it stands for the film anew. `first`: it
    is known to have no predecessor.
    """
    if not report.pixel_digest or held.mode != "active":
        return Dispute()
    before = job.alias()
    its = sa.select(before.c.id, before.c.disputed, before.c.state)
    chosen = its.join(job, job.c.predecessor == before.c.id).where(job.c.id == held.job_id)
    predecessor = None if first else transaction.row(chosen)
    withdrawn = predecessor is not None and predecessor.state == JobState.WITHDRAWN
    anew = predecessor is None or (withdrawn and not another_patients(transaction, held.job_id))
    if predecessor is not None and not anew:
        if not predecessor.disputed:
            return Dispute()
        _mark(transaction, held.job_id, disputed=True)
        return Dispute(held=_reason(predecessor.id))
    others = other_identities(
        transaction,
        model=held.model,
        pixel_digest=report.pixel_digest,
        identity_digest=report.identity_digest,
    )
    if not others:
        return Dispute()
    locked = _lock(transaction, [row.id for row in others])
    others = [row for row in others if locked[row.id][0] not in _GONE]  # a person may have withdrawn one meanwhile
    if not others:
        return Dispute()
    ids = tuple(row.id for row in others)
    for one in ids:
        note(transaction, "identity_changed", job_id=one, other=held.job_id)
    note(transaction, "identity_changed", job_id=held.job_id, other=ids[0], policy=policy)
    if policy == "hold":
        for one in ids:
            _hold(transaction, one, reason=_reason(held.job_id))
        _mark(transaction, held.job_id, disputed=True)
        return Dispute(others=ids, held=_reason(ids[0]))
    newest = max(row.instance_id for row in others)
    cause = Cause(rejection="worklist", note=_NOT_THE_FILMS, by="on_identity_change")
    for row in others:
        # Of two that came before a third, the older is withdrawn too: one film has one identity.
        if row.instance_id < max(newest, held.instance_id):
            state, deliveries = locked[row.id]
            withdraw_locked(transaction, row.id, state, deliveries, cause, other=held.job_id)
        elif row.disputed:
            _release(transaction, row.id, reason=cause.note, by=cause.by)
    return Dispute(others=ids, stale=held.instance_id < newest)


def another_patients(transaction: Transaction, job_id: int) -> bool:
    """Whether what this job is the next revision of was withdrawn as another patient's since the job was asked for.

    One that was asked for later is of a person who knows better.
    """
    before = job.alias()
    chosen = sa.select(sa.literal(1)).join(job, job.c.predecessor == before.c.id).where(job.c.id == job_id)
    withdrawn = (before.c.state == JobState.WITHDRAWN, before.c.rejection == "worklist")
    return transaction.scalar(chosen.where(*withdrawn, before.c.rejected_at >= job.c.created_at)) is not None


def decide(database: Database, job_id: int, *, reason: str, by: str, all_right: bool = False) -> Decision:
    """End a dispute: this job's identity is right, or with `all_right` every one's.

    What was held is let go; where one alone is right, the other jobs with the same film are withdrawn. A decision that
    was wrong is undone by one for a job that it withdrew: the film is read anew under that identity, since archives
    take nothing again that was rejected. Raises Rejected where the job is in no dispute.
    """
    with database.write() as transaction:
        lock_instance(transaction, job_id)
        columns = (job.c.disputed, job.c.pixel_digest, job.c.identity_digest, job.c.model, job.c.state, job.c.rejection)
        row = transaction.row(sa.select(*columns).where(job.c.id == job_id))
        if row is None:
            raise Rejected(f"there is no job {job_id}; `cxrnode jobs ls` shows those that are")
        lock_pixels(transaction, row.pixel_digest)
        undone = row.state == JobState.WITHDRAWN and row.rejection == "worklist" and _contested(transaction, row)
        others = other_identities(
            transaction, model=row.model, pixel_digest=row.pixel_digest, identity_digest=row.identity_digest
        )
        ids = tuple(one.id for one in others)
        # What was said of the film before, under the same identity: that it could not be analysed, say.
        likewise = transaction.rows(
            _standing(row.model, row.pixel_digest).where(
                job.c.identity_digest == row.identity_digest, job.c.id != job_id
            )
        )
        if undone and likewise:
            raise Rejected(f"job {job_id} is withdrawn, but job {likewise[-1].id} stands under the same identity")
        same = [one.id for one in likewise if one.disputed]
        locked = _lock(transaction, sorted((*ids, *same, job_id)))
        # Looked at again under the lock.
        if not undone and not transaction.scalar(sa.select(job.c.disputed).where(job.c.id == job_id)):
            raise Rejected(f"job {job_id} is {locked[job_id][0]}: its identity is in no dispute")
        ids = tuple(one for one in ids if locked[one][0] not in _GONE)
        note(transaction, "identity_decided", job_id=job_id, reason=reason, by=by, all_right=all_right)
        released, withdrawn = _release(transaction, job_id, reason=reason, by=by), []
        cause = Cause(rejection="worklist", note=_NOT_THE_FILMS, by=by)
        for one in same:
            released += _release(transaction, one, reason=reason, by=by)
        for one in ids:
            state, deliveries = locked[one]
            if all_right and not undone:
                released += _release(transaction, one, reason=reason, by=by)
            elif not all_right:
                withdraw_locked(transaction, one, state, deliveries, cause, other=job_id, said=reason)
                withdrawn.append(one)
        again = read_under_old_identity(transaction, job_id, reason=reason, by=by) if undone else None
        return Decision(released=released, withdrawn=tuple(withdrawn), read_again=again)


def _contested(transaction: Transaction, row: Row) -> bool:
    """Whether these pixels were read under another identity too, whatever became of that."""
    others = sa.exists().where(
        job.c.model == row.model,
        job.c.pixel_digest == row.pixel_digest,
        job.c.identity_digest != row.identity_digest,
        job.c.mode == "active",
    )
    return bool(row.pixel_digest and transaction.scalar(sa.select(others)))


def lock_pixels(transaction: Transaction, digest: str) -> None:
    """Let the settles of the same pixels, or of the same outputs, come one after the other: the later sees the earlier.

    SQLite has one writer at a time anyway; on PostgreSQL there is no row yet that could be locked.
    """
    if digest and transaction.connection.dialect.name == "postgresql":
        transaction.scalar(sa.select(sa.func.pg_advisory_xact_lock(_lock_number(digest))))


def _lock_number(digest: str) -> int:
    """A digest as the key of a lock, a signed 64-bit number; which kind it is stands before a colon."""
    return int(digest.rpartition(":")[2][:15], 16)


def lock_all_pixels(transaction: Transaction, digests: Sequence[str]) -> None:
    """Lock as `lock_pixels` does, several at once: those that nobody else waits behind.

    Raises Transient where another has one of them: two that wait for each other's would wait for ever.
    """
    if transaction.connection.dialect.name != "postgresql":
        return
    numbers = sorted({_lock_number(digest) for digest in digests})
    if not all(row.locked for row in transaction.rows(_TRY_LOCKS, numbers=numbers)):
        raise Transient("another worker settles the same film; it is settled after that one")


_TRY_LOCKS = sa.text(
    "SELECT pg_try_advisory_xact_lock(number) AS locked FROM unnest(CAST(:numbers AS bigint[])) AS number"
)


def _reason(other: int) -> str:
    return f"held: job {other} has the same pixels under another identity"


def _lock(transaction: Transaction, ids: Sequence[int]) -> dict[int, tuple[JobState, Sequence[Row]]]:
    """Lock the deliveries of all these jobs by their ids, then the jobs by theirs, as everybody does."""
    rows = lock_deliveries(transaction, *ids)
    deliveries = {one: [row for row in rows if row.job_id == one] for one in ids}
    states = transaction.rows(
        sa.select(job.c.id, job.c.state).where(job.c.id.in_(ids)).order_by(job.c.id).with_for_update()
    )
    return {row.id: (JobState(row.state), deliveries[row.id]) for row in states}


def _mark(transaction: Transaction, job_id: int, *, disputed: bool) -> None:
    transaction.connection.execute(sa.update(job).where(job.c.id == job_id).values(disputed=disputed))


def _hold(transaction: Transaction, job_id: int, *, reason: str) -> None:
    """Nothing more of the job goes out; a delivery under way is held too: it may come back."""
    _mark(transaction, job_id, disputed=True)
    transaction.connection.execute(
        sa.update(delivery)
        .where(delivery.c.job_id == job_id, delivery.c.state.in_(_UNDER_WAY))
        .values(held=True, reason=reason)
    )


def _release(transaction: Transaction, job_id: int, *, reason: str, by: str) -> int:
    _mark(transaction, job_id, disputed=False)
    rows = transaction.rows(
        sa.update(delivery)
        .where(delivery.c.job_id == job_id, delivery.c.state.in_(_UNDER_WAY), delivery.c.held.is_(True))
        .values(held=False, reason="", not_before=0.0)
        .returning(delivery.c.id)
    )
    for row in rows:
        note(transaction, "delivery_released", job_id=job_id, delivery_id=row.id, reason=reason, by=by)
    return len(rows)
