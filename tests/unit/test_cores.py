"""The cores that a process may use: by its affinity, and by the quotas of its control group and of those around it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxrnode import cores as module
from cxrnode.cores import cores


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control group of this process, in a tree of our own; 64 cores to run on."""
    folder = tmp_path / "cgroup" / "system.slice" / "cxrnode.service"
    folder.mkdir(parents=True)
    ours = tmp_path / "self"
    ours.write_text("1:cpu:/old\n0::/system.slice/cxrnode.service\n")
    monkeypatch.setattr(module, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "_OURS", ours)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    return folder


@pytest.mark.parametrize(
    ("said", "expected"),
    [("max 100000", 64), ("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("9900000 100000", 64)],
)
def test_a_quota_counts_in_whole_cores_and_never_adds_any(group: Path, said: str, expected: int) -> None:
    (group / "cpu.max").write_text(said + "\n")
    assert cores() == expected


def test_the_tightest_of_the_groups_around_counts(group: Path) -> None:
    (group / "cpu.max").write_text("800000 100000\n")
    (group.parent / "cpu.max").write_text("300000 100000\n")
    (group.parent.parent.parent / "cpu.max").write_text("100000 100000\n")  # outside of the tree
    assert cores() == 3


@pytest.mark.parametrize("said", ["", "much", "1 0", "max"])
def test_what_is_no_quota_limits_nothing(group: Path, said: str) -> None:
    (group / "cpu.max").write_text(said)
    assert cores() == 64


def test_without_control_groups_the_affinity_counts(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OURS", group / "missing")
    assert cores() == 64


def test_a_container_sees_its_own_group_as_the_root(group: Path) -> None:
    module._OURS.write_text("0::/\n")
    (module._GROUPS / "cpu.max").write_text("400000 100000\n")
    assert cores() == 4
