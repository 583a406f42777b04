"""The bundle that ships, with its trained weights: its maps are those of pytorch-grad-cam, on real films too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxrnode.reading.bundle import SHIPPED, load_bundle
from cxrnode.reading.engine import TorchEngine
from cxrnode.reading.oracle import TOLERANCE, difference_from_oracle, verify_bundle
from cxrnode.training.readers.picture import open_film

pytestmark = pytest.mark.slow

FILMS = ("00000211_000.png", "00000404_000.png")


def test_the_shipped_bundle_is_admitted() -> None:
    checks = verify_bundle(SHIPPED / "demo", threads=1)
    assert [(one.name, one.ok) for one in checks] == [
        ("files", True),
        ("forward pass", True),
        ("plausibility", True),
        ("maps", True),
    ], checks


def test_the_closed_form_is_grad_cam_for_every_finding_of_a_real_film(data_dir: Path) -> None:
    bundle = load_bundle(SHIPPED / "demo")
    films = [open_film(data_dir / "eval" / name) for name in FILMS]
    for film, reading in zip(films, TorchEngine(bundle, device="cpu", threads=1).read(films), strict=True):
        assert reading.saliency is not None
        assert (reading.saliency.max((1, 2)) > 0).sum() >= 7, "empty maps would agree with anything"
        assert difference_from_oracle(bundle, film, reading.saliency) <= TOLERANCE == 0.01
        assert difference_from_oracle(bundle, film, np.roll(reading.saliency, 1, axis=0)) > TOLERANCE


@pytest.mark.parametrize("side", [64, 512, 1024, 2048])
@pytest.mark.parametrize("grey", [0, 20, 255])
def test_what_shows_nothing_is_implausible_however_large(side: int, grey: int) -> None:
    """Found when a film of noise was read: of many pixels the network sees an even grey, the middle of all films."""
    bundle = load_bundle(SHIPPED / "demo")
    levels = np.random.default_rng(side).integers(0, grey, (side, side), endpoint=True) + (255 - grey) // 2
    (reading,) = TorchEngine(bundle, device="cpu", threads=1).read([levels.astype(np.uint8)])
    assert reading.distance > 1.5 * bundle.manifest.plausibility.limit
