"""The brushes: the path lengths that they say they draw."""

import math

import numpy as np
import pytest

from cxrnode.phantom.canvas import Canvas, Plane, resized, softened, union

CANVAS = Canvas(rows=200, cols=160, pitch=0.1, left=-8.0, top=0.0)


def points(*values: float) -> Plane:
    return np.asarray(values, dtype=np.float32)


def volume(plane: Plane) -> float:
    return float(plane.sum()) * CANVAS.pitch**2


def test_an_ellipsoid_holds_its_volume_however_it_is_tilted() -> None:
    expected = 4 / 3 * math.pi * 3 * 2 * 1.5
    for tilt in (0.0, 0.7, 2.0):
        assert volume(CANVAS.ellipsoid(0, 10, 3, 2, 3.0, tilt=tilt)) == pytest.approx(expected, rel=0.01)


def test_a_capsule_holds_a_cylinder_and_two_half_spheres() -> None:
    expected = math.pi * 1.5**2 * 6 + 4 / 3 * math.pi * 1.5**3
    assert volume(CANVAS.capsule((-3, 10), (3, 10), 1.5, 1.5)) == pytest.approx(expected, rel=0.01)


def test_splatted_points_keep_their_mass_and_those_outside_are_lost() -> None:
    plane = CANVAS.empty()
    CANVAS.splat(plane, points(0.03, 2.2, 50), points(5.07, 9.9, 5), points(1, 2, 4))
    assert volume(plane) == pytest.approx(3.0, rel=1e-5)
    centre = (plane * CANVAS.x).sum() / plane.sum()
    assert centre == pytest.approx((0.03 + 2 * 2.2) / 3, abs=1e-4)


def test_points_that_all_lie_outside_change_nothing() -> None:
    plane = CANVAS.empty()
    CANVAS.splat(plane, points(99), points(5), points(1))
    assert plane.sum() == 0


def test_a_window_is_cut_to_the_canvas() -> None:
    assert CANVAS.window(-99, -99, 99, 99) == (slice(0, 200), slice(0, 160))
    assert CANVAS.window(50, 50, 60, 60) == (slice(200, 200), slice(160, 160))


def test_the_union_of_tissues_is_at_least_the_thicker_and_less_than_both() -> None:
    a, b = np.full((2, 2), 3, np.float32), np.full((2, 2), 2, np.float32)
    assert 3 < union(a, b).max() < 5


def test_softening_keeps_what_is_flat_and_resizing_keeps_the_mean() -> None:
    flat = np.full((30, 20), 4, np.float32)
    assert np.array_equal(softened(flat, 3), flat)
    assert resized(CANVAS.ellipsoid(0, 10, 3, 2, 3.0), 100, 80).mean() == pytest.approx(
        float(CANVAS.ellipsoid(0, 10, 3, 2, 3.0).mean()), rel=1e-3
    )
