"""Folds apart: who learns from which films, the mean of the networks, and what is measured by whom."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cxrnode.cli import main
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.engine import TorchEngine
from cxrnode.reading.network import new_network
from cxrnode.reading.shape import Architecture, Shape
from cxrnode.training.apart import before, mean_of, stages
from cxrnode.training.course import Course
from cxrnode.training.epochs import Epoch
from cxrnode.training.evaluation import evaluate
from cxrnode.training.readers import BadList, read_films
from cxrnode.training.recipe import Recipe
from cxrnode.training.recipes import RecipeError, changed, in_small, read_recipe, validated
from cxrnode.training.run import Finished, train
from tests.unit.training.course_films import write_lists

pytestmark = pytest.mark.slow  # torch itself, and networks

SHAPE = Shape(architecture=Architecture.CNN2, outputs=2, channels=1)


class Told:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.courses: list[Course] = []
        self.steps: list[int] = []
        self.taken = 0
        self.lines: list[Epoch] = []

    def planned(self, course: Course, steps: int) -> None:
        self.courses.append(course)
        self.steps.append(steps)

    def opened(self, count: int) -> None:
        pass

    def stepped(self, phase: int, epoch: int, share: float, loss: float) -> None:
        self.taken += 1

    def ended(self, line: Epoch) -> None:
        self.lines.append(line)

    def said(self, what: str) -> None:
        pass


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lists(tmp_path_factory.mktemp("films"), films=80)


def recipe(**changes: Any) -> Recipe:
    """The two-layer network on three folds, then on four each, then on all."""
    values = read_recipe("nih15-cnn").model_dump()
    values["network"] = {"architecture": "cnn2", "dropout": 0.1}
    values["films"] |= {"held_out": (0, 1), "watched": ()}
    values["input"]["size"] = 40
    values["optimiser"] |= {"batch": 8, "average": 0.9, "name": "adamw", "precision": "float32"}
    values["augmentation"] = {"flip": 0.5}
    values["loss"] = {"weighting": "balanced", "auxiliary": 0.3}
    values["explanation"] = {"films": 1}
    phase = {"side": 40, "epochs": 2, "rate": 2e-3}
    values["phases"] = [{**phase, "name": "few"}]
    values["apart"] = [{**phase, "side": 32, "name": "more", "epochs": 1}, {**phase, "epochs": 1}]
    values["together"] = [{**phase, "epochs": 1}]
    values["early_stopping"] = {}
    return changed(validated(values, where="test"), changes)


@pytest.fixture(scope="module")
def finished(films: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Told]:
    told = Told()
    return train(recipe(), films, tmp_path_factory.mktemp("run"), told, threads=1, device="cpu"), told


def test_each_fold_has_a_network_that_learns_from_all_other_films(finished: tuple[Finished, Told]) -> None:
    done, told = finished
    learnt = [{row.fold for row in course.train} for course in told.courses]
    assert learnt == [{2, 3, 4}, {1, 2, 3, 4}, {0, 2, 3, 4}, {0, 1, 2, 3, 4}]
    assert [{row.fold for row in course.held} for course in told.courses] == [{0, 1}, {0}, {1}, set()]
    assert told.taken == sum(told.steps) == 2 * 6 + 2 * 8 + 2 * 8 + 10
    assert {row.fold for row in done.course.train} == {0, 1, 2, 3, 4}
    assert {row.fold for row in done.course.held} == {0, 1}
    assert done.course.recipe == recipe()


def test_the_log_and_the_bundle_say_what_was_done(finished: tuple[Finished, Told]) -> None:
    done, _ = finished
    names = stages(done.course.recipe)
    assert [names[line.phase] for line in done.log] == [
        "few",
        "few",
        "more, without fold 0",
        "phase 2, without fold 0",
        "more, without fold 1",
        "phase 2, without fold 1",
        "phase 1, all films",
    ]
    assert len(done.log) == done.course.recipe.epochs
    assert np.isnan(done.log[-1].mean_auc), "no film is left that it has not seen"
    manifest = done.exported.bundle.manifest
    assert (manifest.training.films, manifest.metrics.films, manifest.calibration.films) == (80, 32, 32)
    assert "each read by a network of the same recipe" in manifest.metrics.data_set
    assert "without each of folds 0 and 1: 1 epochs at 32 px" in manifest.training.recipe
    assert manifest.calibration.weights_sha256 == done.exported.bundle.weights_digest
    text = (done.folder / "report.html").read_text()
    assert "trained on all films but those of its fold" in text and "more, without fold 0" not in text
    lines = (done.folder / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["phase"] for line in lines] == [line.phase for line in done.log]
    metrics = json.loads((done.folder / "metrics.json").read_text())
    assert metrics["films"] == {"trained_on": 80, "watched": 0, "held_out": 32, "left_out": 0}


def test_what_is_measured_is_what_the_unseeing_networks_say(finished: tuple[Finished, Told], films: Path) -> None:
    done, _ = finished
    scores = []
    for fold, bundle in done.exported.apart.items():
        assert load_bundle(done.folder / "apart" / f"fold-{fold}").digest == bundle.digest
        assert bundle.weights_digest != done.exported.bundle.weights_digest
        assert bundle.manifest.labels == done.exported.bundle.manifest.labels
        listed = read_films(films / "train_nih.csv", done.course.recipe.films.labels, folds=[str(fold)])
        from cxrnode.training.readers.picture import open_row

        engine = TorchEngine(bundle, device="cpu", threads=1)
        scores += [reading.scores for reading in engine.read([open_row(row) for row in listed.rows])]
    assert np.stack(scores) == pytest.approx(done.exported.scores, abs=1e-5)


def test_the_same_run_goes_on_after_its_last_network(films: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    class Stopping(Told):
        def ended(self, line: Epoch) -> None:
            super().ended(line)
            if len(self.lines) == 4:
                raise Stopped

    whole = train(recipe(), films, tmp_path / "whole", Told(), threads=1, device="cpu")
    with pytest.raises(Stopped):
        train(recipe(), films, tmp_path / "parts", Stopping(), threads=1, device="cpu")
    told = Told()
    again = train(recipe(), films, tmp_path / "parts", told, threads=1, device="cpu")
    assert again.exported.bundle.weights_digest == whole.exported.bundle.weights_digest
    assert len(told.lines) == 3, "what was over is not trained again"
    assert [line.phase for line in again.log] == [line.phase for line in whole.log]


def test_without_a_phase_together_the_bundle_holds_the_mean(films: Path, tmp_path: Path) -> None:
    done = train(recipe(together=()), films, tmp_path, Told(), threads=1, device="cpu")
    parts = [bundle.weights for bundle in done.exported.apart.values()]
    for key, tensor in done.exported.bundle.weights.items():
        mean = np.mean([part[key].astype(np.float32) for part in parts], 0)
        assert np.asarray(tensor, np.float32) == pytest.approx(mean, rel=2e-3, abs=1e-4), key
    assert len(done.course.train) == 80


def test_the_mean_of_one_network_is_the_network() -> None:
    torch.manual_seed(0)
    one = new_network(SHAPE)
    mean = mean_of([one, one], SHAPE)
    assert all(torch.equal(tensor, one.state_dict()[key]) for key, tensor in mean.state_dict().items())
    assert not mean.training


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"films.held_out": (0,)}, "apart: two held-out folds"),
        ({"films.watched": (2,)}, "no watched one"),
        ({"apart": ()}, "together: it follows folds apart"),
        ({"apart.1.side": 32}, "apart: the last one trains what the bundle holds, at its 40 px"),
        ({"together.0.side": 32}, "together: the last one"),
        ({"together.0.importance": (1.0, 2.0)}, "together.0.importance"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_its_key(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        recipe(**changes)


def test_what_comes_before_folds_apart_may_end_at_another_side() -> None:
    assert recipe(**{"phases.0.side": 32}).phases[-1].side == 32
    with pytest.raises(RecipeError, match=r"phases: the last one trains what the bundle holds, at its 40 px"):
        recipe(**{"phases.0.side": 32, "apart": (), "together": ()})


def test_statistics_are_renewed_in_networks_that_are_read_with() -> None:
    """The one that folds go on from learns on: its statistics follow the films of that."""
    renewed = recipe(**{"optimiser.renew": True})
    assert before(renewed).optimiser.renew is False
    alone = changed(renewed, {"apart": (), "together": ()})
    assert before(alone) == alone


def test_a_try_is_small_in_every_phase() -> None:
    small = in_small(recipe(), epochs=1, side=32)
    assert [(phase.side, phase.epochs) for phase in small.every_phase] == [(32, 1)] * 4
    assert small.epochs == 1 + 2 * 2 + 1


def test_films_are_evaluated_by_who_never_saw_them(
    finished: tuple[Finished, Told], films: Path, tmp_path: Path
) -> None:
    done, _ = finished

    def evaluated(apart: Path, *more: str) -> Result:
        bundle, listed = done.folder / "bundle", films / "train_nih.csv"
        arguments = ["evaluate", str(bundle), "--data", str(listed), "--apart", str(apart), "--json", "--threads", "1"]
        return CliRunner().invoke(main, [*arguments, *more])

    boxes = ("--boxes", str(films / "nih_boxes.csv"), "--method", "gradcam")
    result = evaluated(done.folder / "apart", "--fold", "0", "--fold", "1", *boxes)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["apart"] == [0, 1] and found["films"] == 32
    assert found["bundle_digest"] == done.exported.bundle.digest
    boxed = list(csv.DictReader((films / "nih_boxes.csv").read_text().splitlines()))
    within = {f"{i}.png" for i in range(80) if i % 5 in (0, 1)}
    assert {one["films"] for one in found["localisation"]} == {sum(row["image"] in within for row in boxed)}
    for label in done.exported.bundle.manifest.labels:
        if label.metrics is not None and label.name in found["auroc"]:
            assert found["auroc"][label.name] == pytest.approx(label.metrics.auc, abs=1e-4)
    refused = evaluated(done.folder / "apart")
    assert refused.exit_code == 1 and "name these folds with --fold" in refused.stderr
    empty = evaluated(tmp_path, "--fold", "0")
    assert empty.exit_code == 1 and "the folder `apart` of a run" in empty.stderr


def test_a_film_of_no_fold_that_is_held_out_is_refused(finished: tuple[Finished, Told], films: Path) -> None:
    done, _ = finished
    bundle = done.exported.bundle
    listed = read_films(films / "train_nih.csv", ["Effusion"], folds=["3"])
    engine = TorchEngine(bundle, device="cpu", threads=1)
    with pytest.raises(BadList, match=r"row \d+ is of none of the folds 0"):
        evaluate(bundle, engine, dataclasses.replace(listed), apart={0: engine})
