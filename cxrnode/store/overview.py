"""How the node is doing, in a few short reads: what waits and since when, what came, how fast, and what is stuck.

Every count stops at `MOST`, and every list at a few thousand rows: the answer takes as long on a year's audit as on a
day's (design, rule 13).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from cxrnode.core.findings import Reader
from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.store.database import Database, Transaction
from cxrnode.store.schema import FAILED, circuit, delivery, instance, job, reader

#: Where counting stops: people read "10000 or more" no other way than 12345.
MOST = 10_000
#: Deliveries whose time is looked at for percentiles, the newest of them.
_TIMED = 2_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A queue: how many wait, and for how long the oldest has, in seconds; None where none waits."""

    name: str
    count: int
    oldest: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A destination: what waits for it, what is held for a person, and whether its circuit is open."""

    name: str
    waiting: int
    held: int
    failed: int
    oldest: float | None
    down_since: float | None
    reason: str
    next_probe_at: float | None
    last_sent: float | None

    @property
    def well(self) -> bool:
        """Whether results flow to it."""
        return self.down_since is None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What came in one hour, which starts at `at`."""

    at: float
    accepted: int
    ignored: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds from receipt to delivery: percentiles, and the median of each hour, None for an hour without any."""

    count: int
    median: float | None
    p95: float | None
    hours: tuple[float | None, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelInUse:
    """A model as `infer` loaded it: None where it never did."""

    name: str
    reader: Reader | None
    loaded_at: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """All of it, at `now` by the database's clock."""

    now: float
    queues: tuple[Waiting, ...]
    reading: int
    failed: int
    disputed: int
    hours: tuple[Hour, ...]
    pace: Pace
    ways: tuple[Way, ...]
    models: tuple[ModelInUse, ...]
    last_received: float | None

    @property
    def queued(self) -> int:
        """How many films wait to be read."""
        return sum(queue.count for queue in self.queues)

    @property
    def oldest(self) -> float | None:
        """For how long the oldest of them has waited."""
        return max((queue.oldest for queue in self.queues if queue.oldest is not None), default=None)


