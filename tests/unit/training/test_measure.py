"""What is measured on held-out films, checked by counting."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cxrnode.core.findings import NIH14
from cxrnode.training.concepts import CONCEPTS
from cxrnode.training.measure import auc, auc_within, map_scale, operating_points


def by_counting(scores: np.ndarray, truth: np.ndarray) -> float:
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[truth == 1] for n in scores[truth == 0]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("seed", range(5))
def test_the_auc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores, truth = random.integers(0, 12, 80) / 12, random.integers(0, 2, 80).astype(float)
    assert auc(scores, truth) == pytest.approx(by_counting(scores, truth), abs=1e-12)


def test_the_auc_of_one_class_is_not_a_number() -> None:
    assert math.isnan(auc(np.array([0.1, 0.2]), np.array([1.0, 1.0])))


def test_the_auc_within_an_origin_is_blind_to_what_the_origin_alone_tells() -> None:
    """Here the score is the origin and nothing else, and the finding is commoner in one of them."""
    origins = ["a"] * 50 + ["b"] * 50
    scores = np.array([0.9] * 50 + [0.1] * 50)
    truth = np.array([1] * 40 + [0] * 10 + [1] * 5 + [0] * 45, float)
    assert auc(scores, truth) > 0.8
    assert auc_within(scores, truth, origins) == pytest.approx(0.5)


def test_operating_points_reach_their_aims_and_no_more_than_needed() -> None:
    random = np.random.default_rng(1)
    truth = (random.random(1000) < 0.2).astype(float)
    scores = 1 / (1 + np.exp(-random.normal(truth, 1.0)))
    points = operating_points(scores, truth, sensitivity=0.95, specificity=0.95)
    sensitivity = (scores[truth == 1] >= points.rule_out).mean()
    specificity = (scores[truth == 0] < points.rule_in).mean()
    one_film = 1 / (truth == 1).sum()
    assert 0.95 <= sensitivity < 0.95 + one_film + 1e-9
    assert 0.95 <= specificity < 0.95 + 2 / (truth == 0).sum()
    assert points.rule_out < points.rule_in


def test_a_model_too_good_for_doubt_takes_one_point() -> None:
    scores, truth = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9]), np.array([0.0, 0, 0, 1, 1, 1])
    points = operating_points(scores, truth, sensitivity=0.95, specificity=0.95)
    assert (points.rule_out, points.rule_in) == (0.7, 0.7)


def test_no_threshold_lies_above_the_highest_score_there_can_be() -> None:
    """A film without the finding that scores 1: specificity cannot be kept, and a score of 1 is present."""
    scores, truth = np.array([0.2, 1.0, 1.0, 1.0]), np.array([1.0, 0, 0, 1])
    assert operating_points(scores, truth, sensitivity=0.95, specificity=0.95).rule_in == 1.0


def test_the_floor_of_a_map_is_what_films_without_the_finding_show() -> None:
    maps = np.concatenate([np.linspace(0, 1, 100).reshape(4, 5, 5), np.linspace(0, 10, 100).reshape(4, 5, 5)])
    scale = map_scale(maps, np.array([0.0] * 4 + [1.0] * 4), floor=90, ceiling=100)
    assert scale == pytest.approx((0.9, 10.0))


def test_the_floor_of_a_map_leaves_at_least_half_of_the_scale() -> None:
    maps = np.concatenate([np.full((3, 2, 2), 5.0), np.full((3, 2, 2), 6.0)])
    assert map_scale(maps, np.array([0.0] * 3 + [1.0] * 3), floor=95, ceiling=99.9) == (3.0, 6.0)
    assert map_scale(np.zeros((4, 2, 2)), np.array([0.0, 0, 1, 1]), floor=95, ceiling=99.9) == (0.0, 1.0)


def test_every_label_has_its_own_concept_and_the_codes_are_pinned() -> None:
    assert tuple(CONCEPTS) == (*NIH14, "Abnormal")
    codes = {label: f"{concept.scheme} {concept.value}" for label, concept in CONCEPTS.items()}
    assert len(set(codes.values())) == 15
    # Those that stand in PS3.16 context groups.
    assert codes["Effusion"] == "SCT 60046008"
    assert codes["Edema"] == "SCT 19242006"
    assert codes["Pneumothorax"] == "SCT 36118008"
    assert codes["Infiltration"] == "DCM 112121"
    assert codes["Pleural_Thickening"] == "99CXRNODE PLEURAL_THICKENING"
