"""A film unlike the training films lies far from them."""

from __future__ import annotations

import numpy as np
import pytest

from cxrnode.errors import BundleError
from cxrnode.reading.plausibility import Cloud


def films(count: int, seed: int) -> np.ndarray:
    """Features that vary widely along two directions, a little along the others."""
    random = np.random.default_rng(seed)
    spread = np.full(20, 0.1)
    spread[:2] = 5.0
    return np.asarray(random.normal(1.0, 1.0, (count, 20)) * spread)


def test_films_like_those_of_the_training_lie_at_about_one() -> None:
    distances = Cloud.fit(films(2000, 0), 4).distances(films(500, 1))
    assert float((distances**2).mean()) == pytest.approx(1.0, abs=0.1)


def test_a_step_is_judged_by_how_much_films_vary_in_its_direction() -> None:
    cloud = Cloud.fit(films(2000, 0), 2)
    usual, unusual = np.zeros((1, 20)), np.zeros((1, 20))
    usual[0, 0], unusual[0, 10] = 5.0, 5.0
    near, far = cloud.distances(cloud.mean + usual)[0], cloud.distances(cloud.mean + unusual)[0]
    assert near == pytest.approx(np.sqrt(1 / 20), rel=0.1)
    assert far > 40 * near


def test_the_distance_is_mahalanobis_where_every_direction_is_kept() -> None:
    features = films(500, 3)[:, :5]
    cloud = Cloud.fit(features, 4)  # four components and one rest are all five directions
    away = films(20, 4)[:, :5] - features.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(np.cov(features.T)), away) / 5)
    np.testing.assert_allclose(cloud.distances(films(20, 4)[:, :5]), expected, rtol=1e-3)


def test_a_cloud_comes_back_from_its_tensors_and_refuses_others() -> None:
    cloud = Cloud.fit(films(100, 0), 3)
    back = Cloud.from_tensors(cloud.tensors(), 20)
    np.testing.assert_array_equal(back.distances(films(9, 1)), cloud.distances(films(9, 1)))
    with pytest.raises(BundleError, match="do not fit 21 features"):
        Cloud.from_tensors(cloud.tensors(), 21)
    with pytest.raises(BundleError, match="must hold mean, components, deviation, rest"):
        Cloud.from_tensors({"mean": cloud.mean}, 20)
    with pytest.raises(BundleError, match="a deviation is not above 0"):
        Cloud.from_tensors({**cloud.tensors(), "rest": np.zeros(1, np.float32)}, 20)


def test_features_that_never_vary_do_not_make_a_division_by_nothing() -> None:
    assert np.isfinite(Cloud.fit(np.ones((10, 6)), 3).distances(np.ones((2, 6)))).all()
