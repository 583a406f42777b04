"""The card of a model is read whole or refused by name."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from cxrnode.errors import BundleError
from cxrnode.reading import manifest as m
from cxrnode.reading import manifest_text

from .conftest import card, label

W = "a" * 64


def written() -> str:
    whole = card()
    whole = dataclasses.replace(
        whole,
        files=(
            m.BundleFile(name="weights.safetensors", sha256=W),
            m.BundleFile(name="plausibility.safetensors", sha256="b" * 64),
        ),
        calibration=dataclasses.replace(whole.calibration, weights_sha256=W),
        plausibility=dataclasses.replace(whole.plausibility, weights_sha256=W),
    )
    return manifest_text.format_manifest(whole)


def test_a_manifest_comes_back_as_it_was_written() -> None:
    text = written()
    assert manifest_text.format_manifest(manifest_text.parse_manifest(text)) == text
    assert manifest_text.parse_manifest(text).description == card().description
    assert manifest_text.parse_manifest(text).labels == card().labels


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "tiny"', 'name = "tiny"\nmood = "good"', "mood: unknown key"),
        ("age_min = 18.0\n", "", "intended_use.age_min: missing"),
        ("age_min = 18.0\n", "age_min = 18.0\nage_mid = 20\n", "intended_use.age_mid: unknown key"),
        ("rule_in = 0.8\n", "", "labels.Effusion.thresholds.rule_in: missing"),
        ("rule_in = 0.8\n", "rule_in = 0.1\n", "labels.Effusion.thresholds: thresholds must satisfy"),
        ("demonstration = true", 'demonstration = "yes"', "demonstration: 'yes' is no bool"),
        ("representative = false", "representative = 0", "calibration.representative: 0 is no bool"),
        ("limit = 2.0", "limit = nan", "plausibility.limit: nan is not finite"),
        ('features = "pooled"', 'features = "guess"', "'guess' is not one of pooled, middle"),
        ("slope = 1.0", "slope = -1.0", "labels.Effusion.calibration.slope: -1.0 would turn the scores round"),
        (
            "slope = 1.0",
            "slope = 1.0\nshown_prevalence = 0.01",
            "calibration.population: missing beside shown_prevalence; name whose prevalence it is",
        ),
        (
            "slope = 1.0",
            "slope = 1.0\nshown_prevalence = 1.0",
            "labels.Effusion.calibration.shown_prevalence: both prevalences must lie between 0 and 1",
        ),
        ('saliency = "closed"', 'saliency = "guess"', "'guess' is not one of closed, gradcam, none"),
        ('activation = "sigmoid"', 'activation = "softmax"', "activation: 'softmax' is not known"),
        ('architecture = "densenet121"', 'architecture = "vit"', "architecture: 'vit' is not one of densenet121"),
        ("format = 1", "format = 2", "format: this version reads format 1, not 2"),
        (
            '"plausibility.safetensors"',
            '"../plausibility.safetensors"',
            "files.name: '../plausibility.safetensors' is not a plain",
        ),
        ('"plausibility.safetensors"', '"/etc/passwd"', "files.name: '/etc/passwd' is not a plain"),
        ('"plausibility.safetensors"', '"..\\\\x"', "is not a plain file name"),
        ('"plausibility.safetensors"', '"weights.safetensors"', "a file is named twice"),
        ('name = "tiny"', 'name = "../tiny"', "name: '../tiny' is not a plain name"),
        ("report = true\n", 'report = true\nreported = "so"\n', "labels.Effusion.reported: unknown key"),
        ("map_floor = 0.25", "map_floor = 3.0", "labels.Effusion.map_floor: 0 <= map_floor < map_ceiling"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5]", "input.mean, input.std: 3 numbers each"),
        ('name = "Mass"', 'name = "Effusion"', "each output of the network needs a label of its own"),
        ("format = 1", "format = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(old: str, new: str, said: str) -> None:
    text = written()
    assert old in text
    with pytest.raises(BundleError) as caught:
        manifest_text.parse_manifest(text.replace(old, new, 1))
    assert said in str(caught.value)
    assert str(caught.value).startswith("manifest.toml: ")


@pytest.mark.parametrize("part", ["calibration", "plausibility"])
def test_a_part_made_for_other_weights_is_refused_and_named(part: str) -> None:
    head, tail = written().split(f"[{part}]", 1)
    with pytest.raises(BundleError, match=f"{part} was made for weights cccccccccccc"):
        manifest_text.parse_manifest(f"{head}[{part}]{tail.replace(W, 'c' * 64, 1)}")


def test_a_reported_label_needs_a_coded_concept_and_a_silent_one_does_not() -> None:
    with pytest.raises(BundleError, match=r"labels\.Mass\.concept: missing"):
        manifest_text.parse_manifest(_with(dataclasses.replace(label("Mass"), concept=None)))
    silent = dataclasses.replace(label("Mass"), concept=None, report=False)
    assert manifest_text.parse_manifest(_with(silent)).labels == (silent,)


def test_a_representative_set_and_another_prevalence_are_refused_together() -> None:
    moved = dataclasses.replace(
        label("Mass"), calibration=m.LabelCalibration(positives=60, prevalence=0.1, shown_prevalence=0.01)
    )
    told = dataclasses.replace(
        manifest_text.parse_manifest(written()).calibration, population="there", representative=True
    )
    whole = dataclasses.replace(manifest_text.parse_manifest(_with(label("Mass"))), labels=(moved,), calibration=told)
    with pytest.raises(BundleError, match="a representative set has the prevalence itself; remove one of the two"):
        manifest_text.parse_manifest(manifest_text.format_manifest(whole))


def test_fewer_than_fifty_positives_leave_a_label_without_usable_thresholds() -> None:
    assert label("Mass", positives=49).assessed is None
    assert label("Mass", positives=50).assessed == label("Mass").thresholds


@pytest.mark.parametrize(
    ("modality", "view", "age", "refused"),
    [
        ("DX", "PA", 40.0, None),
        ("CR", "", None, None),
        ("CT", "PA", 40.0, "modality CT is outside the model's intended use"),
        ("DX", "LL", 40.0, "view LL is outside the model's intended use"),
        ("DX", "PA", 3.0, "the age is outside the model's intended use (18 to 100 years)"),
        ("DX", "PA", 18.0, None),
    ],
)
def test_the_intended_use_refuses_what_is_known_to_lie_outside(
    modality: str, view: str, age: float | None, refused: str | None
) -> None:
    assert card().intended_use.refusal(modality=modality, view=view, age_years=age) == refused


def test_the_card_of_a_model_is_read_without_torch() -> None:
    code = "import sys, cxrnode.reading.bundle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _with(one: m.Label) -> str:
    whole = manifest_text.parse_manifest(written())
    return manifest_text.format_manifest(dataclasses.replace(whole, labels=(one,)))
