"""Scores that agree with frequencies: fitted, cross-fitted, moved to another prevalence."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cxrnode.training.calibration import LEAST_SLOPE, Curve, cross_fitted, fit, gains, logits_of, moved
from cxrnode.training.prevalence import NIH

Floats = np.ndarray


def sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)))


def drawn(films: int = 4000, *, slope: float = 1.5, offset: float = -2.0, seed: int = 0) -> tuple[Floats, Floats]:
    """Scores whose true frequency is sigmoid(slope * logit + offset)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0.0, 1.0, films)
    truth = (random.random(films) < sigmoid(slope * logits + offset)).astype(float)
    return sigmoid(logits), truth


def test_the_curve_is_that_of_which_the_films_were_drawn() -> None:
    scores, truth = drawn(20_000)
    (curve,) = fit(scores[:, None], truth[:, None])
    assert (curve.slope, curve.offset) == pytest.approx((1.5, -2.0), abs=0.08)


def test_without_a_pull_the_curve_is_that_of_scikit_learn() -> None:
    scores, truth = drawn(3000)
    (curve,) = fit(scores[:, None], truth[:, None], freedom=1e6)
    theirs = LogisticRegression(C=np.inf, tol=1e-8).fit(logits_of(scores)[:, None], truth)
    # Platt's corrected targets move it by a few parts in ten thousand.
    assert (curve.slope, curve.offset) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=0.01)


def test_a_label_with_few_positives_takes_the_slope_of_the_others() -> None:
    first, other = drawn(4000), drawn(4000, seed=1)
    rare_scores, _ = drawn(4000, seed=2)
    rare = np.zeros(4000)
    rare[np.argsort(-rare_scores)[:4]] = 1.0  # four films, by chance those of the highest scores
    scores = np.stack([first[0], other[0], rare_scores], 1)
    truth = np.stack([first[1], other[1], rare], 1)
    slopes = [curve.slope for curve in fit(scores, truth)]
    assert slopes[0] == pytest.approx(1.5, abs=0.15)
    assert 1.5 < slopes[2] < 3.0, "alone it would be a step"


def test_a_score_that_is_the_wrong_way_round_is_not_turned() -> None:
    scores, truth = drawn(3000, slope=-2.0)
    (curve,) = fit(scores[:, None], truth[:, None])
    assert curve.slope == LEAST_SLOPE
    assert curve.apply(scores).mean() == pytest.approx(truth.mean(), abs=0.01)


def test_a_label_of_which_a_class_is_missing_keeps_its_scores() -> None:
    scores, truth = drawn(200)
    both = np.stack([scores, scores], 1)
    curves = fit(both, np.stack([truth, np.zeros(200)], 1))
    assert curves[1] == Curve() and curves[0] != Curve()
    assert gains(both, np.stack([truth, np.zeros(200)], 1), [str(i) for i in range(200)])[1] is None


def test_films_of_which_a_label_is_not_known_do_not_count_for_it() -> None:
    scores, truth = drawn(2000)
    hidden = np.where(np.arange(4000) < 2000, np.concatenate([truth, truth]), np.nan)
    some = fit(np.concatenate([scores, scores[::-1]])[:, None], hidden[:, None])
    assert some == fit(scores[:, None], truth[:, None])


def test_a_patient_is_never_calibrated_by_its_own_films() -> None:
    scores, truth = drawn(400)
    patients = [str(i // 4) for i in range(400)]
    before = cross_fitted(scores[:, None], truth[:, None], patients)
    turned = truth.copy()
    turned[:4] = 1 - turned[:4]
    after = cross_fitted(scores[:, None], turned[:, None], patients)
    assert np.array_equal(before[:4], after[:4])
    assert not np.array_equal(before[4:], after[4:])


def test_the_error_falls_on_patients_that_the_curve_has_not_seen() -> None:
    scores, truth = drawn(3000)
    (gain,) = gains(scores[:, None], truth[:, None], [str(i) for i in range(3000)])
    assert gain is not None
    assert gain.before > 0.2
    assert gain.after < 0.03


def test_scores_moved_to_another_prevalence_agree_with_the_films_there() -> None:
    """Three of four positives are taken away, and the other films stay as they are."""
    scores, truth = drawn(400_000)
    calibrated = sigmoid(1.5 * logits_of(scores) - 2.0)
    kept = (truth == 0) | (np.random.default_rng(5).random(len(truth)) < 0.25)
    there = moved(calibrated, truth.mean(), truth[kept].mean())[kept]
    for low, high in ((0.0, 0.02), (0.02, 0.1), (0.1, 0.4), (0.4, 1.0)):
        here = (there >= low) & (there < high)
        assert there[here].mean() == pytest.approx(truth[kept][here].mean(), abs=0.02)
    assert there.mean() == pytest.approx(truth[kept].mean(), abs=0.005)


def test_scores_of_exactly_nought_and_one_stay_finite() -> None:
    assert np.isfinite(Curve(slope=3.0, offset=2.0).apply(np.array([0.0, 1.0]))).all()


def test_the_published_counts_are_those_of_nih() -> None:
    assert NIH.films == 112_120
    assert NIH.of("Effusion") == pytest.approx(0.1188, abs=1e-4)
    assert NIH.of("No Finding") == NIH.of("No_Finding") == pytest.approx(0.5384, abs=1e-4)
    assert NIH.of("Tuberculosis") is None
    assert NIH.counts["Abnormal"] + NIH.counts["No_Finding"] == NIH.films
