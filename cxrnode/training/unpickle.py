"""The child that opens a checkpoint: `python -m cxrnode.training.unpickle FILE OUT safe|whole`. Never the parent.

A pickle is a program. `safe` reads tensors alone, with torch's own restricted reader; `whole` runs what the file
says, as the user who asked for it. Either way without a network: in a network namespace of its own, or on a machine
that has none; else it ends before it opens the file. The user's files and Unix sockets are not shielded.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Exit statuses that the parent understands, beside 0.
NO_ISOLATION, NOT_SAFE, NO_CHECKPOINT = 3, 4, 5

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_SECONDS = 120
_BYTES = 1 << 30


def main() -> int:
    """Open the checkpoint and write its tensors as safetensors."""
    file, out, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if not without_network():
        return NO_ISOLATION
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_BYTES, _BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import pickle

    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    try:
        # Old files were written by Python 2, whose text has no encoding.
        loaded = torch.load(file, map_location="cpu", weights_only=how == "safe", encoding="latin1")
    except pickle.UnpicklingError as error:
        print(str(error).splitlines()[0][:300], file=sys.stderr)
        return NOT_SAFE if how == "safe" else NO_CHECKPOINT
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError, TypeError, OSError) as error:
        print(f"{type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        return NO_CHECKPOINT
    tensors = {key: tensor.detach().float().contiguous() for key, tensor in tensors_of(loaded)}
    if not tensors:
        print("it holds no tensors", file=sys.stderr)
        return NO_CHECKPOINT
    # Tensors that share memory are refused by safetensors: each gets its own.
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, str(out))
    return 0


def without_network() -> bool:
    """Leave the machine's network for one without any device, where the kernel allows; tell whether none is left.

    Must run while the process has one thread (user namespaces, unshare(2)).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if any(libc.unshare(flags) == 0 for flags in (_NEW_NET, _NEW_USER | _NEW_NET)):
        return True
    return set(os.listdir("/sys/class/net")) <= {"lo"}


def tensors_of(loaded: Any) -> Iterator[tuple[str, Any]]:
    """Yield the named tensors of a state dict, of a module, or of the one of them that a dictionary holds.

    A module is walked by its own tables: its class may be one of another version, whose methods do not fit.
    """
    import torch

    if isinstance(loaded, torch.nn.Module):
        yield from _module(loaded, "")
    elif isinstance(loaded, Mapping):
        for key in ("model", "state_dict", "model_state_dict", "network"):
            inner = loaded.get(key)
            if isinstance(inner, (torch.nn.Module, Mapping)):
                yield from tensors_of(inner)
                return
        yield from ((str(key), value) for key, value in loaded.items() if isinstance(value, torch.Tensor))


def _module(module: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    tables = module.__dict__
    for table in ("_parameters", "_buffers"):
        for name, tensor in tables.get(table, {}).items():
            if tensor is not None:
                yield f"{prefix}{name}", tensor
    for name, inner in tables.get("_modules", {}).items():
        if inner is not None:
            yield from _module(inner, f"{prefix}{name}.")


if __name__ == "__main__":
    sys.exit(main())
