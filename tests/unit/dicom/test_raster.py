"""Films made larger and smaller, and put into pictures: nothing is moved, on every processor it is the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cxrnode.dicom.outputs.drawing import AMBER, BLACK, SMALL, WHITE, Page
from cxrnode.dicom.raster import fitted, looked_up, put_grey, put_packed, scaled

#: Films (H, W) and sizes (width, height) to make of them: odd and even, smaller, larger, both at once.
CASES = [
    ((1024, 1024), (800, 800)),
    ((3000, 2500), (680, 816)),
    ((2999, 2501), (979, 1174)),
    ((1200, 1000), (1000, 1200)),
    ((512, 512), (256, 256)),
    ((513, 511), (300, 301)),
    ((400, 300), (900, 1200)),
    ((700, 40), (3, 60)),
    ((64, 64), (64, 64)),
]


def noise(shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_a_film_of_one_grey_stays_so_and_noise_keeps_its_mean(shape: tuple[int, int], size: tuple[int, int]) -> None:
    grey = scaled(np.full(shape, 137, np.uint8), size)
    assert (grey.shape, grey.min(), grey.max()) == ((size[1], size[0]), 137, 137)
    assert scaled(noise(shape), size).mean() == pytest.approx(noise(shape).mean(), abs=2.5)


@pytest.mark.parametrize(("shape", "size"), CASES)
def test_what_lies_somewhere_lies_there_at_any_size(shape: tuple[int, int], size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    down, across = (rows + 0.5) / shape[0], (columns + 0.5) / shape[1]
    for at in ((0.2, 0.7), (0.8, 0.3)):
        spot = np.exp(-(((down - at[0]) / 0.1) ** 2) - ((across - at[1]) / 0.1) ** 2)
        small = scaled((200 * spot).astype(np.uint8), size).astype(float)
        y, x = np.mgrid[0 : size[1], 0 : size[0]]
        centre = ((y + 0.5) * small).sum() / small.sum(), ((x + 0.5) * small).sum() / small.sum()
        assert centre == pytest.approx((at[0] * size[1], at[1] * size[0]), abs=0.3)


@pytest.mark.parametrize("smaller", [1.1, 1.28, 1.5, 1.75, 2.0, 2.6, 3.5])
def test_fine_lines_are_kept_and_lost_as_where_pillow_averages(smaller: float) -> None:
    """Lines finer than a pixel of the smaller film would come back as bands as wide as a rib."""
    size = (64, round(1000 / smaller))
    for lines in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5):  # a pixel
        wave = 127.5 + 100 * np.cos(2 * np.pi * lines * np.arange(1000) + 0.3)
        film = np.repeat(wave.astype(np.uint8)[:, None], round(64 * smaller), axis=1)
        pillow = np.asarray(Image.fromarray(film).resize(size, Image.Resampling.BILINEAR))
        left, theirs = (picture.mean(axis=1)[20:-20].std() / wave.std() for picture in (scaled(film, size), pillow))
        assert left == pytest.approx(theirs, abs=0.2), lines
        if lines * smaller > 1:
            assert left < 0.3, lines


@pytest.fixture
def plain_opencv() -> Iterator[None]:
    """OpenCV without the code that it has for this processor."""
    cv2.setUseOptimized(False)
    cv2.ipp.setUseIPP(False)
    try:
        yield
    finally:
        cv2.setUseOptimized(True)
        cv2.ipp.setUseIPP(True)


#: Over all CASES. Where it changes the same report gives other bytes: RENDERER must change with it.
DIGEST = "b77d5599fae63c48"


def test_the_pixels_are_those_of_every_processor() -> None:
    assert cases_digest() == DIGEST


@pytest.mark.usefixtures("plain_opencv")
def test_the_pixels_are_the_same_without_a_processors_own_instructions() -> None:
    assert not cv2.useOptimized()
    assert cases_digest() == DIGEST


def cases_digest() -> str:
    digest = hashlib.sha256()
    for shape, size in CASES:
        digest.update(scaled(noise(shape), size).tobytes())
    return digest.hexdigest()[:16]


def test_a_film_and_colours_come_into_their_place_and_nowhere_else() -> None:
    picture = np.zeros((60, 80, 3), np.uint8)
    film = noise((20, 30))
    put_grey(picture[10:30, 40:70], film)
    assert np.array_equal(picture[10:30, 40:70], np.repeat(film[..., None], 3, axis=2))
    colours = np.random.default_rng(3).integers(0, 256, (15, 25, 4), np.uint8)
    put_packed(picture[40:55, 5:30], colours)
    assert np.array_equal(picture[40:55, 5:30], colours[..., :3])
    picture[10:30, 40:70] = picture[40:55, 5:30] = 0
    assert not picture.any()


def test_what_does_not_fit_its_place_is_refused() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    with pytest.raises(ValueError, match="do not fit"):
        put_grey(picture[:5], np.zeros((6, 10), np.uint8))
    put_grey(picture[5:5], np.zeros((0, 10), np.uint8))  # nothing into nothing


def test_a_box_is_filled_from_edge_to_edge_whatever_the_film() -> None:
    assert fitted((100, 200), 50, 50) == (50, 25)
    assert fitted((200, 100), 50, 50) == (25, 50)
    assert fitted((5000, 2), 50, 50) == (1, 50)


def test_what_reaches_over_the_edge_of_a_page_is_cut_off() -> None:
    page, film = Page(40, 30), np.full((20, 20, 3), 9, np.uint8)
    page.put(-5, -5, film)
    page.put(30, 20, film)
    page.put(100, 100, film)
    page.fill(-9, 28, 99, 99, AMBER)
    shown = np.asarray(page.image)
    assert (shown[:15, :15] == 9).all() and (shown[20:28, 30:] == 9).all() and (shown[28:] == AMBER).all()
    assert not shown[:15, 15:].any() and not shown[15:20].any() and not shown[20:28, :30].any()


def test_a_badge_is_its_ground_with_round_corners_on_black_and_its_text() -> None:
    page = Page(400, 60)
    page.badge(10, 8, "PRESENT", SMALL, ink=BLACK, ground=AMBER)
    shown = np.asarray(page.image)
    rows, columns = np.flatnonzero(shown.any(axis=(1, 2))), np.flatnonzero(shown.any(axis=(0, 2)))
    plate = shown[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert not plate[0, 0].any() and (plate[0, plate.shape[1] // 2] == AMBER).all()
    assert (plate == 0).all(axis=2)[6:-6, 6:-6].sum() > 100  # letters
    (placed,) = page.placed
    assert (placed.text, placed.ink, placed.ground) == ("PRESENT", BLACK, AMBER)
    assert columns[0] <= placed.box[0] and placed.box[2] <= columns[-1] + 1


def test_a_text_on_a_ground_of_its_own_leaves_that_ground_between_its_letters() -> None:
    page = Page(200, 50)
    page.fill(0, 0, 200, 50, WHITE)
    page.text(10, 10, "Effusion", SMALL, BLACK, WHITE)
    shown = np.asarray(page.image).reshape(-1, 3)
    assert shown.max(axis=0).tolist() == list(WHITE)
    assert shown.min() == 0


def test_opencv_computes_in_the_thread_that_asks() -> None:
    scaled(noise((64, 64)), (32, 32))
    assert cv2.getNumThreads() == 1


@pytest.mark.parametrize("shape", [(4299, 3501), (999, 1001), (2047, 2049), (4095, 4095)])
def test_what_is_odd_moves_nothing_from_edge_to_edge(shape: tuple[int, int]) -> None:
    size = (shape[1] * 1000 // max(shape) // 2, shape[0] * 1000 // max(shape) // 2)
    for axis in (0, 1):
        edge = round(0.98 * shape[axis])
        film = np.zeros(shape, np.uint8)
        film[(slice(None),) * axis + (slice(edge, None),)] = 200
        small = scaled(film, size)
        beyond = small.mean(axis=1 - axis).sum() / 200
        assert beyond == pytest.approx((1 - edge / shape[axis]) * small.shape[axis], abs=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (128, 256), (181, 181), (300, 437), (1, 0)])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("kind", [np.uint8, np.uint32])
def test_a_table_is_looked_up(shape: tuple[int, int], bits: int, kind: type[np.unsignedinteger[Any]]) -> None:
    rng = np.random.default_rng(1)
    table = rng.integers(0, np.iinfo(kind).max, 1 << bits, kind, endpoint=True)
    numbers = rng.integers(0, 1 << bits, shape, np.uint16, endpoint=False)
    np.testing.assert_array_equal(looked_up(table, numbers), table[numbers])
    turned = numbers.T  # a decoder may give what is not contiguous
    np.testing.assert_array_equal(looked_up(table, turned), table[turned])
    room = np.zeros(numbers.size + 5, kind)
    shown = looked_up(table, numbers, room)
    assert shown.base is not None and np.shares_memory(shown, room) is (numbers.size > 0)
    np.testing.assert_array_equal(room, [*table[numbers].ravel(), 0, 0, 0, 0, 0])


def test_what_lies_past_a_table_is_nothing() -> None:
    numbers = np.array([[0, 3, 4, 65535]], np.uint16)
    assert looked_up(np.array([9, 8, 7, 6], np.uint8), numbers).tolist() == [[9, 6, 0, 0]]
