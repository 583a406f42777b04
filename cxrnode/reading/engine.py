"""The engine: films in, readings out. Knows neither thresholds nor patients; writes nothing.

What is promised of numbers: a film's scores are computed once, stored in its report, and everything is made of that
report. Read again, in another batch or on another day, the same engine gives them to float noise (1e-5 in float32; in
bf16 to what its admission allowed), another engine to what `reading.admission` allowed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from cxrnode.errors import Rejected, UnreadableImage
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.manifest import REGIONS, Evidence, Input, Saliency
from cxrnode.reading.network import Network, Pass, build_network
from cxrnode.reading.plausibility import Clouds, layouts_of

Film = npt.NDArray[np.uint8]


class NotFinite(Rejected):
    """The model gave a score, map or distance that is not a finite number: nothing can be said about the film."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reading:
    """What the network gives for one film, before any threshold.

    scores: float32 (C,) in [0, 1]; saliency: float16 (C, h, w), >= 0, unscaled Grad-CAM in units of the logit,
    row 0 = top of the film, None where the bundle makes no maps; distance: >= 0, from the training films; about 1 for
    the farthest of good films.
    """

    scores: npt.NDArray[np.float32]
    saliency: npt.NDArray[np.float16] | None
    distance: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """What one forward pass gives for one film: `scores` and `saliency` as in `Reading`, and where the film lies.

    layout: float64 (64,), the film as 8 x 8 cells of grey; features: float32 (K,), what the manifest's `Evidence`
    names: the pooled activations, or the channels halfway, each as 3 x 3 means over regions by rows.
    """

    scores: npt.NDArray[np.float32]
    saliency: npt.NDArray[np.float16] | None
    layout: npt.NDArray[np.float64]
    features: npt.NDArray[np.float32]


class Engine(Protocol):
    """A way to run a bundle. `name` says library, version, device and arithmetic; it stands in every report."""

    @property
    def name(self) -> str:
        """What ran the model."""
        ...

    def read(self, films: Sequence[Film]) -> list[Reading]:
        """Read films, each uint8 (H, W), 0 = black, row 0 = top. Raises NotFinite or UnreadableImage."""
        ...


def out_of_memory(fault: BaseException) -> bool:
    """Whether the device had no memory for a batch; what it keeps for later is given back then."""
    crowded = isinstance(fault, torch.cuda.OutOfMemoryError)
    if crowded and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return crowded


def prepare(film: Film, given: Input) -> npt.NDArray[np.float32]:
    """Return float32 (channels, size, size): squashed with Pillow's bilinear filter, as in training.

    Raises UnreadableImage for what is no film: another type, shape or no pixels.
    """
    if film.dtype != np.uint8 or film.ndim != 2 or 0 in film.shape:
        raise UnreadableImage(f"a film is uint8 (H, W) with pixels, not {film.dtype} {film.shape}")
    small = Image.fromarray(film).resize((given.size, given.size), Image.Resampling.BILINEAR)
    grey = np.asarray(small, np.float32) / np.float32(255)
    mean = np.array(given.mean, np.float32)[:, None, None]
    std = np.array(given.std, np.float32)[:, None, None]
    prepared: npt.NDArray[np.float32] = (grey[None] - mean) / std
    return prepared


class Arithmetic(StrEnum):
    """In what numbers a network's body is computed. Head, maps and plausibility are always float32."""

    FLOAT32 = "float32"
    BF16 = "bf16"


