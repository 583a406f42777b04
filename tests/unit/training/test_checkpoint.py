"""Checkpoints of the shapes that are published, made here: the same network comes out of each."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import socket
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from cxrnode.core.findings import NIH14, Thresholds
from cxrnode.errors import BundleError
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.engine import TorchEngine
from cxrnode.reading.manifest import LabelCalibration
from cxrnode.reading.manifest_text import format_manifest, parse_manifest
from cxrnode.reading.network import Architecture, Shape, build_network
from cxrnode.reading.oracle import made_films
from cxrnode.training.checkpoint import BadCheckpoint, import_checkpoint, read_checkpoint
from cxrnode.training.published import WrongDigest, blob_digest
from tests.peers import absent

pytestmark = pytest.mark.slow  # each checkpoint is opened in a process of its own, which loads torch


@pytest.fixture(autouse=True, scope="session")
def _isolation() -> None:
    """A container may forbid network namespaces."""
    program = "import sys; from cxrnode.training.unpickle import without_network; sys.exit(not without_network())"
    if subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode:
        absent("no process without a network can be made here: run as root, or without one", "CXRNODE_REQUIRE_PEERS")


def densenet(outputs: int = 14) -> nn.Module:
    torch.manual_seed(7)
    made: nn.Module = torchvision.models.densenet121(weights=None, num_classes=outputs).eval()
    return made


def with_sigmoid() -> nn.Module:
    """As CheXNet's copies are: the classifier ends in a sigmoid."""
    made = densenet()
    made.classifier = nn.Sequential(made.classifier, nn.Sigmoid())  # type: ignore[arg-type]
    return made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stock(folder: Path) -> Path:
    path = folder / "stock.pth"
    torch.save(densenet().state_dict(), path)
    return path


def whole(folder: Path) -> Path:
    """The layout of jrzech/reproduce-chexnet: a dictionary around the pickled model."""
    path = folder / "checkpoint"
    torch.save({"model": with_sigmoid(), "best_loss": 0.15, "epoch": 3, "rng_state": torch.get_rng_state()}, path)
    return path


def old(folder: Path) -> Path:
    """The layout of arnoweng and zoogzog: DataParallel around CheXNet around torchvision 0.2, in torch's old format."""
    state = OrderedDict()
    for key, tensor in with_sigmoid().state_dict().items():
        if not key.endswith("num_batches_tracked"):
            state["module.densenet121." + re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key)] = tensor
    assert "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in state
    assert "module.densenet121.classifier.0.weight" in state
    path = folder / "model.pth.tar"
    torch.save({"epoch": 1, "state_dict": state, "best_loss": 0.1}, path, _use_new_zipfile_serialization=False)
    return path


def safetensors(folder: Path) -> Path:
    path = folder / "stock.safetensors"
    save_file({k: t for k, t in densenet().state_dict().items() if t.dtype == torch.float32}, str(path))
    return path


@pytest.mark.parametrize("make", [stock, old, safetensors])
def test_tensors_come_out_under_todays_names_without_trust(make: Any, tmp_path: Path) -> None:
    state = read_checkpoint(make(tmp_path))
    expected = {k: t for k, t in densenet().state_dict().items() if not k.endswith("num_batches_tracked")}
    assert sorted(state) == sorted(expected)
    assert all(np.array_equal(state[key], expected[key].numpy()) for key in expected)


def test_a_whole_model_is_opened_with_trust_and_its_digest(tmp_path: Path) -> None:
    path = whole(tmp_path)
    for digest in (sha256(path), blob_digest(path)):
        state = read_checkpoint(path, trust=True, digest=digest)
        inputs = torch.zeros(1, 3, 64, 64)
        with torch.inference_mode():
            torch.testing.assert_close(
                build_network(state, Shape(architecture=Architecture.DENSENET121, outputs=14))(inputs).sigmoid(),
                with_sigmoid()(inputs),
            )


