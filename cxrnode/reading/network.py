"""The network: a body, a head, and Grad-CAM maps of all labels from one forward pass. Holds no thresholds.

Where the head is global average pool and one linear layer, the gradient of logit c by activation k is W[c, k] / (h w)
at every position, so that Grad-CAM (Selvaraju et al., ICCV 2017) is ReLU(sum_k W[c, k] A[k]) up to the factor h w,
which is class activation mapping (Zhou et al., CVPR 2016): no backward pass, no hook. Other heads need the gradient of
the head alone, never of the body.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cxrnode.errors import BundleError
from cxrnode.reading.bodies import body
from cxrnode.reading.shape import CNN2_STRIDE, Architecture, Shape


class Layer(StrEnum):
    """The target layer of the map, as pytorch-grad-cam would be told: the ReLU's output or `features.norm5`."""

    RELU = "relu"
    NORM5 = "norm5"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One forward pass. logits: float32 (N, C); activations: float32 (N, K, h, w), >= 0; pooled: float32 (N, K);
    middle: float32 (N, M, H', W'), what left the layer halfway (`reading.shape.MIDDLES`).
    """

    logits: Tensor
    activations: Tensor
    pooled: Tensor
    middle: Tensor


class Network(nn.Module):
    """A body of `reading.bodies`, cut where the maps are made, and a head. Random at first.

    `features` keeps torchvision's names of blocks; `classifier` is one linear layer, or a sequence that ends in one
    named `out`.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.features = body(shape.architecture, shape.channels)
        # A module of its own, not in place: pytorch-grad-cam can be pointed at it.
        self.relu = nn.ReLU(inplace=False)
        self.dropout = nn.Dropout(shape.dropout)
        self.classifier = _head(shape)

    @property
    def width(self) -> int:
        """Channels K of the activations and of the pooled features."""
        return self.shape.width

    def blocks(self) -> tuple[str, ...]:
        """Return the names of the parts from the film to the logits, such as `features.layer4`: what can be frozen."""
        parts = [(f"features.{name}", part) for name, part in self.features.named_children()]
        parts.append(("classifier", self.classifier))
        return tuple(name for name, part in parts if any(True for _ in part.parameters()))

    def run(self, inputs: Tensor) -> Pass:
        """Run float32 (N, channels, H, W) through the network."""
        halfway, _ = self.shape.middle
        taken = middle = inputs
        for name, part in self.features.named_children():
            taken = part(taken)
            if name == halfway:
                middle = taken
        activations = self.relu(taken)
        return Pass(
            logits=self.head(activations), activations=activations, pooled=activations.mean((2, 3)), middle=middle
        )

    def head(self, activations: Tensor) -> Tensor:
        """Return the logits, float32 (N, C), of activations (N, K, h, w)."""
        taken = activations.flatten(1) if self.shape.flatten_to else activations.mean((2, 3))
        logits: Tensor = self.classifier(self.dropout(taken))
        return logits

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits alone, float32 (N, C)."""
        return self.head(self.relu(self.features(inputs)))

    def maps(self, done: Pass, layer: Layer = Layer.RELU) -> Tensor:
        """Return the unscaled maps of all labels, float32 (N, C, h, w), >= 0: in closed form where the head has one.

        At the ReLU the unit is that of the logit: the mean over positions, before rectification, is the logit
        without its bias. At `norm5`, a layer of DenseNet with a plain head, the gradient passes only where the ReLU is
        open, hence the factor mean(A > 0).
        """
        if not isinstance(self.classifier, nn.Linear):
            assert layer is Layer.RELU
            return self.maps_by_gradient(done)
        weight = self.classifier.weight
        if layer is Layer.RELU:
            return torch.einsum("nkhw,ck->nchw", done.activations, weight).relu()
        # pytorch-grad-cam sees the activations of norm5 already rectified: torchvision's ReLU works in place.
        opened = (done.activations > 0).to(weight.dtype).mean((2, 3))
        return torch.einsum("nkhw,nck->nchw", done.activations, weight * opened[:, None]).relu()

    def maps_by_gradient(self, done: Pass) -> Tensor:
        """Return the maps at the ReLU, float32 (N, C, h, w), >= 0, by one backward pass a label through the head alone.

        The unit is that of `maps`: Grad-CAM's own, times the number of positions.
        """
        with torch.inference_mode(False), torch.enable_grad():
            # What was made in inference mode cannot be differentiated by; a clone can.
            activations = done.activations.detach().clone().requires_grad_()
            logits = self.head(activations)
            maps = []
            for label in range(logits.shape[1]):
                (gradient,) = torch.autograd.grad(logits[:, label].sum(), activations, retain_graph=True)
                maps.append((gradient.sum((2, 3), keepdim=True) * activations).sum(1).relu())
        return torch.stack(maps, 1).detach()


def new_network(shape: Shape) -> Network:
    """Return a network with random weights, in training mode."""
    return Network(shape).train()


def build_network(weights: Mapping[str, npt.NDArray[np.generic]], shape: Shape) -> Network:
    """Return the network in eval mode with these weights, as float32. Raises BundleError naming what does not fit."""
    with torch.device("meta"):  # shapes alone: random weights would cost more than reading the file
        network = Network(shape)
    wanted = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    if missing := sorted(set(wanted) - set(weights)):
        raise BundleError(
            f"weights.safetensors: {len(missing)} tensors of a {shape.architecture} are missing, the first is "
            f"{missing[0]}; correct architecture or head in the manifest, or export the bundle again"
        )
    if unknown := sorted(set(weights) - set(wanted)):
        raise BundleError(
            f"weights.safetensors: {len(unknown)} tensors are unknown to a {shape.architecture}, the first is "
            f"{unknown[0]}; correct architecture or head in the manifest, or export the bundle again"
        )
    for key, tensor in wanted.items():
        if weights[key].shape != tuple(tensor.shape):
            why, remedy = _misfit(network, key, weights[key].shape)
            raise BundleError(
                f"weights.safetensors: {why}{key} has shape {weights[key].shape}, {tuple(tensor.shape)} is needed; "
                f"{remedy}, or export the bundle again"
            )
    state = {key: torch.from_numpy(np.array(weights[key], np.float32)) for key in wanted}
    counts = {key: torch.zeros((), dtype=torch.long) for key in network.state_dict() if key not in wanted}
    network.load_state_dict({**state, **counts}, assign=True)
    return network.eval()


def last_of(network: Network) -> tuple[str, str]:
    """Return the names of the weight (C, K) and bias (C,) of the last layer: a row for each output."""
    prefix = "classifier." if isinstance(network.classifier, nn.Linear) else "classifier.out."
    return f"{prefix}weight", f"{prefix}bias"


def weights_of(network: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """Return what `build_network` reads from a trained network, as float32."""
    return {
        key: tensor.detach().float().cpu().numpy()
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def _misfit(network: Network, key: str, found: tuple[int, ...]) -> tuple[str, str]:
    """What a tensor of another shape comes from, and what to do."""
    wanted = tuple(network.state_dict()[key].shape)
    if key in last_of(network) and found[1:] == wanted[1:]:
        return "outputs do not match the labels: ", "name one label in the manifest for each output"
    if len(found) == 4 and found[2:] == wanted[2:] and found[0] == wanted[0] and wanted[1] == network.shape.channels:
        return (
            f"input.channels: {network.shape.channels} is not what the weights take: ",
            "correct the manifest's [input]",
        )
    return "", "correct [head] in the manifest" if key.startswith("classifier.") else "correct architecture"


def _head(shape: Shape) -> nn.Linear | nn.Sequential:
    width = shape.width * (shape.flatten_to // CNN2_STRIDE) ** 2 if shape.flatten_to else shape.width
    if not shape.hidden:
        return nn.Linear(width, shape.outputs)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, wide in enumerate(shape.hidden, 1):
        layers[f"linear{number}"] = nn.Linear(width, wide)
        layers[f"relu{number}"] = nn.ReLU()
        if shape.batch_norm and number < len(shape.hidden):
            layers[f"norm{number}"] = nn.BatchNorm1d(wide)
        layers[f"dropout{number}"] = nn.Dropout(shape.dropout)
        width = wide
    layers["out"] = nn.Linear(width, shape.outputs)
    return nn.Sequential(layers)


__all__ = [
    "Architecture",
    "Layer",
    "Network",
    "Pass",
    "Shape",
    "build_network",
    "last_of",
    "new_network",
    "weights_of",
]
