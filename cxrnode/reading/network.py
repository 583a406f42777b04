"""The network: DenseNet-121 whose Grad-CAM maps of all labels come out of the forward pass. Holds no thresholds.

Its head is ReLU, global average pool, linear. The gradient of logit c by activation k is then W[c, k] / (h w) at
every position, so that Grad-CAM (Selvaraju et al., ICCV 2017) is ReLU(sum_k W[c, k] A[k]) up to the factor h w,
which is class activation mapping (Zhou et al., CVPR 2016). No backward pass, no hook.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import Tensor, nn

from cxrnode.errors import BundleError


class Layer(StrEnum):
    """The target layer of the map, as pytorch-grad-cam would be told: the ReLU's output or `features.norm5`."""

    RELU = "relu"
    NORM5 = "norm5"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One forward pass. logits: float32 (N, C); activations: float32 (N, K, h, w), >= 0; pooled: float32 (N, K)."""

    logits: Tensor
    activations: Tensor
    pooled: Tensor


class DenseNet121(nn.Module):
    """torchvision's DenseNet-121 (Huang et al., CVPR 2017), cut where the maps are made. Random at first."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        body = torchvision.models.densenet121(weights=None, num_classes=outputs)
        self.features = body.features
        # A module of its own, not in place: pytorch-grad-cam can be pointed at it.
        self.relu = nn.ReLU(inplace=False)
        self.classifier = body.classifier

    def run(self, inputs: Tensor) -> Pass:
        """Run float32 (N, 3, H, W) through the network."""
        activations = self.relu(self.features(inputs))
        pooled = activations.mean((2, 3))
        return Pass(logits=self.classifier(pooled), activations=activations, pooled=pooled)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits alone, float32 (N, C)."""
        return self.run(inputs).logits

    def maps(self, done: Pass, layer: Layer = Layer.RELU) -> Tensor:
        """Return the unscaled maps of all labels, float32 (N, C, h, w), >= 0.

        At the ReLU the unit is that of the logit: the mean over positions, before rectification, is the logit
        without its bias. At `norm5` the gradient passes only where the ReLU is open, hence the factor mean(A > 0).
        """
        weight = self.classifier.weight
        if layer is Layer.RELU:
            return torch.einsum("nkhw,ck->nchw", done.activations, weight).relu()
        # pytorch-grad-cam sees the activations of norm5 already rectified: torchvision's ReLU works in place.
        opened = (done.activations > 0).to(weight.dtype).mean((2, 3))
        return torch.einsum("nkhw,nck->nchw", done.activations, weight * opened[:, None]).relu()

    def maps_by_gradient(self, inputs: Tensor) -> Tensor:
        """Return the same maps as `maps` at the ReLU by one backward pass a label: the way for other heads."""
        with torch.enable_grad():
            activations = self.relu(self.features(inputs)).detach().requires_grad_()
            logits = self.classifier(activations.mean((2, 3)))
            maps = []
            for label in range(logits.shape[1]):
                (gradient,) = torch.autograd.grad(logits[:, label].sum(), activations, retain_graph=True)
                maps.append((gradient.sum((2, 3), keepdim=True) * activations).sum(1).relu())
        return torch.stack(maps, 1).detach()


def build_network(weights: Mapping[str, npt.NDArray[np.generic]], outputs: int) -> DenseNet121:
    """Return the network in eval mode with these weights, as float32. Raises BundleError naming what does not fit."""
    with torch.device("meta"):  # shapes alone: random weights would cost more than reading the file
        network = DenseNet121(outputs)
    wanted = {key: tensor for key, tensor in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    if missing := sorted(set(wanted) - set(weights)):
        raise BundleError(f"weights.safetensors: {len(missing)} tensors are missing, the first is {missing[0]}")
    if unknown := sorted(set(weights) - set(wanted)):
        raise BundleError(f"weights.safetensors: {len(unknown)} tensors are unknown, the first is {unknown[0]}")
    for key, tensor in wanted.items():
        if weights[key].shape != tuple(tensor.shape):
            shape = "outputs do not match the labels: " if key.startswith("classifier") else ""
            raise BundleError(
                f"weights.safetensors: {shape}{key} has shape {weights[key].shape}, {tuple(tensor.shape)} is needed"
            )
    state = {key: torch.from_numpy(np.array(weights[key], np.float32)) for key in wanted}
    counts = {key: torch.zeros((), dtype=torch.long) for key in network.state_dict() if key not in wanted}
    network.load_state_dict({**state, **counts}, assign=True)
    return network.eval()


def weights_of(network: nn.Module) -> dict[str, npt.NDArray[np.float32]]:
    """Return what `build_network` reads from a trained DenseNet-121, as float32."""
    return {
        key: tensor.detach().float().cpu().numpy()
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
