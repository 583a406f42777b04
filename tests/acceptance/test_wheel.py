"""The wheel as a site installs it: built, put into a fresh environment, and used where there is no source tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.peers import REPOSITORY, unused_port


def ran(*command: str | Path, cwd: Path, good: bool = True) -> str:
    """Run a command without our PYTHONPATH; its output. Fails the test on another exit status than 0."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("CXRNODE__")}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environment, timeout=400)
    if good and done.returncode != 0:
        pytest.fail(f"{command}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    ran(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPOSITORY, cwd=folder)
    [made] = folder.glob("cxrnode-*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `cxrnode` of a fresh environment; the libraries, torch among them, are those of these tests."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    [packages] = (folder / "lib").glob("python*/site-packages")
    # A .pth below a .pth is not followed: our own editable install stays out of sight.
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    ran(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=folder)
    return folder / "bin" / "cxrnode"


def test_the_wheel_holds_all_that_runs_and_no_test(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"cxrnode", f"cxrnode-{wheel.name.split('-')[1]}.dist-info"}
    for needed in (
        "cxrnode/templates/cxrnode.toml",
        "cxrnode/bundles/demo/weights.safetensors",
        "cxrnode/store/migrations/versions/0001_first.py",
        "cxrnode/templates/recipes/demo.toml",
    ):
        assert needed in names
    source = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "cxrnode").rglob("*.py")}
    assert source <= set(names)


def test_the_installed_program_is_the_wheel_s(installed: Path, tmp_path: Path) -> None:
    said = ran(installed.parent / "python", "-c", "import cxrnode; print(cxrnode.__file__)", cwd=tmp_path)
    assert str(installed.parent.parent) in said


def test_a_site_goes_from_init_to_a_check_that_says_what_is_wrong(installed: Path, tmp_path: Path) -> None:
    ran(installed, "init", cwd=tmp_path)
    config = tmp_path / "cxrnode.toml"
    text = config.read_text().replace("/var/lib/cxrnode", str(tmp_path / "data"))
    config.write_text(text.replace("port = 11112", f"port = {unused_port()}").replace("port = 4242", "port = 1"))
    ran(installed, "db", "upgrade", cwd=tmp_path)
    said = ran(installed, "check", cwd=tmp_path, good=False)
    faults = re.findall(r"^.*\bFAULT\b.*$", said, re.MULTILINE)
    assert [line for line in faults if "node PACS" not in line and "time zone" not in line] == []
    assert len(faults) == 2, said  # the archive of the template is not there, and nobody set the zone


def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    said = ran(installed, "demo", "--folder", tmp_path / "demo", cwd=tmp_path)
    assert "DEMONSTRATION" in said.upper()
