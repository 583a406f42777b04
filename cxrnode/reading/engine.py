"""The engine: films in, readings out. Knows neither thresholds nor patients; writes nothing.

What is promised of numbers: a film's scores are computed once, stored in its report, and everything is made of that
report. Read again, in another batch or on another day, the same engine gives them to float noise (1e-5 in float32; in
bf16 to what its admission allowed), another engine to what `reading.admission` allowed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrnode.cores import cores
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.manifest import REGIONS, Evidence, Saliency
from cxrnode.reading.network import Network, Pass, build_network
from cxrnode.reading.plausibility import Clouds, layouts_of
from cxrnode.reading.readings import Engine, Film, NotFinite, Observation, Reading, judged, prepare

__all__ = [
    "Arithmetic",
    "Engine",
    "Film",
    "NetworkEngine",
    "NotFinite",
    "Observation",
    "Reading",
    "TorchEngine",
    "out_of_memory",
    "prepare",
]


def out_of_memory(fault: BaseException) -> bool:
    """Whether the device had no memory for a batch; what it keeps for later is given back then."""
    crowded = isinstance(fault, torch.cuda.OutOfMemoryError)
    if crowded and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return crowded


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch computes in the calling thread alone: after a small step its others spin longer than they worked.

    A twentieth of all that a film costs where another library runs the network. The number is the process's: one engine
    reads at a time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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

    def threads(self) -> contextlib.AbstractContextManager[None]:
        """What torch may use beside the network; an engine whose network torch runs gives it all it has."""
        return one_thread()

    def run(self, inputs: npt.NDArray[np.float32]) -> Pass:
        """Run inputs (N, channels, size, size) through the network, in inference mode."""
        raise NotImplementedError

    def read(self, films: Sequence[Film]) -> list[Reading]:
        """Read films, each uint8 (H, W), 0 = black, row 0 = top. Raises NotFinite or UnreadableImage."""
        return judged(self.observe(films), self._clouds)

    def observe(self, films: Sequence[Film]) -> list[Observation]:
        """Return what the network gives for films before plausibility is judged: what an export measures."""
        seen: list[Observation] = []
        for start in range(0, len(films), self.batch):
            inputs = np.stack([prepare(film, self._input) for film in films[start : start + self.batch]])
            layouts = layouts_of(inputs[:, 0] * self._input.std[0] + self._input.mean[0])
            with self.threads():
                with torch.inference_mode():
                    done = self.run(inputs)
                scores, features = done.logits.sigmoid().cpu().numpy(), self._features(done)
                maps = self._halves(done)
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

    def exact_maps(self, films: Sequence[Film]) -> npt.NDArray[np.float32]:
        """The maps of films in one pass, (N, C, h, w), before readings take the nearest half of each value."""
        with torch.inference_mode():
            done = self.run(np.stack([prepare(film, self._input) for film in films]))
        return self._maps(done)

    def _maps(self, done: Pass) -> npt.NDArray[np.float32]:
        if self._saliency is Saliency.CLOSED:
            with torch.inference_mode():
                maps = self._network.maps(done)
        else:
            maps = self._network.maps_by_gradient(done)
        exact: npt.NDArray[np.float32] = maps.cpu().numpy()
        return exact

    def _halves(self, done: Pass) -> npt.NDArray[np.float16] | None:
        if self._saliency is Saliency.NONE:
            return None
        with np.errstate(over="ignore"):  # what overflows is refused by `observe`
            return self._maps(done).astype(np.float16)


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

    def threads(self) -> contextlib.AbstractContextManager[None]:
        """All of them: torch runs the network."""
        return contextlib.nullcontext()

    def run(self, inputs: npt.NDArray[np.float32]) -> Pass:
        """Run inputs (N, channels, size, size) through the network, in inference mode."""
        tensor = torch.from_numpy(inputs).to(self.device, self._type, memory_format=torch.channels_last)
        return self._network.run(tensor)


class _Float32(nn.Module):
    """The end of a body that is computed in fewer bits."""

    def forward(self, activations: Tensor) -> Tensor:
        return activations.float()
