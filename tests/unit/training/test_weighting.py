"""What films weigh: by frequency, balanced, within each origin, and with both kinds of negatives."""

from __future__ import annotations

import numpy as np
import pytest

from cxrnode.training.recipe import Loss
from cxrnode.training.weighting import FEWEST, weights_of

LABELS = ("Effusion", "Mass")


def truths(count: int = 400) -> tuple[np.ndarray, list[str]]:
    """Effusion on a tenth of origin a and on half of b; Mass on a fifth of all."""
    random = np.random.default_rng(1)
    origins = ["a" if i % 2 else "b" for i in range(count)]
    share = np.where(np.array(origins) == "a", 0.1, 0.5)
    return np.stack([random.random(count) < share, random.random(count) < 0.2], 1).astype(np.float32), origins


def test_by_frequency_a_positive_weighs_the_share_of_negatives() -> None:
    truth, origins = truths()
    weights = weights_of(truth, LABELS, origins, Loss(weighting="frequency"))
    share = truth.mean(0)
    assert weights[truth[:, 0] == 1, 0] == pytest.approx(1 - share[0])
    assert weights[truth[:, 0] == 0, 0] == pytest.approx(share[0])
    assert weights[truth[:, 0] == 1, 0].sum() == pytest.approx(weights[truth[:, 0] == 0, 0].sum(), rel=1e-4)


def test_balanced_within_each_origin_both_sides_weigh_the_same_there() -> None:
    truth, origins = truths()
    weights = weights_of(truth, LABELS, origins, Loss(weighting="balanced", within_origin=True))
    for origin in "ab":
        here = np.array(origins) == origin
        positive = truth[:, 0] == 1
        assert weights[here & positive, 0].sum() == pytest.approx(weights[here & ~positive, 0].sum(), rel=1e-4)
        assert weights[here, 0].mean() == pytest.approx(1, rel=1e-4)


def test_no_positive_weighs_more_than_the_most() -> None:
    truth = np.zeros((1000, 1), np.float32)
    truth[:2] = 1
    weights = weights_of(truth, ("Hernia",), ["a"] * 1000, Loss(weighting="balanced", most=10))
    assert weights[0, 0] / weights[-1, 0] == pytest.approx(10)


def test_stratified_the_stated_share_of_the_negatives_lies_on_films_with_other_findings() -> None:
    truth, origins = truths()
    weights = weights_of(truth, LABELS, origins, Loss(weighting="stratified", others=0.6))
    negative = truth[:, 0] == 0
    other, normal = negative & (truth[:, 1] == 1), negative & (truth[:, 1] == 0)
    whole = weights[negative, 0].sum()
    assert weights[other, 0].sum() / whole == pytest.approx(0.6, rel=1e-4)
    assert weights[normal, 0].sum() / whole == pytest.approx(0.4, rel=1e-4)
    assert weights[truth[:, 0] == 1, 0].sum() == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("kind", ["none", "frequency", "given", "balanced", "stratified"])
def test_what_is_not_known_weighs_nothing(kind: str) -> None:
    truth, origins = truths()
    truth[::3, 0] = np.nan
    weights = weights_of(truth, LABELS, origins, Loss(within_origin=True), kind)
    assert (weights[::3, 0] == 0).all()
    assert (weights[1::3] > 0).all() and np.isfinite(weights).all()


def test_a_handful_of_films_of_an_origin_is_counted_with_the_largest() -> None:
    truth, origins = truths()
    few = [*origins[:-3], "c", "c", "c"]
    assert FEWEST > 3
    loss = Loss(weighting="balanced", within_origin=True)
    weights = weights_of(truth, LABELS, few, loss)
    assert weights.max() <= loss.most and (weights > 0).all()


def test_given_weights_are_one_for_all_labels_or_one_each() -> None:
    truth, origins = truths()
    weights = weights_of(truth, LABELS, origins, Loss(weighting="given", positive=(2.0, 5.0), negative=(0.5,)))
    assert set(weights[:, 0]) == {2.0, 0.5}
    assert set(weights[:, 1]) == {5.0, 0.5}
