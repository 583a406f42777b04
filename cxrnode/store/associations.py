"""Associations that peers asked for: the newest accepted and rejected ones, what was proposed, and why it was refused.

A bounded table: `prune` keeps the newest. A peer that is refused again and again has one row that counts, and one event
`association_refused` an hour. AE titles, addresses and SOP classes stand here, and nothing of any object.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.store.audit import note
from cxrnode.store.database import Database, Transaction
from cxrnode.store.schema import association

#: Rows that are kept of each outcome.
KEPT = 5000
#: A refusal like the last one of its peer is counted there when it comes within so many seconds.
_SAME_SECONDS = 3600.0
#: Refusals of one hour that are events: who makes up AE titles must not fill the audit trail.
_MOST_EVENTS = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One association that a peer asked for. `outcome` is accepted, rejected or failed; `cause` why not, in one word.

    `contexts`: {"accepted": {SOP class: transfer syntax}, "refused": [[SOP class, [transfer syntaxes], result]]}.
    """

    calling_aet: str
    called_aet: str
    address: str
    outcome: str
    cause: str = ""
    reason: str = ""
    contexts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    objects: int = 0
    refused: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AssociationRow:
    """One row of the table; `times` says how often the same was refused."""

    id: int
    at: float
    asked: Asked
    times: int


def record(database: Database, some: Sequence[Asked]) -> None:
    """Write down what was asked, in one transaction."""
    with database.write() as transaction:
        for one in some:
            values = dataclasses.asdict(one) | {"contexts": json.dumps(one.contexts, sort_keys=True)}
            values |= {"calling_aet": one.calling_aet[:16], "called_aet": one.called_aet[:16]}
            if one.outcome != "accepted":
                same = [association.c[key] == values[key] for key in ("calling_aet", "called_aet", "address", "cause")]
                last = sa.select(sa.func.max(association.c.id)).where(
                    association.c.outcome == one.outcome, *same, association.c.at > transaction.now - _SAME_SECONDS
                )
                if (known := transaction.scalar(last)) is not None:
                    transaction.connection.execute(
                        sa.update(association)
                        .where(association.c.id == known)
                        .values(at=transaction.now, times=association.c.times + 1, contexts=values["contexts"])
                    )
                    continue
                if _few_refused(transaction):
                    said = {key: values[key] for key in ("calling_aet", "called_aet", "address", "cause", "reason")}
                    note(transaction, "association_refused", **said)
            transaction.connection.execute(sa.insert(association).values(at=transaction.now, **values))


def _few_refused(transaction: Transaction) -> bool:
    """Whether the last hour has so few rows of refusals that one more is an event."""
    refused = association.c.outcome.in_(("rejected", "failed"))
    nth = sa.select(association.c.at).where(refused).order_by(association.c.id.desc()).offset(_MOST_EVENTS - 1).limit(1)
    at = transaction.scalar(nth)
    return at is None or at < transaction.now - _SAME_SECONDS


def prune(database: Database, *, kept: int = KEPT) -> int:
    """Remove all but the newest rows of each outcome; return how many."""
    removed = 0
    with database.write() as transaction:
        for outcome in ("accepted", "rejected", "failed"):
            oldest = (
                sa.select(association.c.id)
                .where(association.c.outcome == outcome)
                .order_by(association.c.id.desc())
                .offset(kept)
                .limit(1)
            )
            if (last := transaction.scalar(oldest)) is not None:
                removed += transaction.count(
                    sa.delete(association).where(association.c.outcome == outcome, association.c.id <= last)
                )
    return removed


def list_associations(
    database: Database, *, outcome: str | None = None, before: int | None = None, limit: int = 50
) -> list[AssociationRow]:
    """The newest, or those before an id; of one outcome or of any."""
    chosen = sa.select(association).order_by(association.c.id.desc()).limit(limit)
    if outcome is not None:
        chosen = chosen.where(association.c.outcome == outcome)
    if before is not None:
        chosen = chosen.where(association.c.id < before)
    names = [field.name for field in dataclasses.fields(Asked)]
    with database.read() as transaction:
        rows = transaction.rows(chosen)
    return [
        AssociationRow(
            id=row.id,
            at=row.at,
            times=row.times,
            asked=Asked(**{name: getattr(row, name) for name in names} | {"contexts": json.loads(row.contexts)}),
        )
        for row in rows
    ]


def rejected_since(database: Database, seconds: float) -> int:
    """How many peers were refused in the last `seconds`."""
    with database.read() as transaction:
        newest = (
            sa.select(association.c.at)
            .where(association.c.outcome == "rejected")
            .order_by(association.c.id.desc())
            .limit(200)
            .subquery()
        )
        count = sa.select(sa.func.count()).select_from(newest).where(newest.c.at > transaction.now - seconds)
        return int(transaction.scalar(count) or 0)
