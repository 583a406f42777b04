"""Models that a node could not load: which, where and why, as events. Their films wait; the other models go on."""

from __future__ import annotations

import dataclasses
import json

import sqlalchemy as sa

from cxrnode.store.audit import note
from cxrnode.store.database import Database, Transaction
from cxrnode.store.schema import UNUSUAL, event, reader

_NAME = "model_not_loaded"
#: Events that are looked through: a process that is started again and again says the same thing once.
_NEWEST = 50


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NotLoaded:
    """A model that a node could not load, and since when, in seconds since 1970."""

    model: str
    node: str
    reason: str
    at: float


def refused(database: Database, model: str, *, node: str, reason: str) -> None:
    """Write down that a node could not load a model, unless that is what it said last. Raises Transient."""
    with database.write() as transaction:
        if not any((one.model, one.node, one.reason) == (model, node, reason) for one in _standing(transaction)):
            note(transaction, _NAME, model=model, node=node, reason=reason)


def not_loaded(database: Database) -> tuple[NotLoaded, ...]:
    """The models that could not be loaded and were not since then by any node, each once, by name."""
    with database.read() as transaction:
        standing = _standing(transaction)
    return tuple(sorted({one.model: one for one in reversed(standing)}.values(), key=lambda one: one.model))


def _standing(transaction: Transaction) -> list[NotLoaded]:
    """What holds still, the newest first."""
    newest = sa.select(event.c.at, event.c.detail).where(event.c.name == _NAME, sa.text(UNUSUAL))
    loaded = {row.model: row.loaded_at for row in transaction.rows(sa.select(reader.c.model, reader.c.loaded_at))}
    some = transaction.rows(newest.order_by(event.c.id.desc()).limit(_NEWEST))
    said = [(row.at, json.loads(row.detail)) for row in some]
    return [NotLoaded(at=at, **one) for at, one in said if at > loaded.get(one["model"], 0.0)]
