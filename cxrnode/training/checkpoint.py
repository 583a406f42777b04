"""A checkpoint of a DenseNet-121 as somebody published it, turned into a bundle. Fits and measures nothing.

Whatever the file holds is opened in a child process (`unpickle`); here only safetensors are read. The bundle has no
thresholds, so that nothing is assessed, unless a manifest is given whose thresholds belong to these very weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cxrnode.core.findings import NIH14
from cxrnode.errors import BundleError, Rejected
from cxrnode.reading.bundle import SHIPPED, WEIGHTS, load_bundle, write_bundle
from cxrnode.reading.engine import Film, TorchEngine
from cxrnode.reading.manifest import (
    Calibration,
    Evidence,
    Input,
    IntendedUse,
    Label,
    Manifest,
    Metrics,
    PlausibilityLimit,
    Saliency,
    Training,
)
from cxrnode.reading.manifest_text import FORMAT, parse_manifest
from cxrnode.reading.network import Architecture, Shape, build_network
from cxrnode.reading.plausibility import Cloud, Clouds
from cxrnode.training.concepts import CONCEPTS
from cxrnode.training.published import Published, pinned_as, require_digest
from cxrnode.training.unpickle import NO_ISOLATION, NOT_SAFE

#: What ImageNet's networks, and those that start from them, are fed (torchvision's documentation).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: Names of wrappers around the network: DataParallel's, CheXNet's, and usual ones.
_WRAPPERS = ("module.", "densenet121.", "model.", "network.", "backbone.")
#: torchvision 0.2 wrote `norm.1` in a dense layer for what is `norm1` since.
_OLD = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
_HEAD = re.compile(r"classifier\.0\.(weight|bias)")
_SECONDS = 300

#: Pooled features of a DenseNet-121.
FEATURES = 1024
#: Fewer films than this tell nothing of what ordinary ones are like.
FEWEST_FILMS = 50
#: The share of good films that may lie past the limit of plausibility.
FALSE_ALARMS = 0.01

State = Mapping[str, npt.NDArray[np.generic]]


class BadCheckpoint(Rejected):
    """A file is no checkpoint of a DenseNet-121, or may not be opened so; the message says what to do."""


def read_checkpoint(
    path: Path, *, trust: bool = False, digest: str | None = None
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the float32 weights of a checkpoint under torchvision's names of today.

    A safetensors file is read as it is. Anything else is opened in a child process without a network, by the reader of
    tensors alone; with `trust` as the program that a pickle is, for which `digest` (SHA-256, or git's of 40 digits)
    or a place in the table of published files is needed first. Raises BadCheckpoint, WrongDigest.
    """
    if not path.is_file():
        raise BadCheckpoint(f"{path}: there is no such file")
    with tempfile.TemporaryDirectory(prefix="cxrnode-import-") as folder:
        # The file that was verified is the one that is opened.
        copy, out = Path(folder) / "checkpoint", Path(folder) / "tensors.safetensors"
        shutil.copyfile(path, copy)
        if digest is not None:
            try:
                require_digest(copy, digest)
            except Rejected as error:
                raise type(error)(str(error).replace(f"{copy.name}:", f"{path.name}:")) from None
        elif trust and pinned_as(copy) is None:
            raise BadCheckpoint(
                f"{path.name}: is none of the published files that are known; --trust runs what the file says, so give "
                "the --digest that its publisher states"
            )
        if path.suffix != ".safetensors":
            _open(path.name, copy, out, trust=trust)
        try:
            found = load_file(copy if path.suffix == ".safetensors" else out)
        except SafetensorError as error:
            raise BadCheckpoint(f"{path.name}: not safetensors ({error})") from error
    return renamed(found)


def renamed(found: State) -> dict[str, npt.NDArray[np.float32]]:
    """Return a state under torchvision's names of today: without wrappers, `norm1` for `norm.1`, a plain classifier."""
    state = {}
    for key, tensor in found.items():
        while wrapper := next((w for w in _WRAPPERS if key.startswith(w)), None):
            key = key.removeprefix(wrapper)
        key = _OLD.sub(r"\1\2", key)
        key = _HEAD.sub(r"classifier.\1", key)
        if not key.endswith("num_batches_tracked"):
            state[key] = np.asarray(tensor, np.float32)
    return state


