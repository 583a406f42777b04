"""One film under two identities: both sides wait for a person, or the film that came last is right."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.core.findings import Outcome, Report
from cxrnode.errors import Rejected
from cxrnode.store import deliveries, disputes, jobs, reports, resend, settlements
from cxrnode.store.database import Database
from cxrnode.store.disputes import Decision, Policy
from cxrnode.store.rejections import due
from cxrnode.store.schema import delivery, job
from cxrnode.store.withdrawals import Cause, withdraw
from tests.stores import (
    Clock,
    assert_sound,
    claim,
    claim_one,
    digest,
    enqueue,
    names,
    outputs,
    report,
    row,
    settle,
    take,
    take_one,
    taken,
)


def read(database: Database, number: int, identity: str, *, policy: Policy = "hold") -> int:
    """Receive the one film under this identity and read it; return its job."""
    job_id = enqueue(database, number)
    (held,) = claim(database)
    assert settle(database, held, pixels="film", identity=identity, policy=policy)
    return job_id


def send(database: Database) -> None:
    for held in take(database):
        assert deliveries.begin(database, held)
        settlements.settle_sent(database, held, taken(held))


def states(database: Database) -> list[str]:
    with database.read() as transaction:
        return [one.state for one in transaction.rows(sa.select(job.c.state).order_by(job.c.id))]


def test_the_right_identity_is_sent_and_the_other_withdrawn(database: Database) -> None:
    old = read(database, 1, "wrong")
    new = read(database, 2, "right")
    assert take(database) == []
    assert disputes.decide(database, new, reason="a typing error", by="me") == Decision(released=1, withdrawn=(old,))
    assert states(database) == ["withdrawn", "reported"]
    assert [one.job_id for one in take(database)] == [new]
    assert due(database, ["PACS"], limit=10) == []  # nothing of the old one had been sent
    assert row(database, job, old).rejection == "worklist"
    assert_sound(database)


def test_the_old_identity_may_be_the_right_one(database: Database) -> None:
    old = read(database, 1, "right")
    send(database)
    new = read(database, 2, "wrong")
    assert disputes.decide(database, old, reason="the second was wrong", by="me") == Decision(
        released=0, withdrawn=(new,)
    )
    assert states(database) == ["delivered", "withdrawn"]
    assert (take(database), due(database, ["PACS"], limit=10)) == ([], [])


def test_what_was_sent_under_the_wrong_identity_is_withdrawn(database: Database) -> None:
    old = read(database, 1, "wrong")
    send(database)
    new = read(database, 2, "right")
    disputes.decide(database, new, reason="x", by="me")
    (order,) = due(database, ["PACS"], limit=10)
    assert (order.job_id, order.rejection, order.replaced, len(order.objects)) == (old, "worklist", False, 2)


def test_both_identities_may_be_right(database: Database) -> None:
    old, new = read(database, 1, "one order"), read(database, 2, "another order")
    assert disputes.decide(database, new, reason="two orders", by="me", all_right=True) == Decision(
        released=2, withdrawn=()
    )
    assert [one.job_id for one in take(database)] == [old, new]
    with pytest.raises(Rejected, match=f"job {old} is reported: its identity is in no dispute"):
        disputes.decide(database, old, reason="x", by="me")


def test_a_wrong_decision_is_undone(database: Database, clock: Clock) -> None:
    wrong_after_all = read(database, 1, "one")
    right_after_all = read(database, 2, "other")
    disputes.decide(database, wrong_after_all, reason="by mistake", by="me")
    send(database)
    clock.turn(60.0)
    assert disputes.decide(database, right_after_all, reason="I was wrong", by="me") == Decision(
        released=0, withdrawn=(wrong_after_all,), read_again=3
    )
    assert states(database) == ["withdrawn", "withdrawn", "queued"]
    assert [one.job_id for one in due(database, ["PACS"], limit=10)] == [wrong_after_all]
    (held,) = claim(database)
    assert (held.job_id, held.revision, row(database, job, 3).predecessor) == (3, 2, right_after_all)
    assert settle(database, held, pixels="film", identity="other")
    assert states(database) == ["withdrawn", "withdrawn", "reported"]
    assert [one.job_id for one in take(database)] == [3]
    assert names(database, right_after_all).count("identity_decided") == 1
    assert names(database, right_after_all).count("revision_asked") == 1
    # And back once more: the mistake may have been the second one.
    clock.turn(60.0)
    assert disputes.decide(database, wrong_after_all, reason="no, after all", by="me").read_again == 4
    assert states(database) == ["withdrawn", "withdrawn", "withdrawn", "queued"]
    assert_sound(database)


def test_a_film_read_again_by_a_decision_is_not_sent_where_it_is_withdrawn_again_meanwhile(
    database: Database, clock: Clock
) -> None:
    first, second = read(database, 1, "one"), read(database, 2, "other")
    disputes.decide(database, first, reason="by mistake", by="me")
    clock.turn(60.0)
    again = disputes.decide(database, second, reason="I was wrong", by="me").read_again
    assert again is not None
    clock.turn(60.0)
    assert withdraw(database, again, Cause(rejection="worklist", note="neither", by="me")).ordered == 0
    assert claim(database) == []
    assert states(database) == ["withdrawn", "withdrawn", "withdrawn"]
    assert_sound(database)


def test_an_identity_found_right_beside_the_other_is_read_again_and_decided_once_more(
    database: Database, clock: Clock
) -> None:
    first, second = read(database, 1, "one"), read(database, 2, "other")
    disputes.decide(database, first, reason="by mistake", by="me")
    clock.turn(60.0)
    made = disputes.decide(database, second, reason="two orders", by="me", all_right=True)
    assert (made.withdrawn, made.read_again) == ((), 3)
    (held,) = claim(database)
    assert settle(database, held, pixels="film", identity="other")
    assert [row(database, job, one).disputed for one in (first, 3)] == [True, True]
    disputes.decide(database, 3, reason="two orders", by="me", all_right=True)
    assert sorted(one.job_id for one in take(database)) == [first, 3]
    assert_sound(database)


def test_what_was_withdrawn_by_hand_and_never_in_dispute_is_not_decided(database: Database) -> None:
    only = read(database, 1, "one")
    withdraw(database, only, Cause(rejection="worklist", note="another's", by="me"))
    with pytest.raises(Rejected, match="its identity is in no dispute"):
        disputes.decide(database, only, reason="x", by="me")


def test_who_decided_and_why_stands_in_the_chain(database: Database) -> None:
    old, new = read(database, 1, "wrong"), read(database, 2, "right")
    disputes.decide(database, new, reason="a typing error", by="me")
    assert names(database, new)[-2:] == ["identity_decided", "delivery_released"]
    assert names(database, old)[-2:] == ["withdrawn", "delivery_cancelled"]
    with pytest.raises(Rejected, match="there is no job 99"):
        disputes.decide(database, 99, reason="x", by="me")


def test_a_third_identity_disputes_all_before_it(database: Database) -> None:
    jobs_ = [read(database, number, f"patient {number}") for number in (1, 2, 3)]
    assert [row(database, job, one).disputed for one in jobs_] == [True, True, True]
    decided = disputes.decide(database, jobs_[1], reason="x", by="me")
    assert decided == Decision(released=1, withdrawn=(jobs_[0], jobs_[2]))


def test_what_is_in_dispute_is_let_go_by_a_decision_alone(database: Database) -> None:
    old = read(database, 1, "wrong")
    read(database, 2, "right")
    with pytest.raises(Rejected, match="`cxrnode jobs decide`"):
        resend.resend(database, old, reason="impatience")


def test_a_new_revision_of_a_job_in_dispute_is_in_dispute(database: Database) -> None:
    old = read(database, 1, "wrong")
    new = read(database, 2, "right")
    revision = jobs.retry(database, old, reason="x")
    settle(database, claim_one(database), pixels="film", identity="wrong")
    assert take(database) == []
    assert disputes.decide(database, new, reason="x", by="me") == Decision(released=1, withdrawn=(revision,))
    assert states(database) == ["superseded", "reported", "withdrawn"]
    assert_sound(database)


def test_a_delivery_that_was_claimed_and_not_begun_is_held(database: Database) -> None:
    old = read(database, 1, "wrong")
    held = take_one(database)
    read(database, 2, "right")
    assert not deliveries.begin(database, held)
    stored = row(database, delivery, held.delivery_id)
    assert (stored.state, stored.held) == ("pending", True)
    assert names(database, old)[-1] == "delivery_given_back"
    assert take(database) == []


def test_the_film_that_came_last_is_right_where_the_site_says_so(database: Database) -> None:
    old = read(database, 1, "wrong")
    send(database)
    new = read(database, 2, "right", policy="reissue")
    assert states(database) == ["withdrawn", "reported"]
    assert [one.job_id for one in take(database)] == [new]
    assert [one.job_id for one in due(database, ["PACS"], limit=10)] == [old]
    assert not row(database, job, new).disputed
    assert_sound(database)


def test_a_film_that_is_read_after_its_correction_is_not_sent(database: Database) -> None:
    old, new = enqueue(database, 1), enqueue(database, 2)
    first, second = claim(database)
    assert settle(database, second, pixels="film", identity="right", policy="reissue")
    assert settle(database, first, pixels="film", identity="wrong", policy="reissue")
    assert (row(database, job, old).state, row(database, job, new).state) == ("withdrawn", "reported")
    assert [one.job_id for one in take(database)] == [new]
    assert_sound(database)


@pytest.mark.parametrize("policy", ["hold", "reissue"])
def test_an_identity_that_is_changed_back_is_read_anew_under_a_new_revision(database: Database, policy: Policy) -> None:
    first = read(database, 1, "right", policy="reissue")
    second = read(database, 2, "wrong", policy="reissue")
    assert states(database) == ["withdrawn", "reported"]
    third = enqueue(database, 3)
    held = claim_one(database)
    digests = {"pixel_digest": digest("film"), "identity_digest": digest("right")}
    assert reports.look_up(database, held, **digests) == (None, 2)
    assert settle(database, held, pixels="film", identity="right", policy=policy)
    assert row(database, job, third).revision == 2
    assert row(database, job, third).disputed is (policy == "hold")
    if policy == "hold":
        disputes.decide(database, third, reason="it was right at first", by="me")
    assert [row(database, job, one).state for one in (first, second, third)] == ["withdrawn", "withdrawn", "reported"]
    assert [one.job_id for one in take(database)] == [third]
    assert_sound(database)


def test_a_copy_of_a_film_whose_result_was_withdrawn_for_quality_is_its_duplicate(database: Database) -> None:
    first = read(database, 1, "right")
    withdraw(database, first, Cause(rejection="quality", note="", by="me"))
    enqueue(database, 2)
    held = claim_one(database)
    assert not settle(database, held, pixels="film", identity="right")
    assert row(database, job, held.job_id).duplicate_of == first


def test_a_corrected_film_meets_no_dispute_where_the_wrong_one_was_withdrawn_by_hand(database: Database) -> None:
    first = read(database, 1, "wrong")
    withdraw(database, first, Cause(rejection="worklist", note="", by="me"))
    second = read(database, 2, "right")
    assert not row(database, job, second).disputed
    assert [one.job_id for one in take(database)] == [second]


@pytest.mark.parametrize("policy", ["hold", "reissue"])
def test_a_revision_that_waits_is_not_read_under_the_wrong_identity(database: Database, policy: Policy) -> None:
    old = read(database, 1, "wrong")
    send(database)
    revision = jobs.retry(database, old, reason="a new model")
    enqueue(database, 2)
    _, second = claim(database)
    assert settle(database, second, pixels="film", identity="right", policy=policy)
    if policy == "hold":
        disputes.decide(database, second.job_id, reason="x", by="me")
    assert [row(database, job, one).state for one in (old, revision)] == ["withdrawn", "withdrawn"]
    assert_sound(database)


@pytest.mark.parametrize("policy", ["hold", "reissue"])
def test_a_revision_of_what_was_withdrawn_for_quality_meets_the_corrected_film(
    database: Database, policy: Policy
) -> None:
    old = read(database, 1, "wrong")
    send(database)
    withdraw(database, old, Cause(rejection="quality", note="", by="me"))
    right = read(database, 2, "right", policy=policy)
    send(database)
    revision = jobs.retry(database, old, reason="a new model")
    (held,) = claim(database)
    assert settle(database, held, pixels="film", identity="wrong", policy=policy)
    assert take(database) == []
    if policy == "hold":
        assert [row(database, job, one).disputed for one in (right, revision)] == [True, True]
        assert disputes.decide(database, right, reason="x", by="me").withdrawn == (revision,)
    assert [row(database, job, one).state for one in (right, revision)] == ["delivered", "withdrawn"]
    assert_sound(database)


# SQLite has one writer at a time, and so no such race.
@pytest.mark.parametrize("store_url", [pytest.param("postgresql", marks=pytest.mark.peers)], indirect=True)
@pytest.mark.parametrize("policy", ["hold", "reissue"])
def test_a_result_that_a_person_withdraws_meanwhile_disputes_nothing(
    database: Database, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = read(database, 1, "wrong")
    enqueue(database, 2)
    (held,) = claim(database)
    real = disputes.other_identities

    def slow(*what: Any, **more: Any) -> Any:
        found = real(*what, **more)
        withdraw(database, old, Cause(rejection="worklist", note="", by="me"))
        return found

    monkeypatch.setattr(disputes, "other_identities", slow)
    assert settle(database, held, pixels="film", identity="right", policy=policy)
    assert (row(database, job, held.job_id).disputed, row(database, job, old).state) == (False, "withdrawn")
    assert [one.job_id for one in take(database)] == [held.job_id]


def test_all_that_was_said_of_the_film_under_the_wrong_identity_is_withdrawn(database: Database) -> None:
    refused = enqueue(database, 1)
    held = claim_one(database)
    said = report(held, pixels="film", identity="wrong", outcome=Outcome.NOT_ANALYSED)
    assert reports.settle_report(database, held, said, outputs(held), saliency=None, preview=None).stands
    analysed = read(database, 2, "wrong")
    right = read(database, 3, "right")
    assert [row(database, job, one).disputed for one in (refused, analysed, right)] == [True, True, True]
    assert disputes.decide(database, right, reason="x", by="me").withdrawn == (refused, analysed)


def test_all_that_was_said_of_the_film_under_the_right_identity_is_let_go(database: Database) -> None:
    refused = enqueue(database, 1)
    held = claim_one(database)
    said = report(held, pixels="film", identity="right", outcome=Outcome.NOT_ANALYSED)
    assert reports.settle_report(database, held, said, outputs(held), saliency=None, preview=None).stands
    analysed = read(database, 2, "right")
    read(database, 3, "wrong")
    assert disputes.decide(database, analysed, reason="x", by="me").released == 2
    assert [one.job_id for one in take(database)] == [refused, analysed]


def test_a_shadow_reading_disputes_nothing(database: Database) -> None:
    first = read(database, 1, "one")
    enqueue(database, 2, mode="shadow")
    held = claim_one(database)
    reports.settle_report(
        database, held, _said(held, "another"), [], saliency=None, preview=None, on_identity_change="hold"
    )
    assert not row(database, job, first).disputed
    assert [one.job_id for one in take(database)] == [first]


def _said(held: jobs.Claim, identity: str) -> Report:
    return report(held, pixels="film", identity=identity)
