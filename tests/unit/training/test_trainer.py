"""A training run on a handful of made-up films: the same again from the same seed, and a bundle at its end."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cxrnode.core.findings import NIH14
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.oracle import verify_bundle
from cxrnode.training.export import Aims, export_bundle
from cxrnode.training.films import BadFilmList, auxiliary_of, balance, load_films, read_rows, targets_of
from cxrnode.training.trainer import Recipe, Trainer, augment, new_network

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded

RECIPE = Recipe(stages=((32, 1), (64, 1)), batch=8, threads=1, held_out=(0,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four films; a film with Effusion is bright below."""
    place = tmp_path_factory.mktemp("films")
    random = np.random.default_rng(0)
    columns = ["image", "origin", "patient_id", "view", "age", "sex", *NIH14, "fold5"]
    with (place / "train_nih.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for i in range(24):
            film = random.integers(0, 120, (80, 72), np.uint8)
            if i % 2:
                film[40:] += 120
            Image.fromarray(film).save(place / f"{i}.png")
            row = {"image": f"{i}.png", "origin": "abcd"[i % 4], "patient_id": str(i), "view": "PA", "age": 40 + i}
            findings = {label: int(label == "Effusion" and i % 2 == 1) for label in NIH14}
            writer.writerow({**row, **findings, "sex": "FM"[i % 2], "fold5": int(i >= 16) * -1 + 1})
    return place


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_a_list_without_a_column_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "train_nih.csv").write_text("image,origin\na.png,a\n")
    with pytest.raises(BadFilmList, match=r"no column .*Hernia"):
        read_rows(tmp_path)


def test_films_are_squashed_and_grey(folder: Path) -> None:
    films = load_films(read_rows(folder)[:3], 32)
    assert films.shape == (3, 32, 32) and films.dtype == np.uint8


def test_positives_and_negatives_weigh_the_same_in_every_origin(folder: Path) -> None:
    rows = read_rows(folder)
    some = tuple(r for i, r in enumerate(rows) if r.origin == "b" or i % 8)
    weights, truth = balance(some), targets_of(some)
    effusion = NIH14.index("Effusion")
    here = np.array([r.origin == "b" for r in some])
    positive = truth[:, effusion] == 1
    assert positive[here].any() and not positive[here].all()
    sums = weights[here & positive, effusion].sum(), weights[here & ~positive, effusion].sum()
    assert (
        sums[0] == pytest.approx(sums[1], rel=1e-5) or sums[0] > sums[1]
    )  # never more weight for the commoner negatives
    assert np.isfinite(weights).all() and (weights > 0).all()


def test_auxiliary_targets_lie_between_nought_and_one(folder: Path) -> None:
    values = auxiliary_of(read_rows(folder))
    assert values.shape == (24, 3)
    assert ((values >= 0) & (values <= 1)).all()


def test_augmentation_keeps_shape_and_range_and_follows_its_seed() -> None:
    films = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    first, again = (augment(films, torch.Generator().manual_seed(1)) for _ in range(2))
    other = augment(films, torch.Generator().manual_seed(2))
    assert first.shape == films.shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert float(first.min()) >= 0 and float(first.max()) <= 1


def test_the_rate_rises_then_falls_and_the_last_stage_is_as_read() -> None:
    recipe = Recipe(stages=((128, 3), (224, 1)))
    rates = [recipe.rate_at(done / 100) for done in range(101)]
    assert max(rates) == pytest.approx(recipe.rate, rel=0.01)
    assert rates[0] < recipe.rate / 10 > rates[-1]
    assert [recipe.size_at(epoch) for epoch in range(4)] == [128, 128, 128, 224]


def test_a_stopped_run_goes_on_to_the_same_weights_and_exports_a_bundle(folder: Path, tmp_path: Path) -> None:
    rows = read_rows(folder)
    whole = Trainer(rows, tmp_path / "whole", RECIPE).run()

    class Stopped(Exception):
        pass

    class Stops(Trainer):
        def _save(self, epochs: int) -> None:
            super()._save(epochs)
            raise Stopped

    with pytest.raises(Stopped):
        Stops(rows, tmp_path / "parts", RECIPE).run()
    parts = Trainer(rows, tmp_path / "parts", RECIPE).run()
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(one, other), name

    export_bundle(tmp_path / "bundle", whole, rows, RECIPE, name="tiny", version="1", aims=Aims(feature_components=4))
    bundle = load_bundle(tmp_path / "bundle")
    assert [label.name for label in bundle.manifest.labels] == list(NIH14)
    assert bundle.weights["classifier.weight"].shape == (14, 1024)
    assert bundle.manifest.calibration.films == 8
    assert not bundle.manifest.calibration.representative
    assert all(label.assessed is None for label in bundle.manifest.labels), "four positives are no calibration"
    assert [c.ok for c in verify_bundle(tmp_path / "bundle", threads=1) if c.name in ("files", "forward pass")] == [
        True
    ] * 2


def test_the_network_has_the_findings_first_and_the_auxiliary_outputs_last() -> None:
    network = new_network(17)
    assert network.state_dict()["classifier.weight"].shape == (17, 1024)
