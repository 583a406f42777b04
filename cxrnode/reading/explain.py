"""Explanations of one label on one film by several methods, behind one small protocol. Never in the node's hot path.

The closed form is this package's own; Grad-CAM++ is pytorch-grad-cam's; the others are captum's, which comes with the
extra `explain` and is loaded when asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxrnode.errors import Rejected
from cxrnode.reading.network import Network

Map = npt.NDArray[np.float32]

#: Batches whose logits are kept: those of one film and more.
_REMEMBERED = 256


class Method(StrEnum):
    """How a film is explained."""

    GRADCAM = "gradcam"
    GRADCAM_PLUS_PLUS = "gradcam++"
    INTEGRATED_GRADIENTS = "integrated-gradients"
    LIME = "lime"
    OCCLUSION = "occlusion"


class MissingLibrary(Rejected):
    """The method needs a library that is not installed; the message says how to get it."""


class Explainer(Protocol):
    """One method on one network."""

    def explain(self, inputs: Tensor, label: int) -> Map:
        """Return float32 (h, w), >= 0, row 0 = top: what speaks for a label on a film (1, channels, H, W).

        The unit is the method's own; h x w is that of the input, or that of the last features.
        """
        ...


class NetworkGradCam:
    """Grad-CAM as the node makes it (Selvaraju et al., ICCV 2017): in closed form, or by the gradient of the head."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def explain(self, inputs: Tensor, label: int) -> Map:
        """Return the map of the last features, float32 (h, w)."""
        with torch.inference_mode():
            done = self._network.run(inputs)
            maps = self._network.maps(done)
        return maps[0, label].cpu().numpy().astype(np.float32)


class GradCamPlusPlus:
    """Grad-CAM++ (Chattopadhay et al., WACV 2018) of pytorch-grad-cam, at the same layer."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def explain(self, inputs: Tensor, label: int) -> Map:
        """Return float32 (H, W) in [0, 1]: the library scales its maps."""
        from pytorch_grad_cam import GradCAMPlusPlus
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        with GradCAMPlusPlus(model=self._network, target_layers=[self._network.relu]) as cam:
            found = cam(input_tensor=inputs, targets=[ClassifierOutputTarget(label)])
        return np.asarray(found[0], np.float32)


class IntegratedGradients:
    """Integrated gradients (Sundararajan et al., ICML 2017) from a black film, in `steps` steps."""

    def __init__(self, network: Network, black: Tensor, *, steps: int = 24) -> None:
        self._network, self._black, self._steps = network, black, steps

    def explain(self, inputs: Tensor, label: int) -> Map:
        """Return the positive part of the sum over channels, smoothed over 1/32 of the side: float32 (H, W)."""
        attribution = _captum("IntegratedGradients")(self._network).attribute(
            inputs, baselines=self._black.expand_as(inputs), target=label, n_steps=self._steps, internal_batch_size=8
        )
        return _positive(smoothed(attribution.detach().float().sum(1, keepdim=True), inputs.shape[-1] / 32))


class Remembered(nn.Module):
    """A network that answers what it was asked before from memory: the same samples serve every label of a film."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network
        self._known: dict[bytes, Tensor] = {}

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of the network, float32 (N, C), for float32 (N, channels, H, W)."""
        key = hashlib.sha256(np.ascontiguousarray(inputs.detach().cpu().numpy()).data).digest()
        if key not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[key] = self._network(inputs)
        return self._known[key]


class Lime:
    """LIME (Ribeiro et al., KDD 2016): a linear model of which cells of a grid were left in place of grey.

    Repeats give the same map: the samples are drawn from a seed.
    """

    def __init__(self, network: Network, *, cells: int = 8, samples: int = 240, seed: int = 0) -> None:
        self._network, self._cells, self._samples, self._seed = Remembered(network), cells, samples, seed

    def explain(self, inputs: Tensor, label: int) -> Map:
        """Return the positive weights of the cells, float32 (H, W)."""
        lime = _captum("Lime")
        from captum._utils.models.linear_model import SkLearnRidge

        mask = grid(inputs.shape[-2], inputs.shape[-1], self._cells)
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(self._seed)
            attribution = lime(self._network, interpretable_model=SkLearnRidge(alpha=1.0)).attribute(
                inputs,
                baselines=inputs.mean(),
                target=label,
                feature_mask=mask[None, None],
                n_samples=self._samples,
                perturbations_per_eval=16,
            )
        return _positive(attribution[:, :1].detach().float())


class Occlusion:
    """Occlusion (Zeiler and Fergus, ECCV 2014): how far the logit falls where a grey square covers the film."""

    def __init__(self, network: Network, *, squares: int = 7) -> None:
        self._network, self._squares = Remembered(network), squares

    def explain(self, inputs: Tensor, label: int) -> Map:
        """Return the fall of the logit, float32 (H, W), smoothed over 1/4 of a square.

        The squares are 1/7 of the side and overlap by half.
        """
        side = max(2, inputs.shape[-1] // self._squares)
        with torch.inference_mode():
            attribution = _captum("Occlusion")(self._network).attribute(
                inputs,
                sliding_window_shapes=(inputs.shape[1], side, side),
                strides=(inputs.shape[1], side // 2, side // 2),
                baselines=inputs.mean(),
                target=label,
                perturbations_per_eval=16,
            )
        return _positive(smoothed(attribution[:, :1].detach().float(), side / 4))


def explainer(method: Method, network: Network, black: Tensor, *, steps: int = 24) -> Explainer:
    """Return the way to explain. `black`: float32 (1, channels, 1, 1), what a black pixel is to the network.

    `steps` are those of integrated gradients. Raises MissingLibrary.
    """
    made: dict[Method, Callable[[], Explainer]] = {
        Method.GRADCAM: lambda: NetworkGradCam(network),
        Method.GRADCAM_PLUS_PLUS: lambda: GradCamPlusPlus(network),
        Method.INTEGRATED_GRADIENTS: lambda: IntegratedGradients(network, black, steps=steps),
        Method.LIME: lambda: Lime(network),
        Method.OCCLUSION: lambda: Occlusion(network),
    }
    if method not in (Method.GRADCAM, Method.GRADCAM_PLUS_PLUS):
        _captum("IntegratedGradients")  # say at once that it is missing
    return made[method]()


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Return maps float32 (N, 1, H, W) after a Gaussian of this many pixels."""
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=torch.float32, device=maps.device)
    kernel = torch.exp(-0.5 * (at / max(sigma, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    maps = functional.conv2d(maps, kernel.view(1, 1, -1, 1), padding=(reach, 0))
    return functional.conv2d(maps, kernel.view(1, 1, 1, -1), padding=(0, reach))


def grid(height: int, width: int, cells: int) -> Tensor:
    """Return int64 (H, W): which cell of a grid of cells x cells each pixel lies in, counted from 0 by rows."""
    rows, columns = (torch.arange(side) * cells // side for side in (height, width))
    return rows[:, None] * cells + columns[None, :]


def _positive(attribution: Tensor) -> Map:
    return attribution[0, 0].relu().cpu().numpy().astype(np.float32)


def _captum(name: str) -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise MissingLibrary(
            f"this method needs captum and scikit-learn ({error.name} is missing): pip install 'cxrnode[explain]'"
        ) from error
    return getattr(captum.attr, name)
