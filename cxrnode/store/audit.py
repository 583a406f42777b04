"""The audit trail: events, append-only, chained by hash, written in the transaction that made the change.

Nothing here changes a job, and no event ever holds a patient identifier.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.store.database import Database, Transaction
from cxrnode.store.schema import UNUSUAL, USUAL_EVENTS, event, job

#: So many ids at most lie between two events of one moment that were committed in another order.
_OVERLAP = 10_000
#: Ids that one read looks through where no index leads.
_WINDOW = 50_000


#: Made once: to put a statement together costs several times what the database takes for it.
_APPEND = sa.insert(event)
_HEAD = sa.update(job).where(job.c.id == sa.bindparam("its_id")).values(chain_head=sa.bindparam("head"))
_CHAIN_HEAD = sa.select(job.c.chain_head).where(job.c.id == sa.bindparam("its_id"))


def note(
    transaction: Transaction,
    name: str,
    *,
    instance_id: int | None = None,
    job_id: int | None = None,
    delivery_id: int | None = None,
    **detail: Any,
) -> None:
    """Append one event. A job's events are chained: each hash covers the one before (design, rule 11).

    The caller's change has already locked the job's row, so that its chain head cannot move meanwhile.
    """
    link = note_unlinked(
        transaction, name, instance_id=instance_id, job_id=job_id, delivery_id=delivery_id, detail=detail
    )
    if job_id is not None:
        transaction.connection.execute(_HEAD, {"its_id": job_id, "head": link})


def note_unlinked(
    transaction: Transaction,
    name: str,
    *,
    job_id: int | None,
    detail: Mapping[str, Any],
    instance_id: int | None = None,
    delivery_id: int | None = None,
) -> str:
    """Append one event and return its hash, which the caller writes into the job's `chain_head` with its own change."""
    row = chained(transaction, name, instance_id=instance_id, job_id=job_id, delivery_id=delivery_id, detail=detail)
    transaction.connection.execute(_APPEND, row)
    return str(row["hash"])


def note_all(transaction: Transaction, name: str, details: Mapping[int, Mapping[str, Any]]) -> None:
    """Append one event for each of these jobs (id -> detail), whose rows are locked, in two statements."""
    if not details:
        return
    rows = [chained(transaction, name, job_id=job_id, detail=detail) for job_id, detail in details.items()]
    insert_events(transaction, rows)
    heads = [{"its_id": row["job_id"], "head": row["hash"]} for row in rows]
    transaction.connection.execute(_HEAD, heads)


