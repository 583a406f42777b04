"""The spool: durable bytes under random keys, in a folder or in an object store.

A file belongs to one row of the store, which knows its digest. The spool never names a file after what a peer sent,
and it never decides what may go: `tend` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from cxrnode.core.digests import Kind
from cxrnode.core.kept import Content, Kept
from cxrnode.spool.folder import FolderSpool

__all__ = ["FolderSpool", "Spool"]


class Spool(Protocol):
    """What roles ask of a spool. Keys are 32 hexadecimal digits; anything else is Rejected."""

    #: A folder of this machine where data sets are received.
    incoming: Path
    #: The kind of digest that new files get.
    digests: Kind

    def adopt(self, received: Path, *, digest: str) -> Kept:
        """Make a file in `incoming` durable under a new key; it is there no longer. Raises Transient."""

    def put(self, *contents: Content) -> tuple[Kept, ...]:
        """Make some contents durable, whole or in pieces, each under a new key: all or none. Raises Transient."""

    def put_each(self, contents: Iterable[Content]) -> tuple[Kept, ...]:
        """As `put`, of what is still being made: each is kept while the next is. What `contents` raises comes out."""

    def borrow(self, key: str) -> contextlib.AbstractContextManager[Path]:
        """A file of this machine with a key's bytes, for as long as the block lasts; it is not to be changed.

        Raises Rejected where the key's file is missing, Transient where the spool is away.
        """

    def read(self, key: str, *, digest: str) -> bytes:
        """Return a file's bytes. Raises Rejected where it is missing or altered, Transient where the spool is away."""

    def has(self, key: str) -> bool:
        """Whether there is a file of this key; where the spool is away, it is taken to have it."""

    def remove(self, key: str) -> bool:
        """Remove a file; False where there is none. One that cannot be reached now is an orphan, which `tend` takes."""

    def keys_older_than(self, seconds: float) -> Iterator[str]:
        """The keys of files last changed more than `seconds` ago. Raises Transient where the spool is away."""

    def sweep_incoming(self, seconds: float) -> int:
        """Remove what is left in `incoming` of lost associations and killed processes, older than `seconds`."""

    def answers(self) -> bool:
        """Whether it looks as if something could be kept now, for health checks: nothing is written."""

    def free(self) -> int:
        """Free bytes on the disk that receives. Raises Transient where it is away."""
