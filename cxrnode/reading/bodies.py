"""The bodies of the networks: torchvision's without their heads, under its names of blocks. Random weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torchvision
from torch import nn

from cxrnode.reading.shape import WIDTHS, Architecture

#: What is a head, and what leads to it, among the children of torchvision's networks.
_HEADS = ("avgpool", "dropout", "fc", "AuxLogits")


def body(architecture: Architecture, channels: int) -> nn.Sequential:
    """Return the layers from float32 (N, channels, H, W) to the last features, (N, width, h, w).

    All but DenseNet's end in values >= 0 (its last layer is a norm, and its ReLU stands in the classifier's way).
    """
    made = _BODIES[architecture]()
    if channels != 3:
        _replace_first(made, channels)
    return made


def _densenet121() -> nn.Sequential:
    features = torchvision.models.densenet121(weights=None, num_classes=1).features
    assert isinstance(features, nn.Sequential)
    return features


def _mobilenet_v2() -> nn.Sequential:
    features = torchvision.models.mobilenet_v2(weights=None, num_classes=1).features
    assert isinstance(features, nn.Sequential)
    return features


def _children(network: nn.Module) -> nn.Sequential:
    """The children of a network whose forward pass is to run them in their order."""
    return nn.Sequential(OrderedDict((name, part) for name, part in network.named_children() if name not in _HEADS))


def _inception_v3() -> nn.Sequential:
    # Its own input is not transformed: the manifest's mean and std are what the network is fed with.
    return _children(
        torchvision.models.inception_v3(
            weights=None, num_classes=1, aux_logits=False, transform_input=False, init_weights=True
        )
    )


def _cnn2() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 32, 3, padding=1),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, WIDTHS[Architecture.CNN2], 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
        )
    )


_BODIES: dict[Architecture, Callable[[], nn.Sequential]] = {
    Architecture.DENSENET121: _densenet121,
    Architecture.INCEPTION_V3: _inception_v3,
    Architecture.RESNET50: lambda: _children(torchvision.models.resnet50(weights=None, num_classes=1)),
    Architecture.RESNET152: lambda: _children(torchvision.models.resnet152(weights=None, num_classes=1)),
    Architecture.MOBILENET_V2: _mobilenet_v2,
    Architecture.CNN2: _cnn2,
}


def _replace_first(features: nn.Sequential, channels: int) -> None:
    """Let the first convolution take another number of channels."""
    name, first = next((name, part) for name, part in features.named_modules() if isinstance(part, nn.Conv2d))
    parent = features.get_submodule(name.rpartition(".")[0])
    made = nn.Conv2d(
        channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    setattr(parent, name.rpartition(".")[2], made)