def insert_events(transaction: Transaction, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append events that `chained` made, in this order; the jobs' `chain_head` is the caller's to write."""
    transaction.connection.execute(_APPEND, rows)


def chained(
    transaction: Transaction,
    name: str,
    *,
    job_id: int | None,
    detail: Mapping[str, Any],
    instance_id: int | None = None,
    delivery_id: int | None = None,
) -> dict[str, Any]:
    """The row of an event, chained to its job's last one; the end of the chain is then in `transaction.heads`."""
    text = json.dumps(detail, sort_keys=True, separators=(",", ":"), allow_nan=False)
    head = ""
    if job_id is not None:
        known = transaction.heads.get(job_id)
        head = known if known is not None else _head(transaction, job_id)
    link = link_hash(head, at=transaction.now, job_id=job_id, delivery_id=delivery_id, name=name, detail=text)
    if job_id is not None:
        transaction.heads[job_id] = link
    return {
        "at": transaction.now,
        "instance_id": instance_id,
        "job_id": job_id,
        "delivery_id": delivery_id,
        "name": name,
        "detail": text,
        "hash": link,
    }


def _head(transaction: Transaction, job_id: int) -> str:
    return str(transaction.scalar(_CHAIN_HEAD, its_id=job_id) or "")


def link_hash(before: str, *, at: float, job_id: int | None, delivery_id: int | None, name: str, detail: str) -> str:
    """SHA-256 of one link of a chain: the hash before it and everything that the event says."""
    said = json.dumps([before, repr(at), job_id, delivery_id, name, detail], separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the audit trail."""

    id: int
    at: float
    instance_id: int | None
    job_id: int | None
    delivery_id: int | None
    name: str
    detail: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What `query` selects; None leaves a condition out. Times are seconds since 1970 in UTC."""

    job_id: int | None = None
    instance_id: int | None = None
    name: str | None = None
    since: float | None = None
    until: float | None = None


def query(database: Database, chosen: EventFilter, *, limit: int, page: int = 1000) -> Iterator[Event]:
    """Yield up to `limit` events, oldest first, by keyset pages so that no read lasts long (design, rule 13)."""
    conditions: list[sa.ColumnElement[bool]] = [
        column == value
        for column, value in (
            (event.c.job_id, chosen.job_id),
            (event.c.instance_id, chosen.instance_id),
            (event.c.name, chosen.name),
        )
        if value is not None
    ]
    if chosen.since is not None:
        conditions.append(event.c.at >= chosen.since)
    if chosen.until is not None:
        conditions.append(event.c.at < chosen.until)
    last, highest = _ids_between(database, chosen.since, chosen.until)
    sparse = chosen.name in USUAL_EVENTS and chosen.job_id is None and chosen.instance_id is None
    unusual = [sa.text(UNUSUAL)] if chosen.name is not None and chosen.name not in USUAL_EVENTS else []
    with database.read() as transaction:
        newest = int(transaction.scalar(sa.select(sa.func.max(event.c.id))) or 0)
    highest = newest if highest is None else min(highest, newest)
    while limit > 0 and last < highest:
        # Of a name that most films have there may be none for long: such a read goes by windows.
        until = min(highest, last + _WINDOW) if sparse else highest
        window = (event.c.id > last, event.c.id <= until)
        statement = sa.select(event).where(*window, *conditions, *unusual).order_by(event.c.id).limit(min(page, limit))
        with database.read() as transaction:
            rows = transaction.rows(statement)
        for row in rows:
            yield Event(
                id=row.id,
                at=row.at,
                instance_id=row.instance_id,
                job_id=row.job_id,
                delivery_id=row.delivery_id,
                name=row.name,
                detail=json.loads(row.detail),
            )
        last = rows[-1].id if len(rows) == min(page, limit) else until
        limit -= len(rows)


def _ids_between(database: Database, since: float | None, until: float | None) -> tuple[int, int | None]:
    """The ids before the first and of the last event that can lie between two times; None: no last.

    Ids grow with time but for transactions that overlap. Without these bounds a database may walk through ten million
    events in the order of their ids to find those of the last hour.
    """
    with database.read() as transaction:

        def first_from(at: float | None) -> int | None:
            if at is None:
                return None
            found = sa.select(event.c.id).where(event.c.at >= at).order_by(event.c.at).limit(1)
            return transaction.scalar(found)  # type: ignore[no-any-return]

        first, after = first_from(since), first_from(until)
        if since is not None and first is None:  # nothing is so young
            first = transaction.scalar(sa.select(sa.func.max(event.c.id)))
    return max(0, (first or 0) - _OVERLAP), None if after is None else after + _OVERLAP


def broken_link(database: Database, job_id: int) -> int | None:
    """Return the id of the first event whose hash does not follow from the chain, 0 if the head is wrong, else None."""
    with database.read() as transaction:
        rows = transaction.rows(sa.select(event).where(event.c.job_id == job_id).order_by(event.c.id))
        head = transaction.scalar(sa.select(job.c.chain_head).where(job.c.id == job_id))
    before = ""
    for row in rows:
        link = link_hash(
            before, at=row.at, job_id=row.job_id, delivery_id=row.delivery_id, name=row.name, detail=row.detail
        )
        if link != row.hash:
            return int(row.id)
        before = link
    return None if before == head else 0
