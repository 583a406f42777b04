"""The film itself at a destination: which object that is, and a delivery that waits until it is there.

A result that comes before its film makes a study of results alone in some archives. Waiting costs no attempt.
"""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from cxrnode.core.lifecycle import DeliveryEvent, DeliveryState
from cxrnode.store.audit import note
from cxrnode.store.database import Database
from cxrnode.store.deliveries import DeliveryClaim, cancel_if_replaced, fence, move, takes_back
from cxrnode.store.schema import delivery, identity, instance, job


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A film's UIDs, as its archive has them."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str

    def __repr__(self) -> str:
        """Nothing of the values: a repr ends in logs and tracebacks."""
        return "Original(...)"


def original_of(database: Database, held: DeliveryClaim) -> Original | None:
    """The film that a delivery is about; None for a withdrawal, and where its identity was erased."""
    its = (
        sa.select(identity.c.study_instance_uid, identity.c.series_instance_uid, instance.c.sop_instance_uid)
        .select_from(delivery)
        .join(job, job.c.id == delivery.c.job_id)
        .join(instance, instance.c.id == job.c.instance_id)
        .join(identity, identity.c.instance_id == job.c.instance_id)
        .where(delivery.c.id == held.delivery_id, ~takes_back(delivery.c.act))
    )
    with database.read() as transaction:
        row = transaction.row(its)
    if row is None or not (row.study_instance_uid and row.sop_instance_uid):
        return None
    return Original(**row._mapping)


def await_original(database: Database, held: DeliveryClaim, reason: str, *, pause: float) -> bool:
    """Return a delivery to the queue until the film may have come; True where it waits for the first time.

    Nothing counts against it. Raises LeaseLost.
    """
    with database.write() as transaction:
        state = fence(transaction, held)
        before = transaction.scalar(sa.select(delivery.c.reason).where(delivery.c.id == held.delivery_id))
        whose = {"job_id": held.job_id, "delivery_id": held.delivery_id}
        move(
            transaction,
            held.delivery_id,
            DeliveryState.SENDING,
            DeliveryEvent.GIVEN_BACK,
            not_before=transaction.now + pause,
            reason=reason,
        )
        note(transaction, DeliveryEvent.GIVEN_BACK, reason=reason, **whose)
        first = bool(before != reason)
        if first:
            note(transaction, "original_awaited", destination=held.destination, **whose)
        cancel_if_replaced(transaction, held.delivery_id, held.job_id, state)
        return first
