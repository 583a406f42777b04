"""A node in a process of its own, exactly as `cxrnode serve` runs it, on a throw-away folder and a free port."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from cxrnode.errors import Transient

SENDER_AET = "MODALITY"

_CONFIG = """\
# Written by `cxrnode demo`: a node as a site would configure it, on a throw-away folder.
[node]
ae_title = "CXRNODE"
data_dir = {data}
roles = ["receive", "infer", "send", "tend"]
purpose = "demo"              # allows films that no model was made for, phantoms among them

[listen]
host = "127.0.0.1"
port = {port}

[nodes.ARCHIVE]
aet = "ARCHIVE"
host = "127.0.0.1"
port = {archive}

[nodes.MODALITY]
aet = "MODALITY"
host = "127.0.0.1"
port = 104
can_send = true

[models.chest]
bundle = {bundle}

[[rules]]
name = "demonstration"
unsure = "read"
models = ["chest"]
outputs = ["sr", "heatmap"]
send_to = ["ARCHIVE"]

[reading]
implausible = "read"

[heatmap]
min_findings = 2              # something to look at, also where nothing is present

[spool]
min_free = "100 MiB"

[log]
level = "info"
format = "json"
"""


def free_port() -> int:
    """A port of the loopback that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServedNode:
    """`cxrnode serve` as a child process. Use as a context manager; leaving it drains the node."""

    def __init__(self, folder: Path, *, archive_port: int, bundle: Path | None = None) -> None:
        """Write the configuration into `folder`; results go to the archive's port. `bundle`: not the shipped one."""
        self.port = free_port()
        self.config_path = folder / "cxrnode.toml"
        self.log_path = folder / "cxrnode.log"
        self.data_dir = folder / "data"
        named = "demo" if bundle is None else str(bundle.resolve())
        text = _CONFIG.format(
            data=json.dumps(str(self.data_dir)), port=self.port, archive=archive_port, bundle=json.dumps(named)
        )
        self.config_path.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def ready(self, role: str) -> bool:
        """Whether the role said that it does its work. Raises Transient where the node has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise Transient(f"the node ended with status {self._process.returncode}; {self.log_path} says why")
        for line in self.log_path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                said = json.loads(line)
                if said.get("event") == "role_ready" and said.get("role") == role:
                    return True
        return False

    def wait_ready(self, role: str, seconds: float) -> float:
        """Wait until the role is ready; return the seconds it took. Raises Transient when it takes too long."""
        began = time.monotonic()
        while not self.ready(role):
            if time.monotonic() - began > seconds:
                raise Transient(f"the {role} role is not ready after {seconds:g} s; {self.log_path} says why")
            time.sleep(0.05)
        return time.monotonic() - began

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "cxrnode", "serve", "--config", str(self.config_path)]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
