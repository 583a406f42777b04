"""Receipt: one instance, its identity and its jobs, in one transaction. Idempotent: the same bytes count once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.lifecycle import JobEvent, advance_job
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import identity, instance, job


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """What was received and what was decided about it.

    `identity` holds the columns of that table, `kept_header` what outputs need of the header (`dicom.kept_header`).
    """

    sop_instance_uid: str
    dataset_digest: str
    sop_class_uid: str
    transfer_syntax_uid: str
    calling_aet: str
    called_aet: str
    accepted: bool
    reason: str
    rule: str
    header: Mapping[str, Any]
    identity: Mapping[str, str]
    spool_key: str
    size: int
    kept_header: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One job to make: a model, how it runs, and what the rule wants made and sent.

    `messages_to` are the destinations that get its HL7 message and nothing else.
    """

    model: str
    mode: str
    outputs: Sequence[str]
    send_to: Sequence[str]
    messages_to: Sequence[str] = ()
    priority: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the store made of an arrival; `new` is false where the same bytes stood already.

    `spool_key` is what the instance's row has: None where retention took its bytes.
    """

    instance_id: int
    new: bool
    job_ids: tuple[int, ...] = ()
    spool_key: str | None = None


_IDENTITY = sa.insert(identity)
_ENQUEUE = sa.insert(job).returning(job.c.id)


def record(
    database: Database,
    arrival: Arrival,
    orders: Sequence[Order],
    *,
    ageing: float,
    config_digest: str,
    rules_digest: str = "",
) -> Receipt:
    """Insert the instance with its verdict and one job for each order, and return after the commit.

    The same bytes again change nothing, unless they were ignored before and are accepted now: the rules changed, or
    another sender has them. Then they are read.

    `ageing`: seconds of waiting that one step of priority is worth (design, rule 10).
    """
    row = dataclasses.asdict(arrival)
    accepted, who, header = row.pop("accepted"), row.pop("identity"), row.pop("header")
    who = {**who, "header": row.pop("kept_header")}
    row["dataset_sha256"] = row.pop("dataset_digest")
    with database.write() as transaction:

        def queue(instance_id: int, order: Order) -> int:
            return enqueue(
                transaction,
                instance_id,
                order,
                received_at=transaction.now,
                ageing=ageing,
                config_digest=config_digest,
                rules_digest=rules_digest,
            )

        new = transaction.insert_new(
            instance,
            {
                **row,
                "received_at": transaction.now,
                "verdict": "accepted" if accepted else "ignored",
                "header": json.dumps(header, sort_keys=True),
            },
            unique=("sop_instance_uid", "dataset_sha256"),
        )
        if new is None:
            [known] = transaction.rows(
                sa.select(instance.c.id, instance.c.spool_key, instance.c.verdict, instance.c.reason)
                .where(
                    instance.c.sop_instance_uid == arrival.sop_instance_uid,
                    instance.c.dataset_sha256 == arrival.dataset_digest,
                )
                .with_for_update()
            )
            note(transaction, "received_again", instance_id=known.id, calling_aet=arrival.calling_aet)
            if known.verdict != "ignored" or not accepted:
                return Receipt(instance_id=known.id, new=False, spool_key=known.spool_key)
            key = _accept_after_all(transaction, known, arrival, who)
            jobs = tuple(queue(known.id, order) for order in orders)
            return Receipt(instance_id=known.id, new=False, job_ids=jobs, spool_key=key)
        transaction.connection.execute(_IDENTITY, {"instance_id": new.id, **who})
        note(transaction, "received", instance_id=new.id, calling_aet=arrival.calling_aet, size=arrival.size)
        note(
            transaction,
            "accepted" if accepted else "ignored",
            instance_id=new.id,
            reason=arrival.reason,
            rule=arrival.rule,
        )
        jobs = tuple(queue(new.id, order) for order in orders)
        return Receipt(instance_id=new.id, new=True, job_ids=jobs, spool_key=new.spool_key)


def _accept_after_all(transaction: Transaction, known: Row, arrival: Arrival, who: Mapping[str, Any]) -> str:
    """Let an instance that was ignored be accepted, as if it came for the first time; return its key in the spool."""
    key = arrival.spool_key if known.spool_key is None else known.spool_key
    transaction.connection.execute(
        sa.update(instance)
        .where(instance.c.id == known.id)
        .values(
            verdict="accepted",
            reason=arrival.reason,
            rule=arrival.rule,
            # From here on it is waited for: else it would be late at once.
            received_at=transaction.now,
            spool_key=key,
        )
    )
    transaction.connection.execute(sa.update(identity).where(identity.c.instance_id == known.id).values(**who))
    note(
        transaction,
        "accepted",
        instance_id=known.id,
        reason=arrival.reason,
        rule=arrival.rule,
        ignored_before=known.reason,
    )
    return str(key)


def restore(database: Database, instance_id: int, key: str, *, instead_of: str | None) -> bool:
    """Give an instance whose bytes are gone those under `key`; False where another receipt was faster.

    The same bytes were sent again: by their digest they are the same film. `instead_of` is the key that it had.
    """
    with database.write() as transaction:
        changed = transaction.count(
            sa.update(instance)
            .where(instance.c.id == instance_id, instance.c.spool_key.is_not_distinct_from(instead_of))
            .values(spool_key=key)
        )
        if changed:
            note(transaction, "bytes_restored", instance_id=instance_id)
        return bool(changed)


def _wanted(order: Order) -> str:
    wanted = {"outputs": list(order.outputs), "send_to": list(order.send_to)}
    return json.dumps(wanted | ({"messages_to": list(order.messages_to)} if order.messages_to else {}))


def enqueue(
    transaction: Transaction,
    instance_id: int,
    order: Order,
    *,
    received_at: float,
    ageing: float,
    config_digest: str,
    rules_digest: str = "",
    revision: int = 1,
    predecessor: int | None = None,
) -> int:
    """Insert one queued job and its first event; return its id."""
    state = advance_job(None, JobEvent.ENQUEUED)
    job_id = int(
        transaction.scalar(
            _ENQUEUE,
            instance_id=instance_id,
            model=order.model,
            revision=revision,
            predecessor=predecessor,
            mode=order.mode,
            state=state,
            rank=received_at - order.priority * ageing,
            created_at=transaction.now,
            wanted=_wanted(order),
            config_digest=config_digest,
            rules_digest=rules_digest,
        )
    )
    transaction.heads[job_id] = ""
    note(
        transaction,
        JobEvent.ENQUEUED,
        instance_id=instance_id,
        job_id=job_id,
        model=order.model,
        mode=order.mode,
        revision=revision,
    )
    return job_id
