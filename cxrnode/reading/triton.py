"""A bundle as an inference server wants it: a folder of a Triton model repository, with the network as ONNX.

REPOSITORY/NAME/config.pbtxt     what goes in and out; the server makes the batches
REPOSITORY/NAME/1/model.onnx     from squashed films of grey to logits, maps, features and the bundle's digest
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrnode.errors import BundleError
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.manifest import REGIONS, Evidence, Saliency
from cxrnode.reading.network import Network, build_network
from cxrnode.reading.onnx_engine import write_graph
from cxrnode.reading.remote import outputs_of, require_remote

_TYPES = {torch.float32: "TYPE_FP32", torch.uint8: "TYPE_UINT8"}


class _Served(nn.Module):
    """The network between uint8 (N, size, size) and what `reading.remote` reads: logits, maps, features, digest."""

    mean: Tensor
    std: Tensor
    down: Tensor
    across: Tensor
    digest: Tensor

    def __init__(self, network: Network, bundle: Bundle) -> None:
        super().__init__()
        given = bundle.manifest.input
        self.network = network
        self.maps = bundle.manifest.saliency is not Saliency.NONE
        self.pooled = bundle.manifest.plausibility.features is Evidence.POOLED
        self.register_buffer("mean", torch.tensor(given.mean)[None, :, None, None])
        self.register_buffer("std", torch.tensor(given.std)[None, :, None, None])
        self.register_buffer("digest", torch.tensor(list(bytes.fromhex(bundle.digest)), dtype=torch.uint8)[None])
        with torch.inference_mode():
            middle = network.run(torch.zeros((1, given.channels, given.size, given.size))).middle
        # ONNX has no adaptive pooling; means over regions are two products with fixed matrices.
        self.register_buffer("down", _regions(middle.shape[2]))
        self.register_buffer("across", _regions(middle.shape[3]))

    def forward(self, film: Tensor) -> tuple[Tensor, ...]:
        grey = film.to(torch.float32)[:, None] / 255.0
        done = self.network.run((grey - self.mean) / self.std)
        features = done.pooled
        if not self.pooled:
            features = torch.matmul(torch.matmul(self.down, done.middle), self.across.T).flatten(1)
        # Each film brings the digest: batches are cut and put together by their first dimension.
        digest = self.digest.to(torch.int32) + 0 * film[:, 0, 0].to(torch.int32)[:, None]
        maps = (self._maps(done.activations),) if self.maps else ()
        return (done.logits, *maps, features, digest.to(torch.uint8))

    def _maps(self, activations: Tensor) -> Tensor:
        weight = self.network.classifier.weight
        assert isinstance(weight, Tensor)
        return functional.conv2d(activations, weight[:, :, None, None]).relu()


def _regions(side: int) -> Tensor:
    """float32 (REGIONS, side): each row the mean of what adaptive average pooling takes for one region."""
    rows = torch.zeros((REGIONS, side))
    for region in range(REGIONS):
        first, last = region * side // REGIONS, -(-(region + 1) * side // REGIONS)
        rows[region, first:last] = 1 / (last - first)
    return rows


def write_repository(bundle: Bundle, repository: Path, *, name: str, largest: int = 16) -> Path:
    """Write a bundle into a model repository as its model `name`; return its folder.

    `largest`: films that the server reads at once, at most. Raises BundleError where it cannot be exported, or where
    another version stands there already: a running server would take it up under the eyes of its nodes.
    """
    require_remote(bundle)
    folder = repository / name
    if folder.exists():
        raise BundleError(f"{folder} is there already; name another model, or remove it first")
    network = build_network(bundle.weights, bundle.manifest.shape).requires_grad_(False)
    size = bundle.manifest.input.size
    graph = _Served(network, bundle)
    film = torch.zeros((1, size, size), dtype=torch.uint8)
    (folder / "1").mkdir(parents=True)
    names = outputs_of(bundle)
    write_graph(graph, film, folder / "1" / "model.onnx", names)
    with torch.inference_mode():
        given = dict(zip(names, graph(film), strict=True))
    tensors = "\n".join(
        f'output [ {{ name: "{one}" data_type: {_TYPES[t.dtype]} dims: {list(t.shape[1:])} }} ]'
        for one, t in given.items()
    )
    (folder / "config.pbtxt").write_text(_CONFIG.format(
        name=name, digest=bundle.digest, largest=largest, size=size, tensors=tensors,
        half=max(1, largest // 2),
    ))  # fmt: skip
    return folder


_CONFIG = """\
# The bundle {digest}, written by `cxrnode model export`. Its digest is also an output of the graph.
name: "{name}"
platform: "onnxruntime_onnx"
max_batch_size: {largest}
input [ {{ name: "film" data_type: TYPE_UINT8 dims: [{size}, {size}] }} ]
{tensors}
dynamic_batching {{
  preferred_batch_size: [ {half}, {largest} ]
  max_queue_delay_microseconds: 2000
}}
parameters: {{ key: "bundle_digest" value: {{ string_value: "{digest}" }} }}
"""
