"""The note of a node's health: what a container engine asks."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from cxrnode import health
from cxrnode.cli import main


def test_a_node_is_well_while_each_role_is_ready(tmp_path: Path) -> None:
    assert health.faults(tmp_path, live=True) == ["no node runs here"]
    health.write(tmp_path, {"receive": True, "infer": False})
    assert health.faults(tmp_path, live=False) == ["the role infer is not ready"]
    assert health.faults(tmp_path, live=True) == []
    health.write(tmp_path, {"receive": True, "infer": True})
    assert health.faults(tmp_path, live=False) == []
    health.remove(tmp_path)
    assert health.faults(tmp_path, live=True) == ["no node runs here"]
    assert list(tmp_path.iterdir()) == []


def test_an_old_note_tells_of_a_supervisor_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    health.write(tmp_path, {"receive": True})
    monkeypatch.setattr(time, "time", lambda: now + 100)
    assert health.faults(tmp_path, live=True) == ["the supervisor has said nothing for 100 s"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"at": "x"}'])
def test_a_broken_note_is_no_health(tmp_path: Path, text: str) -> None:
    health.write(tmp_path, {})
    [note] = tmp_path.iterdir()
    note.write_text(text)
    assert health.faults(tmp_path, live=False) == ["no node runs here"]


def test_a_disk_that_takes_no_note_stops_nothing(tmp_path: Path) -> None:
    health.write(tmp_path / "is-not-there", {"receive": True})


def test_the_command_answers_with_its_exit_status(tmp_path: Path) -> None:
    config = tmp_path / "cxrnode.toml"
    config.write_text(f"[node]\ndata_dir = {json.dumps(str(tmp_path))}\n")
    command = ["health", "--config", str(config), "--json"]
    health.write(tmp_path, {"send": False})
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, json.loads(done.stdout)) == (1, {"ok": False, "faults": ["the role send is not ready"]})
    assert CliRunner().invoke(main, [*command, "--live"]).exit_code == 0
    health.write(tmp_path, {"send": True})
    assert CliRunner().invoke(main, command).exit_code == 0
