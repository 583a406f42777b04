"""Wake-ups between the roles of one machine: a hint without content. Losing one costs a poll interval, nothing else.

Each waiting role binds a datagram socket in a folder; whoever made work sends an empty datagram to all of a role.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self

#: How often a process tries to bind in a folder that others leave meanwhile.
_TRIES = 10


def _folder(data_dir: Path) -> Path:
    # A socket's path holds at most 107 bytes (unix(7)), which a deep data_dir would pass.
    tag = sha256(str(data_dir.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"cxrnode-{os.getuid()}-{tag}"


def wake(data_dir: Path, role: str) -> None:
    """Hint to every process of the role that there is something to claim. Never blocks and never fails."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for path in _folder(data_dir).glob(f"{role}-*"):
            try:
                sender.sendto(b"", str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)  # its process was killed
            except OSError:
                continue  # a full queue has a hint in it already


class Waiter:
    """Where a role waits for a hint or for the poll interval, whichever comes first."""

    def __init__(self, data_dir: Path, role: str) -> None:
        """Bind the socket of this process. Without one (a read-only /tmp, say) every wait is a poll."""
        self._path: Path | None = None
        self._socket: socket.socket | None = None
        for _ in range(_TRIES):
            try:
                self._bind(_folder(data_dir), role)
            except FileNotFoundError:  # the last of the others left, and took the folder along
                continue
            except OSError:
                pass
            return

    def _bind(self, folder: Path, role: str) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # somebody else's folder under our name is not used
            return
        path = folder / f"{role}-{os.getpid()}-{id(self):x}"
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            made.bind(str(path))
        except OSError:
            made.close()
            raise
        self._path, self._socket = path, made

    def wait(self, seconds: float) -> bool:
        """Wait for a hint at most `seconds`; True where one came. Hints that came meanwhile count as one."""
        if self._socket is None:
            time.sleep(seconds)
            return False
        self._socket.settimeout(max(seconds, 0.001))
        try:
            self._socket.recv(1)
            self._socket.setblocking(False)
            while True:
                self._socket.recv(1)
        except BlockingIOError:
            return True
        except (TimeoutError, OSError):
            return False

    def poke(self) -> None:
        """Be woken by this process itself, from any thread. Never blocks and never fails."""
        if self._path is not None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(b"", str(self._path))

    def close(self) -> None:
        """Release the socket and its file."""
        if self._socket is not None:
            self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others still wait there
                self._path.parent.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