def import_checkpoint(
    path: Path,
    folder: Path,
    *,
    name: str,
    labels: Sequence[str] = NIH14,
    size: int = 224,
    trust: bool = False,
    digest: str | None = None,
    licence: str | None = None,
    calibration: Path | None = None,
    films: Sequence[Film] = (),
) -> str:
    """Write a bundle made of a checkpoint and return the bundle's digest.

    `films` are ordinary chest films, uint8 (H, W), that plausibility is learnt from, at least FEWEST_FILMS of them;
    without any it knows the layout alone, and would read whatever is laid out like a film.

    `labels` are the network's outputs in their order; those without a known concept are not reported. `calibration`
    is a manifest whose thresholds belong to the weights that come out. Raises BadCheckpoint, WrongDigest, BundleError.
    """
    state = read_checkpoint(path, trust=trust, digest=digest)
    _require_outputs(path.name, state, labels)
    try:
        build_network(state, Shape(architecture=Architecture.DENSENET121, outputs=len(labels)))
    except BundleError as error:
        what = str(error).removeprefix("weights.safetensors: ").partition(";")[0]
        raise BadCheckpoint(
            f"{path.name}: no DenseNet-121 of torchvision: {what}; import a checkpoint of that network, or "
            "train another by a recipe, with this file as --start-weights where it fits"
        ) from error
    published = pinned_as(path)
    if 0 < len(films) < FEWEST_FILMS:
        raise BadCheckpoint(f"plausibility needs {FEWEST_FILMS} ordinary chest films or more, {len(films)} were given")
    clouds, limit = _layout_alone()
    manifest = _manifest(path, name, labels, size, published, licence, limit)
    with tempfile.TemporaryDirectory() as part:
        made = Path(part)
        write_bundle(made, manifest, state, clouds.tensors())
        provisional = load_bundle(made)
        if films:
            clouds, limit = _learnt(TorchEngine(provisional), films)
            manifest = _manifest(path, name, labels, size, published, licence, limit)
        if calibration is not None:
            manifest = _calibrated(manifest, calibration, provisional.weights_digest)
    return write_bundle(folder, manifest, state, clouds.tensors())


