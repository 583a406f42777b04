"""Bytes into files and out of them with as few calls of the system as it takes: each gives the interpreter's lock up.

What is large passes the kernel's cache by (open(2), O_DIRECT): a film is written once and read once, and to have pages
for it costs a third of what receiving it does. Where a file system or a disk cannot do that, the cache is used.
"""

from __future__ import annotations

import collections
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path

#: Pieces that one call takes (IOV_MAX is 1024).
_GATHERED = 512
#: What a `BlockWriter` gathers before it writes, and how much of a file lies in the kernel's cache.
BLOCK, CACHED = 1 << 20, 2 << 20
#: Lengths and places of what is written past the cache are multiples of it: the largest sector of a disk.
_SECTOR = 4096
#: The most that a `Memory` keeps, unless the next file is as large.
_KEPT = 64 << 20
#: Blocks that wait for the next file: to have one from the kernel anew costs a page fault for every 4 KiB.
_spare: collections.deque[mmap.mmap] = collections.deque(maxlen=8)


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


class BlockWriter:
    """Writes a new file from its beginning, in blocks: the first through the cache. One thread at a time may use it."""

    def __init__(self, descriptor: Callable[[], int]) -> None:
        """`descriptor` is asked for before each call of the system, as by `write_all`."""
        self._descriptor = descriptor
        try:
            self._block = _spare.pop()
        except IndexError:
            self._block = mmap.mmap(-1, BLOCK)  # begins where a page does, as disks ask
        self._filled = 0
        self._written = 0
        self._past_cache = False
        self._seen: Callable[[memoryview], object] | None = None
        self._unseen = 0

    def watch(self, seen: Callable[[memoryview], object]) -> None:
        """Show what comes from here on to `seen`, before it is written; it keeps none of that memory."""
        self._seen, self._unseen = seen, self._filled

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append; what fills no block waits. Raises OSError and what the descriptor raises."""
        with memoryview(self._block) as block:
            for piece in pieces:
                start, size = 0, len(piece)
                while start < size:
                    count = min(size - start, BLOCK - self._filled)
                    block[self._filled : self._filled + count] = piece[start : start + count]
                    self._filled += count
                    start += count
                    if self._filled == BLOCK:
                        self._show(block)
                        self._write(block)
                        self._filled = 0
                        if self._written == CACHED:
                            self._past_cache = _set_direct(self._descriptor(), True)

    def finish(self) -> None:
        """Write what waits. Raises as `write` does. Nothing may be written after it."""
        with memoryview(self._block) as block, block[: self._filled] as rest:
            self._show(rest)
            whole = self._filled - self._filled % _SECTOR if self._past_cache else 0
            self._write(rest[:whole])
            self._through_cache()
            self._write(rest[whole:])
        _spare.append(self._block)

    def _show(self, block: memoryview) -> None:
        if self._seen is not None:
            self._seen(block[self._unseen :])
        self._unseen = 0

    def _write(self, rest: memoryview) -> None:
        while rest:
            try:
                count = os.write(self._descriptor(), rest)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._past_cache:
                    raise
                self._through_cache()  # what a disk asks for was not kept after all
                continue
            self._written += count
            rest = rest[count:]

    def _through_cache(self) -> None:
        if self._past_cache:
            _set_direct(self._descriptor(), False)
            self._past_cache = False


class Memory:
    """Memory that files are read into, one after the other: to have it from the kernel anew costs a tenth of a film."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BLOCK)

    def read(self, path: Path) -> memoryview:
        """All bytes of a file, in memory that the next call uses again. Raises OSError, MemoryError."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            view = memoryview(self._room(size))
            direct = size > CACHED and not _is_cached(descriptor, CACHED) and _set_direct(descriptor, True)
            at = 0
            while at < size:
                try:
                    count = os.readv(descriptor, [view[at:]])
                except OSError as error:
                    if error.errno != errno.EINVAL or not direct:
                        raise
                    direct = _set_direct(descriptor, False)
                    continue
                if not count:
                    break
                at += count
            return view[:at]
        finally:
            os.close(descriptor)

    def _room(self, size: int) -> mmap.mmap:
        wanted = size + _SECTOR - size % _SECTOR
        if wanted > len(self._memory) or len(self._memory) > max(wanted, _KEPT):
            try:
                self._memory = mmap.mmap(-1, max(wanted, BLOCK), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            except OSError as error:
                raise MemoryError from error
        return self._memory


def _is_cached(descriptor: int, at: int) -> bool:
    """Whether the kernel's cache has what stands there in a file."""
    try:
        return os.preadv(descriptor, [bytearray(1)], at, os.RWF_NOWAIT) > 0
    except OSError:  # it has not, or it cannot tell
        return False


def _set_direct(descriptor: int, direct: bool) -> bool:
    """Have an open file read and written past the cache, or through it; whether it is past it now."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return direct
