"""The files that an administrator installs."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest

from cxrnode.config import template
from tests.peers import REPOSITORY, require_tool

UNIT = REPOSITORY / "deploy" / "systemd" / "cxrnode.service"


@pytest.mark.peers
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    tool = Path("/usr/bin/systemd-analyze")
    if not tool.is_file():
        pytest.skip("systemd-analyze is not installed: a container without systemd")
    program = Path(require_tool("true"))  # the unit names a program that is not installed here
    text = UNIT.read_text().replace("/opt/cxrnode/bin/cxrnode", str(program))
    (tmp_path / UNIT.name).write_text(text)
    done = subprocess.run([tool, "verify", tmp_path / UNIT.name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_runs_as_its_own_user_and_writes_where_the_shipped_configuration_says() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert (service["User"], service["Type"], service["ProtectSystem"]) == ("cxrnode", "notify", "strict")
    assert service["NoNewPrivileges"] == "true"
    assert f'data_dir = "{service["ReadWritePaths"]}"' in template()
