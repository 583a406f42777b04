"""The bench's archive: DCMTK's storescp, in a process of its own, so that what the node waits for is the node's.

Our own archive (`demo.archive`) is Python as the bench is, and both took turns with each other: 17 of a film's 57 ms.
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cxrnode.demo.archive import Archive
from cxrnode.errors import Transient

_STARTS_WITHIN = 10.0


class Storescp:
    """`storescp --fork`, which keeps what it gets in `folder`. Use as a context manager; `port` is known at once."""

    def __init__(self, program: str, folder: Path) -> None:
        """Nothing runs yet. The folder is made when it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._command = [program, "--fork", "-od", str(folder), "+B", str(self.port)]
        self._process: subprocess.Popen[bytes] | None = None

    def forget(self) -> None:
        """Remove what came: 10 MB a film, of which none is needed."""
        for path in self._folder.iterdir():
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdin=quiet, stdout=quiet, stderr=quiet)
        until = time.monotonic() + _STARTS_WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError as error:
                if time.monotonic() > until or self._process.poll() is not None:
                    raise Transient(f"storescp does not listen on port {self.port}") from error
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def archive_in(folder: Path) -> Storescp | Archive:
    """DCMTK's where it is installed, else our own, which costs the node's machine more."""
    program = tool("storescp")
    return Storescp(program, folder) if program is not None else Archive(folder, keep=False)


def tool(name: str) -> str | None:
    """A program of Debian's DCMTK; by its full path, since pip puts pynetdicom's own tools before it."""
    path = Path("/usr/bin") / name
    return str(path) if path.is_file() else None
