"""The queue of jobs: order, leases, fencing, losses, faults and retry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cxrnode.core.findings import Outcome
from cxrnode.core.lifecycle import JobState
from cxrnode.errors import LeaseLost, Rejected
from cxrnode.store import jobs, reports, retention
from cxrnode.store.database import Database
from cxrnode.store.jobs import Claim
from cxrnode.store.retention import Periods
from cxrnode.store.schema import delivery, event, film, finding, job, output
from tests.stores import (
    LEASE,
    LIMITS,
    MODELS,
    Clock,
    assert_sound,
    claim,
    claim_one,
    count,
    delivered,
    digest,
    enqueue,
    names,
    outputs,
    report,
    reported,
    row,
    settle,
)


def test_an_empty_queue_gives_nothing(database: Database) -> None:
    assert claim(database) == []


def test_films_are_claimed_in_the_order_of_their_receipt(database: Database, clock: Clock) -> None:
    made = []
    for number in range(4):
        made.append(enqueue(database, number))
        clock.turn(1.0)
    assert made[:3] == [one.job_id for one in claim(database, limit=3)]
    assert made[3:] == [one.job_id for one in claim(database, limit=3)]


def test_priority_goes_first_until_what_waited_is_older_than_it_is_worth(database: Database, clock: Clock) -> None:
    old = enqueue(database, "old")
    clock.turn(61.0)
    plain = enqueue(database, "plain")
    clock.turn(1.0)
    urgent = enqueue(database, "urgent", priority=1, ageing=60.0)
    assert [old, urgent, plain] == [one.job_id for one in claim(database)]


def test_a_claim_says_what_the_worker_needs(database: Database, clock: Clock) -> None:
    job_id = enqueue(database, 1, send_to=("PACS", "MINI"))
    held = claim_one(database, owner="host:1")
    assert (job_id, 1, "chest", 1, "active") == (held.job_id, held.token, held.model, held.revision, held.mode)
    assert (held.outputs, held.send_to) == (("sr",), ("PACS", "MINI"))
    assert held.header == {"Modality": "DX"}
    assert clock.now == held.claimed_at
    stored = row(database, job, job_id)
    assert ("reading", "host:1", clock.now + LEASE) == (stored.state, stored.lease_owner, stored.lease_until)
    assert (stored.bundle_digest, stored.engine) == ("b" * 64, "test")


def test_what_is_claimed_is_claimed_by_nobody_else(database: Database) -> None:
    enqueue(database)
    assert len(claim(database, owner="w1")) == 1
    assert claim(database, owner="w2") == []


def test_jobs_of_a_model_that_is_not_loaded_wait(database: Database) -> None:
    enqueue(database, 1, models=("other",))
    assert claim(database) == []


def _settle(database: Database, held: Claim) -> None:
    settle(database, held)


def _twin(database: Database, held: Claim) -> None:
    reports.settle_duplicate(database, held, pixel_digest=digest("p"), identity_digest=digest("i"))


SETTLES: dict[str, Callable[[Database, Claim], object]] = {
    "report": _settle,
    "duplicate": _twin,
    "give_back": jobs.give_back,
    "park": lambda database, held: jobs.park(database, held, "late"),
    "fault": lambda database, held: jobs.fault(database, held, "late", pause=0.0, limits=LIMITS, counts=True),
}


@pytest.mark.parametrize("settle_late", SETTLES.values(), ids=SETTLES)
@pytest.mark.parametrize("meanwhile", ["claimed by another", "settled by another"])
def test_a_worker_that_lost_its_lease_writes_nothing(
    database: Database, clock: Clock, settle_late: Callable[[Database, Claim], object], meanwhile: str
) -> None:
    job_id = enqueue(database)
    late = claim_one(database, owner="w1")
    clock.turn(LEASE + 1)
    fresh = claim_one(database, owner="w2")
    if meanwhile == "settled by another":
        settle(database, fresh)
    before = [row(database, job, job_id), *(count(database, t) for t in (event, film, finding, output, delivery))]
    with pytest.raises(LeaseLost, match=f"job {job_id} is no longer held under token 1"):
        settle_late(database, late)
    after = [row(database, job, job_id), *(count(database, t) for t in (event, film, finding, output, delivery))]
    assert before == after
    assert_sound(database)


def test_a_settle_after_the_lease_ran_out_stands_where_nobody_else_took_the_job(
    database: Database, clock: Clock
) -> None:
    enqueue(database)
    held = claim_one(database)
    clock.turn(LEASE + 1)
    assert settle(database, held)


def test_a_job_whose_worker_was_lost_is_claimed_alone(database: Database, clock: Clock) -> None:
    ids = [enqueue(database, number) for number in range(3)]
    assert len(claim(database, owner="lost")) == 3
    clock.turn(LEASE + 1)
    again = [claim(database, owner="w2") for _ in range(4)]
    assert [[ids[0]], [ids[1]], [ids[2]], []] == [[one.job_id for one in batch] for batch in again]
    assert [batch[0].alone for batch in again[:3]] == [True, True, True]
    assert names(database, ids[0]) == ["enqueued", "claimed", "lease_expired", "claimed"]


def test_a_lost_job_does_not_keep_younger_ones_from_being_read_together(database: Database, clock: Clock) -> None:
    lost = enqueue(database, "lost")
    claim(database)
    clock.turn(LEASE + 1)
    young = [enqueue(database, number) for number in range(3)]
    assert [lost] == [one.job_id for one in claim(database)]
    assert young == [one.job_id for one in claim(database)]


def test_a_job_that_lost_too_many_workers_is_parked(database: Database, clock: Clock) -> None:
    job_id = enqueue(database)
    for _ in range(LIMITS.losses):
        claim_one(database)
        clock.turn(LEASE + 1)
    assert claim(database) == []
    stored = row(database, job, job_id)
    assert ("failed", LIMITS.losses) == (stored.state, stored.losses)
    assert stored.reason.startswith("4 workers were lost while they read this film")
    assert_sound(database)


def test_a_renewed_lease_holds_on(database: Database, clock: Clock) -> None:
    enqueue(database)
    held = claim_one(database)
    clock.turn(LEASE - 1)
    assert jobs.renew(database, [held], lease=LEASE) == 1
    clock.turn(LEASE - 1)
    assert claim(database, owner="w2") == []


def test_a_lost_lease_is_not_renewed(database: Database, clock: Clock) -> None:
    enqueue(database)
    late = claim_one(database)
    clock.turn(LEASE + 1)
    claim_one(database, owner="w2")
    assert jobs.renew(database, [late], lease=LEASE) == 0


def test_the_leases_of_a_worker_known_to_be_dead_end_at_once(database: Database, clock: Clock) -> None:
    enqueue(database, 1)
    enqueue(database, 2)
    dead, alive = claim_one(database, owner="dead"), claim_one(database, owner="alive")
    assert jobs.release_owner(database, "dead") == 1
    assert [dead.job_id] == [one.job_id for one in claim(database, owner="w3")]
    settle(database, alive)


def test_a_job_given_back_counts_nothing_against_it(database: Database) -> None:
    job_id = enqueue(database)
    jobs.give_back(database, claim_one(database))
    stored = row(database, job, job_id)
    assert (
        stored.state,
        stored.attempts,
        stored.losses,
        stored.alone,
        stored.lease_owner,
    ) == ("queued", 0, 0, False, None)
    assert claim_one(database).token == 2


def test_a_passing_fault_comes_again_after_its_pause(database: Database, clock: Clock) -> None:
    enqueue(database)
    held = claim_one(database)
    assert not jobs.fault(database, held, "the disk was full", pause=5.0, limits=LIMITS, counts=False)
    assert claim(database) == []
    clock.turn(5.0)
    again = claim_one(database)
    assert (again.attempts, again.alone) == (0, True)


def test_faults_of_the_film_park_it_at_the_limit(database: Database, clock: Clock) -> None:
    job_id = enqueue(database)
    parked = []
    for _ in range(LIMITS.attempts):
        parked.append(jobs.fault(database, claim_one(database), "died", pause=0.0, limits=LIMITS, counts=True))
    assert parked == [False, False, True]
    stored = row(database, job, job_id)
    assert (stored.state, stored.reason, stored.attempts) == ("failed", "died (3 attempts)", 3)
    assert names(database, job_id)[-3:] == ["faulted", "claimed", "parked"]
    assert_sound(database)


def test_faults_that_do_not_count_never_park(database: Database) -> None:
    enqueue(database)
    for _ in range(5 * LIMITS.attempts):
        assert not jobs.fault(database, claim_one(database), "busy", pause=0.0, limits=LIMITS, counts=False)


def test_a_parked_job_says_why(database: Database) -> None:
    job_id = enqueue(database)
    jobs.park(database, claim_one(database), "the pixels cannot be decoded")
    stored = row(database, job, job_id)
    assert (stored.state, stored.reason) == ("failed", "the pixels cannot be decoded")
    assert claim(database) == []


def test_an_idle_look_takes_no_writers_lock(database: Database) -> None:
    enqueue(database, 1, models=("other",))
    with database.write():
        assert claim(database) == []


def test_retry_of_a_job_never_reported_resets_it(database: Database) -> None:
    job_id = enqueue(database)
    for _ in range(LIMITS.attempts):
        jobs.fault(database, claim_one(database), "died", pause=0.0, limits=LIMITS, counts=True)
    assert job_id == jobs.retry(database, job_id, reason="the disk is new")
    stored = row(database, job, job_id)
    assert (
        stored.state,
        stored.attempts,
        stored.losses,
        stored.reason,
        stored.settled_at,
    ) == ("queued", 0, 0, "", None)
    held = claim_one(database)
    assert (job_id, 1) == (held.job_id, held.revision)
    assert settle(database, held)
    assert_sound(database)


def test_retry_of_a_reported_job_is_its_next_revision(database: Database) -> None:
    first = delivered(database)
    second = jobs.retry(database, first, reason="a new model")
    assert first != second
    assert row(database, job, first).state == "delivered"
    held = claim_one(database)
    assert (second, 2, ("PACS",)) == (held.job_id, held.revision, held.send_to)
    assert settle(database, held)
    assert (row(database, job, first).state, row(database, job, second).state) == ("superseded", "reported")
    assert first == row(database, job, second).predecessor
    assert_sound(database)


def test_a_revision_reads_the_same_film_without_being_its_duplicate(database: Database) -> None:
    first = delivered(database, 1)
    jobs.retry(database, first, reason="again")
    second = claim_one(database)
    assert (
        reports.settle_duplicate(
            database,
            second,
            pixel_digest=report(second).pixel_digest,
            identity_digest=report(second).identity_digest,
        )
        is None
    )
    assert settle(database, second)
    third = enqueue(database, "the same film by another way")
    held = claim_one(database)
    assert not settle(database, held, pixels=f"instance {second.instance_id}")
    assert second.job_id == row(database, job, third).duplicate_of


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.READING])
def test_a_job_under_way_cannot_be_retried(database: Database, state: JobState) -> None:
    job_id = enqueue(database)
    if state is JobState.READING:
        claim_one(database)
    with pytest.raises(Rejected, match=f"job {job_id} is {state}: it is under way already"):
        jobs.retry(database, job_id, reason="impatience")


def test_only_the_latest_revision_can_be_retried(database: Database) -> None:
    first = delivered(database)
    jobs.retry(database, first, reason="one")
    with pytest.raises(Rejected, match="has a later revision"):
        jobs.retry(database, first, reason="two")


def test_a_job_that_does_not_exist_cannot_be_retried(database: Database) -> None:
    with pytest.raises(Rejected, match="there is no job 99"):
        jobs.retry(database, 99, reason="")


def test_a_film_whose_bytes_are_gone_cannot_be_retried(database: Database, clock: Clock) -> None:
    job_id = delivered(database)
    clock.turn(10.0)
    assert retention.retire(database, Periods(accepted=5.0, ignored=5.0, failed=5.0), limit=10)
    with pytest.raises(Rejected, match="retention removed the film's bytes"):
        jobs.retry(database, job_id, reason="")


def test_the_unsent_deliveries_of_a_superseded_job_are_cancelled(database: Database) -> None:
    first = reported(database, 1, send_to=("PACS", "MINI"))
    jobs.retry(database, first, reason="again")
    settle(database, claim_one(database))
    assert count(database, delivery, delivery.c.job_id == first, delivery.c.state == "cancelled") == 2
    assert count(database, delivery, delivery.c.job_id != first, delivery.c.state == "pending") == 2
    assert_sound(database)


def test_a_film_that_was_not_analysed_is_reported_with_its_reason(database: Database) -> None:
    job_id = enqueue(database)
    held = claim_one(database)
    said = report(held, outcome=Outcome.NOT_ANALYSED)
    assert reports.settle_report(database, held, said, outputs(held, 1), saliency=None, preview=None)
    stored = row(database, job, job_id)
    assert ("reported", "not_analysed", None, said.to_json(), said.sha256) == (
        stored.state,
        stored.outcome,
        stored.saliency_key,
        stored.report,
        stored.report_sha256,
    )


def test_the_bundle_of_the_last_claim_is_recorded(database: Database) -> None:
    job_id = enqueue(database)
    jobs.give_back(database, claim_one(database))
    jobs.claim(
        database, owner="w", models={**MODELS, "chest": "9" * 64}, engine="other", limit=1, lease=1.0, limits=LIMITS
    )
    stored = row(database, job, job_id)
    assert (stored.bundle_digest, stored.engine) == ("9" * 64, "other")
