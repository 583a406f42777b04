"""The shipped model is what its card says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxrnode.core.findings import NIH14, Scale
from cxrnode.reading.bundle import SHIPPED, load_bundle
from cxrnode.reading.oracle import verify_bundle
from cxrnode.training.card import label_table
from cxrnode.training.concepts import CONCEPTS

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded

CARD = Path(__file__).resolve().parents[3] / "docs" / "model-card.md"
DEMO = SHIPPED / "demo"


def test_the_shipped_bundle_passes_its_admission_check() -> None:
    assert [(check.name, check.ok) for check in verify_bundle(DEMO, threads=1)] == [
        ("files", True),
        ("forward pass", True),
        ("plausibility", True),
        ("maps", True),
    ]


def test_the_shipped_bundle_says_that_it_is_a_demonstration_and_gives_scores() -> None:
    bundle = load_bundle(DEMO)
    assert bundle.manifest.demonstration
    assert bundle.scale is Scale.SCORE
    assert bundle.intended_use.age_min >= 18
    assert [(label.name, label.concept) for label in bundle.manifest.labels] == [(n, CONCEPTS[n]) for n in NIH14]


def test_some_labels_are_assessed_and_the_rare_ones_are_not() -> None:
    assessed = {label.name: label.assessed is not None for label in load_bundle(DEMO).manifest.labels}
    assert assessed["Effusion"] and assessed["Pneumothorax"]
    assert not assessed["Hernia"] and not assessed["Fibrosis"]


def test_the_card_holds_the_labels_of_the_shipped_manifest_word_for_word() -> None:
    assert label_table(load_bundle(DEMO).manifest) in CARD.read_text(encoding="utf-8")


@pytest.mark.parametrize("of", ["version", "weights", "mean AUC", "limit", "films"])
def test_the_card_says_the_numbers_of_the_shipped_manifest(of: str) -> None:
    bundle = load_bundle(DEMO)
    manifest = bundle.manifest
    said = {
        "version": f"version {manifest.version}",
        "weights": bundle.weights_digest,
        "mean AUC": f"{manifest.metrics.mean_auc:.3f}",
        "limit": f"{manifest.plausibility.limit:.4f}",
        "films": f"{manifest.training.films:,} films of {manifest.training.patients:,} patients",
    }
    assert said[of] in CARD.read_text(encoding="utf-8")
