"""Bundles for tests: a DenseNet-121 with random weights, small films, no training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cxrnode.core.findings import Concept, Thresholds
from cxrnode.reading import manifest as m
from cxrnode.reading import manifest_text
from cxrnode.reading.bundle import write_bundle
from cxrnode.reading.network import Architecture, Network, Shape, new_network, weights_of
from cxrnode.reading.plausibility import CELLS, Cloud, Clouds

LABELS = ("Effusion", "Mass", "Hernia")


def label(name: str, *, positives: int = 60) -> m.Label:
    """A label with thresholds that `positives` films stand behind."""
    return m.Label(
        name=name,
        report=True,
        concept=Concept(value="1", scheme="99TEST", meaning=name),
        map_floor=0.25,
        map_ceiling=2.0,
        calibration=m.LabelCalibration(positives=positives, prevalence=0.1),
        thresholds=Thresholds(rule_out=0.2, rule_in=0.8),
        metrics=m.LabelMetrics(auc=0.7, auc_low=0.6, auc_high=0.8, positives=positives),
    )


def card(labels: tuple[m.Label, ...] | None = None) -> m.Manifest:
    """A whole manifest; its digests are filled in when it is written."""
    return m.Manifest(
        format=manifest_text.FORMAT,
        name="tiny",
        version="1",
        architecture=Architecture.DENSENET121,
        activation="sigmoid",
        saliency=m.Saliency.CLOSED,
        licence="MIT",
        demonstration=True,
        description='Random weights: "nothing" is learnt.\nNot for use.',
        input=m.Input(size=64, channels=3, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3),
        intended_use=m.IntendedUse(age_min=18.0, age_max=100.0, views=("PA", "AP"), modalities=("CR", "DX")),
        calibration=m.Calibration(data_set="none", method="none", films=100, representative=False, weights_sha256=""),
        plausibility=m.PlausibilityLimit(limit=2.0, false_alarm_rate=0.01, films=100, weights_sha256=""),
        training=m.Training(data="none", films=0, patients=0, recipe="none"),
        metrics=m.Metrics(data_set="none", films=100, mean_auc=0.5),
        files=(),
        labels=labels or tuple(label(name) for name in LABELS),
    )


def network(outputs: int, seed: int = 5) -> Network:
    """Random weights, spread so that maps differ from one another and from nothing."""
    torch.manual_seed(seed)
    made = new_network(Shape(architecture=Architecture.DENSENET121, outputs=outputs)).eval()
    torch.nn.init.normal_(made.get_parameter("classifier.weight"), std=0.1)
    return made


def clouds() -> Clouds:
    """Clouds that any film lies somewhere near."""
    random = np.random.default_rng(1)
    return Clouds(
        layout=Cloud.fit(random.normal(0.0, 1.0, (40, CELLS * CELLS)), 8),
        features=Cloud.fit(random.normal(0.5, 0.5, (40, 1024)), 8),
    )


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks: threads that wait for one another cost more than they give."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    write_bundle(folder, card(), weights_of(network(len(LABELS))), clouds().tensors())
    return folder


@pytest.fixture
def folder(made_once: Path, tmp_path: Path) -> Path:
    """A bundle of its own, to be altered: small files copied, the weights linked (and unlinked before a change)."""
    copy = tmp_path / "tiny"
    copy.mkdir()
    for file in made_once.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def rewrite(folder: Path, **changes: object) -> None:
    """Change fields of the manifest on disk, as a hand would."""
    path = folder / m.NAME
    changed = dataclasses.replace(manifest_text.parse_manifest(path.read_text()), **changes)  # type: ignore[arg-type]
    path.write_text(manifest_text.format_manifest(changed))


@pytest.fixture
def films() -> list[np.ndarray]:
    random = np.random.default_rng(5)
    return [random.integers(0, 256, shape, np.uint8) for shape in ((90, 70), (64, 64), (40, 120))]
