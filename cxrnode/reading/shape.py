"""The shape of a network: its architecture, its outputs and its head, as frozen values. Loads no torch."""

from __future__ import annotations

import dataclasses
from enum import StrEnum


class Architecture(StrEnum):
    """What a network is built as. All are torchvision's but the last: two layers of convolution."""

    DENSENET121 = "densenet121"
    INCEPTION_V3 = "inceptionv3"
    RESNET50 = "resnet50"
    RESNET152 = "resnet152"
    MOBILENET_V2 = "mobilenetv2"
    CNN2 = "cnn2"


#: Channels of the last activations: what the pooled features are wide.
WIDTHS = {
    Architecture.DENSENET121: 1024,
    Architecture.INCEPTION_V3: 2048,
    Architecture.RESNET50: 2048,
    Architecture.RESNET152: 2048,
    Architecture.MOBILENET_V2: 1280,
    Architecture.CNN2: 64,
}

#: A layer halfway, by its name among the features, and its channels: before it forgets where on the film things are.
MIDDLES = {
    Architecture.DENSENET121: ("transition2", 256),
    Architecture.INCEPTION_V3: ("Mixed_5d", 288),
    Architecture.RESNET50: ("layer2", 512),
    Architecture.RESNET152: ("layer2", 512),
    Architecture.MOBILENET_V2: ("13", 96),
    Architecture.CNN2: ("pool1", 32),
}

#: By how much the two layers of `cnn2` shrink a side.
CNN2_STRIDE = 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All that tells one network's tensors from another's.

    `outputs` logits from `channels` (1 or 3) of input. `hidden` are the widths of the layers of the head before the
    last, each followed by ReLU; `batch_norm` stands after each of them but the last hidden one (512-BN-128-BN-32-15);
    `dropout` before each linear layer of the head. Where `flatten_to` is not 0 the head takes all positions of the
    activations of an input of that many pixels a side, in place of their mean: `cnn2` alone does.

    Raises ValueError for a shape that cannot be built.
    """

    architecture: Architecture
    outputs: int
    channels: int = 3
    hidden: tuple[int, ...] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    flatten_to: int = 0

    def __post_init__(self) -> None:
        if self.outputs < 1 or any(width < 1 for width in self.hidden):
            raise ValueError("outputs and hidden layers must be 1 or more wide")
        if self.channels not in (1, 3):
            raise ValueError(f"1 or 3 channels can be fed, not {self.channels}")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout is a share, from 0 to below 1")
        if self.flatten_to and (self.architecture != Architecture.CNN2 or self.flatten_to < 2 * CNN2_STRIDE):
            raise ValueError(f"flatten_to is for {Architecture.CNN2} alone, with a side of {2 * CNN2_STRIDE} or more")

    @property
    def width(self) -> int:
        """Channels of the last activations."""
        return WIDTHS[self.architecture]

    @property
    def middle(self) -> tuple[str, int]:
        """The name of the layer halfway, and its channels."""
        return MIDDLES[self.architecture]

    @property
    def closed(self) -> bool:
        """Whether Grad-CAM has a closed form: global average pool and one linear layer."""
        return not self.hidden and not self.flatten_to

    @property
    def smallest(self) -> int:
        """The smallest side of an input, in pixels, that leaves a map of at least one cell."""
        return 75 if self.architecture == Architecture.INCEPTION_V3 else 32
