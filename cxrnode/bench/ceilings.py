"""What this machine can do at most: each engine's raw forward pass, memory, fsync, DICOM over loopback."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cxrnode.bench.archive import Storescp, tool
from cxrnode.bench.figures import Cost, Figure, take_turns
from cxrnode.errors import BundleError
from cxrnode.reading.admission import EXPORTED, EngineKind, candidates, load_engine
from cxrnode.reading.bundle import Bundle
from cxrnode.reading.engine import NetworkEngine
from cxrnode.reading.network import build_network
from cxrnode.reading.onnx_engine import export

BATCHES = (1, 4, 8)


def engines(bundle: Bundle, folder: Path, *, threads: int | None = None) -> dict[EngineKind, NetworkEngine]:
    """Every engine that this machine can run, the reference first."""
    found: dict[EngineKind, NetworkEngine] = {}
    graph = folder / "bench.onnx"
    for kind in candidates():
        try:
            if kind in EXPORTED and not graph.exists():
                export(bundle, graph)
            found[kind] = load_engine(kind, bundle, graph, threads=threads)
        except BundleError:
            continue
    return found


def forward(found: dict[EngineKind, NetworkEngine], bundle: Bundle, *, rounds: int) -> dict[tuple[str, int], Cost]:
    """The bare pass of each engine at each batch, and torch in float32 as it comes ("eager"), per film."""
    given = bundle.manifest.input
    random = np.random.default_rng(1)
    costs: dict[tuple[str, int], Cost] = {}
    network = build_network(bundle.weights, bundle.manifest.shape).requires_grad_(False)
    for batch in BATCHES:
        inputs = random.standard_normal((batch, given.channels, given.size, given.size)).astype(np.float32)
        steps: dict[str, Callable[[], object]] = {
            "torch eager float32": functools.partial(_inferred, network, torch.from_numpy(inputs))
        }
        steps |= {str(kind): functools.partial(_inferred, engine.run, inputs) for kind, engine in found.items()}
        for name, cost in take_turns(steps, rounds=rounds).items():
            costs[name, batch] = Cost(wall=cost.wall / batch, cpu=cost.cpu / batch)
    return costs


def single_pass(engine: NetworkEngine, bundle: Bundle) -> Callable[[], object]:
    """The bare pass of one film."""
    given = bundle.manifest.input
    inputs = np.zeros((1, given.channels, given.size, given.size), np.float32)
    return functools.partial(_inferred, engine.run, inputs)


def _inferred(step: Callable[..., object], inputs: object) -> object:
    with torch.inference_mode():
        return step(inputs)


def memory_bandwidth() -> Figure:
    """Copying an array that no cache holds."""
    source = np.zeros(1 << 25, np.float64)
    target = np.empty_like(source)
    cost = take_turns({"copy": lambda: np.copyto(target, source)}, rounds=3)["copy"]
    value = 2 * source.nbytes / (cost.wall / 1000) / 1e9
    return Figure(group="ceilings", name="memory, read and written", value=value, unit="GB/s", better="more")


def fsync_rate(folder: Path, *, seconds: float = 1.0) -> Figure:
    """Durable writes of 4 KiB one after the other, on the file system of the bench's folder."""
    path = folder / "fsync.bin"
    began, count = time.monotonic(), 0
    with path.open("wb", buffering=0) as file:
        while time.monotonic() - began < seconds:
            file.write(bytes(4096))
            os.fsync(file.fileno())
            count += 1
    path.unlink()
    rate = count / (time.monotonic() - began)
    return Figure(group="ceilings", name="fsync", value=rate, unit="a second", better="more")


def loopback_dicom(folder: Path, films: list[Path]) -> Figure | None:
    """DCMTK's sender to DCMTK's storescp, one association; None where DCMTK is missing. Nothing is fsynced there."""
    sender, receiver = (tool("dcmsend"), tool("storescp"))
    if sender is None or receiver is None:
        return None
    with Storescp(receiver, folder / "storescp") as archive:
        began = time.monotonic()
        command = [sender, "-nuc", "-aec", "STORESCP", "127.0.0.1", str(archive.port), *map(str, films)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        seconds = time.monotonic() - began
        archive.forget()
    megabytes = sum(film.stat().st_size for film in films) / 1e6
    return Figure(
        group="ceilings", name="DICOM over loopback, DCMTK", value=megabytes / seconds, unit="MB/s", better="more"
    )
