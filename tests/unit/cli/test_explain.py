"""`explain`: pictures of one film, with the bundle that ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from cxrnode.reading.oracle import made_films
from tests.unit.cli.clinic import run

pytestmark = pytest.mark.slow  # a network, and torch itself, to be loaded


@pytest.fixture(autouse=True)
def _no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "DOE JANE.png"
    Image.fromarray(made_films(128)[-1]).save(path)
    return path


def test_a_picture_for_each_finding_and_method_and_a_sheet(film: Path) -> None:
    options = ("--finding", "Mass", "--finding", "Edema", "--method", "gradcam", "--method", "gradcam++")
    result = run("explain", film, *options, "--out", "to", "--json")
    assert result.exit_code == 0, result.stderr
    names = sorted(path.name for path in Path("to").iterdir())
    expected = [f"{finding}-{method}.png" for finding in ("edema", "mass") for method in ("gradcam", "gradcampp")]
    assert names == sorted([*expected, "sheet.png"])
    answer = json.loads(result.stdout)
    assert [(row["finding"], row["method"]) for row in answer["explanations"]] == [
        ("Mass", "gradcam"),
        ("Mass", "gradcam++"),
        ("Edema", "gradcam"),
        ("Edema", "gradcam++"),
    ]
    with Image.open("to/sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_no_file_is_named_after_the_film(film: Path) -> None:
    result = run("explain", film)
    assert (result.exit_code, "DEMONSTRATION MODEL" in result.stdout, "DOE" in result.output) == (0, True, False)
    assert len(list(Path("explained").iterdir())) == 4


def test_what_is_no_film_and_no_finding_is_said(film: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.png"
    torn.write_bytes(b"no film")
    for arguments, message in (
        (("explain", torn), "cxrnode: no picture that can be read (UnidentifiedImageError)\n"),
        (("explain", film, "--finding", "Herna"), "cxrnode: the model has no finding Herna, only Atelectasis"),
        (("explain", film, "--model", "nothing"), "cxrnode: no bundle 'nothing'"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout, result.stderr.startswith(message)) == (1, "", True), result.stderr
