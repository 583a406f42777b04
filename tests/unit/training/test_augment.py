"""Variations of films follow their seed, keep shape and range, and do what they are named after."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cxrnode.training.augment import augment
from cxrnode.training.recipe import Augmentation

pytestmark = pytest.mark.slow  # torch itself

EACH = {
    "flip": 1.0,
    "rotate": 0.2,
    "shift": 0.1,
    "zoom_out": 0.2,
    "zoom_in": 0.2,
    "gamma": 0.3,
    "contrast": 0.3,
    "brightness": 0.2,
    "histogram": 0.8,
    "border": 0.2,
    "blur": 0.03,
    "shrink": 0.6,
    "noise": 0.1,
    "jpeg": 0.8,
    "erase": 0.5,
}


def films(count: int = 4, side: int = 40) -> Tensor:
    coarse = torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (side, side + 4), mode="bilinear") * 0.8 + 0.1


def varied(how: Augmentation, seed: int = 1) -> Tensor:
    changed, along = augment(films(), how, torch.Generator().manual_seed(seed))
    assert along is None
    return changed


def test_every_kind_of_variation_is_tested() -> None:
    assert set(EACH) == set(Augmentation.model_fields) - {"border_chance", "chance"}


@pytest.mark.parametrize("kind", EACH)
def test_a_variation_changes_films_within_their_range_and_follows_its_seed(kind: str) -> None:
    how = Augmentation.model_validate({kind: EACH[kind], "chance": 1, "border_chance": 1})
    first = varied(how)
    assert first.shape == films().shape
    assert not torch.equal(first, films())
    assert torch.equal(first, varied(how))
    assert float(first.min()) >= 0 and float(first.max()) <= 1
    if kind != "flip":  # it has no strength to draw
        assert not torch.equal(first, varied(how, seed=2))


def test_without_any_strength_a_film_stays_as_it_is() -> None:
    assert torch.equal(varied(Augmentation()), films())


def test_a_mirrored_film_is_the_film_mirrored() -> None:
    assert torch.allclose(varied(Augmentation(flip=1)), films().flip(3), atol=1e-5)


def test_a_curve_of_grey_keeps_the_order_of_levels() -> None:
    before, after = films(1).flatten(), varied(Augmentation(histogram=1)).narrow(0, 0, 1).flatten()
    assert (after[before.argsort()].diff() >= -1e-6).all()


def test_what_has_a_chance_happens_about_as_often() -> None:
    how = Augmentation(erase=0.9, chance=0.25)
    generator = torch.Generator().manual_seed(3)
    some = films(1).expand(400, -1, -1, -1)
    changed = (augment(some, how, generator)[0] != some).flatten(1).any(1)
    assert 0.15 < float(changed.float().mean()) < 0.35


def test_masks_move_with_their_films_and_keep_their_grey() -> None:
    some = films(2, 40)[..., :40]
    masks = torch.cat([some, 1 - some], 1)
    how = Augmentation(flip=0.5, rotate=0.2, zoom_in=0.2, shift=0.1)
    moved, along = augment(some, how, torch.Generator().manual_seed(4), masks)
    assert along is not None
    assert torch.allclose(along[:, :1], moved, atol=1e-5)
    darkened, left = augment(some, Augmentation(gamma=0.5, noise=0.2), torch.Generator().manual_seed(4), masks)
    assert left is masks and not torch.equal(darkened, some)
