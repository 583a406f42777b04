"""Maps against boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrnode.reading.explain import Method
from cxrnode.reading.manifest import Input
from cxrnode.training.localisation import SIDE, Boxed, judge, locate, read_boxes
from cxrnode.training.readers import BadList, FilmRow
from tests.unit.reading.conftest import network


def film(image: str) -> FilmRow:
    return FilmRow(row=1, image=image, path=Path(image), patient="1", findings=(1,))


def box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[int(top * SIDE) : int(bottom * SIDE), int(left * SIDE) : int(right * SIDE)] = True
    return mask


def spot(row: int, column: int) -> np.ndarray:
    map_ = np.zeros((7, 7), np.float32)
    map_[row, column] = 2.0
    return map_


def test_a_peak_inside_the_box_is_a_hit_and_one_beside_it_is_none() -> None:
    upper_left = box(0, 0, 2 / 7, 2 / 7)
    assert [judge(spot(0, 0), upper_left)[0], judge(spot(1, 1), upper_left)[0]] == [1.0, 1.0]
    assert [judge(spot(0, 5), upper_left)[0], judge(spot(5, 0), upper_left)[0]] == [0.0, 0.0]


def test_the_overlap_is_that_of_the_map_at_half_of_its_peak() -> None:
    half = np.zeros((SIDE, SIDE), np.float32)
    half[:, : SIDE // 2] = 1.0
    half[:, SIDE // 2 :] = 0.4
    assert judge(half, box(0, 0, 0.5, 1))[1] == 1.0
    assert judge(half, box(0, 0, 1, 1))[1] == pytest.approx(0.5)
    assert judge(half, box(0.5, 0, 1, 1))[1] == 0.0


def test_a_map_of_nothing_hits_nothing_and_is_counted() -> None:
    assert judge(np.zeros((7, 7), np.float32), box(0, 0, 1, 1)) == (0.0, 0.0, True)


def boxes(folder: Path, rows: str, head: str = "image,finding,x,y,w,h\n") -> Path:
    path = folder / "boxes.csv"
    path.write_text(head + rows)
    return path


def test_boxes_of_a_film_and_finding_are_taken_together(tmp_path: Path) -> None:
    path = boxes(tmp_path, "a,Mass,0,0,512,1024\na,Mass,512,0,512,512\na,Hernia,0,0,9,9\nz,Mass,0,0,9,9\n")
    (only,) = read_boxes(path, [film("a"), film("b")], ["Mass"])
    assert (only.film.image, only.finding, only.mask.mean()) == ("a", "Mass", 0.75)


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        ("image,finding,x,y,w\n", "a,Mass,0,0,9\n", r"boxes\.csv: no column h"),
        ("image,finding,x,y,w,h\n", "a,Mass,0,0,9,tall\n", "row 1: x, y, w and h are not all numbers"),
        ("image,finding,x,y,w,h\n", "a,Mass,2000,0,9,9\n", "row 1: the box lies outside a film of 1024 pixels"),
        ("image,finding,x,y,w,h\n", "z,Mass,0,0,9,9\n", "none of its boxes lies on a film of --data"),
    ],
)
def test_boxes_that_cannot_be_used_are_named(tmp_path: Path, head: str, rows: str, message: str) -> None:
    with pytest.raises(BadList, match=message):
        read_boxes(boxes(tmp_path, rows, head), [film("a")], ["Mass"])


def test_each_way_is_told_beside_the_centre_and_chance() -> None:
    whole, middle = box(0, 0, 1, 1), box(0.4, 0.4, 0.6, 0.6)
    boxed = [
        Boxed(film=film("a"), finding="Mass", mask=whole),
        Boxed(film=film("b"), finding="Mass", mask=middle),
        Boxed(film=film("c"), finding="Hernia", mask=whole),
    ]
    given = Input(size=64, channels=3, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3)
    random = np.random.default_rng(0)
    done = []
    found = locate(
        boxed,
        network(2),
        given,
        ("Hernia", "Mass"),
        [Method.GRADCAM],
        opened=lambda path: random.integers(0, 256, (80, 80), np.uint8),
        done=lambda: done.append(1),
    )
    by_name = {(one.finding, one.method): one for one in found}
    assert sorted(by_name) == [(f, m) for f in ("Hernia", "Mass") for m in ("centre", "gradcam", "random")]
    assert (len(done), by_name["Mass", "centre"].films) == (3, 2)
    assert (by_name["Mass", "centre"].pointing.count, by_name["Hernia", "gradcam"].pointing.count) == (2, 1)
    # By chance a whole film is always hit, a twenty-fifth of it hardly ever.
    assert by_name["Mass", "random"].pointing.count == 1
