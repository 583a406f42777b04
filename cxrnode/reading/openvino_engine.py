"""The engine of OpenVINO for processors that multiply in bf16 (AMX, AVX-512 BF16), over the export of `onnx_engine`.

bf16 keeps eight bits of a number. Most of what that costs in scores is lost at the film itself, before the first layer:
so the film and the first layer's weights come in two parts each, what bf16 keeps and what it drops, and their products
are summed in float32 by the processor. Everything after that is bf16, the head and the maps apart.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from cxrnode.cores import cores
from cxrnode.errors import BundleError
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import Arithmetic, NetworkEngine
from cxrnode.reading.network import Pass


def available() -> bool:
    """Whether OpenVINO is installed (the extra `openvino`)."""
    return importlib.util.find_spec("openvino") is not None


class OpenVinoEngine(NetworkEngine):
    """OpenVINO on the processor in bf16: one thread a film, as many films at once as there are threads.

    A film's numbers do not depend on the films beside it.
    """

    def __init__(
        self, bundle: Bundle, graph: Path, *, threads: int | None = None, beside: int | None = None, batch: int = 16
    ) -> None:
        """Load the graph that `onnx_engine.export` made of this bundle. Raises BundleError.

        `threads`: the films that are read at once; `beside`: the same where other steps have the rest of the cores.
        """
        openvino = _openvino()
        super().__init__(bundle, batch=batch)
        self.arithmetic = Arithmetic.BF16
        given = bundle.manifest.input
        at_once = beside or threads or cores()
        core = openvino.Core()
        try:
            model = core.read_model(graph)
            model.reshape([1, given.channels, given.size, given.size])
            _take_in_parts(model)
            options = {
                "INFERENCE_PRECISION_HINT": "bf16",
                "NUM_STREAMS": at_once,
                "INFERENCE_NUM_THREADS": at_once,
                "ENABLE_CPU_PINNING": False,  # two workers on a machine would be pinned to the same cores
            }
            compiled = core.compile_model(model, "CPU", options)
            self._queue = openvino.AsyncInferQueue(compiled, at_once)
        except RuntimeError as fault:
            raise BundleError(
                f"{graph.name}: OpenVINO cannot load it ({type(fault).__name__}); `cxrnode model admit` anew"
            ) from None
        self._shapes = [tuple(out.shape[1:]) for out in compiled.outputs]
        self._queue.set_callback(_keep)
        self._version = openvino.__version__.partition("-")[0]

    @property
    def name(self) -> str:
        """Library, version, device and arithmetic."""
        return f"openvino {self._version} cpu bf16"

    def run(self, inputs: npt.NDArray[np.float32]) -> Pass:
        """Run inputs (N, channels, size, size) through the graph."""
        found = [np.empty((len(inputs), *shape), np.float32) for shape in self._shapes]
        parts = in_parts(inputs)
        try:
            for number in range(len(inputs)):
                self._queue.start_async(
                    [parts[number : number + 1]], [part[number] for part in found], share_inputs=True
                )
        finally:
            self._queue.wait_all()  # until then the requests read `parts`, which is shared with them, and fill `found`
        logits, activations, middle = (torch.from_numpy(part) for part in found)
        return Pass(logits=logits, activations=activations, pooled=activations.mean((2, 3)), middle=middle)


def _openvino() -> Any:
    # Its telemetry, which reports to its maker, is imported with it where it is installed; where it is not, a stub is.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError:
        raise BundleError(
            "this bundle was admitted with OpenVINO, which is not installed: `pip install cxrnode[openvino]`, or "
            "`cxrnode model admit NAME --engine torch-float32`"
        ) from None
    return openvino


def _keep(request: Any, wanted: list[npt.NDArray[np.float32]]) -> None:
    """Copy what a request gave before it takes the next film."""
    for number, place in enumerate(wanted):
        place[...] = request.get_output_tensor(number).data[0]


def _kept(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What bf16 keeps of float32 numbers: the nearest, ties to even."""
    nearest: npt.NDArray[np.float32] = torch.tensor(numbers).bfloat16().float().numpy()
    return nearest


def in_parts(inputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Inputs (N, C, H, W) as (N, 3 C, H, W): what bf16 keeps, what it drops, and what it keeps once more."""
    main = _kept(inputs)
    return np.concatenate([main, inputs - main, main], axis=1)


def _take_in_parts(model: Any) -> None:
    """Make a model's first layer take `in_parts`: beside its weights stand the same, and what bf16 drops of them.

    Raises RuntimeError where it is no convolution.
    """
    import openvino
    from openvino import opset8

    (film,) = model.get_parameters()
    first, *others = (use.get_node() for use in film.output(0).get_target_inputs())
    if others or first.get_type_name() != "Convolution":
        raise RuntimeError("the first layer is no convolution")
    values = first.input_value(1).get_node().data
    main = _kept(values)
    parts = opset8.constant(np.concatenate([main, main, values - main], axis=1))
    first.input(1).replace_source_output(parts.output(0))
    one, channels, *size = film.shape
    film.set_partial_shape(openvino.PartialShape([one, 3 * channels, *size]))
    model.validate_nodes_and_infer_types()