def overview(
    database: Database, *, models: Sequence[str], destinations: Sequence[str], hours: int = 24, failed_days: int = 30
) -> Overview:
    """How the node is doing. `failed` counts the jobs and deliveries of so many days that need a person."""
    with database.read() as transaction:
        now = transaction.now
        queues = tuple(_queue(transaction, name) for name in models)
        reading = _count(transaction, sa.select(job.c.id).where(job.c.state == JobState.READING))
        failed = _count(
            transaction,
            sa.select(job.c.id)
            .where(sa.text(FAILED), job.c.settled_at > now - failed_days * 86400.0)
            .with_hint(job, "INDEXED BY ix_job_failed", "sqlite"),
        )
        # A job in dispute has deliveries that are held: those few are found by their state.
        held = sa.select(delivery.c.job_id).where(delivery.c.state == DeliveryState.PENDING, delivery.c.held.is_(True))
        disputed = _count(transaction, held.distinct())
    with database.read() as transaction:
        begin = (now // 3600 - (hours - 1)) * 3600
        bars = _hours(transaction, begin, hours)
        last = transaction.scalar(sa.select(instance.c.received_at).order_by(instance.c.received_at.desc()).limit(1))
    with database.read() as transaction:
        pace = _pace(transaction, begin, hours)
    with database.read() as transaction:
        ways = tuple(_way(transaction, name) for name in destinations)
        in_use = _models(transaction, models)
    return Overview(
        now=now,
        queues=queues,
        reading=reading,
        failed=failed,
        disputed=disputed,
        hours=bars,
        pace=pace,
        ways=ways,
        models=in_use,
        last_received=last,
    )


def _count(transaction: Transaction, chosen: sa.Select[tuple[int]]) -> int:
    some = chosen.limit(MOST).subquery()
    return int(transaction.scalar(sa.select(sa.func.count()).select_from(some)) or 0)


def _queue(transaction: Transaction, model: str) -> Waiting:
    waits = (job.c.state == JobState.QUEUED, job.c.model == model)
    count = _count(transaction, sa.select(job.c.id).where(*waits))
    oldest = None
    if count:
        some = sa.select(job.c.created_at).where(*waits).limit(MOST).subquery()
        oldest = transaction.now - float(transaction.scalar(sa.select(sa.func.min(some.c.created_at))))
    return Waiting(name=model, count=count, oldest=oldest)


def _hours(transaction: Transaction, begin: float, hours: int) -> tuple[Hour, ...]:
    slot = sa.cast(sa.func.floor((instance.c.received_at - begin) / 3600), sa.Integer)
    rows = transaction.rows(
        sa.select(slot, instance.c.verdict, sa.func.count())
        .where(instance.c.received_at >= begin)
        .group_by(slot, instance.c.verdict)
    )
    counts = {(int(row[0]), row[1]): int(row[2]) for row in rows}
    return tuple(
        Hour(
            at=begin + 3600 * number,
            accepted=counts.get((number, "accepted"), 0),
            ignored=counts.get((number, "ignored"), 0),
        )
        for number in range(hours)
    )


def _pace(transaction: Transaction, begin: float, hours: int) -> Pace:
    rows = transaction.rows(
        sa.select(instance.c.received_at, job.c.settled_at)
        .join(instance, instance.c.id == job.c.instance_id)
        # A revision's film was received long before anybody asked for it.
        .where(job.c.settled_at >= begin, job.c.state == JobState.DELIVERED, job.c.revision == 1)
        .order_by(job.c.settled_at.desc())
        .limit(_TIMED)
        # SQLite takes the state's index for its equality, and sorts what was ever delivered.
        .with_hint(job, "INDEXED BY ix_job_settled", "sqlite")
    )
    took = [(row.settled_at, max(0.0, row.settled_at - row.received_at)) for row in rows]
    by_hour: dict[int, list[float]] = {}
    for at, seconds in took:
        by_hour.setdefault(int((at - begin) // 3600), []).append(seconds)
    every = [seconds for _, seconds in took]
    return Pace(
        count=len(took),
        median=percentile(every, 0.5),
        p95=percentile(every, 0.95),
        hours=tuple(percentile(by_hour.get(number, []), 0.5) for number in range(hours)),
    )


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None without values."""
    if not values:
        return None
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share * len(ranked)) - 1)]


def _way(transaction: Transaction, name: str) -> Way:
    def of(*states: str) -> tuple[sa.ColumnElement[bool], ...]:
        return delivery.c.destination == name, delivery.c.state.in_(states)

    waits = of(DeliveryState.PENDING, DeliveryState.SENDING, DeliveryState.WAITING)
    waiting = _count(transaction, sa.select(delivery.c.id).where(*waits))
    oldest = None
    held = 0
    if waiting:
        some = sa.select(delivery.c.created_at, delivery.c.held).where(*waits).limit(MOST).subquery()
        oldest = transaction.now - float(transaction.scalar(sa.select(sa.func.min(some.c.created_at))))
        held = int(transaction.scalar(sa.select(sa.func.count()).select_from(some).where(some.c.held.is_(True))) or 0)
    way = transaction.row(sa.select(circuit).where(circuit.c.destination == name))
    down = way is not None and way.open
    # One state at a time: each then has its newest at the end of the index.
    newest = [
        transaction.scalar(sa.select(delivery.c.settled_at).where(*of(state)).order_by(delivery.c.rank.desc()).limit(1))
        for state in (DeliveryState.SENT, DeliveryState.COMMITTED)
    ]
    return Way(
        name=name,
        waiting=waiting,
        held=held,
        failed=_count(transaction, sa.select(delivery.c.id).where(*of(DeliveryState.FAILED))),
        oldest=oldest,
        down_since=way.opened_at if down and way is not None else None,
        reason=way.reason if down and way is not None else "",
        next_probe_at=way.next_probe_at if down and way is not None else None,
        last_sent=max((at for at in newest if at is not None), default=None),
    )


def _models(transaction: Transaction, models: Sequence[str]) -> tuple[ModelInUse, ...]:
    known: Mapping[str, tuple[str, float]] = {
        row.model: (row.reader, row.loaded_at) for row in transaction.rows(sa.select(reader))
    }
    return tuple(
        ModelInUse(
            name=name,
            reader=Reader(**json.loads(known[name][0])) if name in known else None,
            loaded_at=known[name][1] if name in known else None,
        )
        for name in models
    )
