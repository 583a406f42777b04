"""Several reports in one transaction: what is plain stands together, what is not is left for a look of its own."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from cxrnode.core.findings import Outcome
from cxrnode.errors import Transient
from cxrnode.store import disputes, jobs
from cxrnode.store.database import Database
from cxrnode.store.reports import taking_a_place
from cxrnode.store.schema import delivery, delivery_output, finding, job, output
from cxrnode.store.together import settle_together
from tests.stores import (
    Clock,
    assert_sound,
    claim,
    count,
    digest,
    enqueue,
    finished,
    names,
    reported,
    row,
    settle,
)


def test_plain_reports_stand_together_as_each_would_alone(database: Database, clock: Clock) -> None:
    """Row for row what `settle_report` writes: two films each way, then compared column by column."""
    ids = [enqueue(database, number, send_to=("PACS", "MINI")) for number in range(4)]
    held = claim(database, limit=4)
    clock.turn(2.0)
    together = [finished(database, one, count=3) for one in held[:2]]
    assert {ids[0], ids[1]} == set(settle_together(database, together))
    for one in held[2:]:
        assert settle(database, one, count=3)
    own = {"id", "instance_id", "rank", "created_at", "pixel_digest", "report", "report_sha256", "chain_head"}
    own |= {"saliency_key", "preview_key"}
    rows = [{k: v for k, v in row(database, job, one)._mapping.items() if k not in own} for one in ids]
    assert rows[0] == rows[1] == rows[2] == rows[3]
    for job_id in ids:
        said = ["enqueued", "claimed", "reported", "delivery_created", "delivery_created"]
        assert said == names(database, job_id)
    assert (count(database, output), count(database, delivery), count(database, delivery_output)) == (12, 8, 24)
    assert count(database, finding) == 4
    with database.read() as transaction:
        made = transaction.rows(sa.select(delivery).order_by(delivery.c.job_id, delivery.c.destination))
        ranks = {one: transaction.scalar(sa.select(job.c.rank).where(job.c.id == one)) for one in ids}
    assert [ranks[one.job_id] for one in made] == [one.rank for one in made]
    assert {("pending", "report", False, "")} == {(one.state, one.act, one.held, one.reason) for one in made}
    assert_sound(database)


def test_a_shadow_reading_and_one_without_outputs_are_plain_too(database: Database) -> None:
    ids = [enqueue(database, 1, mode="shadow"), enqueue(database, 2)]
    held = claim(database)
    ready = [finished(database, held[0]), finished(database, held[1], count=0)]
    assert set(ids) == set(settle_together(database, ready))
    assert count(database, delivery) == 0
    assert_sound(database)


def test_a_lease_that_was_lost_keeps_none_of_the_others_from_standing(database: Database, clock: Clock) -> None:
    ids = [enqueue(database, number) for number in range(3)]
    held = claim(database, limit=3)
    late = [dataclasses.replace(one, token=one.token - 1) if one.job_id == ids[1] else one for one in held]
    assert {ids[0], ids[2]} == set(settle_together(database, [finished(database, one) for one in late]))
    assert row(database, job, ids[1]).state == "reading"
    assert_sound(database)


@pytest.mark.parametrize("identity", ["same", "other"])
def test_pixels_that_were_read_before_are_left_for_a_second_look(database: Database, identity: str) -> None:
    first = enqueue(database, 1)
    (held,) = claim(database)
    assert settle(database, held, pixels="film", identity="same")
    again, plain = enqueue(database, 2), enqueue(database, 3)
    ready = [
        finished(database, one, pixels="film" if one.job_id == again else None, identity=identity)
        for one in claim(database)
    ]
    assert {plain} == set(settle_together(database, ready))
    assert row(database, job, again).state == "reading"
    assert row(database, job, first).state == "reported"
    assert_sound(database)


def test_of_two_films_with_the_same_pixels_in_one_batch_the_first_stands(database: Database) -> None:
    ids = [enqueue(database, 1), enqueue(database, 2)]
    ready = [finished(database, one, pixels="film") for one in claim(database)]
    assert {ids[0]} == set(settle_together(database, ready))
    assert row(database, job, ids[1]).state == "reading"


def test_outputs_that_another_job_has_are_left_for_a_second_look(database: Database) -> None:
    reported(database, 1)
    with database.read() as transaction:
        uid = transaction.scalar(sa.select(output.c.sop_instance_uid).limit(1))
    enqueue(database, 2)
    (held,) = claim(database)
    one = finished(database, held)
    theirs = dataclasses.replace(one, outputs=[dataclasses.replace(one.outputs[0], sop_instance_uid=uid)])
    assert settle_together(database, [theirs]) == {}


def test_a_film_without_pixels_and_a_later_revision_are_left_for_a_second_look(database: Database) -> None:
    enqueue(database, 1)
    (held,) = claim(database)
    one = finished(database, held)
    blank = dataclasses.replace(one.report, outcome=Outcome.NOT_ANALYSED, pixel_digest="", findings=())
    assert settle_together(database, [dataclasses.replace(one, report=blank)]) == {}
    later = dataclasses.replace(one, report=dataclasses.replace(one.report, revision=2))
    assert settle_together(database, [later]) == {}
    assert row(database, job, held.job_id).state == "reading"


def test_a_film_that_another_worker_settles_now_leaves_all_of_them(database: Database) -> None:
    if database.is_sqlite:  # one writer at a time: nobody else settles now
        return
    ids = [enqueue(database, 1), enqueue(database, 2)]
    ready = [finished(database, one, pixels=one.job_id) for one in claim(database)]
    with database.write() as other:
        disputes.lock_pixels(other, digest(ids[1]))
        with pytest.raises(Transient):
            settle_together(database, ready)
    assert [row(database, job, one).state for one in ids] == ["reading", "reading"]
    assert set(ids) == set(settle_together(database, ready))


def test_only_what_takes_a_place_is_asked_what_it_takes_the_place_of(database: Database) -> None:
    first, plain = reported(database, 1), enqueue(database, 2)
    second = jobs.retry(database, first, reason="again")
    assert {second} == taking_a_place(database, [plain, second])
