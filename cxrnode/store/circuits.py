"""The circuit of each destination: open after a fault of an association, closed by the first good one (rule 6)."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from cxrnode.store.audit import note
from cxrnode.store.database import Database
from cxrnode.store.schema import circuit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Down:
    """An open circuit: since when, the fault of the last association, and when the destination is tried again."""

    opened_at: float
    reason: str
    next_probe_at: float


def open_circuit(
    database: Database, destination: str, reason: str, *, base: float, cap: float, least: float = 0.0
) -> float:
    """Open or keep open a destination's circuit after a fault of its association; return the pause in seconds.

    The pause doubles from `base` to `cap`; `least` is what the destination itself asks for.
    """
    fresh = {"destination": destination, "open": False, "reason": "", "faults": 0, "next_probe_at": 0.0}
    with database.write() as transaction:
        # What is not there cannot be locked: two nodes that fail together for the first time would open it twice.
        transaction.insert_new(circuit, fresh, unique=("destination",))
        way = transaction.row(sa.select(circuit).where(circuit.c.destination == destination).with_for_update())
        faults = (way.faults if way else 0) + 1
        pause = max(least, min(cap, base * 2.0 ** min(faults - 1, 16)))
        was_open = bool(way and way.open)
        transaction.upsert(
            circuit,
            {
                "destination": destination,
                "open": True,
                "opened_at": way.opened_at if way and was_open else transaction.now,
                "reason": reason,
                "faults": faults,
                "next_probe_at": transaction.now + pause,
            },
            key=("destination",),
        )
        if not was_open:
            note(transaction, "circuit_opened", destination=destination, reason=reason)
        return pause


def close_circuit(database: Database, destination: str) -> bool:
    """Close a destination's circuit after a good association; True where it was open."""
    with database.read() as transaction:
        if not transaction.scalar(sa.select(circuit.c.open).where(circuit.c.destination == destination)):
            return False
    with database.write() as transaction:
        changed = transaction.count(
            sa.update(circuit)
            .where(circuit.c.destination == destination, circuit.c.open.is_(True))
            .values(open=False, faults=0, reason="", next_probe_at=0.0)
        )
        if changed:
            note(transaction, "circuit_closed", destination=destination)
        return bool(changed)


def down(database: Database) -> dict[str, Down]:
    """The destinations whose circuit is open."""
    with database.read() as transaction:
        rows = transaction.rows(sa.select(circuit).where(circuit.c.open.is_(True)))
    return {
        row.destination: Down(opened_at=row.opened_at, reason=row.reason, next_probe_at=row.next_probe_at)
        for row in rows
    }


def take_probe(database: Database, destination: str, *, lease: float) -> bool:
    """Whether the destination may be tried now: its circuit is closed, or a probe is due and now ours for `lease` s."""
    with database.read() as transaction:
        way = transaction.row(sa.select(circuit).where(circuit.c.destination == destination))
        if way is None or not way.open:
            return True
        if way.next_probe_at > transaction.now:
            return False
    with database.write() as transaction:
        return bool(
            transaction.count(
                sa.update(circuit)
                .where(
                    circuit.c.destination == destination,
                    circuit.c.open.is_(True),
                    circuit.c.next_probe_at <= transaction.now,
                )
                .values(next_probe_at=transaction.now + lease)
            )
        )
