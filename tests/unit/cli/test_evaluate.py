"""`evaluate`: from a list of films to numbers and a page, with the bundle that ships."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.cli.evaluate import COMPARED, METHODS
from cxrnode.core.findings import NIH14
from tests.unit.cli.clinic import run

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    """Eight films of noise with effusion in every other, and a row whose film is not there."""
    random = np.random.default_rng(0)
    lines = ["image,Effusion,Mass"]
    for i in range(8):
        Image.fromarray(random.integers(0, 256, (64, 64), np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},0")
    (tmp_path / "films.csv").write_text("\n".join([*lines, "lost.png,1,0"]) + "\n")
    (tmp_path / "others.csv").write_text("image,kind\n0.png,noise\n1.png,noise\n")
    (tmp_path / "boxes.csv").write_text("image,finding,x,y,w,h\n1.png,Effusion,0,0,1024,1024\n")
    return tmp_path / "films.csv"


OTHERS = [part for label in NIH14 if label != "Effusion" for part in ("--without", label)]


def test_the_methods_are_those_of_the_library() -> None:
    from cxrnode.reading.explain import Method

    assert tuple(method.value for method in Method) == METHODS


def test_json_is_the_answer_and_bad_rows_go_to_stderr(listing: Path) -> None:
    page = listing.with_name("report.html")
    result = run(
        *("evaluate", "demo", "--data", listing, "--boxes", listing.with_name("boxes.csv"), "--html", page, "--json"),
        *("--steps", 2, "--others", listing.with_name("others.csv")),
        *OTHERS,
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (list(found["auroc"]), found["mean_auroc"], found["films"]) == (["Effusion"], found["auroc"]["Effusion"], 8)
    assert result.stderr == "left out: row 9, lost.png: the film is not there\n"
    assert [one["method"] for one in found["localisation"]] == [*COMPARED, "centre", "random"]
    assert [(one["kind"], one["films"]) for one in found["refusal"]] == [("noise", 2)]
    assert "Effusion" in page.read_text() and "Plausibility" in page.read_text()


def test_a_table_is_for_people(listing: Path) -> None:
    result = run("evaluate", "demo", "--data", listing, *OTHERS)
    assert (result.exit_code, "mean AUROC" in result.stdout, "Effusion" in result.stdout) == (0, True, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no column Atelectasis"),
        (("--without", "Efusion"), "--without Efusion: the model has no such finding"),
        (tuple(p for p in OTHERS if p not in ("--without", "Mass") for p in ("--without", p)), "none without, Mass"),
    ],
)
def test_what_cannot_be_evaluated_is_said_with_a_remedy(listing: Path, options: tuple[str, ...], message: str) -> None:
    result = run("evaluate", "demo", "--data", listing, *options)
    assert (result.exit_code, result.stdout, message in result.stderr) == (1, "", True), result.stderr


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("image,Mass", "films.csv: no column Effusion; add it with 0 and 1, or leave the finding out"),
        ("image,Effusion,Efusion", "column Efusion is no finding of this model and nothing else that is known"),
        ("film,Effusion", "films.csv: no column image; add it"),
    ],
)
def test_a_table_with_a_wrong_column_is_refused_by_its_name(listing: Path, head: str, message: str) -> None:
    _, *rows = listing.read_text().splitlines()
    listing.write_text("\n".join([head, *rows]) + "\n")
    result = run("evaluate", "demo", "--data", listing, *OTHERS)
    assert (result.exit_code, result.stdout, message in result.stderr) == (1, "", True), result.stderr


def test_a_corrupt_picture_and_a_wrong_label_are_left_out_by_their_rows(listing: Path) -> None:
    listing.with_name("2.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    listing.write_text(listing.read_text().replace("5.png,1,0", "5.png,yes,0"))
    result = run("evaluate", "demo", "--data", listing, "--json", *OTHERS)
    assert (result.exit_code, json.loads(result.stdout)["films"]) == (0, 6)
    assert "left out: row 3, 2.png: no picture that can be read" in result.stderr
    assert "left out: row 6, 5.png: Effusion is 'yes', not 0 or 1" in result.stderr


def test_weights_that_are_not_numbers_are_refused_by_their_key(listing: Path, tmp_path: Path) -> None:
    """Digests in order and a NaN inside, as a run that diverged would leave it."""
    from safetensors.numpy import load_file, save

    from cxrnode.reading.bundle import SHIPPED

    folder = tmp_path / "broken"
    shutil.copytree(SHIPPED / "demo", folder)
    weights = load_file(folder / "weights.safetensors")
    old = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    data = save({**weights, "classifier.bias": np.full_like(weights["classifier.bias"], np.nan)})
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").write_bytes(data)
    manifest = folder / "manifest.toml"
    text = manifest.read_text().replace(old, hashlib.sha256(data).hexdigest())
    manifest.unlink()
    manifest.write_text(text)
    result = run("evaluate", folder, "--data", listing, *OTHERS)
    said = "broken/weights.safetensors: classifier.bias holds values that are not finite; export it again"
    assert (result.exit_code, said in result.stderr) == (1, True), result.stderr


def test_thresholds_of_other_weights_are_refused(listing: Path, tmp_path: Path) -> None:
    """The weights are exchanged with their digest; the calibration still names the old ones."""
    from cxrnode.reading.bundle import SHIPPED, read_manifest

    folder = tmp_path / "swapped"
    shutil.copytree(SHIPPED / "demo", folder)
    old = read_manifest(folder)[0].sha256_of("weights.safetensors")
    manifest = folder / "manifest.toml"
    head, tail = manifest.read_text().split("[[files]]", 1)
    manifest.unlink()
    manifest.write_text(f"{head}[[files]]{tail.replace(old, 'c' * 64)}")
    result = run("evaluate", folder, "--data", listing, *OTHERS)
    said = f"calibration was made for weights {old[:12]}..., the bundle holds cccccccccccc"
    assert (result.exit_code, said in result.stderr) == (1, True), result.stderr


def test_a_bundle_that_was_altered_is_not_evaluated(listing: Path, tmp_path: Path) -> None:
    from cxrnode.reading.bundle import SHIPPED

    folder = tmp_path / "altered"
    folder.mkdir()
    for file in (SHIPPED / "demo").iterdir():
        (folder / file.name).write_bytes(file.read_bytes() + (b"\0" if file.suffix == ".safetensors" else b""))
    result = run("evaluate", folder, "--data", listing)
    assert (result.exit_code, "SHA-256 is" in result.stderr) == (1, True)
