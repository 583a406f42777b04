"""The life of a job and of a delivery, as tables. Pure: no clock, no database.

Read `JOB` as: a job in this state, on this event, goes to that state. What is not in the table cannot happen;
the store calls `advance` before it writes, and the tests hold every event chain against the same table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from cxrnode.errors import IllegalTransition


class JobState(StrEnum):
    """Where a job is. `failed`, `superseded` and `withdrawn` rest; `reported` rests where nothing is to be sent."""

    QUEUED = "queued"
    READING = "reading"
    REPORTED = "reported"
    DELIVERED = "delivered"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


class JobEvent(StrEnum):
    """What can happen to a job; the names stand in the audit trail."""

    ENQUEUED = "enqueued"
    CLAIMED = "claimed"
    REPORTED = "reported"
    DUPLICATE_FOUND = "duplicate_found"
    FAULTED = "faulted"
    GIVEN_BACK = "given_back"
    LEASE_EXPIRED = "lease_expired"
    PARKED = "parked"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    RESENT = "resent"
    RETRIED = "retried"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"


class DeliveryState(StrEnum):
    """Where a delivery is. `sent`, `committed`, `failed` and `cancelled` rest.

    Where the destination commits to storage, one that is `sent` closes no job until it is `committed`.
    A withdrawal is `waiting` until the report's delivery to the same destination rests: only then is it known which
    objects it takes back.
    """

    WAITING = "waiting"
    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    COMMITTED = "committed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DeliveryEvent(StrEnum):
    """What can happen to a delivery; in the audit trail with the prefix `delivery_`."""

    ORDERED = "delivery_ordered"
    CREATED = "delivery_created"
    CLAIMED = "delivery_claimed"
    SENT = "delivery_sent"
    FAULTED = "delivery_faulted"
    GIVEN_BACK = "delivery_given_back"
    LEASE_EXPIRED = "delivery_lease_expired"
    PARKED = "delivery_parked"
    COMMITTED = "delivery_committed"
    UNCOMMITTED = "delivery_uncommitted"
    CANCELLED = "delivery_cancelled"
    RESENT = "delivery_resent"


_J, _E = JobState, JobEvent

#: (state, event) -> (next state, one line for people).
JOB: Mapping[tuple[JobState | None, JobEvent], tuple[JobState, str]] = {
    (None, _E.ENQUEUED): (_J.QUEUED, "a rule accepted the instance"),
    (_J.QUEUED, _E.CLAIMED): (_J.READING, "a worker took the lease"),
    (_J.READING, _E.REPORTED): (_J.REPORTED, "report, outputs and deliveries stand"),
    (_J.READING, _E.DUPLICATE_FOUND): (_J.REPORTED, "same pixels and identity as another job; nothing is sent"),
    (_J.READING, _E.FAULTED): (_J.QUEUED, "a passing fault; again after a pause"),
    (_J.READING, _E.GIVEN_BACK): (_J.QUEUED, "the worker stops in good order"),
    (_J.READING, _E.LEASE_EXPIRED): (_J.QUEUED, "the worker was lost; claimed alone next"),
    (_J.READING, _E.PARKED): (_J.FAILED, "it will not work as it is; a person is needed"),
    (_J.REPORTED, _E.DELIVERED): (_J.DELIVERED, "the last destination has everything"),
    (_J.REPORTED, _E.UNDELIVERED): (_J.FAILED, "all deliveries rest and one failed"),
    (_J.DELIVERED, _E.RESENT): (_J.REPORTED, "a person asked for the same bytes again"),
    (_J.FAILED, _E.RESENT): (_J.REPORTED, "a person asked for the same bytes again"),
    (_J.FAILED, _E.RETRIED): (_J.QUEUED, "a person asked for another try; never reported before"),
    (_J.REPORTED, _E.SUPERSEDED): (_J.SUPERSEDED, "the next revision is reported"),
    (_J.DELIVERED, _E.SUPERSEDED): (_J.SUPERSEDED, "the next revision is reported"),
    (_J.FAILED, _E.SUPERSEDED): (_J.SUPERSEDED, "the next revision is reported"),
    (_J.QUEUED, _E.WITHDRAWN): (_J.WITHDRAWN, "a person withdrew it before it was read"),
    (_J.READING, _E.WITHDRAWN): (_J.WITHDRAWN, "a person withdrew it while it was read; the reading is dropped"),
    (_J.REPORTED, _E.WITHDRAWN): (_J.WITHDRAWN, "a person, or a corrected identity, withdrew the result"),
    (_J.DELIVERED, _E.WITHDRAWN): (_J.WITHDRAWN, "a person, or a corrected identity, withdrew the result"),
    (_J.FAILED, _E.WITHDRAWN): (_J.WITHDRAWN, "a person, or a corrected identity, withdrew the result"),
}

_D, _F = DeliveryState, DeliveryEvent

DELIVERY: Mapping[tuple[DeliveryState | None, DeliveryEvent], tuple[DeliveryState, str]] = {
    (None, _F.CREATED): (_D.PENDING, "the job is reported"),
    (None, _F.ORDERED): (_D.WAITING, "what was sent is withdrawn once the report's delivery rests"),
    (_D.WAITING, _F.CREATED): (_D.PENDING, "the rejection note is made"),
    (_D.WAITING, _F.CANCELLED): (_D.CANCELLED, "the destination got nothing that could be withdrawn"),
    (_D.PENDING, _F.CLAIMED): (_D.SENDING, "a sender took the lease"),
    (_D.PENDING, _F.CANCELLED): (_D.CANCELLED, "the job was superseded or withdrawn first"),
    (_D.SENDING, _F.CANCELLED): (_D.CANCELLED, "superseded or withdrawn just before the first object went"),
    **{
        (state, _F.ORDERED): (_D.WAITING, "a withdrawal, made graver: another note follows")
        for state in (_D.PENDING, _D.SENT, _D.COMMITTED, _D.FAILED)
    },
    (_D.SENDING, _F.SENT): (_D.SENT, "the destination has every object"),
    (_D.SENDING, _F.FAULTED): (_D.PENDING, "an object met a passing fault; again after a pause"),
    (_D.SENDING, _F.GIVEN_BACK): (_D.PENDING, "the association failed or the sender stops; no attempt is counted"),
    (_D.SENDING, _F.LEASE_EXPIRED): (_D.PENDING, "the sender was lost; the same bytes go again"),
    (_D.SENDING, _F.PARKED): (_D.FAILED, "the destination will never take an object as it is"),
    (_D.SENT, _F.COMMITTED): (_D.COMMITTED, "the destination committed to storage"),
    (_D.SENT, _F.UNCOMMITTED): (_D.PENDING, "the destination did not commit to an object; that one goes again"),
    (_D.SENT, _F.PARKED): (_D.FAILED, "the destination took the objects and will not commit to them"),
    (_D.SENT, _F.RESENT): (_D.PENDING, "a person asked for the same bytes again"),
    (_D.COMMITTED, _F.RESENT): (_D.PENDING, "a person asked for the same bytes again"),
    (_D.FAILED, _F.RESENT): (_D.PENDING, "a person asked for the same bytes again"),
}

#: Delivery states that count as done when the job is closed.
DONE = frozenset({DeliveryState.SENT, DeliveryState.COMMITTED})
#: Delivery states in which nothing more happens by itself.
RESTING = DONE | {DeliveryState.FAILED, DeliveryState.CANCELLED}


def advance_job(state: JobState | None, event: JobEvent) -> JobState:
    """Return the state after the event. Raises IllegalTransition for what the table does not have."""
    try:
        return JOB[state, event][0]
    except KeyError:
        raise IllegalTransition(f"a job that is {state or 'new'} has no event {event}") from None


def advance_delivery(state: DeliveryState | None, event: DeliveryEvent) -> DeliveryState:
    """Return the state after the event. Raises IllegalTransition for what the table does not have."""
    try:
        return DELIVERY[state, event][0]
    except KeyError:
        raise IllegalTransition(f"a delivery that is {state or 'new'} has no event {event}") from None


def job_after(events: Iterable[str]) -> JobState | None:
    """Walk a job's event names from the start, those of deliveries and notes passed over, and return where it ends.

    Raises IllegalTransition at the first step that the table does not have.
    """
    known = set(JobEvent)
    state: JobState | None = None
    for name in events:
        if name in known:
            state = advance_job(state, JobEvent(name))
    return state


def as_mermaid() -> str:
    """The two tables as Mermaid state diagrams, for ARCHITECTURE.md."""
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f"    {a or '[*]'} --> {b}: {e}" for (a, e), (b, _) in JOB.items()]
    lines += ["```", "", "```mermaid", "stateDiagram-v2"]
    lines += [f"    {a or '[*]'} --> {b}: {e}" for (a, e), (b, _) in DELIVERY.items()]
    return "\n".join([*lines, "```"])
