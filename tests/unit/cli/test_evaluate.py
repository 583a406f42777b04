"""`evaluate`: from a list of films to numbers and a page, with the bundle that ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrnode.cli.evaluate import METHODS
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
        *OTHERS,
    )
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (list(found["auroc"]), found["mean_auroc"], found["films"]) == (["Effusion"], found["auroc"]["Effusion"], 8)
    assert result.stderr == "left out: row 9, lost.png: the film is not there\n"
    assert {one["method"] for one in found["localisation"]} == {"gradcam", "centre", "random"}
    assert "Effusion" in page.read_text()


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


def test_a_bundle_that_was_altered_is_not_evaluated(listing: Path, tmp_path: Path) -> None:
    from cxrnode.reading.bundle import SHIPPED

    folder = tmp_path / "altered"
    folder.mkdir()
    for file in (SHIPPED / "demo").iterdir():
        (folder / file.name).write_bytes(file.read_bytes() + (b"\0" if file.suffix == ".safetensors" else b""))
    result = run("evaluate", folder, "--data", listing)
    assert (result.exit_code, "SHA-256 is" in result.stderr) == (1, True)
