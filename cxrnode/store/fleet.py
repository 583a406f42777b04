"""Who works with the database: a row for each process of each machine, which it writes itself and renews.

It is for people and for `upgrade`, never for coordination: what a process may do is said by its leases alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from cxrnode.store.database import Database, Transaction
from cxrnode.store.schema import process

#: How often a process renews its row, and after how many seconds without that it is taken to be lost.
BEAT_SECONDS = 10.0
SILENT_SECONDS = 35.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process as it says itself: `models` are those that it has loaded, name -> bundle digest."""

    owner: str
    node: str
    role: str
    version: str
    revision: str
    device: str = ""
    models: Mapping[str, str] = dataclasses.field(default_factory=dict)
    config_digest: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One machine, put together of its processes. Times are seconds since 1970 in UTC by the database's clock.

    `roles` counts the processes that live; where none does, those that were lost. Several versions stand side by
    side while a machine is upgraded.
    """

    node: str
    alive: bool
    roles: Mapping[str, int]
    versions: tuple[str, ...]
    revisions: tuple[str, ...]
    devices: tuple[str, ...]
    models: Mapping[str, str]
    config_digests: tuple[str, ...]
    started_at: float
    beat_at: float
    silent_for: float


def beat(database: Database, one: Process) -> None:
    """Write or renew the row of a process. Raises Transient where the database is away."""
    values = {**dataclasses.asdict(one), "models": json.dumps(dict(one.models), sort_keys=True)}
    with database.write() as transaction:
        renewed = transaction.count(
            sa.update(process)
            .where(process.c.owner == one.owner)
            .values(beat_at=transaction.now, device=one.device, models=values["models"])
        )
        if not renewed:
            values |= {"started_at": transaction.now, "beat_at": transaction.now}
            transaction.connection.execute(sa.insert(process).values(**values))


def leave(database: Database, owner: str) -> None:
    """Strike out a process that ended. Raises Transient where the database is away."""
    with database.write() as transaction:
        transaction.connection.execute(sa.delete(process).where(process.c.owner == owner))


def begin(database: Database, node: str) -> None:
    """Strike out what a machine left behind when it was lost: it starts anew, and what lives comes back by itself.

    Raises Transient where the database is away.
    """
    with database.write() as transaction:
        transaction.connection.execute(sa.delete(process).where(process.c.node == node))


def living(transaction: Transaction) -> Sequence[Process]:
    """The processes that renewed their rows lately."""
    since = transaction.now - SILENT_SECONDS
    rows = transaction.rows(sa.select(process).where(process.c.beat_at > since).order_by(process.c.owner))
    return [
        Process(
            owner=row.owner,
            node=row.node,
            role=row.role,
            version=row.version,
            revision=row.revision,
            device=row.device,
            models=json.loads(row.models),
            config_digest=row.config_digest,
        )
        for row in rows
    ]


def members(database: Database) -> Sequence[Member]:
    """Every machine that has processes here, in the order of their names."""
    with database.read() as transaction:
        now = transaction.now
        rows = transaction.rows(sa.select(process).order_by(process.c.node, process.c.role, process.c.owner))
    found = []
    for name in dict.fromkeys(row.node for row in rows):
        ours = [row for row in rows if row.node == name]
        alive = [row for row in ours if row.beat_at > now - SILENT_SECONDS]
        told = alive or ours
        last = max(row.beat_at for row in ours)
        models: dict[str, str] = {}
        for row in told:
            models |= json.loads(row.models)
        found.append(
            Member(
                node=name,
                alive=bool(alive),
                roles=Counter(row.role for row in told),
                versions=_several(row.version for row in told),
                revisions=_several(row.revision for row in told),
                devices=_several(row.device for row in told if row.device),
                models=models,
                config_digests=_several(row.config_digest for row in told),
                started_at=min(row.started_at for row in told),
                beat_at=last,
                silent_for=max(0.0, now - last),
            )
        )
    return found


def _several(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def forget(database: Database, *, after: float) -> int:
    """Strike out processes that were lost more than `after` seconds ago; return how many."""
    with database.write() as transaction:
        return transaction.count(sa.delete(process).where(process.c.beat_at < transaction.now - after))


def loaded(database: Database) -> frozenset[str]:
    """The models that some living process has loaded."""
    with database.read() as transaction:
        return frozenset(name for one in living(transaction) for name in one.models)
