"""The engine of onnxruntime for processors, in float32, and the export of a bundle that it runs. Never needed at start.

The exported graph is the network's body and head: logits, activations and what left the layer halfway; maps and
plausibility are taken of these by the code that every engine shares. The file is made from the bundle when it is
admitted, named by the bundle's digest, and checked against the SHA-256 that the admission recorded.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxrnode.cores import cores
from cxrnode.errors import BundleError
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import Arithmetic, NetworkEngine
from cxrnode.reading.network import Network, Pass, build_network

_NAMES = ("logits", "activations", "middle")
_OPSET = 17


def available() -> bool:
    """Whether onnxruntime is installed (the extra `onnx`)."""
    return importlib.util.find_spec("onnxruntime") is not None


def exportable() -> bool:
    """Whether a bundle can be exported here, which needs `onnx`."""
    return importlib.util.find_spec("onnx") is not None


class OnnxEngine(NetworkEngine):
    """onnxruntime on the processor, over an exported bundle."""

    def __init__(
        self, bundle: Bundle, graph: Path, *, threads: int | None = None, beside: int | None = None, batch: int = 16
    ) -> None:
        """Load the graph that `export` made of this bundle. Raises BundleError where it or onnxruntime is missing.

        `threads` of a pass; `beside`: those of a pass of several films, where other steps have the rest of the cores.
        """
        try:
            import onnxruntime
        except ImportError:
            raise BundleError(
                "this bundle was admitted with onnxruntime, which is not installed: `pip install cxrnode[onnx]`, or "
                "`cxrnode model admit NAME --engine torch-float32`"
            ) from None
        super().__init__(bundle, batch=batch)
        self.arithmetic = Arithmetic.FLOAT32
        threads = threads or cores()
        self._alone = _session(graph, threads)
        self._together = _session(graph, beside) if beside and beside != threads else self._alone
        self._version = onnxruntime.__version__

    @property
    def name(self) -> str:
        """Library, version, device and arithmetic."""
        return f"onnxruntime {self._version} cpu float32"

    def run(self, inputs: npt.NDArray[np.float32]) -> Pass:
        """Run inputs (N, channels, size, size) through the graph."""
        session = self._alone if len(inputs) == 1 else self._together
        logits, activations, middle = (
            torch.from_numpy(part) for part in session.run(_NAMES, {"film": np.ascontiguousarray(inputs)})
        )
        return Pass(logits=logits, activations=activations, pooled=activations.mean((2, 3)), middle=middle)


def _session(graph: Path, threads: int) -> Any:
    """The graph, ready to run in so many threads. Raises BundleError where it cannot be loaded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin for work take the cores from the decoder and from outputs in the making.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as fault:  # noqa: BLE001 - onnxruntime's own classes say no more than its text
        raise BundleError(
            f"{graph.name}: onnxruntime cannot load it ({type(fault).__name__}); `cxrnode model admit` anew"
        ) from None


class _Graph(nn.Module):
    """A network whose pass comes out as a tuple, as an export wants it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, film: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        done = self.network.run(film)
        return done.logits, done.activations, done.middle


def export(bundle: Bundle, path: Path) -> None:
    """Write a bundle's network as ONNX, any number of films at a time. Raises BundleError where that cannot be done."""
    given = bundle.manifest.input
    network = build_network(bundle.weights, bundle.manifest.shape).requires_grad_(False)
    write_graph(_Graph(network), torch.zeros((1, given.channels, given.size, given.size)), path, _NAMES)


def write_graph(graph: nn.Module, film: Tensor, path: Path, names: Sequence[str]) -> None:
    """Write a module as ONNX, from `film` (N, ...) to `names`, each with the films first. Raises BundleError."""
    many: dict[str, Any] = {name: {0: "films"} for name in ("film", *names)}
    part = path.with_suffix(".part")
    with warnings.catch_warnings():
        # The exporter that needs `onnx` alone; its successor brings three more libraries for the same graph.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                graph.eval(),
                (film,),
                str(part),
                input_names=["film"],
                output_names=list(names),
                dynamic_axes=many,
                opset_version=_OPSET,
                dynamo=False,
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as fault:
            part.unlink(missing_ok=True)
            raise BundleError(f"the bundle cannot be exported as ONNX ({type(fault).__name__})") from None
    part.replace(path)
