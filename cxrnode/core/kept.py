"""A file that is durable in the spool, as a value: the spool returns it and the store's row records it. Pure."""

from __future__ import annotations

import dataclasses
import re
from typing import Protocol, TypeAlias

#: What is put into a spool: the bytes of a file, whole or in pieces.
Content: TypeAlias = bytes | tuple[bytes | memoryview, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The random key of a file, the digest of its bytes (`core.digests`) and its size in bytes."""

    key: str
    digest: str
    size: int


def is_key(text: str) -> bool:
    """Whether the text can be the key of a file: 32 hexadecimal digits, and nothing that means something in a path."""
    return re.fullmatch(r"[0-9a-f]{32}", text) is not None


class Reads(Protocol):
    """A spool as those see it who only read."""

    def read(self, key: str, *, digest: str) -> bytes:
        """Return a file's bytes."""
        ...