def test_a_whole_model_is_refused_without_trust_and_without_a_digest(tmp_path: Path) -> None:
    path = whole(tmp_path)
    with pytest.raises(BadCheckpoint, match=r"holds more than tensors .* with --trust"):
        read_checkpoint(path)
    with pytest.raises(BadCheckpoint, match=r"none of the published files .* give the --digest"):
        read_checkpoint(path, trust=True)


class Spy:
    """What a hostile checkpoint is: a program. It leaves a mark, then calls a server on this machine."""

    def __init__(self, mark: Path, port: int) -> None:
        self.program = (
            f"import socket\nopen({str(mark)!r}, 'a').write('ran ')\n"
            f"try:\n socket.create_connection(('127.0.0.1', {port}), 5)\n open({str(mark)!r}, 'a').write('called')\n"
            f"except OSError: pass\n"
        )

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (self.program,)


def test_a_hostile_checkpoint_runs_only_when_trusted_and_then_without_a_network(tmp_path: Path) -> None:
    mark, path = tmp_path / "mark", tmp_path / "hostile.pth"
    with socket.create_server(("127.0.0.1", 0)) as server:
        torch.save({"model": Spy(mark, server.getsockname()[1])}, path)
        with pytest.raises(BadCheckpoint, match="more than tensors"):
            read_checkpoint(path)
        with pytest.raises(WrongDigest):
            read_checkpoint(path, trust=True, digest="0" * 64)
        assert not mark.exists()
        with pytest.raises(BadCheckpoint, match="it holds no tensors"):
            read_checkpoint(path, trust=True, digest=sha256(path))
    assert mark.read_text() == "ran "


def test_the_child_sees_nothing_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leak:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (f"import os; open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(os.environ))",)

    monkeypatch.setenv("CXRNODE_SECRET", "hunter2")
    path = tmp_path / "leak.pth"
    torch.save({"model": Leak()}, path)
    with pytest.raises(BadCheckpoint):
        read_checkpoint(path, trust=True, digest=sha256(path))
    assert {"CXRNODE_SECRET", "USER"} & set((tmp_path / "seen").read_text().split()) == set()
    assert "CXRNODE_SECRET" in os.environ


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.pth", b"no checkpoint at all", "a.pth: (is no checkpoint|holds more than tensors)"),
        ("a.safetensors", b"no checkpoint at all", "a.safetensors: not safetensors"),
    ],
)
def test_what_is_no_checkpoint_is_said(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadCheckpoint, match=message):
        read_checkpoint(tmp_path / name)
    with pytest.raises(BadCheckpoint, match="no such file"):
        read_checkpoint(tmp_path / "nothing")


def test_an_imported_bundle_reads_as_the_network_did_and_assesses_nothing(tmp_path: Path) -> None:
    path = whole(tmp_path)
    digest = import_checkpoint(path, tmp_path / "b", name="b", trust=True, digest=sha256(path))
    bundle = load_bundle(tmp_path / "b")
    assert (bundle.digest, bundle.manifest.demonstration) == (digest, True)
    assert [label.name for label in bundle.manifest.labels] == list(NIH14)
    film = made_films(224)[-1]
    (reading,) = TorchEngine(bundle, device="cpu", threads=1).read([film])
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    inputs = (torch.from_numpy(film.copy()).float().expand(1, 3, 224, 224) / 255 - mean) / std
    with torch.inference_mode():
        expected = with_sigmoid()(inputs)[0].numpy()
    # Weights are stored as float16.
    np.testing.assert_allclose(reading.scores, expected, atol=2e-3)
    assert {finding.decision.value for finding in bundle.findings(reading)} == {"not_assessed"}


