"""The explanation of a film: which findings, which pictures, what must be said on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cxrnode.core.findings import Plausibility
from cxrnode.reading.bundle import load_bundle, write_bundle
from cxrnode.reading.explain import Method
from cxrnode.reading.network import weights_of
from cxrnode.reading.oracle import made_films
from cxrnode.training.explanation import (
    PICTURE,
    Explained,
    Explanation,
    UnknownFinding,
    explain_film,
    picture,
    regions,
    sheet,
)
from tests.unit.reading.conftest import LABELS, card, clouds, network

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded


def spot(row: int, column: int) -> np.ndarray:
    map_ = np.zeros((8, 8), np.float32)
    map_[row, column] = 3.0
    return map_


def explanation(*maps: np.ndarray, plausible: bool = True, demonstration: bool = True) -> Explanation:
    return Explanation(
        model="tiny 1 (abc)",
        demonstration=demonstration,
        scale="score",
        plausibility=Plausibility(distance=0.5 if plausible else 3.0, limit=1.0),
        findings=(Explained(finding="Mass", score=0.5, maps=dict(zip(Method, maps, strict=False))),),
    )


FILM = np.full((300, 200), 90, np.uint8)


def test_the_highest_scores_are_explained_unless_others_are_named(tmp_path: Path) -> None:
    write_bundle(tmp_path / "tiny", card(), weights_of(network(len(LABELS))), clouds().tensors())
    bundle = load_bundle(tmp_path / "tiny")
    film = made_films(64)[-1]
    found = explain_film(bundle, film, [Method.GRADCAM, Method.GRADCAM_PLUS_PLUS], most=2, threads=1)
    scores = [one.score for one in found.findings]
    assert (len(scores), scores) == (2, sorted(scores, reverse=True))
    assert [list(one.maps) for one in found.findings] == [[Method.GRADCAM, Method.GRADCAM_PLUS_PLUS]] * 2
    named = explain_film(bundle, film, [Method.GRADCAM], ["Hernia"], threads=1)
    assert [one.finding for one in named.findings] == ["Hernia"]
    with pytest.raises(UnknownFinding, match="no finding Herna, only Effusion, Mass, Hernia"):
        explain_film(bundle, film, [Method.GRADCAM], ["Herna"], threads=1)


def test_regions_are_the_fullest_cells() -> None:
    map_ = 3 * spot(2, 5) + spot(7, 0)
    first, second = (regions(map_)[0], regions(spot(7, 0))[0])
    assert (first.left, first.top, first.right, first.bottom) == (5 / 8, 2 / 8, 6 / 8, 3 / 8)
    assert (second.left, second.top) == (0.0, 7 / 8)
    assert len(regions(map_)) == 5
    assert regions(np.zeros((7, 7), np.float32)) == ()


def test_the_map_is_drawn_where_it_lies_and_nowhere_else() -> None:
    found = explanation(spot(1, 6))
    drawn = np.asarray(picture(FILM, found, found.findings[0], Method.GRADCAM)).astype(int)
    left = (drawn.shape[1] - 200) // 2
    film = drawn[:300, left : left + 200]
    colour = film.max(2) - film.min(2)
    assert colour[50:62, 158:168].mean() > 60
    assert colour[150:, :100].max() == 0


@pytest.mark.parametrize("cells", [7, 8, 10, 56, 300])
def test_a_map_of_any_grid_is_drawn_where_it_lies(cells: int) -> None:
    """Grids of 224, 299 and 320 pixels, of a network that pools less, and of the methods that work on pixels."""
    for row, column in ((0.5, 0.5), (0.22, 0.8)):
        map_ = np.zeros((cells, cells), np.float32)
        map_[int(row * cells), int(column * cells)] = 3.0
        if cells > 10:  # a cell of few pixels is lost in drawing: an area is what such methods give
            y, x = np.mgrid[0.5 / cells : 1 : 1 / cells, 0.5 / cells : 1 : 1 / cells]
            map_ = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 0.005).astype(np.float32)
        found = explanation(map_)
        drawn = np.asarray(picture(FILM, found, found.findings[0], Method.GRADCAM)).astype(int)
        left = (drawn.shape[1] - 200) // 2
        film = drawn[:300, left : left + 200]
        colour = (film.max(2) - film.min(2)).astype(float)
        y, x = np.mgrid[0:300, 0:200] + 0.5
        middle = ((colour * y).sum() / colour.sum() / 300, (colour * x).sum() / colour.sum() / 200)
        where = (row, column) if cells > 10 else ((int(row * cells) + 0.5) / cells, (int(column * cells) + 0.5) / cells)
        assert middle == pytest.approx(where, abs=0.03)


def test_the_regions_of_lime_are_outlined_and_numbered_and_those_of_others_are_not() -> None:
    map_ = 3 * spot(2, 5) + 2 * spot(6, 1)
    found = dataclasses.replace(
        explanation(),
        findings=(Explained(finding="Mass", score=0.5, maps={Method.LIME: map_, Method.OCCLUSION: map_}),),
    )
    lime, occlusion = (picture(FILM, found, found.findings[0], method) for method in found.findings[0].maps)
    left = (lime.width - 200) // 2
    differs = (np.asarray(lime)[:300, left : left + 200] != np.asarray(occlusion)[:300, left : left + 200]).any(2)
    # Both cells that hold the map; nothing where it is empty.
    assert differs[75:113, 125:150].any() and differs[225:263, 25:50].any()
    assert not differs[:30].any() and not differs[130:190, :].any()
    assert lime.height > occlusion.height, "their shares are said below"


def test_an_empty_map_leaves_the_film_as_it_is() -> None:
    found = explanation(np.zeros((7, 7), np.float32))
    drawn = np.asarray(picture(FILM, found, found.findings[0], Method.GRADCAM))
    left = (drawn.shape[1] - 200) // 2
    assert set(drawn[:300, left : left + 200].reshape(-1).tolist()) == {90}


def test_what_must_be_said_takes_lines_of_its_own() -> None:
    heights = [
        picture(FILM, found, found.findings[0], Method.GRADCAM).height
        for found in (
            explanation(spot(1, 1), demonstration=False),
            explanation(spot(1, 1)),
            explanation(spot(1, 1), plausible=False),
        )
    ]
    assert heights == sorted(set(heights))


def test_a_large_film_is_shrunk_and_a_sheet_has_a_column_for_each_method() -> None:
    film = np.zeros((3000, 2000), np.uint8)
    found = explanation(spot(1, 1), spot(2, 2), spot(3, 3), plausible=False)
    assert picture(film, found, found.findings[0], Method.GRADCAM).height < PICTURE + 300
    one = sheet(film, dataclasses.replace(found, findings=found.findings * 2))
    less = sheet(film, explanation(spot(1, 1), spot(2, 2)))
    assert (one.width > less.width, one.height > less.height) == (True, True)
