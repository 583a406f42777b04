"""What is trained: the network with a head beside it, its optimiser, and the rate. Holds no films."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cxrnode.errors import Rejected
from cxrnode.reading.network import Network
from cxrnode.reading.shape import Architecture, Shape
from cxrnode.training.recipe import Optimiser, Phase, Recipe


class RunError(Rejected):
    """The run cannot go on in this folder or with these values; the message says what to do."""


#: Steps after which batch normalisation's statistics have left their start behind.
SETTLED = 1000

#: torchvision's networks and our heads have no others.
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Student(nn.Module):
    """The network with a head that the bundle does not hold: other labels of the phases, then age, sex and view."""

    def __init__(self, network: Network, beside: int) -> None:
        super().__init__()
        self.network = network
        self.beside = nn.Linear(network.width, beside)
        # A list, not modules of its own: they are the network's.
        self._norms = [(part, part.momentum) for part in network.modules() if isinstance(part, _NORMS)]

    def forward(self, films: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits float32 (N, outputs of the course), and the network's activations (N, K, h, w)."""
        done = self.network.run(films)
        logits = torch.cat([done.logits, self.beside(self.network.dropout(done.pooled))], 1).float()
        return logits, done.activations

    def settle(self, steps: int) -> None:
        """Let batch normalisation's statistics be the plain mean of the first steps, then follow as they are meant to.

        From their arbitrary start they would take dozens of steps: a short try of a deep network would not be finite.
        """
        for norm, momentum in self._norms:
            norm.momentum = None if momentum is None else max(momentum, 1 / (steps + 1))

    def require_parts(self, prefixes: Sequence[str]) -> None:
        """Raise RunError for a part that the network does not have."""
        blocks = self.network.blocks()
        for prefix in prefixes:
            if not any(_begins(block, prefix) or _begins(prefix, block) for block in blocks):
                raise RunError(f"phases.frozen: the network has no part {prefix!r}; it has {', '.join(blocks)}")

    def freeze(self, prefixes: Sequence[str]) -> None:
        """Let the parts that begin so stay as they are, and all others learn."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(not any(_begins(name, prefix) for prefix in prefixes))

    def learning(self, prefixes: Sequence[str]) -> None:
        """Go into training mode; what is frozen keeps the statistics of its batch normalisation too."""
        self.train()
        for name, module in self.network.named_modules():
            if any(_begins(name, prefix) for prefix in prefixes):
                module.eval()


def optimiser_of(student: Student, how: Optimiser, rate: float) -> torch.optim.Optimizer:
    """Return a new optimiser of what is not frozen."""
    free = [parameter for parameter in student.parameters() if parameter.requires_grad]
    if how.name == "sgd":
        return torch.optim.SGD(free, lr=rate, momentum=how.momentum, weight_decay=how.weight_decay)
    kind = torch.optim.Adam if how.name == "adam" else torch.optim.AdamW
    return kind(free, lr=rate, weight_decay=how.weight_decay)


def rate_at(phase: Phase, done: float) -> float:
    """Return the learning rate when `done` of a phase, in [0, 1], is over: a linear rise, then its schedule."""
    if done < phase.rise:
        return phase.rate * (0.04 + 0.96 * done / phase.rise)
    if phase.schedule != "cosine":
        return phase.rate
    share = (done - phase.rise) / max(1 - phase.rise, 1e-9)
    return phase.rate * (phase.end + (1 - phase.end) * (1 + math.cos(math.pi * share)) / 2)


def mixed(
    films: Tensor, truth: Tensor, weights: Tensor, masks: Tensor | None, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float]:
    """Mix each film with another one, and what they are taught; what weighs nothing teaches nothing.

    A map can be drawn into the boxes of one film alone: the masks are those of the heavier film, whose share is last.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    share = float(np.random.default_rng(seed).beta(strength, strength))
    other = torch.randperm(len(films), generator=generator).to(films.device)
    both = share * weights + (1 - share) * weights[other]
    taught = share * weights * truth + (1 - share) * weights[other] * truth[other]
    if masks is not None and share < 0.5:
        masks = masks[other]
    films = share * films + (1 - share) * films[other]
    return films, taught / both.clamp(min=1e-6), both, masks, max(share, 1 - share)


def shape_of(recipe: Recipe) -> Shape:
    """Return the shape of the network that a recipe exports."""
    given = recipe.network
    architecture = Architecture(given.architecture)
    return Shape(
        architecture=architecture,
        outputs=len(recipe.films.labels),
        channels=recipe.input.channels,
        hidden=given.hidden,
        batch_norm=given.batch_norm,
        dropout=given.dropout,
        flatten_to=recipe.input.size if given.flatten else 0,
    )


def _begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")
