"""A film unlike the training films lies far from them."""

from __future__ import annotations

import numpy as np
import pytest

from cxrnode.errors import BundleError
from cxrnode.reading.plausibility import CELLS, LEAST_CONTRAST, Cloud, Clouds, flatness, layouts_of


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


def both(seed: int) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(seed).normal(0, 1, (100, CELLS * CELLS)), films(100, seed)


def test_clouds_come_back_from_their_tensors_and_others_are_refused() -> None:
    layouts, features = both(0)
    clouds = Clouds(layout=Cloud.fit(layouts, 5), features=Cloud.fit(features, 3))
    back = Clouds.from_tensors(clouds.tensors(), 20)
    np.testing.assert_array_equal(back.distances(*both(1)), clouds.distances(*both(1)))
    with pytest.raises(BundleError, match="features does not fit vectors of 21"):
        Clouds.from_tensors(clouds.tensors(), 21)
    with pytest.raises(BundleError, match=r"missing or unknown: layout\.rest"):
        Clouds.from_tensors({k: t for k, t in clouds.tensors().items() if k != "layout.rest"}, 20)
    with pytest.raises(BundleError, match="layout has a deviation that is not above 0"):
        Clouds.from_tensors({**clouds.tensors(), "layout.rest": np.zeros(1, np.float32)}, 20)


def test_a_film_far_in_one_of_the_two_is_far() -> None:
    layouts, features = both(0)
    clouds = Clouds(layout=Cloud.fit(layouts, 5), features=Cloud.fit(features, 3))
    near = clouds.distances(layouts[:1], features[:1])[0]
    assert clouds.distances(layouts[:1] + 9, features[:1])[0] > 5 * near
    assert clouds.distances(layouts[:1], features[:1] + 9)[0] > 5 * near


def test_the_reference_puts_the_stated_share_of_good_films_beyond_one() -> None:
    plain = Cloud.fit(films(500, 0), 3)
    cloud = plain.beyond(plain.distances(films(200, 1)), 0.05)
    assert int((cloud.distances(films(200, 1)) > 1.0 + 1e-6).sum()) == 9
    assert cloud.distances(films(200, 1)).max() > 1.0


def test_a_layout_is_the_mean_of_cells_whatever_exposure_made_of_the_film() -> None:
    film = np.random.default_rng(0).random((1, 60, 44))
    (layout,) = layouts_of(film)
    assert layout.shape == (64,)
    assert layout.mean() == pytest.approx(0.0, abs=1e-9)
    assert int(layouts_of(np.kron(np.eye(8)[None], np.ones((5, 7))))[0].reshape(8, 8).argmax(1)[3]) == 3
    steps = np.kron(np.arange(64.0).reshape(1, 8, 8) / 64, np.ones((1, 6, 6)))
    np.testing.assert_allclose(layouts_of(steps), layouts_of(steps * 0.9 + 0.05), atol=0.05)
    np.testing.assert_allclose(np.diff(layouts_of(steps)[0]), np.diff(layouts_of(steps)[0])[0], rtol=1e-6)


def test_features_that_never_vary_do_not_make_a_division_by_nothing() -> None:
    assert np.isfinite(Cloud.fit(np.ones((10, 6)), 3).distances(np.ones((2, 6)))).all()


@pytest.mark.parametrize("contrast", [0.002, 0.03, LEAST_CONTRAST, 0.05, 0.2])
def test_flatness_is_the_least_contrast_over_that_of_the_film(contrast: float) -> None:
    steps = np.kron(np.resize([[1.0, -1.0], [-1.0, 1.0]], (CELLS, CELLS)), np.ones((10, 10)))
    told = flatness(layouts_of(0.5 + contrast * steps[None]))
    assert told == pytest.approx(LEAST_CONTRAST / contrast)


def test_an_empty_picture_is_as_flat_as_is_told() -> None:
    assert flatness(layouts_of(np.full((1, 40, 40), 0.5))) == pytest.approx(100.0)


def test_a_flat_film_is_far_where_it_lies_in_the_middle_of_both_clouds() -> None:
    layouts, features = both(0)
    clouds = Clouds(layout=Cloud.fit(layouts, 5), features=Cloud.fit(features, 3))
    flat, middle = np.zeros((1, CELLS * CELLS)), features.mean(0, keepdims=True)
    assert max(clouds.layout.distances(flat)[0], clouds.features.distances(middle)[0]) < 0.5
    assert clouds.distances(flat, middle)[0] == pytest.approx(100.0)
