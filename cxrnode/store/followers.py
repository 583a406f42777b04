"""Following the events: what happened since the last time, once each, in the order of their ids.

A follower that is new starts at the present. On PostgreSQL an event with a smaller id may be committed later than one
with a larger: events are therefore followed only once every writer that could hold one back has ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.store.audit import Event
from cxrnode.store.database import Database
from cxrnode.store.schema import event, follower

#: How long a transaction may be open, in seconds (store.database ends those that idle for a minute).
_SLOWEST = 60.0


def follow(database: Database, name: str, names: Sequence[str], *, limit: int) -> tuple[list[Event], int]:
    """The next events of these names, and where `advance` is to put the follower once they are dealt with."""
    lag = 0.0 if database.is_sqlite else _SLOWEST
    with database.read() as transaction:
        last = transaction.scalar(sa.select(follower.c.last_event).where(follower.c.name == name))
        if last is None:
            return [], int(transaction.scalar(sa.select(sa.func.max(event.c.id))) or 0)
        newest = transaction.scalar(
            sa.select(event.c.id).where(event.c.at <= transaction.now - lag).order_by(event.c.id.desc()).limit(1)
        )
        if newest is None:
            return [], int(last)
        rows = transaction.rows(
            sa.select(event)
            .where(event.c.id > last, event.c.id <= newest, event.c.name.in_(names))
            .order_by(event.c.id)
            .limit(limit)
        )
    found = [
        Event(
            id=row.id,
            at=row.at,
            instance_id=row.instance_id,
            job_id=row.job_id,
            delivery_id=row.delivery_id,
            name=row.name,
            detail=json.loads(row.detail),
        )
        for row in rows
    ]
    return found, found[-1].id if len(found) == limit else max(int(newest), last)


def begin(database: Database, name: str) -> None:
    """Let a follower that is new start here; one that is known goes on where it was."""
    with database.write() as transaction:
        newest = transaction.scalar(sa.select(sa.func.max(event.c.id))) or 0
        transaction.insert_new(follower, {"name": name, "last_event": newest}, unique=("name",))


def advance(database: Database, name: str, last_event: int) -> None:
    """Remember that everything up to this event is dealt with. Who went further meanwhile is not called back."""
    row = {"name": name, "last_event": last_event}
    with database.write() as transaction:
        if transaction.insert_new(follower, row, unique=("name",)) is None:
            behind = (follower.c.name == name, follower.c.last_event < last_event)
            transaction.connection.execute(sa.update(follower).where(*behind).values(last_event=last_event))
