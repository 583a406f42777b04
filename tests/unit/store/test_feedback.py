"""Feedback: it finds its film, is stored once, never changes a result, and is what agreement is measured by."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import sqlalchemy as sa

from cxrnode.core.findings import Thresholds, decide
from cxrnode.store import agreement, audit, feedback, jobs, reports
from cxrnode.store.audit import EventFilter
from cxrnode.store.database import Database
from cxrnode.store.feedback import Given
from cxrnode.store.schema import feedback as table
from cxrnode.store.schema import finding, job
from cxrnode.training import statistics
from tests.stores import IDENTITY, START, Clock, claim_one, count, delivered, enqueue, outputs, report, reported

LIMITS = Thresholds(rule_out=0.25, rule_in=0.5)


def scored(database: Database, number: int, score: float) -> int:
    """A film that is read with this score of Effusion."""
    job_id = enqueue(database, number)
    held = claim_one(database)
    base = report(held)
    said = dataclasses.replace(base.findings[0], score=score, decision=decide(score, LIMITS))
    whole = dataclasses.replace(base, findings=(said,))
    assert reports.settle_report(database, held, whole, outputs(held, 1), saliency=None, preview=None).stands
    return job_id


def test_a_film_is_found_by_job_by_uid_and_by_accession(database: Database) -> None:
    first, second = delivered(database, 1), delivered(database, 2)
    by_job = feedback.give(database, [Given(job_id=first, label="Effusion", truth=True, by="qa")])
    by_uid = feedback.give(database, [Given(sop_instance_uid="1.2.3.2", label="Effusion", truth=False, by="qa")])
    assert (by_job.stored, by_uid.stored) == (1, 1)
    both = feedback.give(
        database, [Given(accession=IDENTITY["accession"], label="Effusion", truth=True, source="CT", by="qa")]
    )
    assert (both.stored, both.same, both.refused) == (2, 0, ())
    assert [one.truth for one in feedback.of_job(database, first)] == [True, True]
    assert [one.truth for one in feedback.of_job(database, second)] == [False, True]


REFUSED = {
    "nothing said": (Given(job_id=1, label="Effusion", by="qa"), "neither a truth nor a verdict"),
    "no film": (Given(label="Effusion", truth=True, by="qa"), "names no film"),
    "verdict on a film": (Given(accession="A", label="Effusion", verdict="agree", by="qa"), "name the job"),
    "truth of nothing": (Given(job_id=1, label="", truth=True, by="qa"), "a truth is of a finding"),
    "unknown job": (Given(job_id=99, label="Effusion", truth=True, by="qa"), "there is no job 99"),
    "unknown film": (Given(accession="NOT-HERE", label="Effusion", truth=True, by="qa"), "no film of that name"),
    "unknown finding": (Given(job_id=1, label="Efusion", truth=True, by="qa"), "said anything of 'Efusion'"),
}


@pytest.mark.parametrize(("wrong", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_refused_with_its_reason_and_stops_no_other(
    database: Database, wrong: Given, reason: str
) -> None:
    delivered(database, 1)
    good = Given(job_id=1, label="Effusion", truth=True, by="qa")
    done = feedback.give(database, [wrong, good])
    assert done.stored == 1
    ((index, said),) = done.refused
    assert index == 0 and reason in said
    assert "NOT-HERE" not in said and "NOT-HERE" not in repr(wrong)


def test_the_same_feedback_again_is_stored_once_and_a_change_of_mind_anew(database: Database) -> None:
    job_id = delivered(database)
    one = Given(job_id=job_id, label="Effusion", truth=True, source="CT", by="qa")
    assert feedback.give(database, [one, one]).same == 1
    assert feedback.give(database, [dataclasses.replace(one, truth=False)]).stored == 1
    assert feedback.give(database, [one]).stored == 1
    assert [given.truth for given in feedback.of_job(database, job_id)] == [True, False, True]


@pytest.mark.parametrize(
    ("score", "verdict", "truth"),
    [
        *((0.9, "agree", True), (0.9, "disagree", False), (0.1, "agree", False), (0.1, "disagree", True)),
        *((0.3, "agree", None), (0.3, "disagree", None)),
    ],
)
def test_a_readers_verdict_is_a_truth_where_the_finding_was_decided(
    database: Database, score: float, verdict: feedback.Verdict, truth: bool | None
) -> None:
    job_id = scored(database, 1, score)
    feedback.give(database, [Given(job_id=job_id, label="Effusion", verdict=verdict, by="reader")])
    (given,) = feedback.of_job(database, job_id)
    assert (given.verdict, given.truth, given.job_id) == (verdict, truth, job_id)


def test_a_result_as_a_whole_can_be_agreed_with(database: Database) -> None:
    job_id = delivered(database)
    feedback.give(database, [Given(job_id=job_id, label="", verdict="agree", by="reader")])
    (given,) = feedback.of_job(database, job_id)
    assert (given.label, given.truth) == ("", None)


def test_feedback_changes_no_result_and_is_an_event_without_identifiers(database: Database) -> None:
    job_id = delivered(database)

    def result() -> tuple[object, ...]:
        with database.read() as transaction:
            return (
                transaction.rows(sa.select(job)),
                transaction.rows(sa.select(finding)),
                audit.broken_link(database, job_id),
            )

    before = result()
    feedback.give(
        database, [Given(accession=IDENTITY["accession"], label="Effusion", truth=False, source="CT", by="qa")]
    )
    assert before == result()
    (event,) = audit.query(database, EventFilter(name="feedback_given"), limit=5)
    assert event.detail == {"label": "Effusion", "truth": False, "verdict": "", "by": "qa"}
    assert [value for value in IDENTITY.values() if len(value) > 1 and value in str(event)] == []


def test_agreement_is_the_auroc_and_the_operating_point_of_the_truth(database: Database, clock: Clock) -> None:
    chance = random.Random(3)
    scores, truths = [], []
    for number in range(24):
        truth = chance.random() < 0.4
        score = round(min(max(chance.gauss(0.6 if truth else 0.35, 0.2), 0.0), 1.0), 3)
        job_id = scored(database, number, score)
        scores.append(score)
        truths.append(truth)
        wrong = Given(job_id=job_id, label="Effusion", truth=not truth, source="report", by="qa")
        right = Given(job_id=job_id, label="Effusion", truth=truth, source="CT", by="qa")
        feedback.give(database, [wrong, right])  # the last one counts
        clock.turn(2 * 86400.0)
    (found,) = agreement.agreement(database, "chest", since=START, until=clock.now)
    expected = statistics.delong(*_arrays(scores, truths))
    point = statistics.operating_point(*_arrays(scores, truths), 0.5)
    assert (found.films, found.positives) == (24, sum(truths))
    assert (found.auroc.value, found.auroc.low, found.auroc.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )
    assert (found.sensitivity.count, found.sensitivity.of) == (point.sensitivity.count, point.sensitivity.of)
    assert (found.specificity.count, found.specificity.of) == (point.specificity.count, point.specificity.of)
    assert (found.sensitivity.low, found.ppv.high) == pytest.approx((point.sensitivity.low, point.ppv.high))
    months = agreement.by_month(database, "chest", "Effusion", since=START, until=clock.now)
    assert sum(one.films for one in months) == 24
    assert [one.month for one in months] == sorted({one.month for one in months}) and len(months) >= 2
    assert agreement.agreement(database, "chest", since=0.0, until=START) == ()
    assert agreement.agreement(database, "other", since=START, until=clock.now) == ()


def _arrays(scores: list[float], truths: list[bool]) -> tuple[statistics.Floats, statistics.Floats]:
    import numpy as np

    return np.array(scores), np.array(truths, dtype=float)


def test_a_film_that_was_read_again_counts_by_its_newest_reading(database: Database) -> None:
    job_id = reported(database)
    feedback.give(database, [Given(job_id=job_id, label="Effusion", truth=False, by="qa")])
    jobs.retry(database, job_id, reason="again")
    held = claim_one(database)
    base = report(held)
    said = dataclasses.replace(base.findings[0], score=0.1, decision=decide(0.1, LIMITS))
    reports.settle_report(
        database,
        held,
        dataclasses.replace(base, findings=(said,)),
        outputs(held, 1),
        saliency=None,
        preview=None,
        predecessors=reports.predecessor_sent(database, held.job_id),
    )
    (found,) = agreement.agreement(database, "chest", since=0.0, until=1e12)
    assert (found.films, found.specificity.count) == (1, 1)


def test_many_truths_are_read_in_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "_PAGE", 2)
    for number in range(5):
        feedback.give(
            database, [Given(job_id=scored(database, number, 0.9), label="Effusion", truth=number % 2 == 0, by="qa")]
        )
    (found,) = agreement.agreement(database, "chest", since=0.0, until=1e12)
    assert (found.films, found.positives, found.capped) == (5, 3, False)
    monkeypatch.setattr(agreement, "MOST", 4)
    (found,) = agreement.agreement(database, "chest", since=0.0, until=1e12)
    assert found.capped and 3 <= found.films <= 4
    assert count(database, table) == 5


def test_truths_of_before_the_span_are_not_read_and_none_of_it_is_left_out(
    database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "_PAGE", 1)
    read: list[str] = []
    beside = agreement._beside

    def counted(page: sa.Select[Any], model: str) -> sa.Select[Any]:
        read.append(model)
        return beside(page, model)

    monkeypatch.setattr(agreement, "_beside", counted)
    for number in range(8):
        job_id = scored(database, number, 0.9)
        feedback.give(database, [Given(job_id=job_id, label="Effusion", truth=True, by="qa")])
        clock.turn(86400.0)
    (found,) = agreement.agreement(database, "chest", since=START + 5.5 * 86400.0, until=clock.now)
    assert (found.films, found.capped, len(read)) == (2, False, 3)
