"""Findings and reports: what is decided of a score, what is shown, and that a report survives its text."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrnode.core.findings import (
    Decision,
    Finding,
    Outcome,
    Plausibility,
    Reader,
    Report,
    Scale,
    Thresholds,
    decide,
    reach,
)

BETWEEN = Thresholds(rule_out=0.2, rule_in=0.6)
READER = Reader(
    name="chest",
    version="1.0",
    bundle_digest="b" * 64,
    weights_digest="e" * 64,
    calibration="none",
    demonstration=True,
    engine="torch",
)


def finding(label: str, index: int, score: float, thresholds: Thresholds | None = BETWEEN) -> Finding:
    return Finding(label=label, index=index, score=score, decision=decide(score, thresholds), thresholds=thresholds)


def report(*findings: Finding) -> Report:
    return Report(
        outcome=Outcome.ANALYSED, reason="", read_at=1_800_000_000.5, revision=1, reader=READER, findings=findings
    )


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.0, Decision.ABSENT),
        (0.2 - 1e-12, Decision.ABSENT),
        (0.2, Decision.UNDETERMINED),
        (0.6 - 1e-12, Decision.UNDETERMINED),
        (0.6, Decision.PRESENT),
        (1.0, Decision.PRESENT),
    ],
)
def test_a_score_is_decided_by_its_thresholds(score: float, expected: Decision) -> None:
    assert expected is decide(score, BETWEEN)


def test_without_thresholds_a_finding_is_not_assessed() -> None:
    assert Decision.NOT_ASSESSED is decide(0.99, None)


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.001, 1.001])
def test_no_decision_is_made_of_what_is_no_score(score: float) -> None:
    for thresholds in (BETWEEN, None):
        with pytest.raises(ValueError, match="a score must lie in"):
            decide(score, thresholds)


@pytest.mark.parametrize(("rule_out", "rule_in"), [(0.6, 0.2), (-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)])
def test_thresholds_out_of_order_are_refused(rule_out: float, rule_in: float) -> None:
    with pytest.raises(ValueError, match="thresholds must satisfy"):
        Thresholds(rule_out=rule_out, rule_in=rule_in)


def test_findings_of_a_decision_come_with_the_highest_score_first_and_ties_in_the_models_order() -> None:
    made = report(finding("A", 0, 0.7), finding("B", 1, 0.9), finding("C", 2, 0.7), finding("D", 3, 0.1))
    assert [f.label for f in made.having(Decision.PRESENT)] == ["B", "A", "C"]
    assert [f.label for f in made.having(Decision.ABSENT)] == ["D"]


def test_present_findings_are_shown_and_the_best_others_up_to_the_minimum() -> None:
    made = report(
        finding("low", 0, 0.05), finding("unsure", 1, 0.5), finding("here", 2, 0.8), finding("never", 3, 0.99, None)
    )
    assert [f.label for f in made.shown(min_findings=0, max_findings=5)] == ["here"]
    assert [f.label for f in made.shown(min_findings=2, max_findings=5)] == ["here", "unsure"]
    assert [f.label for f in made.shown(min_findings=9, max_findings=9)] == ["here", "unsure", "low"]


def test_never_more_findings_are_shown_than_the_maximum() -> None:
    made = report(*(finding(str(n), n, 0.7 + n / 100) for n in range(5)))
    assert [f.label for f in made.shown(min_findings=1, max_findings=2)] == ["4", "3"]


def test_a_film_at_the_limit_is_still_plausible() -> None:
    assert Plausibility(distance=2.0, limit=2.0).plausible
    assert not Plausibility(distance=2.0001, limit=2.0).plausible


def test_a_title_is_the_label_as_people_read_it() -> None:
    assert finding("Pleural_Thickening", 0, 0.5).title == "Pleural Thickening"


scores = st.floats(0.0, 1.0)
texts = st.text(max_size=20)


@given(
    score=scores,
    label=texts,
    reason=texts,
    notes=st.lists(texts, max_size=3).map(tuple),
    scale=st.sampled_from(Scale),
    outcome=st.sampled_from(Outcome),
    distance=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    assessed=st.booleans(),
)
def test_a_report_survives_its_text(
    score: float,
    label: str,
    reason: str,
    notes: tuple[str, ...],
    scale: Scale,
    outcome: Outcome,
    distance: float | None,
    assessed: bool,
) -> None:
    made = dataclasses.replace(
        report(finding(label, 0, score, BETWEEN if assessed else None)),
        reason=reason,
        notes=notes,
        scale=scale,
        outcome=outcome,
        plausibility=None if distance is None else Plausibility(distance=distance, limit=3.0),
    )
    assert made == Report.from_json(made.to_json())
    assert made.sha256 == Report.from_json(made.to_json()).sha256


def test_the_digest_of_a_report_is_that_of_its_text() -> None:
    made = report(finding("Mass", 4, 0.5))
    assert hashlib.sha256(made.to_json().encode()).hexdigest() == made.sha256
    assert made.sha256 != dataclasses.replace(made, revision=2).sha256


def test_a_report_with_a_number_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        dataclasses.replace(report(), read_at=math.nan).to_json()


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"plausibility": null}'])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Report.from_json(text)


@pytest.mark.parametrize(
    ("score", "place"),
    [(0.0, 0.0), (0.01, 1 / 6), (0.02, 1 / 3), (0.06, 1 / 2), (0.1, 2 / 3), (0.55, 5 / 6), (1.0, 1.0)],
)
def test_a_score_lies_in_the_third_of_its_decision(score: float, place: float) -> None:
    assert reach(score, Thresholds(rule_out=0.02, rule_in=0.1)) == pytest.approx(place)


def test_with_one_threshold_a_track_has_halves_and_its_ends_are_no_fault() -> None:
    one = Thresholds(rule_out=0.2, rule_in=0.2)
    assert [reach(score, one) for score in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0.0, 0.25, 0.5, 1.0])
    assert [reach(score, Thresholds(rule_out=0.0, rule_in=1.0)) for score in (0.0, 0.5, 1.0)] == pytest.approx(
        [1 / 3, 1 / 2, 1.0]
    )
