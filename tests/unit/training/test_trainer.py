"""Training: the same again from the same seed, the same after kill -9, and what a phase teaches which output."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cxrnode.reading.network import Network
from cxrnode.training.boxes import CELLS, box_loss, boxes_of
from cxrnode.training.course import Course, auxiliary_of, read_course
from cxrnode.training.epochs import Epoch
from cxrnode.training.pixels import Pixels
from cxrnode.training.readers import BadList
from cxrnode.training.recipe import AUXILIARY, Phase, Recipe
from cxrnode.training.recipes import changed, in_small, read_recipe, validated
from cxrnode.training.student import RunError, Student, mixed, rate_at, shape_of
from cxrnode.training.trainer import Trainer
from tests.unit.training.course_films import write_lists

pytestmark = pytest.mark.slow  # torch itself, and networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lists(tmp_path_factory.mktemp("films"))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def small(**changes: Any) -> Recipe:
    """Two small phases of the two-layer network, pooled, so that sides may differ."""
    values = read_recipe("nih15-cnn").model_dump()
    values["network"] = {"architecture": "cnn2", "dropout": 0.1}
    values["input"]["size"] = 40
    values["optimiser"] |= {"batch": 8, "average": 0.9, "name": "adamw", "precision": "float32"}
    values["augmentation"] = {"flip": 0.5, "noise": 0.05, "rotate": 0.1}
    values["loss"] = {"weighting": "balanced", "auxiliary": 0.3}
    first = {"side": 32, "epochs": 2, "rate": 1e-3, "schedule": "plateau", "patience": 1}
    values["phases"] = [first, {**first, "side": 40, "schedule": "cosine", "rise": 0.2}]
    values["early_stopping"] = {"patience": 2, "watch": "loss"}
    return changed(validated(values, where="test"), changes)


def trainer(recipe: Recipe, folder: Path, out: Path) -> Trainer:
    course = read_course(recipe, folder)
    return Trainer(course, out, Pixels(out, threads=1), mean=0.5, std=0.25, threads=1, device="cpu")


def run(made: Trainer, ended: Any = lambda line: None) -> Network:
    return made.run(lambda phase, epoch, share, loss: None, ended)


def digest(network: Network) -> str:
    whole = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        whole.update(name.encode() + tensor.numpy().tobytes())
    return whole.hexdigest()


def without_seconds(log: list[Epoch]) -> list[Epoch]:
    return [dataclasses.replace(line, seconds=0.0) for line in log]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    one, two = (run(trainer(small(), folder, tmp_path / name)) for name in ("one", "two"))
    other = run(trainer(small(seed=2), folder, tmp_path / "other"))
    assert digest(one) == digest(two)
    assert digest(one) != digest(other)
    assert not one.training and one.shape.outputs == 15


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_run_goes_on_to_the_same_weights(folder: Path, tmp_path: Path, stop_after: int) -> None:
    whole = trainer(small(), folder, tmp_path / "whole")
    expected = digest(run(whole))
    lines = itertools.count(1)

    class Stopped(Exception):
        pass

    def stop(line: Epoch) -> None:
        if next(lines) == stop_after:
            raise Stopped

    with pytest.raises(Stopped):
        run(trainer(small(), folder, tmp_path / "parts"), stop)
    again = trainer(small(), folder, tmp_path / "parts")
    assert digest(run(again)) == expected
    assert without_seconds(again.log) == without_seconds(whole.log)


def test_a_run_of_another_recipe_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    run(trainer(small(), folder, tmp_path))
    with pytest.raises(RunError, match=r"another recipe.*--out"):
        run(trainer(small(seed=5), folder, tmp_path))


def test_it_learns_what_can_be_seen(folder: Path, tmp_path: Path) -> None:
    recipe = small(
        **{"phases.0.epochs": 6, "phases.1.epochs": 6, "early_stopping.patience": 0, "optimiser.average": 0.0}
    )
    made = trainer(recipe, folder, tmp_path)
    run(made)
    assert made.log[-1].auc["Effusion"] > 0.9
    assert [line.side for line in made.log] == [32] * 6 + [40] * 6


def test_early_stopping_ends_a_phase_and_keeps_its_best_weights(folder: Path, tmp_path: Path) -> None:
    recipe = small(**{"phases.0.epochs": 30, "phases.0.rate": 3.0, "optimiser.average": 0.0, "optimiser.clip": 0.0})
    recipe = changed(recipe, {"phases": [recipe.phases[0].model_dump() | {"side": 40}]})
    made = trainer(recipe, folder, tmp_path)
    network = run(made)
    losses = [line.seen_loss for line in made.log]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 2 < 30, "two epochs that were no better"
    seen = made.pixels.load(made.course.watched, 40)
    logits = made.score(seen.pixels)[:, list(made.course.lessons[0].judged)]
    truth = made.course.lessons[0].seen_truth
    assert float((np.logaddexp(0, logits) - logits * truth).mean()) == pytest.approx(losses[best], rel=1e-4)
    assert not network.training


def test_the_rate_falls_on_a_plateau(folder: Path, tmp_path: Path) -> None:
    # So small a rate that float32 does not see it: no epoch is better than the first.
    recipe = small(
        **{"phases.0.epochs": 5, "phases.0.rate": 1e-14, "early_stopping.patience": 0, "optimiser.average": 0.0}
    )
    recipe = changed(recipe, {"phases": [recipe.phases[0].model_dump() | {"side": 40, "patience": 2}]})
    made = trainer(recipe, folder, tmp_path)
    run(made)
    assert [line.rate for line in made.log] == pytest.approx([1e-14, 1e-14, 1e-14, 1e-15, 1e-15])


def test_a_rate_rises_and_falls_as_its_phase_says() -> None:
    phase = Phase(side=64, epochs=4, rate=1e-3, schedule="cosine", rise=0.25, end=0.1)
    rates = [rate_at(phase, done / 100) for done in range(101)]
    assert rates[0] < 1e-4 < max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4)
    assert rate_at(phase.model_copy(update={"schedule": "constant", "rise": 0.0}), 1.0) == 1e-3


def pretrained() -> Recipe:
    first = {
        "films": ["train_nih.csv", "train_kermany.csv"],
        "labels": ["Abnormal", "train_kermany.csv:Pneumonia", "Edema"],
        "importance": [1, 2, 1],
        "auxiliary": 0.5,
        "side": 32,
        "epochs": 1,
        "rate": 1e-3,
    }
    recipe = small()
    return changed(recipe, {"phases": [first, recipe.phases[1].model_dump()]})


def columns(course: Course, lesson: int) -> dict[str, np.ndarray]:
    return dict(zip(course.outputs, course.lessons[lesson].weights.T, strict=True))


def test_a_phase_on_several_lists_teaches_each_output_by_the_list_that_knows_it(folder: Path, tmp_path: Path) -> None:
    course = read_course(pretrained(), folder)
    own = pretrained().films.labels
    assert course.outputs == (*own, "Abnormal", "train_kermany.csv:Pneumonia", *AUXILIARY)
    weights, nih = columns(course, 0), np.array([row.path.name for row in course.lessons[0].rows])
    first = np.arange(len(nih)) < len(nih) // 2
    assert (weights["Abnormal"][first] > 0).all() and (weights["Abnormal"][~first] == 0).all()
    assert (weights["train_kermany.csv:Pneumonia"][~first] > 0).all()
    assert (weights["train_kermany.csv:Pneumonia"][first] == 0).all()
    assert weights["train_kermany.csv:Pneumonia"][~first].mean() == pytest.approx(2, rel=1e-3)
    assert (weights["Edema"][first] > 0).any(), "a label of the recipe is the same output"
    assert (weights["Effusion"] == 0).all(), "what the phase does not name is not learnt in it"
    assert (weights["age"][first] == 0.5).all() and (weights["age"][~first] == 0).all()
    assert run(trainer(pretrained(), folder, tmp_path)).shape.outputs == 15


def test_no_patient_is_on_two_sides(folder: Path) -> None:
    course = read_course(small(), folder)
    sides = [{row.patient for row in rows} for rows in (course.train, course.watched, course.held)]
    assert [len(side) for side in sides] == [24, 8, 8]
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_an_overlap_is_refused_and_counted(folder: Path, tmp_path: Path) -> None:
    text = (folder / "train_nih.csv").read_text().splitlines()
    mixed = [text[0], *(line.replace(f",{i},", ",7,", 1) if i in (1, 2) else line for i, line in enumerate(text[1:]))]
    for film in folder.glob("*.png"):
        (tmp_path / film.name).symlink_to(film)
    (tmp_path / "train_nih.csv").write_text("\n".join(mixed) + "\n")
    with pytest.raises(BadList, match=r"1 patient"):
        read_course(small(), tmp_path)


def test_a_label_that_no_film_has_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "train_nih.csv").read_text().splitlines()
    hernia = lines[0].split(",").index("Hernia")
    rows = [line.split(",") for line in lines[1:]]
    (tmp_path / "train_nih.csv").write_text(
        "\n".join([lines[0], *(",".join([*row[:hernia], "0", *row[hernia + 1 :]]) for row in rows)]) + "\n"
    )
    for film in folder.glob("*.png"):
        (tmp_path / film.name).symlink_to(film)
    with pytest.raises(BadList, match=r"no film with Hernia"):
        read_course(small(), tmp_path)


def test_a_film_that_cannot_be_opened_is_named_and_the_rest_is_trained_on(folder: Path, tmp_path: Path) -> None:
    for film in [*folder.glob("*.png"), folder / "train_nih.csv"]:
        (tmp_path / film.name).write_bytes(b"no picture" if film.name == "12.png" else film.read_bytes())
    made = trainer(small(), tmp_path, tmp_path / "run")
    run(made)
    assert [bad.image for bad in made.pixels.bad] == ["12.png"]


def test_what_is_not_known_of_a_patient_is_not_learnt(folder: Path) -> None:
    (row, *_) = read_course(small(), folder).train
    values = auxiliary_of([row, dataclasses.replace(row, age=None, sex="", view="LL")])
    assert np.isfinite(values[0]).all() and np.isnan(values[1]).all()


def test_a_frozen_part_keeps_its_weights_and_its_statistics() -> None:
    recipe = in_small(read_recipe("nih15-mobilenet"), side=32)
    from cxrnode.reading.network import new_network

    student = Student(new_network(shape_of(recipe)), 3)
    with pytest.raises(RunError, match=r"no part 'features\.layer9'; it has features\.0"):
        student.require_parts(["features.layer9"])
    student.require_parts(["features", "features.0", "classifier"])
    student.freeze(["features"])
    student.learning(["features"])
    before = {name: tensor.clone() for name, tensor in student.network.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1)
    logits, _ = student(torch.rand(4, 1, 32, 32))
    logits.sum().backward()
    optimiser.step()
    moved = {name for name, tensor in student.network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("classifier") for name in moved)


def test_random_weights_are_never_frozen(folder: Path, tmp_path: Path) -> None:
    recipe = small(**{"phases.0.frozen": ["features"], "phases.0.epochs": 1, "phases.1.epochs": 1})
    made = trainer(recipe, folder, tmp_path)
    before = made.student.network.get_parameter("features.conv1.weight").detach().clone()
    run(made)
    assert not torch.equal(made.student.network.get_parameter("features.conv1.weight").detach(), before)


def test_boxes_draw_the_map_of_their_finding_into_them(folder: Path, tmp_path: Path) -> None:
    recipe = small(**{"loss.boxes": "nih_boxes.csv", "loss.box_weight": 2.0, "augmentation": {}})
    recipe = changed(recipe, {"early_stopping.patience": 0, "phases.0.epochs": 10, "phases.0.rate": 3e-3})

    def inside(out: str, recipe: Recipe) -> float:
        made = trainer(recipe, folder, tmp_path / out)
        network = run(made)
        boxes = made.course.lessons[-1].boxes or boxes_of(
            folder / "nih_boxes.csv", made.course.train, recipe.films.labels
        )
        assert (boxes.places >= 0).sum() == 12, "Effusion on every other film"
        grey = torch.from_numpy(made.pixels.load(made.course.train, 40).pixels.copy())[:, None].float() / 255
        done = network.run((grey - 0.5) / 0.25)
        return float(box_loss(network, done.activations, boxes.of(np.arange(len(grey)))).detach())

    assert inside("with", recipe) < inside("without", changed(recipe, {"loss.boxes": ""})) - 0.1


def test_mixed_films_keep_the_boxes_of_the_heavier_one() -> None:
    films, masks = torch.eye(8).view(8, 1, 2, 4), torch.arange(8.0).view(8, 1, 1, 1)
    seen = set()
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        mix, _, _, kept, share = mixed(films, films[:, :, 0], films[:, :, 0], masks, 0.5, generator)
        assert kept is not None and 0.5 <= share <= 1
        for row, box in zip(mix.flatten(1), kept.flatten().tolist(), strict=True):
            # A film mixed with itself weighs 1.
            assert float(row[int(box)]) == pytest.approx(share) or float(row.max()) == 1
        seen.add(kept.flatten().tolist() == list(range(8)))
    assert seen == {True, False}, "either film of a pair is the heavier one at times"


def test_boxes_and_mixed_films_go_together(folder: Path, tmp_path: Path) -> None:
    recipe = small(**{"loss.boxes": "nih_boxes.csv", "loss.mixup": 0.3})
    assert run(trainer(recipe, folder, tmp_path)).training is False


def test_a_phase_mixes_and_averages_as_it_says_or_as_the_recipe_does(folder: Path, tmp_path: Path) -> None:
    def weights(name: str, **changes: Any) -> str:
        return digest(run(trainer(small(**{"loss.mixup": 0.3, **changes}), folder, tmp_path / name)))

    everywhere = weights("everywhere", **{"loss.mixup": 0.5, "optimiser.average": 0.5})
    said = {f"phases.{i}.{key}": 0.5 for i in (0, 1) for key in ("mixup", "average")}
    assert weights("each", **said) == everywhere
    first = weights("first", **{"phases.0.mixup": 0.5, "phases.0.average": 0.5})
    # The second phase is the recipe's again: the first one's ways do not stick.
    again = weights("again", **{"phases.0.mixup": 0.5, "phases.0.average": 0.5, "phases.1.mixup": 0.3})
    assert first == weights("second", **{"phases.0.mixup": 0.5, "phases.0.average": 0.5, "phases.1.average": 0.9})
    assert first == again
    assert len({everywhere, first, weights("recipe")}) == 3


@pytest.mark.parametrize("renew", [True, False])
def test_statistics_taken_anew_are_those_of_the_films_as_they_are_read(
    folder: Path, tmp_path: Path, renew: bool
) -> None:
    recipe = in_small(read_recipe("nih15-mobilenet"), side=32)
    recipe = changed(recipe, {"optimiser.renew": renew, "optimiser.precision": "float32", "optimiser.batch": 8})
    made = trainer(recipe, folder, tmp_path)
    network = run(made)
    films = made.pixels.load(made.course.train, 32).pixels
    assert len(films) % 8 == 0, "the mean of the batches is then that of the films"
    with torch.inference_mode():
        first = network.get_submodule("features.0.0")(made._input(torch.from_numpy(films)[:, None].float() / 255))
    kept = network.get_submodule("features.0.1").get_buffer("running_mean")
    assert torch.allclose(kept, first.mean((0, 2, 3)), atol=1e-5) is renew


def test_films_without_boxes_lose_nothing() -> None:
    recipe = small()
    from cxrnode.reading.network import new_network

    network = new_network(shape_of(recipe))
    assert float(box_loss(network, torch.rand(2, 64, 8, 8), torch.zeros(2, 15, CELLS, CELLS))) == 0


def test_a_folder_in_a_published_layout_is_a_list_as_well(folder: Path, tmp_path: Path) -> None:
    for i in range(40):
        place = tmp_path / ("PNEUMONIA" if i % 2 else "NORMAL")
        place.mkdir(exist_ok=True)
        name = f"person{i}_virus_1.png" if i % 2 else f"IM-{i:04}-0001.png"
        (place / name).write_bytes((folder / f"{i}.png").read_bytes())
    course = read_course(read_recipe("pneumonia-cnn"), tmp_path)
    assert sum(len(rows) for rows in (course.train, course.watched, course.held)) == 40
    assert len(course.held) == 8 and {row.findings for row in course.held} == {(0,), (1,)}
    assert course.train == read_course(read_recipe("pneumonia-cnn"), tmp_path).train, "the same folds again"


def test_the_first_statistics_of_batch_normalisation_are_plain_means() -> None:
    """Found when a run of three steps left them near their start: an Inception v3 then gave no finite number."""
    from cxrnode.reading.network import new_network

    recipe = in_small(read_recipe("nih15-mobilenet"), side=32)
    student = Student(new_network(shape_of(recipe)), 3).train()
    norm = student.network.get_submodule("features.0.1")
    seen = []
    for step in range(3):
        student.settle(step)
        films = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(step))
        seen.append(student.network.get_submodule("features.0.0")(films).mean((0, 2, 3)).detach())
        student(films)
    assert torch.allclose(norm.get_buffer("running_mean"), torch.stack(seen).mean(0), atol=1e-5)
    student.settle(50)
    assert norm.momentum == 0.1