class NetworkEngine:
    """What engines share: films become inputs, a subclass runs the network on them, and readings are taken of that."""

    def __init__(self, bundle: Bundle, *, batch: int) -> None:
        """Read the bundle's weights. `batch`: the most films of one pass. Raises BundleError."""
        self.batch = batch
        manifest = bundle.manifest
        self._input = manifest.input
        self._saliency = manifest.saliency
        self._network: Network = build_network(bundle.weights, manifest.shape).requires_grad_(False)
        self._clouds = Clouds.from_tensors(bundle.plausibility, manifest.evidence)
        self._evidence = manifest.plausibility.features

    @property
    def name(self) -> str:
        """Library, version, device and arithmetic."""
        raise NotImplementedError

    def run(self, inputs: npt.NDArray[np.float32]) -> Pass:
        """Run inputs (N, channels, size, size) through the network, in inference mode."""
        raise NotImplementedError

    def read(self, films: Sequence[Film]) -> list[Reading]:
        """Read films, each uint8 (H, W), 0 = black, row 0 = top. Raises NotFinite or UnreadableImage."""
        seen = self.observe(films)
        if not seen:
            return []
        layouts, features = (np.stack(part) for part in zip(*((s.layout, s.features) for s in seen), strict=True))
        distances = self._clouds.distances(layouts, features)
        if not np.isfinite(distances).all():
            raise NotFinite
        return [
            Reading(scores=s.scores, saliency=s.saliency, distance=float(distance))
            for s, distance in zip(seen, distances, strict=True)
        ]

    def observe(self, films: Sequence[Film]) -> list[Observation]:
        """Return what the network gives for films before plausibility is judged: what an export measures."""
        seen: list[Observation] = []
        for start in range(0, len(films), self.batch):
            inputs = np.stack([prepare(film, self._input) for film in films[start : start + self.batch]])
            layouts = layouts_of(inputs[:, 0] * self._input.std[0] + self._input.mean[0])
            with torch.inference_mode():
                done = self.run(inputs)
            scores, features = done.logits.sigmoid().cpu().numpy(), self._features(done)
            maps = self._maps(done)
            if not (np.isfinite(scores).all() and (maps is None or np.isfinite(maps).all())):
                raise NotFinite
            seen += [
                Observation(
                    scores=scores[i],
                    saliency=None if maps is None else maps[i],
                    layout=layouts[i],
                    features=features[i],
                )
                for i in range(len(scores))
            ]
        return seen

    def _features(self, done: Pass) -> npt.NDArray[np.float32]:
        if self._evidence is Evidence.POOLED:
            found = done.pooled
        else:
            with torch.inference_mode():
                found = functional.adaptive_avg_pool2d(done.middle.float(), REGIONS).flatten(1)
        features: npt.NDArray[np.float32] = found.cpu().numpy()
        return features

    def _maps(self, done: Pass) -> npt.NDArray[np.float16] | None:
        if self._saliency is Saliency.NONE:
            return None
        if self._saliency is Saliency.CLOSED:
            with torch.inference_mode():
                maps = self._network.maps(done)
        else:
            maps = self._network.maps_by_gradient(done)
        with np.errstate(over="ignore"):  # what overflows is refused by `observe`
            halves: npt.NDArray[np.float16] = maps.cpu().numpy().astype(np.float16)
        return halves


class TorchEngine(NetworkEngine):
    """PyTorch: CUDA where there is a device, else all cores of the processor; in float32, the reference, or bf16.

    Not bit-identical between batch sizes or devices (the order of sums differs): float32 scores agree to about 1e-5.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        threads: int | None = None,
        batch: int = 16,
        arithmetic: Arithmetic = Arithmetic.FLOAT32,
    ) -> None:
        """Load the bundle onto the device. Raises BundleError."""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.arithmetic = arithmetic
        if self.device.type == "cuda":
            # TF32 keeps ten bits: the same film must not read differently on another machine.
            torch.backends.cudnn.allow_tf32 = False
        else:
            torch.set_num_threads(threads or cores())
        super().__init__(bundle, batch=batch)
        self._type = torch.float32
        if arithmetic is Arithmetic.BF16:
            self._type = torch.bfloat16
            self._network.features.to(torch.bfloat16)
            self._network.features.add_module("float32", _Float32())  # the head and the maps stay in float32
        self._network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def name(self) -> str:
        """Library, version, device and arithmetic."""
        return f"torch {torch.__version__} {self.device.type} {self.arithmetic}"

    def run(self, inputs: npt.NDArray[np.float32]) -> Pass:
        """Run inputs (N, channels, size, size) through the network, in inference mode."""
        tensor = torch.from_numpy(inputs).to(self.device, self._type, memory_format=torch.channels_last)
        return self._network.run(tensor)


class _Float32(nn.Module):
    """The end of a body that is computed in fewer bits."""

    def forward(self, activations: Tensor) -> Tensor:
        return activations.float()


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0))
