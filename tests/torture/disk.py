"""A disk that forgets: traced calls are replayed on it, and a power cut leaves what a careful file system promises.

What was written to a file is safe after fsync of the file, and that the file is there under its name after fsync of
its folder: nothing else is, whatever order it was done in. Real disks are kinder; what survives here survives there.
"""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path

from tests.torture.trace import Call


@dataclasses.dataclass(slots=True)
class _Inode:
    """A file's contents: as the process sees them, and as they are safe."""

    now: bytearray
    safe: bytes


class Disk:
    """The files below `root`; what lies there at the beginning is safe. `forget` are calls that are not believed."""

    def __init__(self, root: Path, *, forget: frozenset[str] = frozenset()) -> None:
        self.root = str(root)
        self._forget = forget
        self._now: dict[str, _Inode | None] = {}  # None: a folder
        self._safe: dict[str, _Inode | None] = {}
        self._ends: dict[str, int] = {}
        for path in sorted(root.rglob("*")):
            one = None if path.is_dir() else _Inode(bytearray(path.read_bytes()), path.read_bytes())
            self._now[str(path)] = self._safe[str(path)] = one

    def play(self, call: Call) -> bool:
        """Do what the call did; True where it changed something below the root."""
        paths = [path for path in call.paths if path.startswith(self.root + "/")]
        if not paths:
            return False
        path = paths[0]
        match call.name:
            case "openat" if "O_CREAT" in call.flags and path not in self._now:
                self._now[path] = _Inode(bytearray(), b"")
                self._ends[path] = 0
            case "openat" if "O_TRUNC" in call.flags:
                self._file(path).now.clear()
                self._ends[path] = 0
            case "write" | "writev":
                end = self._ends.get(path, 0)
                self._put(path, end, call.data)
                self._ends[path] = end + len(call.data)
            case "pwrite64":
                self._put(path, call.number, call.data)
            case "ftruncate":
                contents = self._file(path).now
                contents[:] = contents[: call.number].ljust(call.number, b"\0")
            case "fsync" | "fdatasync":
                return self._keep(path)
            case "rename":
                self._now[paths[1]] = self._now.pop(paths[0])
            case "unlink":
                self._now.pop(path, None)
            case "mkdir":
                self._now[path] = None
            case "renameat" | "renameat2" | "unlinkat" | "mkdirat":
                raise AssertionError(f"{call.name} of {path}: the replay does not know what it did")
            case _:
                return False
        return True

    def _file(self, path: str) -> _Inode:
        found = self._now[path]
        assert found is not None
        return found

    def _put(self, path: str, at: int, data: bytes) -> None:
        contents = self._file(path).now
        contents.extend(bytes(max(0, at - len(contents))))
        contents[at : at + len(data)] = data

    def _keep(self, path: str) -> bool:
        found = self._now.get(path)
        kind = "file" if found is not None else "folder"
        if kind in self._forget:
            return False
        if found is not None:
            found.safe = bytes(found.now)
            return True
        inside = {one: inode for one, inode in self._now.items() if os.path.dirname(one) == path}
        self._safe = {one: inode for one, inode in self._safe.items() if os.path.dirname(one) != path} | inside
        return True

    def cut(self, folder: Path, chance: random.Random | None = None) -> Path:
        """Write down what a power cut leaves, below `folder`; return where the root lies there.

        With `chance` some of what was not safe is there all the same, as a disk pleases.
        """
        kept = dict(self._safe)
        for path in sorted({*self._now, *self._safe}):
            if chance is not None and self._now.get(path, ...) != self._safe.get(path, ...) and chance.random() < 0.5:
                if path in self._now:
                    kept[path] = self._now[path]
                else:
                    kept.pop(path, None)
        place = folder / "disk"
        place.mkdir(parents=True)
        for path, inode in sorted(kept.items()):
            if any(parent not in kept for parent in _parents(path, self.root)):
                continue  # its folder is not there
            target = place / os.path.relpath(path, self.root)
            if inode is None:
                target.mkdir()
            else:
                whole = chance is not None and chance.random() < 0.5
                target.write_bytes(bytes(inode.now) if whole else inode.safe)
        return place


def _parents(path: str, root: str) -> list[str]:
    found = []
    while (path := os.path.dirname(path)) != root:
        found.append(path)
    return found
