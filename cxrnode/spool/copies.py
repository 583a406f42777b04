"""Copies of a folder spool: into a backup, and out of it again.

Files of a spool never change and their names are random, so that a copy is made once and a later one only adds. On
the same file system a copy is a hard link, which takes no room. Nothing here asks a row which files are wanted.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

from cxrnode.errors import Transient
from cxrnode.spool.folder import FolderSpool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Mirrored:
    """How many files there are now, their bytes, and how many of them were new."""

    files: int
    size: int
    new: int


def mirror(source: FolderSpool, target: FolderSpool) -> Mirrored:
    """Let `target` have every file that `source` has, durably. Raises Transient where a disk will not.

    A file that retention takes meanwhile is passed over: the row that knew it rests.
    """
    files = size = new = 0
    touched: set[Path] = set()
    try:
        for key in source.keys_older_than(-86400.0):  # those of the future too: another machine's clock
            original, copy = source.path(key), target.path(key)
            try:
                if not copy.exists():
                    copy.parent.mkdir(mode=0o700, exist_ok=True)
                    _copy(original, copy, target.incoming / f"copy-{key}")
                    touched |= {copy.parent, copy.parent.parent}
                    new += 1
                size += copy.stat().st_size
            except FileNotFoundError:
                continue
            files += 1
        for folder in touched:
            _fsync(folder)
    except OSError as error:
        raise Transient(f"the spool's files cannot be copied to {target.root}: {error.strerror}") from error
    return Mirrored(files=files, size=size, new=new)


def _copy(original: Path, copy: Path, part: Path) -> None:
    try:
        os.link(original, copy)
        return
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without links
        pass
    try:
        shutil.copyfile(original, part)
        part.chmod(0o600)
        _fsync(part)
        part.rename(copy)
    finally:
        part.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
