"""How the roles of this machine's node are, in one small file of `data_dir`: for a container engine's health check.

The supervisor writes it, `cxrnode health` reads it. It is no store: losing it costs a few seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

#: The supervisor writes so often, in seconds; a file older than STALE tells of none that runs.
EVERY = 2.0
STALE = 30.0


def _file(data_dir: Path) -> Path:
    # Nodes that share a folder have a file each.
    return data_dir / f"health-{socket.gethostname()}.json"


def write(data_dir: Path, ready: Mapping[str, bool]) -> None:
    """Note for each role whether it is ready. Where the disk will not take it, the old note grows stale."""
    path = _file(data_dir)
    part = path.with_suffix(".part")
    with contextlib.suppress(OSError):
        part.write_text(json.dumps({"at": time.time(), "pid": os.getpid(), "ready": dict(ready)}))
        part.replace(path)


def remove(data_dir: Path) -> None:
    """Take the note away: the node ends in good order."""
    with contextlib.suppress(OSError):
        _file(data_dir).unlink(missing_ok=True)


def faults(data_dir: Path, *, live: bool) -> list[str]:
    """What is wrong with the node on this machine, a line each; nothing where all is well.

    `live`: only whether its supervisor runs, which starts again what ended; else whether each role does its work.
    """
    try:
        noted = json.loads(_file(data_dir).read_text())
        at, ready = float(noted["at"]), dict(noted["ready"])
    except (OSError, ValueError, KeyError, TypeError):
        return ["no node runs here"]
    age = time.time() - at
    if age > STALE:
        return [f"the supervisor has said nothing for {age:.0f} s"]
    return [] if live else [f"the role {role} is not ready" for role, well in ready.items() if not well]