def test_plausibility_is_learnt_from_films(tmp_path: Path) -> None:
    """Films here are two lungs in noise; noise alone and clouds are none."""
    random = np.random.default_rng(0)
    lungs = made_films(64)[-1].astype(float)
    films = [(lungs + random.normal(0, 6, lungs.shape)).clip(0, 255).astype(np.uint8) for _ in range(60)]
    import_checkpoint(stock(tmp_path), tmp_path / "b", name="b", size=64, films=films)
    bundle = load_bundle(tmp_path / "b")
    readings = TorchEngine(bundle, device="cpu", threads=1).read([films[0], films[4], *made_films(64)[:3]])
    assert [bundle.plausibility_of(reading).plausible for reading in readings] == [True, True, False, False, False]
    assert (bundle.manifest.plausibility.films, bundle.manifest.plausibility.false_alarm_rate) == (12, 0.01)
    with pytest.raises(BadCheckpoint, match="50 ordinary chest films or more, 3 were given"):
        import_checkpoint(stock(tmp_path), tmp_path / "b", name="b", films=films[:3])


def test_without_films_plausibility_knows_the_layout_alone_and_says_so(tmp_path: Path) -> None:
    import_checkpoint(stock(tmp_path), tmp_path / "b", name="b")
    bundle = load_bundle(tmp_path / "b")
    bars = np.repeat(np.array([[0, 255] * 2], np.uint8), 56, 1).repeat(224, 0)
    (reading,) = TorchEngine(bundle, device="cpu", threads=1).read([bars])
    assert not bundle.plausibility_of(reading).plausible
    assert "layout of films alone" in bundle.manifest.description


def test_thresholds_come_from_a_manifest_for_the_same_weights_alone(tmp_path: Path) -> None:
    path = stock(tmp_path)
    import_checkpoint(path, tmp_path / "a", name="a")
    card = parse_manifest((tmp_path / "a" / "manifest.toml").read_text())
    first = dataclasses.replace(
        card.labels[0],
        thresholds=Thresholds(rule_out=0.1, rule_in=0.4),
        calibration=LabelCalibration(positives=90, prevalence=0.1),
    )
    given = tmp_path / "calibration.toml"
    given.write_text(format_manifest(dataclasses.replace(card, labels=(first, *card.labels[1:]))))
    import_checkpoint(path, tmp_path / "b", name="b", calibration=given)
    assert load_bundle(tmp_path / "b").manifest.labels[0].assessed == first.thresholds
    other = tmp_path / "other.safetensors"
    save_file({k: t + 1 for k, t in densenet().state_dict().items() if t.dtype == torch.float32}, str(other))
    with pytest.raises(BundleError, match="its thresholds were made for weights"):
        import_checkpoint(other, tmp_path / "c", name="c", calibration=given)
    assert not (tmp_path / "c").exists()


def test_another_number_of_outputs_asks_for_labels(tmp_path: Path) -> None:
    path = tmp_path / "three.pth"
    torch.save(densenet(3).state_dict(), path)
    with pytest.raises(BadCheckpoint, match="the network has 3 outputs, 14 labels are named; give --labels"):
        import_checkpoint(path, tmp_path / "b", name="b")
    import_checkpoint(path, tmp_path / "b", name="b", labels=("Mass", "Tube", "Hernia"))
    assert [label.report for label in load_bundle(tmp_path / "b").manifest.labels] == [True, False, True]


def test_another_network_is_refused_by_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(
        BadCheckpoint, match=r"no DenseNet-121 of torchvision: \d+ tensors of a densenet121 are missing"
    ):
        import_checkpoint(path, tmp_path / "b", name="b")


def test_a_file_of_python_2_is_read(tmp_path: Path) -> None:
    """Its text has no encoding: here the description of a checkpoint holds a byte that is no UTF-8."""
    path = tmp_path / "old.pth"
    torch.save({"state_dict": densenet().state_dict(), "note": "NOTE"}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    text = b"X\x04\x00\x00\x00NOTE"
    assert data.count(text) == 1
    path.write_bytes(data.replace(text, b"U\x04N\xe9TE"))
    assert len(read_checkpoint(path)) == 606


def test_without_isolation_nothing_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxrnode.training import unpickle

    monkeypatch.setattr(unpickle, "without_network", lambda: False)
    monkeypatch.setattr(sys, "argv", ["unpickle", str(tmp_path / "a"), str(tmp_path / "b"), "whole"])
    assert unpickle.main() == unpickle.NO_ISOLATION