def _open(name: str, copy: Path, out: Path, *, trust: bool) -> None:
    """Let the child read the file. Raises BadCheckpoint with what the child said."""
    command = [sys.executable, "-P", "-m", "cxrnode.training.unpickle", str(copy), str(out)]
    # Nothing of the environment that could hold a secret; the packages are found as they were here.
    environment = {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "HOME": str(copy.parent),
    }
    try:
        done = subprocess.run(
            [*command, "whole" if trust else "safe"],
            cwd=copy.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BadCheckpoint(f"{name}: was not open after {_SECONDS} seconds; it is no checkpoint") from None
    if done.returncode == 0:
        return
    said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
    if done.returncode == NO_ISOLATION:
        raise BadCheckpoint(
            f"{name}: was not opened, since no process without a network can be made here; do it as root, or in a "
            "container that has no network"
        )
    if done.returncode == NOT_SAFE:
        raise BadCheckpoint(
            f"{name}: holds more than tensors ({said}). It is a program: only if you trust who published it, import it "
            "with --trust, and with --digest where it is none of the known files"
        )
    raise BadCheckpoint(f"{name}: is no checkpoint that can be read ({said})")


def _require_outputs(name: str, state: State, labels: Sequence[str]) -> None:
    head = state.get("classifier.weight")
    if head is not None and len(head) != len(labels):
        raise BadCheckpoint(
            f"{name}: the network has {len(head)} outputs, {len(labels)} labels are named; give --labels in the order "
            "of the outputs"
        )


def _layout_alone() -> tuple[Clouds, PlausibilityLimit]:
    """The layout of chest films as the shipped bundle knows it: it does not depend on any weights."""
    shipped = load_bundle(SHIPPED / "demo")
    known = Clouds.from_tensors(shipped.plausibility, shipped.manifest.evidence)
    anywhere = Cloud(
        mean=np.zeros(FEATURES, np.float32),
        components=np.eye(1, FEATURES, dtype=np.float32),
        # So wide that no film lies outside: of these features no good film is known.
        deviation=np.full(1, 1e6, np.float32),
        rest=np.full(1, 1e6, np.float32),
        reference=np.ones(1, np.float32),
    )
    limit = dataclasses.replace(shipped.manifest.plausibility, features=Evidence.POOLED)
    return Clouds(layout=known.layout, features=anywhere), limit


def _cloud(learnt: npt.NDArray[np.floating], held: npt.NDArray[np.floating], components: int, share: float) -> Cloud:
    cloud = Cloud.fit(learnt, components)
    return cloud.beyond(cloud.distances(held), share)


def _learnt(engine: TorchEngine, films: Sequence[Film]) -> tuple[Clouds, PlausibilityLimit]:
    """Clouds of four films in five, and the limit that lets nearly all of the fifth ones pass."""
    seen = engine.observe(films)
    layouts, features = np.stack([s.layout for s in seen]), np.stack([s.features for s in seen])
    held = np.arange(len(seen)) % 5 == 4
    share = FALSE_ALARMS / 2
    clouds = Clouds(
        layout=_cloud(layouts[~held], layouts[held], 48, share),
        features=_cloud(features[~held], features[held], 64, share),
    )
    far = float(np.quantile(clouds.distances(layouts[held], features[held]), 1 - FALSE_ALARMS, method="higher"))
    return clouds, PlausibilityLimit(
        # A film at the limit is plausible; the addend is the rounding of distances.
        limit=far * (1 + 1e-4),
        false_alarm_rate=FALSE_ALARMS,
        films=int(held.sum()),
        weights_sha256="",
    )


def _manifest(
    path: Path,
    name: str,
    labels: Sequence[str],
    size: int,
    published: Published | None,
    licence: str | None,
    limit: PlausibilityLimit,
) -> Manifest:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = f"{published.repository}, {published.name}" if published else path.name
    stated = f"{published.auc:g} on {published.measured}, as published" if published and published.auc else "nothing"
    return Manifest(
        format=FORMAT,
        name=name,
        version="1",
        architecture=Architecture.DENSENET121,
        activation="sigmoid",
        saliency=Saliency.CLOSED,
        licence=licence or (published.licence if published else "not stated"),
        demonstration=True,
        description=(
            f"Imported from {source} (SHA-256 {digest}). Nothing was measured here: no thresholds, so nothing is "
            "assessed; the maps have no measured scale; plausibility was "
            + (
                "taken from the layout of films alone. "
                if limit.weights_sha256
                else "learnt from films at the import. "
            )
            + (published.note if published else "")
        ).strip(),
        input=Input(size=size, channels=3, interpolation="bilinear", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        intended_use=IntendedUse(age_min=18.0, age_max=100.0, views=("PA", "AP"), modalities=("CR", "DX")),
        calibration=Calibration(data_set="none", method="none", films=0, representative=False, weights_sha256=""),
        plausibility=dataclasses.replace(limit, weights_sha256=""),
        training=Training(data=f"as {source} states", films=0, patients=0, recipe="imported, not trained here"),
        metrics=Metrics(data_set=f"not measured here; stated: {stated}", films=0, mean_auc=0.0),
        files=(),
        labels=tuple(Label(name=one, report=one in CONCEPTS, concept=CONCEPTS.get(one)) for one in labels),
    )


def _calibrated(manifest: Manifest, path: Path, weights_sha256: str) -> Manifest:
    """Return the manifest with the thresholds, scales and metrics of another that is for the same weights."""
    try:
        given = parse_manifest(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"{path.name}: cannot be read ({type(error).__name__}); --calibration takes a manifest"
        ) from None
    except BundleError as error:
        raise BundleError(f"{path.name}, as calibration: {error}") from error
    if given.sha256_of(WEIGHTS) != weights_sha256:
        raise BundleError(
            f"{path.name}: its thresholds were made for weights {given.sha256_of(WEIGHTS)[:12]}..., the checkpoint "
            f"gives {weights_sha256[:12]}...; calibrate these weights"
        )
    if [label.name for label in given.labels] != [label.name for label in manifest.labels]:
        raise BundleError(f"{path.name}: its labels are not those of the checkpoint, in their order; correct --labels")
    return dataclasses.replace(manifest, calibration=given.calibration, metrics=given.metrics, labels=given.labels)
