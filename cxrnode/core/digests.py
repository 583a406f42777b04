"""Digests of files and pixels: which bytes were received, read and sent, to be found again when they are altered. Pure.

A digest says what it is. `blake3:` and 56 hexadecimal digits are the first 28 bytes of BLAKE3, as `b3sum -l 28` prints
them: a quarter of what SHA-256 costs, and every byte of a film is digested some four times on its way. 64 hexadecimal
digits are SHA-256. What a database began with it keeps (`store.upgrade`), so that a film that comes again, or its
pixels, are found to be the same years later; both kinds are always read.
"""

from __future__ import annotations

import enum
import hashlib
from typing import Protocol

from blake3 import blake3

#: Of BLAKE3's output, in bytes: with its prefix a digest has the room that the database's columns give, 64 characters.
_BLAKE3_BYTES = 28
_PREFIX = "blake3:"


class Kind(enum.StrEnum):
    """A kind of digest, as the database names it."""

    BLAKE3 = "blake3"
    SHA256 = "sha256"


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...


class Digest:
    """The digest of bytes that come piece by piece."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._hash: _Hash = blake3() if kind is Kind.BLAKE3 else hashlib.sha256()
        #: Takes the next piece.
        self.update = self._hash.update

    def __str__(self) -> str:
        """The digest of the bytes so far, as it is recorded."""
        found = self._hash.digest()
        return f"{_PREFIX}{found[:_BLAKE3_BYTES].hex()}" if self.kind is Kind.BLAKE3 else found.hex()


def kind_of(digest: str) -> Kind:
    """Which kind a recorded digest is."""
    return Kind.BLAKE3 if digest.startswith(_PREFIX) else Kind.SHA256


def digest_of(content: bytes | memoryview, kind: Kind) -> str:
    """The digest of some bytes."""
    made = Digest(kind)
    made.update(content)
    return str(made)


def matches(content: bytes | memoryview, digest: str) -> bool:
    """Whether these are the bytes of a recorded digest, whichever kind it is."""
    return digest_of(content, kind_of(digest)) == digest
