"""A file that is durable in the spool, as a value: the spool returns it and the store's row records it. Pure."""

from __future__ import annotations

import dataclasses
from typing import Protocol


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The random key of a file, the SHA-256 of its bytes (hex) and its size in bytes."""

    key: str
    sha256: str
    size: int


class Reads(Protocol):
    """A spool as those see it who only read."""

    def read(self, key: str, *, sha256: str) -> bytes:
        """Return a file's bytes."""
        ...
