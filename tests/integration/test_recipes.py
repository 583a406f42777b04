"""Each shipped recipe in small: from made films to a bundle that the node serves, with its report; and a search."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cxrnode.cli import main
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.engine import TorchEngine
from cxrnode.reading.oracle import made_films, verify_bundle
from cxrnode.training.recipe import Recipe
from cxrnode.training.recipes import changed, format_recipe, in_small, parse_recipe, read_recipe, shipped
from cxrnode.training.report import RESEARCH
from tests.unit.training.course_films import write_lists

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: The smallest side that leaves a map of more than a cell.
SIDE = {"inceptionv3": 96}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lists(tmp_path_factory.mktemp("films"), side=64)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    yield


def tiny(name: str, **changes: Any) -> Recipe:
    """The recipe with one epoch a phase on small pictures, so that its head, loss and explanation are its own."""
    recipe = read_recipe(name)
    recipe = in_small(recipe, epochs=1, side=SIDE.get(recipe.network.architecture, 64))
    return changed(recipe, {"explanation.films": 1, "optimiser.batch": 8, **changes})


def train(recipe: Recipe, folder: Path, *options: str) -> tuple[int, str, Path]:
    file = Path("tiny.toml")
    file.write_text(format_recipe(recipe))
    out = Path("run")
    arguments = [
        "train",
        str(file),
        "--data",
        str(folder),
        "--out",
        str(out),
        "--threads",
        "1",
        "--device",
        "cpu",
        "--json",
    ]
    done = CliRunner().invoke(main, [*arguments, *options], catch_exceptions=False)
    return done.exit_code, done.stdout, out


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_runs_from_films_to_a_served_bundle_and_a_report(name: str, folder: Path) -> None:
    recipe = tiny(name)
    status, said, out = train(recipe, folder)
    bundle = load_bundle(out / "bundle")
    checks = {check.name: check for check in verify_bundle(out / "bundle", threads=1)}
    assert checks["files"].ok and checks["forward pass"].ok
    assert (status == 0) == all(check.ok for check in checks.values()), "the status is that of the verification"

    manifest = bundle.manifest
    assert tuple(label.name for label in manifest.labels) == recipe.films.labels
    assert [label.name for label in manifest.labels if not label.report] == [
        label for label in recipe.films.labels if label in ("No Finding", "Abnormal") and label not in reported(bundle)
    ]
    assert manifest.input.size == recipe.input.size and manifest.input.channels == recipe.input.channels
    (reading,) = TorchEngine(bundle, device="cpu", threads=1).read(made_films(recipe.input.size)[-1:])
    assert reading.scores.shape == (len(recipe.films.labels),)
    assert reading.saliency is not None and reading.saliency.shape[0] == len(recipe.films.labels)

    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(said)
    assert metrics["weights_sha256"] == bundle.weights_digest
    assert metrics["films"] == {
        "trained_on": 24 if recipe.films.watched else 40 if recipe.apart else 40 - 8 * len(recipe.films.held_out),
        "watched": 8 * len(recipe.films.watched),
        "held_out": 8 * len(recipe.films.held_out),
        "left_out": 0,
    }
    assert set(metrics["auroc"]) == set(recipe.films.labels)
    binary = len(recipe.films.labels) == 1
    assert set(metrics["measured"]) == (
        {"auc", "loss", "accuracy", "precision", "recall", "f1"} if binary else {"mean_auc", "loss", "binary_accuracy"}
    )
    assert [one["threshold"] for one in metrics["thresholds"]][::4] == ([0.3, 0.5, 0.7] if binary else [])
    assert parse_recipe((out / "recipe.toml").read_text(), where="as run") == recipe
    assert len((out / "epochs.jsonl").read_text().splitlines()) == recipe.epochs == metrics["epochs"]

    page = (out / "report.html").read_text()
    assert page.count(RESEARCH) == 2
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|<script|<link""", page), "it needs no other file"
    assert ("<h2>Thresholds</h2>" in page) == binary
    assert f"Explained by {recipe.explanation.method}" in page
    assert page.count("<th>region</th>") == (1 if recipe.explanation.regions else 0)
    assert page.count("data:image/png") == 3
    for name_of, value in recipe.original.items():
        assert f"<td>{value:.3f}</td>" in page, name_of
    assert {path.name for path in (out / "plots").iterdir()} == {
        *("curves.png", "frequencies.png", "roc.png", "explained-1.jpg")
    }


def reported(bundle: Any) -> set[str]:
    return {label.name for label in bundle.manifest.labels if label.report}


def test_a_run_killed_by_the_system_goes_on_to_the_same_bundle(folder: Path, tmp_path: Path) -> None:
    changes = {"explanation.films": 0, "early_stopping.patience": 0, "phases.0.epochs": 14}
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(format_recipe(tiny("nih15-cnn", **changes)))

    def command(out: Path) -> list[str]:
        arguments = ["train", str(recipe), "--data", str(folder), "--out", str(out), "--threads", "1", "--json"]
        return [sys.executable, "-m", "cxrnode", *arguments, "--device", "cpu"]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(
        command(tmp_path / "killed"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    log = tmp_path / "killed" / "epochs.jsonl"
    until = time.monotonic() + 400
    while not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        assert killed.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "metrics.json").exists(), "it was killed in the middle"
    found = []
    for name in ("killed", "whole"):
        done = subprocess.run(command(tmp_path / name), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1), done.stderr  # a model of 24 films may not verify: its maps may be empty
        found.append(load_bundle(tmp_path / name / "bundle").weights_digest)
        assert len((tmp_path / name / "epochs.jsonl").read_text().splitlines()) == 14
    assert found[0] == found[1]


def test_a_search_leaves_a_table_a_plot_and_the_best_as_a_recipe_and_goes_on(folder: Path) -> None:
    recipe = tiny("nih15-cnn", **{"explanation.films": 0})
    status, said, out = train(recipe, folder, "--search", "2")
    first = json.loads(said)
    assert status == 0 and len(first["trials"]) == 2
    assert not (out / "bundle").exists() and not (out / "trial").exists()
    _, said, _ = train(recipe, folder, "--search", "3")
    found = json.loads(said)
    assert found["trials"][:2] == first["trials"] and len(found["trials"]) == 3
    assert found["best"]["value"] == max(trial["value"] for trial in found["trials"])
    best = parse_recipe((out / "best.toml").read_text(), where="best")
    assert best.phases[0].rate == found["best"]["values"]["phases.0.rate"]
    assert best.network.dropout == found["best"]["values"]["network.dropout"]
    assert json.loads((out / "trials.json").read_text()) == found
    assert (out / "trials.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["resnet"], r"no recipe 'resnet'.*nih15-cnn"),
        (["demo", "--search", "2"], r"watches no fold"),
        (["nih15-cnn", "--held-out", "1"], r"no fold is left to watch"),
        (["nih15-cnn", "--held-out", "9"], r"0 held out \(folds 9\)"),
        (["nih15-cnn", "--start-weights", "none.pth"], r"none\.pth"),
    ],
)
def test_what_cannot_be_is_a_line_on_stderr(arguments: list[str], said: str, folder: Path) -> None:
    done = CliRunner().invoke(main, ["train", *arguments, "--data", str(folder)])
    assert done.exit_code == 1
    assert re.search(said, done.stderr), done.stderr
