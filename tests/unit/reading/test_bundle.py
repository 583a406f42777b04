"""A bundle is taken whole and unaltered, or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cxrnode.core.findings import Decision, Scale
from cxrnode.errors import BundleError
from cxrnode.reading import bundle as b
from cxrnode.reading.engine import Reading
from cxrnode.reading.manifest import NAME, LabelCalibration

from .conftest import LABELS, card, clouds, label, rewrite


class NamedEngine:
    name = "torch test cpu float32"

    def read(self, films: object) -> list[Reading]:
        raise NotImplementedError


def reading(*scores: float, distance: float = 1.0) -> Reading:
    return Reading(scores=np.array(scores, np.float32), saliency=np.zeros((3, 2, 2), np.float16), distance=distance)


def test_the_digest_of_a_bundle_is_that_of_its_manifest(made_once: Path) -> None:
    expected = hashlib.sha256((made_once / NAME).read_bytes()).hexdigest()
    assert b.load_bundle(made_once).digest == expected == b.read_manifest(made_once)[1]


def test_weights_are_stored_as_halves(made_once: Path) -> None:
    kinds = {str(tensor.dtype) for tensor in b.load_bundle(made_once).weights.values()}
    assert kinds == {"float16"}


@pytest.mark.parametrize("name", [b.WEIGHTS, b.PLAUSIBILITY])
def test_one_altered_bit_is_refused_with_the_name_of_the_file(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"tiny/{name}: SHA-256 is \w+\.\.\., the manifest says"):
        b.load_bundle(folder)


@pytest.mark.parametrize("name", [b.WEIGHTS, b.PLAUSIBILITY, NAME])
def test_a_missing_file_is_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"tiny/{name}: cannot be read"):
        b.load_bundle(folder)


def test_a_manifest_that_vouches_for_no_weights_is_refused(folder: Path) -> None:
    text = (folder / NAME).read_text()
    head, tail = text.split("[[files]]", 1)
    (folder / NAME).write_text(head + "[[files]]" + tail.split("[[files]]", 1)[1])
    with pytest.raises(BundleError, match=r"files does not name weights\.safetensors"):
        b.load_bundle(folder)


def test_thresholds_made_for_other_weights_are_refused_and_said_to_be(folder: Path) -> None:
    """Weights and their digest exchanged together, as a careless export does: only the calibration betrays it."""
    kept = b.load_bundle(folder)
    other = {key: np.asarray(tensor, np.float32) * 2 for key, tensor in kept.weights.items()}
    b.write_bundle(folder.parent / "other", kept.manifest, other, kept.plausibility)
    (folder / b.WEIGHTS).write_bytes((folder.parent / "other" / b.WEIGHTS).read_bytes())
    fresh = hashlib.sha256((folder / b.WEIGHTS).read_bytes()).hexdigest()
    files = tuple(dataclasses.replace(f, sha256=fresh) if f.name == b.WEIGHTS else f for f in kept.manifest.files)
    rewrite(folder, files=files)
    with pytest.raises(BundleError, match=f"calibration was made for weights {kept.weights_digest[:12]}"):
        b.load_bundle(folder)


def test_weights_that_are_not_finite_are_neither_written_nor_read(folder: Path) -> None:
    kept = b.load_bundle(folder)
    for bad in (np.nan, 1e6):  # the second overflows float16
        weights = {**kept.weights, "classifier.bias": np.full(3, bad, np.float32)}
        with pytest.raises(BundleError, match=r"classifier\.bias holds values that float16 cannot"):
            b.write_bundle(folder.parent / "bad", kept.manifest, weights, kept.plausibility)
    assert not (folder.parent / "bad").exists()
    nowhere = {**kept.plausibility, "layout.mean": np.full(1024, np.nan, np.float32)}
    b.write_bundle(folder, kept.manifest, kept.weights, nowhere)
    with pytest.raises(BundleError, match=r"plausibility\.safetensors: layout\.mean holds values that are not finite"):
        b.load_bundle(folder)


def test_weights_that_are_no_numbers_are_refused_by_their_key_where_every_digest_is_right(folder: Path) -> None:
    kept = b.load_bundle(folder)
    sick = save({**kept.weights, "classifier.bias": np.array([0, np.nan, 0], np.float16)})
    (folder / b.WEIGHTS).write_bytes(sick)
    fresh = hashlib.sha256(sick).hexdigest()
    rewrite(
        folder,
        files=tuple(dataclasses.replace(f, sha256=fresh) if f.name == b.WEIGHTS else f for f in kept.manifest.files),
        calibration=dataclasses.replace(kept.manifest.calibration, weights_sha256=fresh),
        plausibility=dataclasses.replace(kept.manifest.plausibility, weights_sha256=fresh),
    )
    with pytest.raises(BundleError, match=r"weights\.safetensors: classifier\.bias holds values .* export it again"):
        b.load_bundle(folder)


def test_a_file_that_is_not_safetensors_is_refused(folder: Path) -> None:
    kept = b.load_bundle(folder)
    (folder / b.PLAUSIBILITY).write_bytes(b"not a tensor in sight")
    fresh = hashlib.sha256(b"not a tensor in sight").hexdigest()
    files = tuple(dataclasses.replace(f, sha256=fresh) if f.name == b.PLAUSIBILITY else f for f in kept.manifest.files)
    rewrite(folder, files=files)
    with pytest.raises(BundleError, match=r"plausibility\.safetensors: not safetensors"):
        b.load_bundle(folder)


def test_scores_become_decisions_by_the_thresholds_of_each_label(made_once: Path) -> None:
    findings = b.load_bundle(made_once).findings(reading(0.9, 0.5, 0.1))
    assert [f.decision for f in findings] == [Decision.PRESENT, Decision.UNDETERMINED, Decision.ABSENT]
    assert [(f.label, f.index) for f in findings] == list(zip(LABELS, range(3), strict=True))
    assert (findings[0].map_floor, findings[0].map_ceiling) == (0.25, 2.0)


def test_a_label_with_few_positives_is_not_assessed_and_an_unreported_one_is_not_there(folder: Path) -> None:
    silent = dataclasses.replace(label("Mass"), report=False)
    rewrite(folder, labels=(label("Effusion", positives=49), silent, label("Hernia")))
    findings = b.load_bundle(folder).findings(reading(0.9, 0.9, 0.9))
    assert [(f.label, f.index, f.decision, f.thresholds is None) for f in findings] == [
        ("Effusion", 0, Decision.NOT_ASSESSED, True),
        ("Hernia", 2, Decision.PRESENT, False),
    ]


def test_a_score_is_a_probability_only_after_a_representative_calibration(folder: Path) -> None:
    kept = b.load_bundle(folder)
    assert kept.scale is Scale.SCORE
    rewrite(folder, calibration=dataclasses.replace(kept.manifest.calibration, representative=True))
    assert b.load_bundle(folder).scale is Scale.PROBABILITY


def test_what_is_shown_is_calibrated_and_at_the_prevalence_that_is_named(folder: Path) -> None:
    """Two films in ten here, two in a hundred there: odds of 1 to 4 become odds of 1 to 49."""
    kept = b.load_bundle(folder).manifest
    card_ = LabelCalibration(positives=60, prevalence=0.2, slope=2.0, offset=0.5, shown_prevalence=0.02)
    moved = dataclasses.replace(label("Effusion"), calibration=card_)
    calibration = dataclasses.replace(kept.calibration, population="a clinic")
    rewrite(folder, labels=(moved, *kept.labels[1:]), calibration=calibration)
    loaded = b.load_bundle(folder)
    effusion, mass, _ = loaded.findings(reading(0.5, 0.5, 0.5))
    odds = np.exp(0.5) * (0.02 / 0.98) / (0.2 / 0.8)
    assert effusion.score == pytest.approx(odds / (1 + odds))
    assert (effusion.decision, mass.score, mass.decision) == (Decision.ABSENT, 0.5, Decision.UNDETERMINED)
    assert loaded.reader(NamedEngine()).calibration.endswith("not representative); shown at the prevalence of a clinic")
    assert loaded.scale is Scale.SCORE


def test_scores_keep_their_order_to_both_ends_and_none_is_invented(folder: Path) -> None:
    kept = b.load_bundle(folder).manifest
    steep = LabelCalibration(positives=60, prevalence=0.2, slope=4.0, offset=-3.0)
    rewrite(folder, labels=(dataclasses.replace(label("Effusion"), calibration=steep), *kept.labels[1:]))
    loaded = b.load_bundle(folder)
    levels = np.array([0.0, 1e-9, 0.2, 0.5, 0.8, 1 - 2**-24, 1.0], np.float32)
    shown = loaded.calibrated(np.stack([levels] * 3, 1))
    assert ((shown >= 0) & (shown <= 1)).all() and (np.diff(shown[:, 0]) >= 0).all()
    assert np.array_equal(shown[:, 1], levels.astype(np.float64)), "what was not calibrated stays as it is"
    for bad in (np.nan, 1.5, -0.1):
        with pytest.raises(ValueError, match="a score must lie in"):
            loaded.findings(reading(bad, 0.5, 0.5))


def test_the_limit_is_the_bundles_own(made_once: Path) -> None:
    loaded = b.load_bundle(made_once)
    assert loaded.plausibility_of(reading(0.5, 0.5, 0.5, distance=2.0)).plausible
    assert not loaded.plausibility_of(reading(0.5, 0.5, 0.5, distance=2.01)).plausible


def test_the_reader_names_the_bundle_the_weights_and_the_engine(made_once: Path) -> None:
    loaded = b.load_bundle(made_once)
    reader = loaded.reader(NamedEngine())
    assert (reader.name, reader.version, reader.demonstration) == ("tiny", "1", True)
    assert (reader.bundle_digest, reader.weights_digest) == (loaded.digest, loaded.weights_digest)
    assert reader.calibration == "none (100 films, not representative)"
    assert reader.engine == "torch test cpu float32"


def test_a_bundle_is_found_by_name_first_installed_then_shipped_and_by_path(made_once: Path, tmp_path: Path) -> None:
    installed = tmp_path / "models" / "demo"
    assert b.find_bundle("demo", tmp_path) == b.SHIPPED / "demo"
    installed.mkdir(parents=True)
    (installed / NAME).write_bytes((made_once / NAME).read_bytes())
    assert b.find_bundle("demo", tmp_path) == installed
    assert b.find_bundle(str(made_once), tmp_path) == made_once
    assert b.find_bundle(f"../{made_once.name}", tmp_path, made_once) == made_once / ".." / made_once.name
    assert b.list_bundles(tmp_path) == (installed,)
    with pytest.raises(BundleError, match=r"no bundle 'nothing': looked in .*models.* and /nothing"):
        b.find_bundle("nothing", tmp_path, Path("/"))


def test_writing_the_same_bundle_twice_gives_the_same_digest(made_once: Path, tmp_path: Path) -> None:
    kept = b.load_bundle(made_once)
    assert b.write_bundle(tmp_path / "again", card(), kept.weights, clouds().tensors()) == kept.digest
