"""Intervals and measures, held against scikit-learn and against counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from cxrnode.core.quality import share
from cxrnode.training.statistics import (
    auroc,
    average_precision,
    delong,
    operating_point,
    reliability,
    resample,
    roc,
)


def drawn(seed: int, films: int = 120, levels: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Scores with ties, and a finding that they know a little of."""
    random = np.random.default_rng(seed)
    truth = (random.random(films) < 0.3).astype(float)
    return np.round((random.normal(0, 1, films) + truth) * 2) / levels + 0.5, truth


@pytest.mark.parametrize("seed", range(4))
def test_areas_are_those_of_scikit_learn(seed: int) -> None:
    scores, truth = drawn(seed)
    assert delong(scores, truth).value == pytest.approx(roc_auc_score(truth, scores))
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))


@pytest.mark.parametrize("seed", range(4))
def test_the_variance_of_delong_is_that_of_its_definition(seed: int) -> None:
    scores, truth = drawn(seed)
    positive, negative = scores[truth == 1], scores[truth == 0]
    pairs = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = pairs.mean(1).var(ddof=1) / len(positive) + pairs.mean(0).var(ddof=1) / len(negative)
    area = pairs.mean()
    found = delong(scores, truth)
    assert found.low is not None and found.high is not None
    half = (math.log(found.high / (1 - found.high)) - math.log(found.low / (1 - found.low))) / 2
    assert half == pytest.approx(1.959964 * math.sqrt(variance) / (area * (1 - area)), rel=1e-5)


def test_the_interval_of_delong_holds_the_true_area_nineteen_times_in_twenty() -> None:
    """Two normal distributions one deviation apart: the area is Phi(1 / sqrt 2)."""
    true, held = 0.76025, 0
    random = np.random.default_rng(0)
    truth = np.repeat([0.0, 1.0], [60, 30])
    for _ in range(400):
        found = delong(random.normal(0, 1, 90) + truth, truth)
        assert found.low is not None and found.high is not None
        held += found.low <= true <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_perfect_ranking_of_few_films_is_not_certain() -> None:
    found = delong(np.array([0.1, 0.2, 0.3, 0.8, 0.9]), np.array([0.0, 0, 0, 1, 1]))
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low is not None and found.low < 0.5


def test_where_a_class_is_missing_nothing_is_told() -> None:
    found = delong(np.array([0.1, 0.2]), np.array([0.0, 0.0]))
    assert (found.value, found.low, found.high) == (None, None, None)
    assert math.isnan(average_precision(np.array([0.1, 0.2]), np.array([0.0, 0.0])))


def test_films_of_the_same_patient_widen_the_interval() -> None:
    scores, truth = drawn(1, films=60)
    scores, truth = np.repeat(scores, 5), np.repeat(truth, 5)
    alone = auroc(scores, truth, [str(i) for i in range(300)])
    together = auroc(scores, truth, [str(i // 5) for i in range(300)])
    assert alone.low and alone.high and together.low and together.high
    assert alone.value == together.value
    assert together.high - together.low > 1.6 * (alone.high - alone.low)


def test_draws_without_a_value_do_not_count_and_too_many_of_them_leave_no_interval() -> None:
    patients = [str(i) for i in range(50)]
    assert resample(lambda i: math.nan if 0 in i else 1.0, patients) == (None, None)
    assert resample(lambda i: math.nan if len(set(i)) == 50 else 1.0, patients) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_shares_have_the_published_intervals_of_wilson(count: int, of: int, low: float, high: float) -> None:
    """81 of 263 is the example of Newcombe (Stat Med 1998)."""
    found = share(count, of)
    assert [found.low, found.high] == pytest.approx([low, high], abs=1e-4)


def test_a_share_of_nothing_is_none() -> None:
    assert share(0, 0).value is None


def test_an_operating_point_counts_what_equals_its_threshold_as_present() -> None:
    scores, truth = np.array([0.1, 0.5, 0.5, 0.7, 0.9]), np.array([0.0, 0, 1, 0, 1])
    found = operating_point(scores, truth, 0.5)
    shares = [(s.count, s.of) for s in (found.sensitivity, found.specificity, found.ppv, found.npv)]
    assert shares == [(2, 2), (1, 3), (2, 4), (1, 1)]


def test_the_calibration_error_is_none_where_frequencies_are_the_scores() -> None:
    scores = np.repeat([0.25, 0.75], 40)
    truth = np.concatenate([np.repeat([1.0, 0.0], [10, 30]), np.repeat([1.0, 0.0], [30, 10])])
    assert reliability(scores, truth).ece == pytest.approx(0.0)
    over = reliability(np.repeat([0.95], 80), truth)
    assert over.ece == pytest.approx(0.45)
    assert (over.bins[0].low, over.bins[0].high, over.bins[0].observed.count) == (0.95, 0.95, 40)


def test_bins_hold_as_many_films_each_however_close_the_scores_lie() -> None:
    scores, truth = np.linspace(0.0, 0.02, 100), np.zeros(100)
    found = reliability(scores, truth)
    assert [bin.observed.of for bin in found.bins] == [10] * 10
    assert (found.bins[0].low, found.bins[-1].high) == (0.0, 0.02)


def test_films_of_one_score_share_a_bin_and_a_score_of_one_has_its_place() -> None:
    scores = np.array([0.0] * 30 + [1.0] * 10)
    found = [(bin.low, bin.high, bin.observed.of) for bin in reliability(scores, scores).bins]
    assert found == [(0.0, 0.0, 30), (1.0, 1.0, 10)]


def test_the_roc_curve_is_that_of_scikit_learn() -> None:
    scores, truth = drawn(2)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert roc(scores, truth) == [pytest.approx(point) for point in zip(false, true, strict=True)]
