"""How many processor cores this process may use: what it may run on, and no more than its control group is given."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OURS = Path("/proc/self/cgroup")


def cores() -> int:
    """At least 1. A container's or a service's quota (cgroup v2, `cpu.max`) counts in whole cores, rounded up.

    With a thread for each core of a large machine, a container that is given two of them stands still most of the time.
    """
    return max(1, min([len(os.sched_getaffinity(0)), *_quotas()]))


def _quotas() -> list[int]:
    """The quotas of our control group and of those around it, as far as they are seen from here."""
    try:
        ours = next(line[3:] for line in _OURS.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return []
    group = _GROUPS / ours.strip().lstrip("/")
    found = []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(_GROUPS):
            break
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(math.ceil(int(quota) / int(period)))
        except (OSError, ValueError, ZeroDivisionError):  # none here, or "max"
            continue
    return found
