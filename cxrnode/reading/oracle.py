"""The admission check of a bundle: digests, weights, and its maps against pytorch-grad-cam. Changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cxrnode.errors import BundleError, Rejected
from cxrnode.reading.bundle import Bundle, load_bundle
from cxrnode.reading.engine import TorchEngine, prepare
from cxrnode.reading.manifest import Saliency
from cxrnode.reading.network import build_network

#: The largest difference allowed between our maps and pytorch-grad-cam's, after its own scaling to 0..1.
TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at, whether it is good, and what was seen."""

    name: str
    ok: bool
    detail: str


def verify_bundle(folder: Path, *, threads: int | None = None) -> tuple[Check, ...]:
    """Check a bundle; the first check that fails ends the list. Never raises for a bad bundle."""
    checks: list[Check] = []
    try:
        bundle = load_bundle(folder)
        checks.append(Check(name="files", ok=True, detail=f"digest {bundle.digest}, weights {bundle.weights_digest}"))
    except BundleError as error:
        return (Check(name="files", ok=False, detail=str(error)),)
    films = made_films(bundle.manifest.input.size)
    try:
        engine = TorchEngine(bundle, device="cpu", threads=threads)
        readings = engine.read(films)
        scores = np.stack([reading.scores for reading in readings])
        detail = f"{scores.shape[1]} scores from {scores.min():.3f} to {scores.max():.3f} on {len(films)} made films"
        checks.append(Check(name="forward pass", ok=True, detail=detail))
    except Rejected as error:
        return (*checks, Check(name="forward pass", ok=False, detail=str(error)))
    limit = bundle.manifest.plausibility.limit
    checks.append(
        Check(
            name="plausibility",
            ok=readings[0].distance > limit,
            detail=f"noise lies at {readings[0].distance:.2f}, the limit is {limit:.2f}",
        )
    )
    if bundle.manifest.saliency is Saliency.NONE:
        return (*checks, Check(name="maps", ok=True, detail="the bundle makes no maps"))
    # Empty maps agree with anything: the film on which most labels have a map is the one to compare on. Exact maps:
    # both are stretched to 0..1, and of a nearly flat map that makes a difference of what a half leaves out.
    maps = np.stack([reading.saliency for reading in readings if reading.saliency is not None])
    shown = (maps.max((2, 3)) > 0).sum(1)
    chosen = int(shown.argmax())
    difference = difference_from_oracle(bundle, films[chosen], engine.exact_maps([films[chosen]])[0])
    detail = (
        f"largest difference from pytorch-grad-cam {difference:.4f}, allowed {TOLERANCE}; "
        f"{shown[chosen]} of {maps.shape[1]} labels had a map to compare"
    )
    return (*checks, Check(name="maps", ok=difference <= TOLERANCE and bool(shown[chosen] > 0), detail=detail))


def difference_from_oracle(
    bundle: Bundle, film: npt.NDArray[np.uint8], saliency: npt.NDArray[np.floating[Any]]
) -> float:
    """Return the largest difference, in [0, 1], over all labels and pixels, both scaled as pytorch-grad-cam does.

    `saliency`: (C, h, w), halves or exact.
    """
    network = build_network(bundle.weights, bundle.manifest.shape)
    inputs = torch.from_numpy(prepare(film, bundle.manifest.input)[None])
    theirs = oracle_maps(network, network.relu, inputs, len(saliency))
    size = (inputs.shape[3], inputs.shape[2])
    return float(np.abs(scaled(saliency.astype(np.float32), size) - theirs).max())


def scaled(maps: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return our maps (C, h, w) as pytorch-grad-cam shows them: 0..1 for each label, enlarged to (width, height).

    It scales before and after enlarging, since a peak may fall between two pixels. The division by h w takes our
    maps into its units: its scaling adds 1e-7, which a nearly empty map would show.
    """
    return np.asarray(scale_cam_image(scale_cam_image(maps / (maps.shape[1] * maps.shape[2]), size)), np.float32)


def oracle_maps(network: nn.Module, layer: nn.Module, inputs: Tensor, labels: int) -> npt.NDArray[np.float32]:
    """Return pytorch-grad-cam's maps of a film (1, channels, H, W) at a layer: float32 (labels, H, W), each in 0..1."""
    with GradCAM(model=network, target_layers=[layer]) as cam:
        maps = [cam(input_tensor=inputs, targets=[ClassifierOutputTarget(label)])[0] for label in range(labels)]
    return np.stack(maps).astype(np.float32)


def made_films(size: int) -> list[npt.NDArray[np.uint8]]:
    """Return films that are none, uint8 (size, size), the same every time: noise, clouds, two lungs on a torso."""
    random = np.random.default_rng(20)
    films = [random.integers(0, 256, (size, size), np.uint8)]
    for cells in (3, 5, 9, 17, 33):
        cloud = Image.fromarray(random.integers(0, 256, (cells, cells), np.uint8))
        films.append(np.asarray(cloud.resize((size, size), Image.Resampling.BICUBIC)))
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    for lung, torso in ((60, 170), (90, 200), (120, 150)):
        inside = ((np.abs(x) - 0.42) / 0.3) ** 2 + (y / 0.7) ** 2 < 1
        film = np.where(inside, lung, torso) + random.normal(0, 12, (size, size))
        films.append(film.clip(0, 255).astype(np.uint8))
    return films
