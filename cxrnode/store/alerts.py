"""Alerts: what is wrong at the moment, from the first time a condition is met until it is over, and who was told.

    alerts.open_alerts(database)                 # raised and not over, the gravest and oldest first: for the overview
    alerts.recent(database, limit=50)            # those that are over, too, the newest first

`tend` calls `observe` with everything that is wrong at the moment (roles.alerts finds it), then `untold` and `told`
for each channel. A condition that holds for `hold` seconds is raised; one that is gone for so long has ended. Both are
events, `alert_raised` and `alert_ended`. No alert names a patient: its subject is a model, a node, a sender.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import Literal

import sqlalchemy as sa

from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import alert, alert_told

Severity = Literal["warning", "critical"]
Phase = Literal["raised", "ended"]
#: Nobody is told of what was over so long ago: a channel may be new.
_STALE = 86400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that is wrong now. `text` says what, with numbers; `remedy` what to do."""

    rule: str
    subject: str
    text: str
    remedy: str = ""
    severity: Severity = "warning"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert; `raised_at` is None while it does not hold for long enough, `ended_at` while it is not over."""

    id: int
    rule: str
    subject: str
    severity: str
    text: str
    remedy: str
    began_at: float
    seen_at: float
    raised_at: float | None
    quiet_since: float | None
    ended_at: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Untold:
    """What a channel is still to be told of."""

    alert: Alert
    phase: Phase
    since: float


def observe(
    database: Database, found: Sequence[Condition], *, rules: Collection[str], hold: float, subject: str | None = None
) -> list[Alert]:
    """Compare what is wrong now with what was; return what was raised or has ended with this.

    `rules` are those that were looked at, of this `subject` alone or of all: other alerts stay as they are.
    """
    now_met = {(one.rule, one.subject[:64]): one for one in found}
    with database.write() as transaction:
        now = transaction.now
        changed: list[int] = []
        rows = transaction.rows(sa.select(alert).where(alert.c.ended_at.is_(None)).order_by(alert.c.id))
        for row in rows:
            met = now_met.pop((row.rule, row.subject), None)
            if met is not None:
                values: dict[str, object] = {"text": met.text, "remedy": met.remedy, "severity": met.severity}
                if row.raised_at is None and now - row.began_at >= hold:
                    values["raised_at"] = now
                    changed.append(row.id)
                _change(transaction, row, seen_at=now, quiet_since=None, **values)
            elif row.rule in rules and subject in (None, row.subject):
                quiet = now if row.quiet_since is None else row.quiet_since
                if row.raised_at is None or now - quiet >= hold:
                    _change(transaction, row, quiet_since=quiet, ended_at=now)
                    changed += [row.id] if row.raised_at is not None else []
                else:
                    _change(transaction, row, quiet_since=quiet)
        for (rule, subject), met in now_met.items():
            new_id = transaction.scalar(
                sa.insert(alert)
                .values(
                    rule=rule,
                    subject=subject,
                    severity=met.severity,
                    text=met.text,
                    remedy=met.remedy,
                    began_at=now,
                    seen_at=now,
                    raised_at=now if hold <= 0 else None,
                )
                .returning(alert.c.id)
            )
            changed += [new_id] if hold <= 0 else []
        after = [_alert(row) for row in transaction.rows(sa.select(alert).where(alert.c.id.in_(changed)))]
        for one in after:
            if one.ended_at is None:
                note(transaction, "alert_raised", rule=one.rule, subject=one.subject, text=one.text)
            else:
                note(transaction, "alert_ended", rule=one.rule, subject=one.subject)
        return after


def _change(transaction: Transaction, row: Row, **values: object) -> None:
    transaction.connection.execute(sa.update(alert).where(alert.c.id == row.id).values(**values))


def open_alerts(database: Database) -> tuple[Alert, ...]:
    """The alerts that are raised and not over, critical ones first, then the oldest."""
    chosen = sa.select(alert).where(alert.c.ended_at.is_(None), alert.c.raised_at.is_not(None))
    with database.read() as transaction:
        rows = transaction.rows(chosen.order_by(sa.case((alert.c.severity == "critical", 0), else_=1), alert.c.id))
    return tuple(_alert(row) for row in rows)


def recent(database: Database, *, limit: int, before: int | None = None) -> tuple[Alert, ...]:
    """The alerts that were ever raised, the newest first; `before`: the id of the last one of the page before."""
    chosen = sa.select(alert).where(alert.c.raised_at.is_not(None))
    if before is not None:
        chosen = chosen.where(alert.c.id < before)
    with database.read() as transaction:
        rows = transaction.rows(chosen.order_by(alert.c.id.desc()).limit(limit))
    return tuple(_alert(row) for row in rows)


def untold(database: Database, channel: str) -> list[Untold]:
    """What a channel was not told of yet, oldest first: that an alert was raised, that it is over."""
    with database.read() as transaction:
        fresh = alert.c.ended_at.is_(None) | (alert.c.ended_at > transaction.now - _STALE)
        rows = transaction.rows(
            sa.select(alert).where(alert.c.raised_at.is_not(None), fresh).order_by(alert.c.id).limit(500)
        )
        known = {
            (row.alert_id, row.phase)
            for row in transaction.rows(
                sa.select(alert_told).where(
                    alert_told.c.channel == channel, alert_told.c.alert_id.in_([row.id for row in rows])
                )
            )
        }
    found: list[Untold] = []
    for row in rows:
        if (row.id, "raised") not in known:
            found.append(Untold(alert=_alert(row), phase="raised", since=row.raised_at))
        if row.ended_at is not None and (row.id, "ended") not in known:
            found.append(Untold(alert=_alert(row), phase="ended", since=row.ended_at))
    return found


def told(database: Database, channel: str, what: Sequence[Untold]) -> None:
    """Remember that a channel was told."""
    with database.write() as transaction:
        for one in what:
            row = {"alert_id": one.alert.id, "channel": channel, "phase": one.phase, "told_at": transaction.now}
            transaction.insert_new(alert_told, row, unique=("alert_id", "channel", "phase"))


def _alert(row: Row) -> Alert:
    return Alert(**row._mapping)
