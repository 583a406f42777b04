"""What a reading ends in: reports, outputs, deliveries, duplicates, and films under another name."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from cxrnode.core.findings import Outcome
from cxrnode.store import jobs, reports, settlements
from cxrnode.store.database import Database
from cxrnode.store.jobs import Claim
from cxrnode.store.schema import delivery, delivery_output, film, finding, job, output
from tests.stores import (
    LEASE,
    LIMITS,
    Clock,
    assert_sound,
    claim,
    claim_one,
    count,
    digest,
    enqueue,
    names,
    outputs,
    report,
    reported,
    row,
    settle,
    take,
    take_one,
    taken,
)


def test_a_report_stands_with_its_findings_outputs_and_deliveries(database: Database, clock: Clock) -> None:
    job_id = enqueue(database, 1, send_to=("PACS", "MINI"))
    held = claim_one(database)
    clock.turn(2.0)
    assert settle(database, held, count=3)
    stored = row(database, job, job_id)
    assert ("reported", "analysed", clock.now, None) == (
        stored.state,
        stored.outcome,
        stored.settled_at,
        stored.lease_until,
    )
    with database.read() as transaction:
        rows = transaction.rows(sa.select(finding.c.label, finding.c.score, finding.c.decision, finding.c.rule_in))
    assert [tuple(one) for one in rows] == [("Effusion", 0.75, "present", 0.5)]
    assert (count(database, output), count(database, delivery), count(database, delivery_output)) == (3, 2, 6)
    assert names(database, job_id) == ["enqueued", "claimed", "reported", "delivery_created", "delivery_created"]
    assert_sound(database)


def test_a_shadow_job_is_reported_and_never_sent(database: Database) -> None:
    job_id = reported(database, 1, mode="shadow")
    assert row(database, job, job_id).state == "reported"
    assert count(database, delivery) == 0


def test_a_job_without_destinations_is_reported_and_never_sent(database: Database) -> None:
    reported(database, 1, send_to=())
    assert (count(database, output), count(database, delivery)) == (2, 0)


def test_the_same_pixels_and_identity_by_another_way_end_as_a_duplicate(database: Database) -> None:
    first = enqueue(database, 1)
    settle(database, claim_one(database), pixels="film")
    second = enqueue(database, 2)
    held = claim_one(database)
    found = reports.settle_duplicate(database, held, pixel_digest=digest("film"), identity_digest=digest("same"))
    assert first == found
    stored = row(database, job, second)
    assert ("reported", Outcome.DUPLICATE, first) == (stored.state, stored.outcome, stored.duplicate_of)
    assert count(database, delivery) == 1
    assert_sound(database)


def test_a_duplicate_that_shows_only_at_the_settle_leaves_no_output(database: Database) -> None:
    enqueue(database, 1)
    enqueue(database, 2)
    one, other = claim(database)
    assert settle(database, one, pixels="film")
    assert not settle(database, other, pixels="film")
    assert (count(database, output), count(database, delivery), count(database, film)) == (2, 1, 1)
    assert one.job_id == row(database, job, other.job_id).duplicate_of


def test_the_same_film_for_two_models_is_read_by_both(database: Database) -> None:
    enqueue(database, 1)
    settle(database, claim_one(database), pixels="film")
    job_id = enqueue(database, 2, models=("other",))
    (held,) = jobs.claim(
        database, owner="w", models={"other": "9" * 64}, engine="test", limit=1, lease=LEASE, limits=LIMITS
    )
    assert settle(database, held, pixels="film")
    assert row(database, job, job_id).outcome == "analysed"


def test_films_that_could_not_be_decoded_are_nobodys_duplicates(database: Database) -> None:
    import dataclasses

    for number in (1, 2):
        enqueue(database, number)
        held = claim_one(database)
        blank = dataclasses.replace(report(held), pixel_digest="", outcome=Outcome.NOT_ANALYSED)
        assert reports.settle_report(database, held, blank, outputs(held), saliency=None, preview=None).stands
    assert count(database, film) == 0


def test_the_same_pixels_under_another_identity_hold_both(database: Database) -> None:
    old = reported(database, 1)
    held = _second(database)
    assert settle(database, held, pixels=f"instance {_instance(database, old)}", identity="another patient")
    rows = {job_id: _delivery(database, job_id) for job_id in (old, held.job_id)}
    assert {old: True, held.job_id: True} == {job_id: one.held for job_id, one in rows.items()}
    assert f"held: job {held.job_id} has the same pixels under another identity" == rows[old].reason
    assert f"held: job {old} has the same pixels under another identity" == rows[held.job_id].reason
    assert take(database) == []
    assert "identity_changed" in names(database, old)
    assert "identity_changed" in names(database, held.job_id)
    assert_sound(database)


def test_a_delivery_under_way_when_the_identity_changed_is_held_once_it_comes_back(database: Database) -> None:
    old = reported(database, 1)
    sending = take_one(database)
    settle(database, _second(database), pixels=f"instance {_instance(database, old)}", identity="another patient")
    settlements.give_back(database, sending, (), "the association failed")
    assert take(database) == []


def test_a_delivery_that_was_under_way_and_went_through_is_not_held_for_ever(database: Database) -> None:
    old = reported(database, 1)
    sending = take_one(database)
    settle(database, _second(database), pixels=f"instance {_instance(database, old)}", identity="another patient")
    settlements.settle_sent(database, sending, taken(sending))
    assert (_delivery(database, old).state, _delivery(database, old).held) == ("sent", False)
    assert row(database, job, old).state == "delivered"


def test_a_third_copy_under_the_first_identity_is_the_firsts_duplicate(database: Database) -> None:
    old = reported(database, 1)
    pixels = f"instance {_instance(database, old)}"
    settle(database, _second(database), pixels=pixels, identity="another patient")
    enqueue(database, 3)
    third = claim_one(database)
    assert not settle(database, third, pixels=pixels)
    assert old == row(database, job, third.job_id).duplicate_of


def test_an_active_job_is_no_duplicate_of_what_a_shadow_model_said(database: Database) -> None:
    enqueue(database, 1, mode="shadow")
    settle(database, claim_one(database), pixels="film")
    active = enqueue(database, 2)
    held = claim_one(database)
    assert reports.settle_duplicate(database, held, pixel_digest=digest("film"), identity_digest=digest("same")) is None
    assert settle(database, held, pixels="film")
    assert count(database, delivery) == 1
    enqueue(database, 3, mode="shadow")
    assert not settle(database, claim_one(database), pixels="film")
    with database.read() as transaction:
        assert transaction.scalar(sa.select(film.c.job_id)) == active


def test_a_film_that_was_not_analysed_is_read_when_it_comes_with_a_better_header(database: Database) -> None:
    enqueue(database, 1)
    held = claim_one(database)
    refused = report(held, pixels="film", outcome=Outcome.NOT_ANALYSED)
    assert reports.settle_report(database, held, refused, outputs(held), saliency=None, preview=None).stands
    enqueue(database, 2)
    held = claim_one(database)
    assert reports.settle_duplicate(database, held, pixel_digest=digest("film"), identity_digest=digest("same")) is None
    assert settle(database, held, pixels="film")
    third = _third_refused(database)
    assert row(database, job, third).duplicate_of == held.job_id


def _third_refused(database: Database) -> int:
    job_id = enqueue(database, 3)
    held = claim_one(database)
    refused = report(held, pixels="film", outcome=Outcome.NOT_ANALYSED)
    assert not reports.settle_report(database, held, refused, outputs(held), saliency=None, preview=None).stands
    return job_id


def test_two_copies_of_a_film_that_cannot_be_decoded_send_their_notice_once(database: Database) -> None:
    enqueue(database, 1)
    enqueue(database, 2)
    one, other = claim(database)
    notice = outputs(one)
    for held in (one, other):
        refused = dataclasses.replace(report(held, outcome=Outcome.NOT_ANALYSED), pixel_digest="")
        stands = reports.settle_report(database, held, refused, notice, saliency=None, preview=None).stands
        assert stands is (held is one)
    stored = row(database, job, other.job_id)
    assert ("reported", Outcome.DUPLICATE, one.job_id) == (stored.state, stored.outcome, stored.duplicate_of)
    assert count(database, delivery) == 1
    assert_sound(database)


def _second(database: Database) -> Claim:
    enqueue(database, 2)
    return claim_one(database)


def _instance(database: Database, job_id: int) -> int:
    return int(row(database, job, job_id).instance_id)


def _delivery(database: Database, job_id: int) -> sa.Row[tuple[object, ...]]:
    with database.read() as transaction:
        found = transaction.row(sa.select(delivery).where(delivery.c.job_id == job_id))
    assert found is not None
    return found
