"""Bytes into files with as few calls of the system as it takes: with each the interpreter's lock is given up."""

from __future__ import annotations

import os
from collections.abc import Iterable

#: Pieces that one call takes (IOV_MAX is 1024).
_GATHERED = 512


def write_all(descriptor: int, pieces: Iterable[bytes | memoryview]) -> int:
    """Write pieces one behind the other, all of each; return how many bytes. Raises OSError."""
    rest = [memoryview(piece) for piece in pieces if len(piece)]
    whole = sum(map(len, rest))
    while rest:
        written = os.writev(descriptor, rest[:_GATHERED])
        done = 0
        while done < len(rest) and written >= len(rest[done]):
            written -= len(rest[done])
            done += 1
        del rest[:done]
        if written:
            rest[0] = rest[0][written:]
    return whole
