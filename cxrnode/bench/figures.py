"""What a bench says: figures with their units, and how they are taken on a machine that does other things too.

Wall time says what a user waits for, processor time what a film costs whatever else runs. What is compared takes turns.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cxrnode.cores import cores

_TICK = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number. `group` says which part of the bench it is of; `better`: "more", "less" or "" where it is a fact."""

    group: str
    name: str
    value: float
    unit: str
    better: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What something took at the median, in milliseconds: of the clock, and of the processor in this process."""

    wall: float
    cpu: float


def take_turns(what: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, Cost]:
    """Run each once to warm up, then each in turn; medians. What disturbs the machine meets all alike."""
    for step in what.values():
        step()
    walls: dict[str, list[float]] = {name: [] for name in what}
    cpus: dict[str, list[float]] = {name: [] for name in what}
    for _ in range(rounds):
        for name, step in what.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            walls[name].append(1000 * (time.perf_counter() - wall))
            cpus[name].append(1000 * (time.process_time() - cpu))
    return {name: Cost(wall=statistics.median(walls[name]), cpu=statistics.median(cpus[name])) for name in what}


def cpu_seconds(pid: int) -> float:
    """Processor time of a process and its living children so far, in seconds; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = (int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])) / _TICK
    return own + sum(cpu_seconds(int(child)) for child in children)


def memory_mib(pid: int, what: str = "VmRSS") -> float:
    """Memory of a process in MiB: VmRSS now, VmHWM at its peak; 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{what}:")), 0.0)


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    import torch

    names = [line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": str(cores()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
