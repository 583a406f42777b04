"""`model import`: from a checkpoint to a bundle that the other commands know."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torchvision

from tests.unit.cli.clinic import Clinic

pytestmark = pytest.mark.slow


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "my net.pth.tar"
    network = torchvision.models.densenet121(weights=None, num_classes=14)
    # Random weights see no more than a breath of a film; the maps need some to compare.
    torch.nn.init.normal_(network.classifier.weight, std=0.3)
    torch.save(network.state_dict(), path)
    return path


def test_an_imported_bundle_is_verified_and_known_by_its_name(clinic: Clinic, checkpoint: Path) -> None:
    result = clinic.run("model", "import", checkpoint, "--size", "64", "--json")
    assert result.exit_code == 0, result.output
    assert "plausibility knows the layout of films alone" in result.stderr
    answer = json.loads(result.stdout)
    assert (answer["bundle"], answer["ok"]) == ("my-net", True)
    assert clinic.json("model", "show", "my-net")["licence"] == "not stated"
    again = clinic.run("model", "import", checkpoint)
    assert (again.exit_code, "--force replaces it" in again.stderr) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--digest", "0" * 64), "its digest is"),
        (("--trust",), "is none of the published files that are known"),
        (("--name", "../x"), "a plain name is needed"),
        (("--labels", "Mass"), "the network has 14 outputs, 1 labels are named"),
    ],
)
def test_what_cannot_be_imported_is_said_and_leaves_nothing(
    clinic: Clinic, checkpoint: Path, options: tuple[str, ...], message: str
) -> None:
    result = clinic.run("model", "import", checkpoint, *options)
    assert (result.exit_code, result.stdout, message in result.stderr) == (1, "", True), result.stderr
    assert not (clinic.folder / "data" / "models" / "my-net").exists()
