"""Seals: a digest over all events so far, taken once a day, that is told outside and can be compared later.

    seals.take(database)                         # a Seal, or None where nothing happened since the last one
    seals.export(database, seal)                 # what to keep elsewhere: the seal, and where each job's chain stood
    seals.verify(database)                       # the first broken row of the trail, by chains and seals: Faults
    seals.compare(database, Exported)            # against a seal that was kept elsewhere

Which events a seal covers is settled under the writer's lock, so that none can come late; the digest itself is made
after it, in short reads. A seal in the database proves little: who can change events can change it. The one that was
logged, sent to syslog or written to another machine finds a job that was deleted whole, or a chain computed anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

import sqlalchemy as sa

from cxrnode.store import guards
from cxrnode.store.audit import link_hash, note
from cxrnode.store.database import Database, Row
from cxrnode.store.schema import event, job, seal

_PAGE = 2000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seal:
    """The events `first_event` to `last_event`, `events` in number; `digest` covers them and the seal `before`."""

    id: int
    sealed_at: float
    first_event: int
    last_event: int
    events: int
    before: str
    digest: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A seal with what names the place of a fault: for each job with events in it, where its chain stood.

    `heads` maps a job's id to (number of its events so far, hash of the last one).
    """

    seal: Seal
    heads: Mapping[int, tuple[int, str]]

    def to_json(self) -> str:
        """One line of JSON."""
        said = {"seal": dataclasses.asdict(self.seal), "heads": {str(k): list(v) for k, v in self.heads.items()}}
        return json.dumps(said, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        raw = json.loads(text)
        heads = {int(job_id): (int(events), str(head)) for job_id, (events, head) in raw["heads"].items()}
        return cls(seal=Seal(**raw["seal"]), heads=heads)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something in the trail that is not as it was written; `event_id` and `job_id` name the first such row."""

    text: str
    event_id: int | None = None
    job_id: int | None = None


def latest(database: Database) -> Seal | None:
    """The newest seal."""
    with database.read() as transaction:
        row = transaction.row(sa.select(seal).order_by(seal.c.id.desc()).limit(1))
    return Seal(**row._mapping) if row else None


def every(database: Database) -> tuple[Seal, ...]:
    """All seals, oldest first: one a day."""
    with database.read() as transaction:
        return tuple(Seal(**row._mapping) for row in transaction.rows(sa.select(seal).order_by(seal.c.id)))


def take(database: Database) -> Seal | None:
    """Seal all events since the last seal; None where there are none."""
    before = latest(database)
    first = before.last_event + 1 if before else 1
    with database.write() as transaction:
        if not database.is_sqlite:
            # Whoever wrote an event and did not commit yet is waited for: no event can come below the last one.
            transaction.connection.execute(sa.text("LOCK TABLE event IN SHARE ROW EXCLUSIVE MODE"))
        last = transaction.scalar(sa.select(sa.func.max(event.c.id)).where(event.c.id >= first))
    if last is None:
        return None
    digest, events = _digest(database, before.digest if before else "", first, last)
    with database.write() as transaction:
        values = {
            "sealed_at": transaction.now,
            "first_event": first,
            "last_event": last,
            "events": events,
            "before": before.digest if before else "",
            "digest": digest,
        }
        newest = transaction.scalar(sa.select(sa.func.max(seal.c.id)))
        if newest != (before.id if before else None):  # another node sealed meanwhile
            return None
        row = transaction.row(sa.insert(seal).values(**values).returning(seal))
        assert row is not None
        note(transaction, "sealed", seal=row.id, last_event=last, digest=digest)
        return Seal(**row._mapping)


def export(database: Database, chosen: Seal) -> Exported:
    """A seal with where each job's chain stood that moved in it."""
    heads: dict[int, tuple[int, str]] = {}
    for row in _events(database, chosen.first_event, chosen.last_event):
        if row.job_id is not None:
            heads[row.job_id] = (heads.get(row.job_id, (0, ""))[0] + 1, row.hash)
    ids = sorted(heads)
    for start in range(0, len(ids), 500):
        some = ids[start : start + 500]
        earlier = (
            sa.select(event.c.job_id, sa.func.count())
            .where(event.c.job_id.in_(some), event.c.id < chosen.first_event)
            .group_by(event.c.job_id)
        )
        with database.read() as transaction:
            for job_id, number in transaction.rows(earlier):
                heads[job_id] = (heads[job_id][0] + number, heads[job_id][1])
    return Exported(seal=chosen, heads=heads)


def _events(database: Database, first: int, last: int) -> Iterator[Row]:
    while first <= last:
        statement = sa.select(event).where(event.c.id >= first, event.c.id <= last).order_by(event.c.id).limit(_PAGE)
        with database.read() as transaction:
            rows = transaction.rows(statement)
        yield from rows
        if len(rows) < _PAGE:
            return
        first = rows[-1].id + 1


def _digest(database: Database, before: str, first: int, last: int) -> tuple[str, int]:
    made, events = hashlib.sha256(before.encode()), 0
    for row in _events(database, first, last):
        made.update(f"\n{row.id} {row.instance_id or ''} {row.hash}".encode())
        events += 1
    return made.hexdigest(), events


# ---------------------------------------------------------------------------------------------- verify


def verify(database: Database, *, most: int = 20) -> tuple[Fault, ...]:
    """Go through the whole trail once; return what is wrong with it, the first row of each fault, `most` at most.

    Each event must follow from the one before it in its job's chain, each chain end at its job's head, each seal cover
    its events, and the guards stand. Memory: a line for each job.
    """
    faults = [Fault(text=f"the guard {name} of the database is missing") for name in guards.missing(database)]
    heads: dict[int, str] = {}
    broken: set[int] = set()
    seals_left = list(every(database))
    before_seal, made, events = "", hashlib.sha256(b""), 0

    def close(one: Seal) -> Fault | None:
        if one.before != before_seal:
            return Fault(text=f"seal {one.id} does not follow from the seal before it")
        if one.digest == made.hexdigest() and one.events == events:
            return None
        where = f"events {one.first_event} to {one.last_event}, {one.events} in number then and {events} now"
        return Fault(text=f"seal {one.id} does not cover {where}")

    for row in _events(database, 1, 1 << 62):
        while seals_left and row.id > seals_left[0].last_event:
            done = seals_left.pop(0)
            if (fault := close(done)) is not None:
                faults.append(fault)
            before_seal, made, events = done.digest, hashlib.sha256(done.digest.encode()), 0
        made.update(f"\n{row.id} {row.instance_id or ''} {row.hash}".encode())
        events += 1
        chained = heads.get(row.job_id, "") if row.job_id is not None else ""
        if row.hash != _link(chained, row) and row.job_id not in broken:
            if row.job_id is not None:
                broken.add(row.job_id)
            faults.append(Fault(text=_said(row), event_id=row.id, job_id=row.job_id))
        if row.job_id is not None:
            heads[row.job_id] = row.hash
        if len(faults) >= most:
            return tuple(faults)
    for one in seals_left:
        if (fault := close(one)) is not None:
            faults.append(fault)
        before_seal, made, events = one.digest, hashlib.sha256(one.digest.encode()), 0
    faults += _wrong_heads(database, heads, broken)
    return tuple(faults[:most])


def _link(before: str, row: Row) -> str:
    return link_hash(
        before, at=row.at, job_id=row.job_id, delivery_id=row.delivery_id, name=row.name, detail=row.detail
    )


def _said(row: Row) -> str:
    of = f"of job {row.job_id} " if row.job_id is not None else ""
    return (
        f"event {row.id} {of}({row.name}) does not follow from what stands before it: it or its neighbour was changed"
    )


def _wrong_heads(database: Database, heads: Mapping[int, str], broken: set[int]) -> Iterator[Fault]:
    """Jobs whose last event is gone, and jobs without any."""
    last = 0
    while True:
        statement = sa.select(job.c.id, job.c.chain_head).where(job.c.id > last).order_by(job.c.id).limit(_PAGE)
        with database.read() as transaction:
            rows = transaction.rows(statement)
        moved = [row.id for row in rows if row.chain_head != heads.get(row.id, "") and row.id not in broken]
        # An event may have been written since the trail was read: those jobs are looked at once more.
        for job_id in moved:
            if _head_of(database, job_id) != _last_hash(database, job_id):
                yield Fault(text=f"the last events of job {job_id} are missing or were added to", job_id=job_id)
        if len(rows) < _PAGE:
            return
        last = rows[-1].id


def _head_of(database: Database, job_id: int) -> str:
    with database.read() as transaction:
        return str(transaction.scalar(sa.select(job.c.chain_head).where(job.c.id == job_id)) or "")


def _last_hash(database: Database, job_id: int) -> str:
    newest = sa.select(event.c.hash).where(event.c.job_id == job_id).order_by(event.c.id.desc()).limit(1)
    with database.read() as transaction:
        return str(transaction.scalar(newest) or "")


def compare(database: Database, kept: Exported) -> tuple[Fault, ...]:
    """What differs from a seal that was kept elsewhere; the jobs that were deleted or whose chain was made anew."""
    faults: list[Fault] = []
    digest, events = _digest(database, kept.seal.before, kept.seal.first_event, kept.seal.last_event)
    for job_id in sorted(kept.heads):
        number, head = kept.heads[job_id]
        with database.read() as transaction:
            hashes = [
                row.hash
                for row in transaction.rows(
                    sa.select(event.c.hash)
                    .where(event.c.job_id == job_id, event.c.id <= kept.seal.last_event)
                    .order_by(event.c.id)
                )
            ]
        if not hashes:
            faults.append(Fault(text=f"job {job_id} is gone: the seal knows {number} events of it", job_id=job_id))
        elif (len(hashes), hashes[-1]) != (number, head):
            text = f"the chain of job {job_id} was made anew: {number} events when it was sealed, {len(hashes)} now"
            faults.append(Fault(text=text, job_id=job_id))
    if digest != kept.seal.digest and not faults:
        where = f"events {kept.seal.first_event} to {kept.seal.last_event}"
        text = f"{where} are not those that were sealed: {kept.seal.events} then, {events} now; none of a job"
        faults.append(Fault(text=text))
    return tuple(faults)


def compare_digest(database: Database, digest: str) -> tuple[Fault, ...]:
    """As `compare`, where only the digest was kept, as a log or syslog line has it."""
    known: dict[str, Any] = {one.digest: one for one in every(database)}
    if digest not in known:
        return (Fault(text="no seal of this database has that digest: the trail or its seals were made anew"),)
    one: Seal = known[digest]
    made, events = _digest(database, one.before, one.first_event, one.last_event)
    if made == digest:
        return ()
    where = f"events {one.first_event} to {one.last_event}, {one.events} in number then and {events} now"
    return (Fault(text=f"the seal with that digest does not cover {where}"),)
