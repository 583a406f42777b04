"""A spool in a folder of one file system, this machine's own or one that many share (NFS)."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cxrnode.core.digests import Digest, Kind, matches
from cxrnode.core.kept import Content, Kept, is_key
from cxrnode.errors import Rejected, Transient
from cxrnode.files import write_all

#: Files of one `put` that are written at a time: the digest and the kernel's copy take a core each.
_WRITERS = 2

#: From so many bytes on a file leaves the kernel's cache once it was read: a film is decoded once and its pictures are
#: sent once. The memory that they lay in takes the next film, and what the database keeps there stays.
_READ_ONCE = 1 << 20


class FolderSpool:
    """Temp file, fsync, rename, fsync of the folder."""

    def __init__(self, root: Path, digests: Kind = Kind.BLAKE3) -> None:
        """Use `root`, made when it is missing. Raises Transient where it cannot be made."""
        self.root = root
        self.digests = digests
        #: Where data sets are received; on the same file system, so that the rename is atomic.
        self.incoming = root / "incoming"
        self._objects = root / "objects"
        self._writers = ThreadPoolExecutor(_WRITERS, "spool")
        #: Folders of keys whose names are on the disk, as far as this process saw to it.
        self._lasting: set[str] = set()
        try:
            for folder in (self.incoming, self._objects):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Transient(f"the spool folder {root} cannot be made: {error.strerror}") from error

    def path(self, key: str) -> Path:
        """The file of a key. Raises Rejected for anything that is not a key of ours."""
        if not is_key(key):
            raise Rejected("this is no key of the spool")
        return self._objects / key[:2] / key

    def adopt(self, received: Path, *, digest: str) -> Kept:
        """Make a file in `incoming` durable under a new key; it is moved, not copied. Raises Transient.

        `digest` is what the caller's row records for it.
        """
        try:
            descriptor = os.open(received, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = os.fstat(descriptor).st_size
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            key = self._place([received], secrets.token_hex(1))[0]
            return Kept(key=key, digest=digest, size=size)
        except OSError as error:
            raise Transient(f"the spool cannot keep a file: {error.strerror}") from error

    def put(self, *contents: Content) -> tuple[Kept, ...]:
        """Make some contents durable, each under a new key. Raises Transient where the disk will not take them."""
        return self.put_each(contents)

    def put_each(self, contents: Iterable[Content]) -> tuple[Kept, ...]:
        """As `put`, of what is still being made: each is kept while the next is. What `contents` raises comes out.

        They share a folder, whose one fsync serves them all: a film makes half a dozen files.
        """
        prefix, name = secrets.token_hex(1), secrets.token_hex(16)
        writing: list[tuple[Path, Future[tuple[str, int]]]] = []
        try:
            for content in contents:
                part = self.incoming / f"put-{name}-{len(writing)}"
                writing.append((part, self._writers.submit(_written, part, content, self.digests)))
        except BaseException:  # an interrupt too: a part of what was to come is wanted by nobody; it goes on
            _undo(writing)
            raise
        if not writing:
            return ()
        try:
            told = [written.result() for _, written in writing]
            keys = self._place([part for part, _ in writing], prefix)
        except OSError as error:
            _undo(writing)
            raise Transient(f"the spool cannot keep a file: {error.strerror}") from error
        return tuple(Kept(key=key, digest=digest, size=size) for key, (digest, size) in zip(keys, told, strict=True))

    def _place(self, parts: Sequence[Path], prefix: str) -> list[str]:
        names = secrets.token_hex(15 * len(parts))
        keys = [prefix + names[at : at + 30] for at in range(0, len(names), 30)]
        folder = self._objects / prefix
        if prefix not in self._lasting or not folder.exists():
            # One that is there may have been made a moment ago by who has not come to this line yet.
            folder.mkdir(exist_ok=True, mode=0o700)
            _fsync_folder(self._objects)
            self._lasting.add(prefix)
        for part, key in zip(parts, keys, strict=True):
            part.rename(folder / key)
        _fsync_folder(folder)
        return keys

    def has(self, key: str) -> bool:
        """Whether there is a file of this key; where the spool is away, it is taken to have it."""
        try:
            self.find(key)
        except Rejected:
            return False
        except Transient:
            pass
        return True

    def find(self, key: str) -> Path:
        """The file of a key, which is there. Raises Rejected where it is missing, Transient where the spool is away."""
        path = self.path(key)
        try:
            path.stat()
        except FileNotFoundError:
            if not self._objects.is_dir():  # a share that is not mounted has no file at all
                raise Transient(f"the spool folder {self._objects} is not there; is it mounted?") from None
            raise Rejected(f"the spool has no file {key}: restore it from the backup, or send the film again") from None
        except OSError as error:
            raise Transient(f"the spool does not answer: {error.strerror}") from error
        return path

    @contextlib.contextmanager
    def borrow(self, key: str) -> Iterator[Path]:
        """The file of a key, as it lies in the spool. Raises as `find` does."""
        path = self.find(key)
        try:
            yield path
        finally:
            with contextlib.suppress(OSError), path.open("rb") as file:
                _let_go(file.fileno(), os.fstat(file.fileno()).st_size)

    def read(self, key: str, *, digest: str) -> bytes:
        """Return a file's bytes. Raises Rejected where it is missing or altered, Transient where the spool is away."""
        path = self.path(key)
        try:
            content = _content(path)
        except OSError as error:
            self.find(key)  # says so where there is no such file
            raise Transient(f"the spool does not answer: {error.strerror}") from error
        if not matches(content, digest):
            raise Rejected(f"the spool's file {key} was altered: its digest is not the recorded one")
        return content

    def remove(self, key: str) -> bool:
        """Remove a file; False where there is none, or where a share does not let go of it now."""
        try:
            self.path(key).unlink()
        except OSError:
            return False
        return True

    def keys_older_than(self, seconds: float) -> Iterator[str]:
        """The keys of files last changed more than `seconds` ago by the file system's clock."""
        before = time.time() - seconds
        for folder in sorted(self._objects.iterdir()):
            for file in sorted(folder.iterdir()):
                try:
                    old = is_key(file.name) and file.stat().st_mtime < before
                except FileNotFoundError:  # retention was faster
                    continue
                if old:
                    yield file.name

    def sweep_incoming(self, seconds: float) -> int:
        """Remove what a lost association or a killed process left in `incoming` longer than `seconds` ago."""
        before, swept = time.time() - seconds, 0
        for file in self.incoming.iterdir():
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
                    swept += 1
            except OSError:  # its owner was faster, or it is none of ours: no reason to stop receiving
                continue
        return swept

    def answers(self) -> bool:
        """Whether the folder is there and may be written to."""
        return os.access(self._objects, os.W_OK | os.X_OK)

    def free(self) -> int:
        """Free bytes on the spool's file system. Raises Transient where it is away."""
        try:
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise Transient(f"the spool does not answer: {error.strerror}") from error


def _written(part: Path, content: Content, kind: Kind) -> tuple[str, int]:
    """Write a file and have it on the disk; return its digest and its size. Raises OSError.

    By the system's own calls: a file object makes a dozen of them where four do.
    """
    digest = Digest(kind)
    pieces = (content,) if isinstance(content, bytes) else content
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for piece in pieces:
            digest.update(piece)
        size = write_all(lambda: descriptor, pieces)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return str(digest), size


def _content(path: Path) -> bytes:
    """All of a file, in as few calls as `_written` makes. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        content = os.read(descriptor, size)
        while len(content) < size and (more := os.read(descriptor, size - len(content))):  # a call reads 2 GiB at most
            content += more
        _let_go(descriptor, size)
    finally:
        os.close(descriptor)
    return content


def _undo(writing: Sequence[tuple[Path, Future[tuple[str, int]]]]) -> None:
    for part, written in writing:
        written.exception()  # waits for it
        part.unlink(missing_ok=True)


def _let_go(descriptor: int, size: int) -> None:
    """Tell the kernel that a large file is not read again soon; what is not on disk yet stays in memory."""
    if size >= _READ_ONCE:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
