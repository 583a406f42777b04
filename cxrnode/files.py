"""Bytes into files with as few calls of the system as it takes: with each the interpreter's lock is given up."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

#: Pieces that one call takes (IOV_MAX is 1024).
_GATHERED = 512


def write_all(descriptor: Callable[[], int], pieces: Sequence[bytes | memoryview]) -> int:
    """Write pieces one behind the other, all of each; return how many bytes. Raises OSError.

    The descriptor is asked for before each call, and what it raises comes out: another thread may have closed the file,
    and its number may be another file's by then.
    """
    whole = 0
    for start in range(0, len(pieces), _GATHERED):
        rest = [memoryview(piece) for piece in pieces[start : start + _GATHERED] if len(piece)]
        while rest:
            written = os.writev(descriptor(), rest)
            whole += written
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if written:
                rest[0] = rest[0][written:]
    return whole
