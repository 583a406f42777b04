"""`model calibrate`: a site's own films give a model its thresholds, and the word for its scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxrnode.core.findings import Concept, Scale
from cxrnode.reading.bundle import load_bundle, write_bundle
from cxrnode.reading.manifest import Input, Label
from cxrnode.reading.network import new_network, weights_of
from cxrnode.reading.plausibility import CELLS, Cloud, Clouds
from cxrnode.reading.shape import Architecture, Shape
from tests.unit.cli.clinic import run
from tests.unit.reading.conftest import card

pytestmark = pytest.mark.slow  # torch to be loaded

FILMS = 120


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small network without thresholds, and films of which every other has an effusion."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = new_network(Shape(architecture=Architecture.CNN2, outputs=1, channels=1)).eval()
    label = Label(name="Effusion", report=True, concept=Concept(value="1", scheme="99TEST", meaning="Effusion"))
    manifest = dataclasses.replace(
        card((label,)),
        architecture=Architecture.CNN2,
        input=Input(size=32, channels=1, interpolation="bilinear", mean=(0.5,), std=(0.25,)),
    )
    random = np.random.default_rng(0)
    clouds = Clouds(
        layout=Cloud.fit(random.normal(0.0, 1.0, (40, CELLS * CELLS)), 8),
        features=Cloud.fit(random.normal(0.5, 0.5, (40, network.width)), 8),
    )
    write_bundle(tmp_path / "bare", manifest, weights_of(network), clouds.tensors())
    lines = ["image,patient_id,Effusion"]
    for i in range(FILMS):
        film = random.integers(0, 120, (32, 32), np.uint8) + np.uint8(100 * (i % 2))
        Image.fromarray(film).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i},{i % 2}")
    (tmp_path / "0.png").write_bytes(b"torn")
    (tmp_path / "films.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_films_of_the_site_give_thresholds_and_a_new_bundle(site: Path) -> None:
    options = ("--data", site / "films.csv", "--as", "ours", "--folder", site / "models", "--json")
    result = run("model", "calibrate", site / "bare", *options)
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert (said["films"], said["scale"], said["assessed"]) == (FILMS - 1, "score", ["Effusion"])
    assert result.stderr == "left out: row 1, 0.png: no picture that can be read (UnidentifiedImageError)\n"
    made, bare = load_bundle(site / "models" / "ours"), load_bundle(site / "bare")
    assert (made.manifest.name, made.weights_digest) == ("ours", bare.weights_digest)
    assert made.manifest.labels[0].assessed is not None and bare.manifest.labels[0].assessed is None
    assert made.manifest.calibration.population == ""


def test_representative_films_give_probabilities_and_borrow_no_prevalence(site: Path) -> None:
    options = ("--data", site / "films.csv", "--as", "ours", "--folder", site / "models", "--representative")
    refused = run("model", "calibrate", site / "bare", *options, "--population", "nih")
    assert (refused.exit_code, "leave out --population" in refused.stderr) == (1, True)
    result = run("model", "calibrate", site / "bare", *options, "--json")
    assert result.exit_code == 0, result.stderr
    assert load_bundle(site / "models" / "ours").scale is Scale.PROBABILITY
    again = run("model", "calibrate", site / "bare", *options)
    assert (again.exit_code, "there already; --force replaces it" in again.stderr) == (1, True)
