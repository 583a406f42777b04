"""The engine reads films of any size, one by one or together, and never makes a finding of a number that is none."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.errors import BundleError, Rejected, UnreadableImage
from cxrnode.reading.bundle import Bundle, load_bundle, write_bundle
from cxrnode.reading.engine import NotFinite, TorchEngine, prepare
from cxrnode.reading.manifest import Input, Saliency

from .conftest import rewrite

Film = np.ndarray


@pytest.fixture(scope="module")
def bundle(made_once: Path) -> Bundle:
    return load_bundle(made_once)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> TorchEngine:
    return TorchEngine(bundle, device="cpu", threads=1, batch=2)


def test_a_film_gives_scores_maps_and_a_distance(engine: TorchEngine, films: list[Film]) -> None:
    readings = engine.read(films)
    assert len(readings) == 3
    for reading in readings:
        assert reading.scores.shape == (3,) and reading.scores.dtype == np.float32
        assert reading.saliency is not None
        assert reading.saliency.shape == (3, 2, 2) and reading.saliency.dtype == np.float16
        assert ((reading.scores > 0) & (reading.scores < 1)).all()
        assert (reading.saliency >= 0).all()
        assert reading.distance > 0


def test_a_film_read_alone_and_in_company_reads_the_same(engine: TorchEngine, films: list[Film]) -> None:
    for together, film in zip(engine.read(films), films, strict=True):
        (alone,) = engine.read([film])
        np.testing.assert_allclose(alone.scores, together.scores, atol=1e-5)
        assert alone.distance == pytest.approx(together.distance, rel=1e-4)


def test_reading_again_gives_the_same_to_the_bit(engine: TorchEngine, films: list[Film]) -> None:
    first, second = engine.read(films), engine.read(films)
    assert [r.scores.tobytes() for r in first] == [r.scores.tobytes() for r in second]
    assert [r.distance for r in first] == [r.distance for r in second]


def test_no_films_give_no_readings(engine: TorchEngine) -> None:
    assert engine.read([]) == []


def test_preparation_squashes_with_pillows_bilinear_filter_and_scales_by_mean_and_std() -> None:
    film = np.random.default_rng(0).integers(0, 256, (300, 200), np.uint8)
    given = Input(size=64, channels=3, interpolation="bilinear", mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1))
    small = np.asarray(Image.fromarray(film).resize((64, 64), Image.Resampling.BILINEAR))
    prepared = prepare(film, given)
    assert prepared.shape == (3, 64, 64) and prepared.dtype == np.float32
    for channel, (mean, std) in enumerate(zip(given.mean, given.std, strict=True)):
        np.testing.assert_allclose(prepared[channel] * std + mean, small / 255, atol=1e-6)


@pytest.mark.parametrize(
    "film",
    [np.zeros((8, 8), np.uint16), np.zeros((8, 8, 3), np.uint8), np.zeros((0, 8), np.uint8)],
    ids=["sixteen bits", "colour", "no pixels"],
)
def test_what_is_no_film_is_refused(engine: TorchEngine, film: Film) -> None:
    with pytest.raises(UnreadableImage, match="a film is uint8"):
        engine.read([film])


def test_a_score_that_is_not_a_number_is_an_error_and_never_a_finding(bundle: Bundle, films: list[Film]) -> None:
    weights = {**bundle.weights, "classifier.bias": np.array([0, np.nan, 0], np.float16)}
    sick = TorchEngine(dataclasses.replace(bundle, weights=weights), device="cpu", threads=1)
    with pytest.raises(NotFinite, match="not a finite number") as caught:
        sick.read(films[:1])
    assert isinstance(caught.value, Rejected)


def test_a_map_too_large_for_its_halves_is_an_error(bundle: Bundle, films: list[Film]) -> None:
    weights = {**bundle.weights, "classifier.weight": np.full((3, 1024), 6e4, np.float16)}
    with pytest.raises(NotFinite), np.errstate(over="ignore"):
        TorchEngine(dataclasses.replace(bundle, weights=weights), device="cpu", threads=1).read(films[:1])


def test_a_bundle_without_maps_makes_none_and_one_by_gradient_makes_the_same(
    folder: Path, engine: TorchEngine, films: list[Film]
) -> None:
    rewrite(folder, saliency=Saliency.NONE)
    assert TorchEngine(load_bundle(folder), device="cpu", threads=1).read(films[:1])[0].saliency is None
    rewrite(folder, saliency=Saliency.GRADCAM)
    (by_gradient,) = TorchEngine(load_bundle(folder), device="cpu", threads=1).read(films[:1])
    (closed,) = engine.read(films[:1])
    assert by_gradient.saliency is not None and closed.saliency is not None
    np.testing.assert_allclose(by_gradient.saliency, closed.saliency, rtol=2e-2, atol=1e-3)


def test_a_bundle_of_another_shape_is_refused_when_the_engine_is_made(folder: Path) -> None:
    loaded = load_bundle(folder)
    labels = loaded.manifest.labels
    rewrite(folder, labels=labels[:2])
    with pytest.raises(BundleError, match="outputs do not match the labels"):
        TorchEngine(load_bundle(folder), device="cpu", threads=1)
    rewrite(
        folder, labels=labels, input=dataclasses.replace(loaded.manifest.input, channels=1, mean=(0.5,), std=(0.2,))
    )
    with pytest.raises(
        BundleError, match=r"input\.channels: 1 is not what the weights take: features\.conv0\.weight has shape \(64, 3"
    ):
        TorchEngine(load_bundle(folder), device="cpu", threads=1)


def test_a_cloud_of_another_width_is_refused(folder: Path) -> None:
    loaded = load_bundle(folder)
    write_bundle(
        folder, loaded.manifest, loaded.weights, {**loaded.plausibility, "features.mean": np.zeros(3, np.float32)}
    )
    with pytest.raises(BundleError, match="features does not fit vectors of 1024"):
        TorchEngine(load_bundle(folder), device="cpu", threads=1)


def test_the_engines_name_says_library_device_and_arithmetic(engine: TorchEngine) -> None:
    library, version, device, arithmetic = engine.name.split()
    assert (library, device, arithmetic) == ("torch", "cpu", "float32")
    assert version
