"""A bundle is admitted after its maps were held against pytorch-grad-cam."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrnode.reading.bundle import WEIGHTS, load_bundle, write_bundle
from cxrnode.reading.engine import TorchEngine
from cxrnode.reading.network import weights_of
from cxrnode.reading.oracle import TOLERANCE, difference_from_oracle, made_films, verify_bundle

from .conftest import LABELS, card, clouds, network, rewrite

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded


def test_a_good_bundle_passes_every_check(folder: Path) -> None:
    rewrite(folder, plausibility=dataclasses.replace(load_bundle(folder).manifest.plausibility, limit=0.001))
    assert [(c.name, c.ok) for c in verify_bundle(folder, threads=1)] == [
        ("files", True),
        ("forward pass", True),
        ("plausibility", True),
        ("maps", True),
    ]


def test_a_limit_that_lets_noise_through_is_bad(folder: Path) -> None:
    rewrite(folder, plausibility=dataclasses.replace(load_bundle(folder).manifest.plausibility, limit=1e9))
    assert [(c.name, c.ok) for c in verify_bundle(folder, threads=1)][2] == ("plausibility", False)


def test_an_altered_bundle_fails_at_its_files_and_nothing_else_is_tried(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")
    (check,) = verify_bundle(folder, threads=1)
    assert (check.name, check.ok) == ("files", False)
    assert "weights.safetensors: SHA-256 is" in check.detail


def test_a_bundle_whose_labels_do_not_fit_fails_at_the_forward_pass(folder: Path) -> None:
    rewrite(folder, labels=load_bundle(folder).manifest.labels[:1])
    assert [(c.name, c.ok) for c in verify_bundle(folder, threads=1)] == [("files", True), ("forward pass", False)]


def test_maps_of_the_wrong_label_are_caught(made_once: Path) -> None:
    bundle = load_bundle(made_once)
    film = made_films(64)[0]
    (reading,) = TorchEngine(bundle, device="cpu", threads=1).read([film])
    assert reading.saliency is not None
    assert difference_from_oracle(bundle, film, reading.saliency) <= TOLERANCE
    assert difference_from_oracle(bundle, film, np.roll(reading.saliency, 1, axis=0)) > TOLERANCE


def test_maps_that_are_nearly_flat_are_good_ones(tmp_path: Path) -> None:
    """What a half leaves out of a value is much of a small range: a trained Inception v3 was said not to verify."""
    made = network(len(LABELS))
    with torch.no_grad():
        made.get_parameter("features.norm5.bias").fill_(100.0)
        made.get_parameter("classifier.weight").abs_()
    folder = tmp_path / "flat"
    write_bundle(folder, card(), weights_of(made), clouds().tensors())
    bundle = load_bundle(folder)
    film = made_films(64)[0]
    engine = TorchEngine(bundle, device="cpu", threads=1)
    (seen,) = engine.observe([film])
    assert seen.saliency is not None
    assert difference_from_oracle(bundle, film, seen.saliency) > TOLERANCE
    assert difference_from_oracle(bundle, film, engine.exact_maps([film])[0]) <= TOLERANCE
    maps = [check for check in verify_bundle(folder, threads=1) if check.name == "maps"]
    assert [check.ok for check in maps] == [True], maps
