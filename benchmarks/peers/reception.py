"""Reception alone: cxrnode (durable, with its row), DCMTK's storescp, and Orthanc, on the same large films."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.orthanc import Orthanc, free_port, installed
from cxrnode.bench.archive import tool
from cxrnode.bench.figures import Figure, cpu_seconds, memory_mib
from cxrnode.config import load_config
from cxrnode.demo.served import ServedNode
from cxrnode.errors import Transient
from cxrnode.supervisor import processes_of

_ASSOCIATIONS = 4
_ONE = "cxrnode, one listener"

#: A port, and the processes that receive there.
_Receiving = tuple[int, list[int]]


@contextlib.contextmanager
def _ours(folder: Path, *, processes: int = 0) -> Iterator[_Receiving]:
    """A node that only receives, with so many listening processes; 0: as many as it has by itself."""
    folder.mkdir(parents=True)
    node = ServedNode(folder, archive_port=1)
    text = node.config_path.read_text()
    for line, wanted in (
        (r"^roles = .*$", 'roles = ["receive"]'),
        (r"^\[listen\]$", f"[listen]\nprocesses = {processes}"),
    ):
        text, changed = re.subn(line, wanted, text, flags=re.MULTILINE)
        assert changed == 1, f"the node's configuration has not one line {line}"
    node.config_path.write_text(text)
    with node:
        until = time.monotonic() + 120
        while len(_said(node, "role_ready")) < (processes or processes_of(load_config(node.config_path), "receive")):
            if time.monotonic() > until:
                raise Transient("the listeners do not come up")
            time.sleep(0.05)
        yield node.port, [int(one["pid"]) for one in _said(node, "role_started")]


def _said(node: ServedNode, name: str) -> list[dict[str, Any]]:
    """The events of this name in the node's log."""
    lines = [line for line in node.log_path.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [one for one in map(json.loads, lines) if one.get("event") == name]


@contextlib.contextmanager
def _storescp(folder: Path) -> Iterator[_Receiving]:
    folder.mkdir(parents=True)
    port = free_port()
    # --fork: an association a process, as many as come; +B: the bytes as they come.
    command = [tool("storescp") or "storescp", "--fork", "-od", str(folder), "+B", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.7)
    try:
        yield port, [process.pid]
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _orthanc(folder: Path) -> Iterator[_Receiving]:
    with Orthanc(folder) as server:
        yield server.port, [server.pid]


def reception(folder: Path, films: Sequence[Path], *, rounds: int) -> list[Figure]:
    """Send the films in a few associations to each receiver, `rounds` times with an empty folder; the medians."""
    receivers: dict[str, Callable[[Path], contextlib.AbstractContextManager[_Receiving]]] = {
        "cxrnode": _ours,
        _ONE: functools.partial(_ours, processes=1),
        "storescp": _storescp,
        **({"Orthanc": _orthanc} if installed() else {}),
    }
    seconds: dict[str, list[float]] = {name: [] for name in receivers}
    cpu: dict[str, float] = dict.fromkeys(receivers, 0.0)
    memory: dict[str, float] = dict.fromkeys(receivers, 0.0)
    for number in range(rounds):
        for name, receiver in receivers.items():
            with receiver(folder / f"{name}-{number}") as (port, pids):
                began, before = time.monotonic(), sum(map(cpu_seconds, pids))
                _send(films, port)
                seconds[name].append(time.monotonic() - began)
                cpu[name] = 1000 * (sum(map(cpu_seconds, pids)) - before) / len(films)
                memory[name] = max(memory_mib(pid, "VmHWM") for pid in pids)
    megabytes = sum(film.stat().st_size for film in films) / 1e6
    rate = {name: megabytes / sorted(taken)[len(taken) // 2] for name, taken in seconds.items()}
    figures = []
    for name in receivers:
        figures += [
            Figure(group="reception", name=name, value=rate[name], unit="MB/s", better="more"),
            Figure(group="reception", name=f"{name}: cost", value=cpu[name], unit="core-ms a film", better="less"),
            Figure(group="reception", name=f"{name}: memory at its peak", value=memory[name], unit="MiB"),
        ]
    for ours, peer, note in (
        ("cxrnode", "storescp", "at least 1.0"),
        (_ONE, "storescp", "with `listen.processes = 1`"),
        ("cxrnode", "Orthanc", "at least 2.0"),
    ):
        if peer in rate:
            value, name = rate[ours] / rate[peer], f"reception of {ours} to {peer}"
            figures.append(Figure(group="ratios", name=name, value=value, unit="", better="more", note=note))
    return figures


def _send(films: Sequence[Path], port: int) -> None:
    command = [tool("dcmsend") or "dcmsend", "-nuc", "-aet", "MODALITY", "-aec", "CXRNODE", "127.0.0.1", str(port)]
    parts = [films[i::_ASSOCIATIONS] for i in range(_ASSOCIATIONS)]
    running = [
        subprocess.Popen([*command, *map(str, part)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for part in parts
        if part
    ]
    for process in running:
        if process.wait(600) != 0:
            raise RuntimeError("dcmsend met a fault")
