"""Boxes as a lesson: where the evidence for a finding should lie, on the films that a radiologist drew a box on.

The map of a finding is the closed-form Grad-CAM of the forward pass itself: class activations before any pooling, as a
distribution over places. What of it lies inside the boxes is to be large (after Li et al., CVPR 2018).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from cxrnode.reading.network import Network
from cxrnode.training.localisation import SIDE, read_boxes
from cxrnode.training.readers import FilmRow

#: Cells along a side of a mask that is trained with: finer than any map.
CELLS = 56

_EPSILON = 1e-3
_LEAST = 0.05


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Boxes:
    """The boxes on films: `places` int (N,), which masks are a film's, or -1; masks uint8 (M, C, CELLS, CELLS)."""

    places: npt.NDArray[np.intp]
    masks: npt.NDArray[np.uint8]

    def kept(self, rows: npt.NDArray[np.intp]) -> Boxes:
        """Return the boxes on these of the films."""
        return dataclasses.replace(self, places=self.places[rows])

    def of(self, chosen: npt.NDArray[np.intp]) -> Tensor:
        """Return float32 (B, C, CELLS, CELLS) in [0, 1] for these films; nothing where a film has no box."""
        places = self.places[chosen]
        found = self.masks[places.clip(0)] * (places >= 0)[:, None, None, None]
        return torch.from_numpy(found).float() / 255


def boxes_of(path: Path, rows: Sequence[FilmRow], labels: Sequence[str]) -> Boxes:
    """Read the list of boxes for these films and labels. Raises BadList."""
    places = np.full(len(rows), -1, np.intp)
    at = {row.image: i for i, row in enumerate(rows)}
    masks: list[npt.NDArray[np.uint8]] = []
    for boxed in read_boxes(path, rows, labels):
        film = at[boxed.film.image]
        if places[film] < 0:
            places[film] = len(masks)
            masks.append(np.zeros((len(labels), CELLS, CELLS), np.uint8))
        step = SIDE // CELLS
        shares = boxed.mask.reshape(CELLS, step, CELLS, step).mean((1, 3))
        masks[places[film]][labels.index(boxed.finding)] = np.round(shares * 255)
    return Boxes(places=places, masks=np.stack(masks))


def box_loss(network: Network, activations: Tensor, masks: Tensor) -> Tensor:
    """Return the mean of -log(share of a finding's map inside its boxes) over findings with boxes; 0 where none has.

    activations: (B, K, h, w); masks: float32 (B, C, CELLS, CELLS), C the outputs of the network. The head is one layer.
    """
    height, width = activations.shape[-2:]
    inside = functional.adaptive_avg_pool2d(masks, (height, width)).flatten(2)
    has = inside.amax(2) > _LEAST
    if not has.any():
        return torch.zeros((), device=activations.device)
    maps = torch.einsum("nkhw,ck->nchw", activations, network.classifier.weight).float().flatten(2)
    share, within = maps[has].softmax(1), inside[has]
    within = within / within.amax(1, keepdim=True)
    return -torch.log((share * within).sum(1) + _EPSILON).mean()
