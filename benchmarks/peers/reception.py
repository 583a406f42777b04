"""Reception alone: cxrnode (durable, with its row), DCMTK's storescp, and Orthanc, on the same large films."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers.orthanc import Orthanc, free_port, installed
from cxrnode.bench.archive import tool
from cxrnode.bench.figures import Figure, cpu_seconds, memory_mib
from cxrnode.demo.served import ServedNode

_ASSOCIATIONS = 4


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[tuple[int, int]]:
    folder.mkdir(parents=True)
    node = ServedNode(folder, archive_port=1)
    text, changed = re.subn(r"^roles = .*$", 'roles = ["receive"]', node.config_path.read_text(), flags=re.MULTILINE)
    assert changed == 1, "the node's configuration names its roles elsewhere"
    node.config_path.write_text(text)
    with node:
        node.wait_ready("receive", 120)
        line = next(one for one in node.log_path.read_text().splitlines() if '"role_started"' in one)
        yield node.port, int(line.split('"pid": ')[1].split(",")[0].rstrip("}"))


@contextlib.contextmanager
def _storescp(folder: Path) -> Iterator[tuple[int, int]]:
    folder.mkdir(parents=True)
    port = free_port()
    # --fork: an association a process, as many as come; +B: the bytes as they come.
    command = [tool("storescp") or "storescp", "--fork", "-od", str(folder), "+B", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.7)
    try:
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _orthanc(folder: Path) -> Iterator[tuple[int, int]]:
    with Orthanc(folder) as server:
        yield server.port, server.pid


def reception(folder: Path, films: Sequence[Path], *, rounds: int) -> list[Figure]:
    """Send the films in a few associations to each receiver, `rounds` times with an empty folder; the medians."""
    receivers = {"cxrnode": _ours, "storescp": _storescp, **({"Orthanc": _orthanc} if installed() else {})}
    seconds: dict[str, list[float]] = {name: [] for name in receivers}
    cpu: dict[str, float] = dict.fromkeys(receivers, 0.0)
    memory: dict[str, float] = dict.fromkeys(receivers, 0.0)
    for number in range(rounds):
        for name, receiver in receivers.items():
            with receiver(folder / f"{name}-{number}") as (port, pid):
                began, before = time.monotonic(), cpu_seconds(pid)
                _send(films, port)
                seconds[name].append(time.monotonic() - began)
                cpu[name] = 1000 * (cpu_seconds(pid) - before) / len(films)
                memory[name] = memory_mib(pid, "VmHWM")
    megabytes = sum(film.stat().st_size for film in films) / 1e6
    rate = {name: megabytes / sorted(taken)[len(taken) // 2] for name, taken in seconds.items()}
    figures = []
    for name in receivers:
        figures += [
            Figure(group="reception", name=name, value=rate[name], unit="MB/s", better="more"),
            Figure(group="reception", name=f"{name}: cost", value=cpu[name], unit="core-ms a film", better="less"),
            Figure(group="reception", name=f"{name}: memory at its peak", value=memory[name], unit="MiB"),
        ]
    for peer, least in (("storescp", 1.0), ("Orthanc", 2.0)):
        if peer in rate:
            figures.append(
                Figure(
                    group="ratios",
                    name=f"reception to {peer}",
                    value=rate["cxrnode"] / rate[peer],
                    unit="",
                    better="more",
                    note=f"at least {least}",
                )
            )
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
