"""A database clock that went back: what was due by the old time must not wait until the new time catches up.

A clock that runs an hour ahead and is then corrected leaves leases, pauses and probes that end in an hour. Nothing
here touches what is due within the longest time that the configuration allows.
"""

from __future__ import annotations

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryState, JobState
from cxrnode.store.audit import note
from cxrnode.store.database import Database
from cxrnode.store.schema import circuit, delivery, job


def mend(
    database: Database, *, reading_lease: float, sending_lease: float, longest_pause: float, longest_wait: float
) -> int:
    """Bring in every lease, pause, wait and probe that lies further ahead than it can have been set; return how many.

    Seconds: the two leases, the longest pause before another try or probe, and the longest wait for a destination to
    commit. A worker that still lives renews its
    lease as before; one that was lost is noticed after one lease.
    """
    with database.write() as transaction:
        now = transaction.now
        sending = delivery.c.lease_until > now + 2 * sending_lease
        changes = [
            sa.update(delivery)
            .where(delivery.c.state == DeliveryState.SENDING, sending)
            .values(lease_until=now + sending_lease),
            sa.update(delivery)
            .where(
                delivery.c.state.in_((DeliveryState.WAITING, DeliveryState.PENDING)),
                delivery.c.not_before > now + 2 * longest_pause,
            )
            .values(not_before=now),
            sa.update(delivery).where(delivery.c.commit_at > now + 2 * longest_wait).values(commit_at=now),
            sa.update(circuit)
            .where(circuit.c.open.is_(True), circuit.c.next_probe_at > now + 2 * longest_pause)
            .values(next_probe_at=now),
        ]
        mended = sum(transaction.count(change) for change in changes)
    with database.write() as transaction:  # jobs in a transaction of their own: nobody waits for both
        now = transaction.now
        reading = job.c.lease_until > now + 2 * reading_lease
        changes = [
            sa.update(job).where(job.c.state == JobState.READING, reading).values(lease_until=now + reading_lease),
            sa.update(job)
            .where(job.c.state == JobState.QUEUED, job.c.not_before > now + 2 * longest_pause)
            .values(not_before=now),
        ]
        mended += sum(transaction.count(change) for change in changes)
        if mended:
            note(transaction, "clock_went_back", rows=mended)
    return mended
