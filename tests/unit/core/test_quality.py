"""The measures of drift and agreement, held against numpy and scipy; intervals in training/test_statistics.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.metrics import cohen_kappa_score

from cxrnode.core import quality


@given(st.floats(0.0, 1.0))
def test_every_score_lies_between_the_ends_of_its_bin(score: float) -> None:
    place = quality.score_bin(score)
    edges = quality.score_edges()
    assert 0 <= place < quality.SCORE_BINS
    assert edges[place] - 1e-9 <= score <= edges[place + 1] + 1e-9


def test_the_bins_tell_small_scores_apart() -> None:
    """A rare finding's scores all lie near 0, and still not in one bin."""
    assert len({quality.score_bin(score) for score in (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)}) >= 5


@given(st.floats(0.0, 1e7))
def test_every_duration_lies_between_the_ends_of_its_bin(seconds: float) -> None:
    low, high = quality.time_ends(quality.time_bin(seconds))
    assert low * (1 - 1e-9) <= seconds <= high * (1 + 1e-9)


def test_a_percentile_of_bins_is_that_of_the_durations_within_ten_percent() -> None:
    random = np.random.default_rng(0)
    seconds = random.lognormal(1.0, 1.2, 5000)
    counts: dict[int, int] = {}
    for one in seconds:
        counts[quality.time_bin(one)] = counts.get(quality.time_bin(one), 0) + 1
    for share in (0.5, 0.9, 0.95, 0.99):
        found = quality.percentile(counts, share)
        assert found is not None
        assert abs(found / float(np.quantile(seconds, share)) - 1) < 0.10
    assert quality.percentile({}, 0.5) is None


def test_psi_of_equal_distributions_is_nothing_and_of_a_shift_is_past_the_limit() -> None:
    before = [5, 40, 200, 500, 200, 50, 5, 0]
    moved = [0, 5, 40, 200, 500, 200, 50, 5]
    assert quality.psi(before, before) == 0.0
    found = quality.psi(before, moved)
    assert found is not None and found > quality.PSI_LIMIT
    shares = np.array([(n + 0.5) / (sum(before) + 4) for n in before])
    now = np.array([(n + 0.5) / (sum(moved) + 4) for n in moved])
    assert found == pytest.approx(float(((now - shares) * np.log(now / shares)).sum()))
    assert quality.psi(before, [0] * 8) is None


def test_ks_of_bins_is_that_of_scipy_where_scores_are_the_bins() -> None:
    random = np.random.default_rng(1)
    left, right = random.integers(0, 12, 400), random.integers(2, 14, 300)
    counts = [[int((values == place).sum()) for place in range(14)] for values in (left, right)]
    assert quality.ks(*counts) == pytest.approx(float(ks_2samp(left, right).statistic))
    assert quality.ks([0], [1]) is None


def test_the_limit_of_ks_is_passed_once_in_a_thousand_samples_of_one_distribution() -> None:
    random = np.random.default_rng(2)
    limit = quality.ks_limit(200, 300)
    assert limit is not None
    passed = sum(ks_2samp(random.random(200), random.random(300)).statistic > limit for _ in range(2000))
    assert passed <= 8
    assert quality.ks_limit(0, 5) is None


def test_auroc_needs_both_classes_and_says_so_of_few_films() -> None:
    assert quality.auroc([], [0.5]) == quality.Interval(value=None)
    assert quality.auroc([0.9], [0.1]) == quality.Interval(value=1.0)
    perfect = quality.auroc([0.9, 0.8, 0.7], [0.1, 0.2, 0.3])
    assert perfect.value == 1.0 and perfect.low is not None and perfect.low < 0.5


def test_kappa_is_that_of_scikit_learn() -> None:
    first = [1] * 30 + [1] * 7 + [0] * 4 + [0] * 60
    second = [1] * 30 + [0] * 7 + [1] * 4 + [0] * 60
    assert quality.kappa(30, 7, 4, 60) == pytest.approx(cohen_kappa_score(first, second))
    assert quality.kappa(0, 0, 0, 9) is None
    assert quality.kappa(0, 0, 0, 0) is None


def test_ratios_of_plausibility_fill_bins_from_0_to_2() -> None:
    assert [quality.ratio_bin(r) for r in (0.0, 0.99, 1.0, 1.99, 7.0)] == [0, 11, 12, 23, 23]
    assert math.isclose(2.0 / quality.SCORE_BINS, 1 / 12)
