"""The admission check of a bundle: digests, weights, and its maps against pytorch-grad-cam. Changes nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
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
    film = noise_film(bundle.manifest.input.size)
    try:
        engine = TorchEngine(bundle, device="cpu", threads=threads)
        (reading,) = engine.read([film])
        detail = f"{len(reading.scores)} scores from {reading.scores.min():.3f} to {reading.scores.max():.3f} on noise"
        checks.append(Check(name="forward pass", ok=True, detail=detail))
    except Rejected as error:
        return (*checks, Check(name="forward pass", ok=False, detail=str(error)))
    limit = bundle.manifest.plausibility.limit
    checks.append(
        Check(
            name="plausibility",
            ok=reading.distance > limit,
            detail=f"noise lies at {reading.distance:.2f}, the limit is {limit:.2f}",
        )
    )
    if bundle.manifest.saliency is Saliency.NONE or reading.saliency is None:
        checks.append(Check(name="maps", ok=True, detail="the bundle makes no maps"))
    else:
        difference = difference_from_oracle(bundle, film, reading.saliency)
        detail = f"largest difference from pytorch-grad-cam {difference:.4f}, allowed {TOLERANCE}"
        checks.append(Check(name="maps", ok=difference <= TOLERANCE, detail=detail))
    return tuple(checks)


def difference_from_oracle(bundle: Bundle, film: npt.NDArray[np.uint8], saliency: npt.NDArray[np.float16]) -> float:
    """Return the largest difference, in [0, 1], over all labels and pixels, both scaled as pytorch-grad-cam does."""
    network = build_network(bundle.weights, len(bundle.manifest.labels))
    inputs = torch.from_numpy(prepare(film, bundle.manifest.input)[None])
    theirs = oracle_maps(network, network.relu, inputs, len(saliency))
    size = (inputs.shape[3], inputs.shape[2])
    return float(np.abs(scaled(saliency.astype(np.float32), size) - theirs).max())


def scaled(maps: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return our maps (C, h, w) as pytorch-grad-cam shows them: 0..1 for each label, enlarged to (width, height).

    They are first divided by h w, into its units: its scaling adds 1e-7, which a nearly empty map would show.
    """
    return np.asarray(scale_cam_image(maps / (maps.shape[1] * maps.shape[2]), size), np.float32)


def oracle_maps(network: nn.Module, layer: nn.Module, inputs: Tensor, labels: int) -> npt.NDArray[np.float32]:
    """Return pytorch-grad-cam's maps of a film (1, 3, H, W) at a layer: float32 (labels, H, W), each scaled to 0..1."""
    with GradCAM(model=network, target_layers=[layer]) as cam:
        maps = [cam(input_tensor=inputs, targets=[ClassifierOutputTarget(label)])[0] for label in range(labels)]
    return np.stack(maps).astype(np.float32)


def noise_film(size: int) -> npt.NDArray[np.uint8]:
    """Return a film that is none: uint8 (size, size) of uniform noise, the same every time."""
    return np.random.default_rng(20).integers(0, 256, (size, size), np.uint8)
