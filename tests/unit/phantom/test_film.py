"""The drawn film: the same from its seed, in the range of real films, and changed where its finding is."""

import numpy as np
import numpy.typing as npt
import pytest

from cxrnode.phantom.anatomy import FILM_HEIGHT, PhantomFinding, plan
from cxrnode.phantom.film import MAXIMUM, draw_film, mark

ROWS, COLS = 400, 340
SEEDS = (0, 7, 31)


def changed(seed: int, finding: PhantomFinding) -> npt.NDArray[np.float64]:
    """How much brighter the finding makes each pixel, float64 (ROWS, COLS), in parts of the whole range."""
    ill = draw_film(seed, finding, ROWS, COLS).astype(float)
    return (ill - draw_film(seed, None, ROWS, COLS)) / MAXIMUM


def region(seed: int, finding: PhantomFinding, margin: float) -> npt.NDArray[np.bool_]:
    """The box of the finding on the film, `margin` cm wider, turned and magnified as the film was."""
    body = plan(seed, finding, "PA")
    box = body.region()
    assert box is not None
    pitch = FILM_HEIGHT / ROWS
    v, u = np.mgrid[:ROWS, :COLS]
    x = (u + 0.5) * pitch - COLS * pitch / 2 - body.shift
    y = (v + 0.5) * pitch - FILM_HEIGHT / 2
    c, s = np.cos(body.rotation) / body.scale, np.sin(body.rotation) / body.scale
    x, y = c * x + s * y, c * y - s * x + FILM_HEIGHT / 2
    inside: npt.NDArray[np.bool_] = (
        (x > box[0] - margin) & (x < box[2] + margin) & (y > box[1] - margin) & (y < box[3] + margin)
    )
    return inside


def test_the_same_seed_draws_the_same_film_whatever_the_global_random_state() -> None:
    np.random.seed(1)
    first = draw_film(5, PhantomFinding.NODULE, ROWS, COLS)
    np.random.seed(2)
    assert draw_film(5, PhantomFinding.NODULE, ROWS, COLS).tobytes() == first.tobytes()


def test_drawing_leaves_the_global_random_state_alone() -> None:
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    draw_film(5, None, 128, 100)
    assert expected == np.random.random()


def test_every_seed_finding_and_view_draws_another_film() -> None:
    films = [
        draw_film(seed, finding, 128, 100, view).tobytes()
        for seed in (0, 1)
        for finding in (None, *PhantomFinding)
        for view in ("PA", "AP")
    ]
    assert len(films) == len(set(films))


@pytest.mark.parametrize(("rows", "cols"), [(400, 340), (340, 400), (512, 512), (1201, 983)])
def test_a_film_has_the_size_asked_for_and_twelve_bits(rows: int, cols: int) -> None:
    film = draw_film(1, None, rows, cols)
    assert ((rows, cols), np.dtype(np.uint16)) == (film.shape, film.dtype)
    assert film.max() <= MAXIMUM


@pytest.mark.parametrize("finding", [None, *PhantomFinding])
def test_grey_levels_lie_where_those_of_nih_films_do(finding: PhantomFinding | None) -> None:
    for seed in SEEDS:
        film = draw_film(seed, finding, 512, 512) / MAXIMUM
        assert 0.40 < film.mean() < 0.68
        assert 0.17 < film.std() < 0.33


def test_a_large_film_shows_what_a_small_one_shows() -> None:
    small, large = draw_film(4, None, 480, 400), draw_film(4, None, 1920, 1600)
    shrunk = large.reshape(480, 4, 400, 4).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("finding", [PhantomFinding.NODULE, PhantomFinding.EFFUSION, PhantomFinding.PNEUMOTHORAX])
def test_a_finding_changes_the_film_in_its_region_and_little_elsewhere(finding: PhantomFinding, seed: int) -> None:
    change, inside = np.abs(changed(seed, finding)), region(seed, finding, 1.0)
    assert change[inside].mean() > 8 * change[~inside].mean()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_nodule_and_an_effusion_are_brighter_than_lung_and_a_pneumothorax_is_darker(seed: int) -> None:
    for finding in (PhantomFinding.NODULE, PhantomFinding.EFFUSION):
        assert changed(seed, finding)[region(seed, finding, 0)].mean() > 0.03
    change = changed(seed, PhantomFinding.PNEUMOTHORAX)[region(seed, PhantomFinding.PNEUMOTHORAX, 0)]
    assert np.percentile(change, 5) < -0.06


@pytest.mark.parametrize("seed", SEEDS)
def test_the_side_of_a_finding_comes_from_the_seed(seed: int) -> None:
    for finding in (PhantomFinding.NODULE, PhantomFinding.EFFUSION, PhantomFinding.PNEUMOTHORAX):
        change = np.abs(changed(seed, finding))
        right, left = change[:, : COLS // 2].sum(), change[:, COLS // 2 :].sum()
        assert (left > right) == (plan(seed, finding, "PA").side > 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_cardiomegaly_has_a_heart_wider_than_half_the_thorax(seed: int) -> None:
    assert plan(seed, PhantomFinding.CARDIOMEGALY, "PA").ratio > 0.55
    assert plan(seed, PhantomFinding.CARDIOMEGALY, "AP").ratio > 0.55
    assert plan(seed, None, "PA").ratio < 0.50
    change, inside = changed(seed, PhantomFinding.CARDIOMEGALY), region(seed, PhantomFinding.CARDIOMEGALY, 1.0)
    assert change[inside].mean() > 0.03
    assert abs(change[~inside].mean()) < 0.02


def test_the_same_seed_is_the_same_person_with_and_without_a_finding() -> None:
    healthy, ill = plan(9, None, "PA"), plan(9, PhantomFinding.EFFUSION, "PA")
    assert (healthy.thorax, healthy.apex, healthy.rotation) == (ill.thorax, ill.apex, ill.rotation)


def test_a_mark_is_white_in_the_upper_right_corner_and_nowhere_else() -> None:
    film = draw_film(2, None, 500, 420)
    marked = mark(film, ("L", "SYNTHETIC"))
    rows, cols = np.nonzero(marked != film)
    assert (rows.max() < 100, cols.min() > 280) == (True, True)
    assert marked.max() > 0.9 * MAXIMUM


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="64 x 64"):
        draw_film(0, None, 63, 400)
    with pytest.raises(ValueError, match="twice as wide"):
        draw_film(0, None, 100, 201)
    with pytest.raises(ValueError, match="negative"):
        draw_film(-1)
