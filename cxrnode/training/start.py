"""Start weights: the body of a network from a file that the user gives, for transfer learning. The head stays random.

The file is torchvision's own state dict of the same architecture (as torchvision's documentation names them, such as
`resnet50-11ad3fa6.pth`), a checkpoint that `checkpoint` reads, or the weights of a bundle. Nothing is fetched.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch

from cxrnode.reading.network import Network
from cxrnode.training.checkpoint import BadCheckpoint, read_checkpoint

#: How the heads, and what hangs beside the body, begin: torchvision's and ours.
_HEADS = ("classifier.", "fc.", "AuxLogits.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """What was loaded: the number of tensors, those of the file that were left out, and the file's SHA-256."""

    tensors: int
    left_out: tuple[str, ...]
    sha256: str


def start_weights(network: Network, path: Path, *, trust: bool = False, digest: str | None = None) -> Started:
    """Put a file's weights into the network's body, in place.

    Where the network takes one channel and the file three, the first layer's weights are summed: a grey film then
    gives what it would give on three equal channels. `trust` and `digest` as for `read_checkpoint`. Raises
    BadCheckpoint that names the tensor that is missing, of too much, of another shape or not finite; WrongDigest.
    """
    found, left_out = {}, []
    for key, tensor in read_checkpoint(path, trust=trust, digest=digest).items():
        if key.startswith(_HEADS):
            left_out.append(key)
        else:
            found[key.removeprefix("features.")] = tensor
    kind = str(network.shape.architecture)
    wanted = {k: t for k, t in network.features.state_dict().items() if not k.endswith("num_batches_tracked")}
    remedy = f"give the weights of a {kind} under torchvision's names"
    if missing := [key for key in wanted if key not in found]:
        raise BadCheckpoint(
            f"{path.name}: no start for a {kind}: {len(missing)} of its {len(wanted)} tensors are missing, the first "
            f"is {missing[0]}; {remedy}"
        )
    if unknown := [key for key in found if key not in wanted]:
        raise BadCheckpoint(
            f"{path.name}: no start for a {kind}: {len(unknown)} tensors are none of its, the first is {unknown[0]}; "
            f"{remedy}"
        )
    first = next(key for key, tensor in wanted.items() if tensor.ndim == 4)
    if network.shape.channels == 1 and found[first].ndim == 4 and found[first].shape[1] == 3:
        found[first] = found[first].sum(1, keepdims=True)
    for key, tensor in wanted.items():
        if found[key].shape != tuple(tensor.shape):
            raise BadCheckpoint(
                f"{path.name}: no start for a {kind}: {key} has shape {found[key].shape}, {tuple(tensor.shape)} is "
                f"needed; {remedy}"
            )
        if not np.isfinite(found[key]).all():
            raise BadCheckpoint(f"{path.name}: {key} holds values that are not finite; take another checkpoint")
    network.features.load_state_dict({key: torch.from_numpy(found[key].copy()) for key in wanted}, strict=False)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Started(tensors=len(wanted), left_out=tuple(sorted(left_out)), sha256=sha256)
