"""Change control: what people changed while the node runs, why, and who agreed. Each step is an event.

A change has a subject and a value: `model:NAME` is `active`, `shadow` or `disabled`; `queue:reading` and
`queue:sending` are `running` or `paused`. `switch` holds what is in force; where it has no row, the configuration's
word stands. Roles look it up as they claim, so that nothing needs a restart.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping

import sqlalchemy as sa

from cxrnode.errors import Rejected
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import change, switch

READING, SENDING = "queue:reading", "queue:sending"
QUEUES = (READING, SENDING)
_VALUES = {"model": ("active", "shadow", "disabled"), "queue": ("running", "paused")}
#: How long a role goes on with what it looked up, in seconds: how soon a change is in force everywhere.
FRESH_SECONDS = 1.0


def model(name: str) -> str:
    """The subject of a model."""
    return f"model:{name}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """What is in force of one subject, since when, by whom, and what it was before."""

    subject: str
    value: str
    before: str
    since: float
    by: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change that was asked for. `state` is asked, applied or refused; `decided_by` said so."""

    id: int
    subject: str
    value: str
    reason: str
    asked_by: str
    asked_at: float
    state: str
    decided_by: str
    decided_at: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class InForce:
    """All switches, by subject."""

    switches: Mapping[str, Switch] = dataclasses.field(default_factory=dict)

    def mode(self, name: str, configured: str) -> str:
        """How a model works now: active, shadow or disabled."""
        one = self.switches.get(model(name))
        return one.value if one is not None else configured

    def mode_of_jobs(self, name: str, configured: str) -> str | None:
        """The mode that a new job of the model gets, None for no job.

        Films of a model that was disabled while active wait for it, and are said to be not analysed once they are
        late: silence must not read as negative. Nobody waits for a shadow.
        """
        mode = self.mode(name, configured)
        if mode != "disabled":
            return mode
        return "active" if self.switches[model(name)].before == "active" else None

    def paused(self, queue: str) -> bool:
        """Whether this queue stands still."""
        one = self.switches.get(queue)
        return one is not None and one.value == "paused"


def stands_still(queue: str) -> sa.Exists:
    """Whether a queue stands still, to be asked within another statement."""
    return sa.exists().where(switch.c.subject == queue, switch.c.value == "paused")


class Switchboard:
    """What is in force, looked up at most every `FRESH_SECONDS`; for one thread, or several that may each look.

    For receipt, which may be that late: a claim looks for itself.
    """

    def __init__(self, database: Database) -> None:
        """Look nothing up yet."""
        self._database = database
        #: When it was asked for, and what was found: both at once, since several threads look.
        self._looked = (float("-inf"), InForce())

    def now(self) -> InForce:
        """What is in force. Raises Transient where the database is away."""
        asked, looked = time.monotonic(), self._looked
        if asked - looked[0] > FRESH_SECONDS:
            looked = self._looked = (asked, in_force(self._database))
        return looked[1]


def in_force(database: Database) -> InForce:
    """What is in force now."""
    with database.read() as transaction:
        return _in_force(transaction)


def _in_force(transaction: Transaction) -> InForce:
    return InForce({row.subject: Switch(**row._mapping) for row in transaction.rows(sa.select(switch))})


