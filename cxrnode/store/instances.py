"""Looking for instances as people do: also those that no rule wanted, of which there is no job. Reads, in short steps.

As `store.search`, a look walks back along a narrow index and ends when its page is full or its time is up.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.store.database import Database, Row
from cxrnode.store.listing import InstanceFilter, InstanceRow, instances_of
from cxrnode.store.schema import identity, instance
from cxrnode.store.search import Whose, note_search

_FIRST, _WIDEST, _SHORT = 20_000, 320_000, 0.02
_MOST_CANDIDATES = 400
#: Seconds by which the order of ids may differ from that of time.
_ABOUT = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InstancePage:
    """Instances, the newest first. `before` is the id to go on from, None at the end."""

    rows: tuple[InstanceRow, ...]
    before: int | None
    looked_back_to: float | None = None


def search_instances(
    database: Database, chosen: InstanceFilter, *, before: int | None = None, limit: int = 50, seconds: float = 0.15
) -> InstancePage:
    """Return a page of the newest instances that are like this, with ids below `before`."""
    until = time.monotonic() + seconds
    high, floor = _ends(database, chosen, before)
    conditions, found = _conditions(chosen), list[Row]()
    width, count = _FIRST, limit + 1
    while high > floor and len(found) <= limit:
        began = time.monotonic()
        low = max(floor, high - width)
        with database.read() as transaction:
            ids = [row.id for row in transaction.rows(_candidates(chosen, low, high).limit(count))]
            high = ids[-1] - 1 if len(ids) == count else low
            if ids:
                whole = sa.select(instance).where(instance.c.id.in_(ids), *conditions).order_by(instance.c.id.desc())
                found += transaction.rows(whole.limit(limit + 1 - len(found)))
        took = time.monotonic() - began
        width = min(2 * width, _WIDEST) if took < _SHORT else max(width // 2, _FIRST)
        count = min(2 * count, _MOST_CANDIDATES)
        if time.monotonic() > until:
            break
    more, rows = len(found) > limit, found[:limit]
    looked: float | None = None
    if not more and high > floor:
        oldest = sa.select(instance.c.received_at).where(instance.c.id > high).order_by(instance.c.id).limit(1)
        with database.read() as transaction:
            looked = transaction.scalar(oldest)
    following = rows[-1].id if more else (high + 1 if high > floor else None)
    return InstancePage(rows=tuple(instances_of(database, rows)), before=following, looked_back_to=looked)


def _candidates(chosen: InstanceFilter, low: int, high: int) -> sa.Select[tuple[int]]:
    """Ids of a window from a narrow index: a row with its header is about a kilobyte."""
    narrow = instance.alias("narrow")
    statement = sa.select(narrow.c.id).where(narrow.c.id > low, narrow.c.id <= high).order_by(narrow.c.id.desc())
    if chosen.calling_aet is not None:
        statement = statement.where(narrow.c.calling_aet == chosen.calling_aet)
        return statement.with_hint(narrow, "INDEXED BY ix_instance_walk", "sqlite")
    if chosen.verdict is not None:
        statement = statement.where(narrow.c.verdict == chosen.verdict)
        return statement.with_hint(narrow, "INDEXED BY ix_instance_verdict", "sqlite")
    return statement


def _conditions(chosen: InstanceFilter) -> list[sa.ColumnElement[bool]]:
    pairs = (
        (instance.c.verdict, chosen.verdict),
        (instance.c.calling_aet, chosen.calling_aet),
        (instance.c.rule, chosen.rule),
    )
    conditions: list[sa.ColumnElement[bool]] = [column == value for column, value in pairs if value is not None]
    if chosen.since is not None:
        conditions.append(instance.c.received_at >= chosen.since)
    if chosen.until is not None:
        conditions.append(instance.c.received_at < chosen.until)
    return conditions


def _ends(database: Database, chosen: InstanceFilter, before: int | None) -> tuple[int, int]:
    """The highest id that may be like this, and the one below all of them."""

    def received_before(at: float) -> int:
        by_time = sa.select(instance.c.id).where(instance.c.received_at < at).order_by(instance.c.received_at.desc())
        return int(transaction.scalar(by_time.limit(1)) or 0)

    with database.read() as transaction:
        high = int(transaction.scalar(sa.select(sa.func.max(instance.c.id))) or 0)
        if chosen.until is not None:
            high = received_before(chosen.until + _ABOUT)
        floor = received_before(chosen.since - _ABOUT) if chosen.since is not None else 0
    return (high if before is None else min(high, before - 1)), floor


def search_instances_whose(
    database: Database, whose: Whose, *, by: str, why: str, limit: int = 200
) -> Sequence[InstanceRow]:
    """Return the newest instances of a patient or an accession number. The look is an event, found or not."""
    pairs = ((identity.c.patient_id, whose.patient_id), (identity.c.accession, whose.accession))
    conditions = [column == value for column, value in pairs if value]
    newest = sa.select(identity.c.instance_id).where(*conditions).order_by(identity.c.instance_id.desc()).limit(limit)
    with database.read() as transaction:
        ids = [row.instance_id for row in transaction.rows(newest)]
        rows = transaction.rows(sa.select(instance).where(instance.c.id.in_(ids)).order_by(instance.c.id.desc()))
    note_search(database, whose, len(rows), by=by, why=why)
    return instances_of(database, rows)
