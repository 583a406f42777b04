"""What `tend` finds and puts right by itself: orphan files, and rows that contradict the life of a job."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog

from cxrnode.roles import tend
from cxrnode.roles.upkeep import Upkeep
from cxrnode.spool import Spool
from cxrnode.store import duties
from cxrnode.store.database import Database
from cxrnode.store.schema import delivery, event, instance, job
from tests.stores import assert_sound, delivered, new_key, reported, row
from tests.unit.roles.conftest import MakeContext


def told(database: Database, name: str) -> list[dict[str, Any]]:
    with database.read() as transaction:
        rows = transaction.rows(sa.select(event.c.detail).where(event.c.name == name).order_by(event.c.id))
    return [json.loads(one.detail) for one in rows]


def put(spool: Spool, key: str, *, age: float) -> Path:
    path: Path = spool.path(key)  # type: ignore[attr-defined]  # of a folder
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"film")
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_files_that_no_row_knows_go_after_a_day_and_it_is_an_event(
    database: Database, make_context: MakeContext
) -> None:
    context = make_context()
    job_id = delivered(database)
    with database.read() as transaction:
        known = transaction.scalar(
            sa.select(instance.c.spool_key).where(instance.c.id == row(database, job, job_id).instance_id)
        )
    old, young = put(context.spool, new_key(), age=90_000), put(context.spool, new_key(), age=80_000)
    film = put(context.spool, known, age=90_000)
    lost = context.spool.incoming / "incoming-1.part"
    lost.write_bytes(b"half")
    os.utime(lost, (time.time() - 1000, time.time() - 1000))
    with structlog.testing.capture_logs() as lines:
        tend.sweep(context)
        assert [path.exists() for path in (old, lost, young, film)] == [False, True, True, True]
        tend.sweep_incoming(context)
    assert [path.exists() for path in (lost, young, film)] == [False, True, True]
    assert told(database, "orphans_removed") == [{"incoming": 0, "orphans": 1}, {"incoming": 1, "orphans": 0}]
    assert [(one["event"], one["incoming"], one["orphans"]) for one in lines] == [("swept", 0, 1), ("swept", 1, 0)]
    tend.sweep(context)
    tend.sweep_incoming(context)
    assert len(told(database, "orphans_removed")) == 2


def test_each_node_clears_its_own_incoming_whoever_holds_the_duties(
    database: Database, make_context: MakeContext
) -> None:
    assert dict((name, duty) for name, duty, _ in tend.OWN_DUTIES)["sweep_incoming"] is tend.sweep_incoming
    context = make_context()
    lost = context.spool.incoming / "incoming-1.part"
    lost.write_bytes(b"half")
    os.utime(lost, (time.time() - 1000, time.time() - 1000))
    assert duties.take(database, "sweep_incoming", owner="another node", seconds=900.0)
    tend.perform_own(context, "sweep_incoming", tend.sweep_incoming)
    assert not lost.exists()


def test_what_contradicts_a_jobs_life_is_put_right_and_told(database: Database, make_context: MakeContext) -> None:
    context = make_context()
    unclosed, unsent = reported(database, 1), reported(database, 2)
    with database.write() as transaction:
        of = sa.update(delivery).where
        transaction.connection.execute(of(delivery.c.job_id == unclosed).values(state="sent"))
        transaction.connection.execute(of(delivery.c.job_id == unsent).values(state="sending", lease_until=None))
    duty = Upkeep()
    with structlog.testing.capture_logs() as lines:
        duty(context)
        tend.expire_leases(context)
    assert [{k: v for k, v in one.items() if isinstance(v, int)} for one in lines if one["event"] == "healed"] == [
        {"endless_leases": 1, "unclosed_jobs": 1}
    ]
    assert (row(database, job, unclosed).state, row(database, job, unsent).state) == ("delivered", "reported")
    with database.read() as transaction:
        states = [one.state for one in transaction.rows(sa.select(delivery.c.state).order_by(delivery.c.id))]
    assert states == ["sent", "pending"]
    assert len(told(database, "healed")) == 1
    assert_sound(database)
    with structlog.testing.capture_logs() as lines:
        duty(context)  # the end of the jobs: it begins anew
        duty(context)
    assert lines == []