def ask(
    database: Database, wanted: Mapping[str, str], *, configured: Mapping[str, str], reason: str, by: str, consent: bool
) -> tuple[Change, ...]:
    """Ask for changes, subject -> value, all or none; without need of `consent` they are applied at once.

    `configured` maps each configured model to its mode. To stop needs no second person, only to go on. Raises Rejected
    for what is not there, is so already, or is asked for already.
    """
    if not reason.strip():
        raise Rejected("a change needs a reason; say why")
    with database.write() as transaction:
        found = _in_force(transaction)
        asked = []
        for subject, value in wanted.items():
            before = _before(found, subject, value, configured)
            open_ = sa.select(change.c.id).where(change.c.subject == subject, change.c.state == "asked")
            if (other := transaction.scalar(open_)) is not None:
                raise Rejected(f"change {other} of {subject} waits for consent; consent to it or refuse it first")
            row = transaction.row(
                sa.insert(change)
                .values(
                    subject=subject,
                    value=value,
                    reason=reason,
                    asked_by=by,
                    asked_at=transaction.now,
                    state="asked",
                )
                .returning(*change.c)
            )
            assert row is not None
            note(transaction, "change_asked", change=row.id, subject=subject, value=value, reason=reason, by=by)
            if not consent or value in ("paused", "disabled"):
                row = _apply(transaction, row, before=before, by=by)
            asked.append(Change(**row._mapping))
        return tuple(asked)


def _before(found: InForce, subject: str, value: str, configured: Mapping[str, str]) -> str:
    """What is in force of the subject now. Raises Rejected where the value is none of its or is so already."""
    kind, _, name = subject.partition(":")
    if value not in _VALUES.get(kind, ()) or (kind == "queue" and subject not in QUEUES):
        raise Rejected(f"{subject} cannot be {value}")
    if kind == "model" and name not in configured:
        raise Rejected(f"the configuration has no model {name!r}; it has {', '.join(configured) or 'none'}")
    if kind == "model":
        before = found.mode(name, configured[name])
    else:
        before = "paused" if found.paused(subject) else "running"
    if before == value:
        raise Rejected(f"{subject} is {value} already")
    return before


def _apply(transaction: Transaction, row: Row, *, before: str, by: str) -> Row:
    done = transaction.row(
        sa.update(change)
        .where(change.c.id == row.id)
        .values(state="applied", decided_by=by, decided_at=transaction.now)
        .returning(*change.c)
    )
    assert done is not None
    transaction.upsert(
        switch,
        {
            "subject": row.subject,
            "value": row.value,
            "before": before,
            "since": transaction.now,
            "by": by,
            "reason": row.reason,
        },
        key=("subject",),
    )
    note(
        transaction,
        "change_applied",
        change=row.id,
        subject=row.subject,
        value=row.value,
        before=before,
        reason=row.reason,
        by=by,
    )
    return done


def decide(
    database: Database, change_id: int, *, agree: bool, configured: Mapping[str, str], reason: str, by: str
) -> Change:
    """Consent to a change that another person asked for, or refuse it. Raises Rejected where that cannot be."""
    with database.write() as transaction:
        row = transaction.row(sa.select(change).where(change.c.id == change_id).with_for_update())
        if row is None:
            raise Rejected(f"there is no change {change_id}; `cxrnode changes ls` shows those that are")
        if row.state != "asked":
            raise Rejected(f"change {change_id} is {row.state} already")
        if agree:
            if row.asked_by == by:
                raise Rejected(f"change {change_id} was asked for by {by}; another person must consent")
            before = _before(_in_force(transaction), row.subject, row.value, configured)
            return Change(**_apply(transaction, row, before=before, by=by)._mapping)
        done = transaction.row(
            sa.update(change)
            .where(change.c.id == change_id)
            .values(state="refused", decided_by=by, decided_at=transaction.now)
            .returning(*change.c)
        )
        assert done is not None
        note(
            transaction,
            "change_refused",
            change=change_id,
            subject=row.subject,
            value=row.value,
            reason=reason,
            by=by,
        )
        return Change(**done._mapping)


def list_changes(database: Database, *, state: str | None = None, limit: int = 100) -> list[Change]:
    """The newest changes, of one state or of any."""
    chosen = sa.select(change).order_by(change.c.id.desc()).limit(limit)
    if state is not None:
        chosen = chosen.where(change.c.state == state)
    with database.read() as transaction:
        return [Change(**row._mapping) for row in transaction.rows(chosen)]


def modes(found: InForce, configured: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each configured model with its mode in force."""
    for name, mode in configured.items():
        yield name, found.mode(name, mode)
