"""The unit that is shipped, started by a real systemd with all of its hardening: as on a hospital's machine.

systemd is process 1 of namespaces of its own (processes, mounts, network, cgroups), with an overlay over /etc and /var:
it sees our unit alone, and nothing of it reaches this machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrnode.phantom.dicom import write_phantoms
from tests.peers import REPOSITORY, require_tool

SYSTEMD = Path("/lib/systemd/systemd")
UNITS = REPOSITORY / "deploy" / "systemd"

#: Port 104 is DICOM's own, below 1024: the unit's one capability. No destination: results rest as "reported".
_CONFIG = """\
[node]
ae_title = "CXRNODE"
data_dir = "/var/lib/cxrnode"
purpose = "demo"
timezone = "UTC"

[listen]
port = 104

[nodes.MODALITY]
aet = "MODALITY"
host = "127.0.0.1"
port = 11112
can_send = true

[models.chest]
bundle = "demo"

[[rules]]
name = "films"
unsure = "read"
models = ["chest"]

[reading]
implausible = "read"

[spool]
min_free = "50 MiB"
"""

#: The source, the libraries and the interpreter of these tests, where an installed package would lie: their own places
#: may be in somebody's home, which the unit does not see.
_ENVIRONMENT = (
    "PYTHONPATH=/opt/cxrnode/source:/opt/cxrnode/libraries",
    "LD_LIBRARY_PATH=/opt/cxrnode/python/lib",
    "OMP_NUM_THREADS=1",
)

#: What process 1 finds: an overlay of /etc and /var, an empty /run, our program in /opt, our unit among empty targets.
_BOOT = r"""
set -eu
mount --make-rprivate /
umount -l /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs tmpfs {stage}/layer
for folder in etc var; do
  upper={stage}/layer/$folder
  mkdir -p $upper $upper.work
  mount -t overlay overlay -o lowerdir=/$folder,upperdir=$upper,workdir=$upper.work /$folder
done
mount -t tmpfs tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /opt
mkdir -p /run/systemd/system /etc/cxrnode
mkdir -p /opt/cxrnode/bin /opt/cxrnode/source /opt/cxrnode/libraries /opt/cxrnode/python
mount --bind {source} /opt/cxrnode/source
mount --bind {libraries} /opt/cxrnode/libraries
mount --bind {python} /opt/cxrnode/python
cp {stage}/program /opt/cxrnode/bin/cxrnode
cp {stage}/cxrnode.toml {stage}/environment /etc/cxrnode/
systemd-sysusers {stage}/cxrnode.conf
ip link set lo up
exec env -i container=cxrnode SYSTEMD_UNIT_PATH={stage}/units PATH=/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --system --unit=cxrnode-test.target --log-target=console --show-status=no
"""


class Machine:
    """A small machine whose process 1 is systemd, and what its administrator does there."""

    def __init__(self, stage: Path) -> None:
        self.stage = stage
        self.log = stage / "console.log"
        self._cgroup = _cgroups() / f"cxrnode-test-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Start process 1 in a cgroup and namespaces of its own."""
        self._cgroup.mkdir()
        libraries, python = Path(sysconfig.get_path("purelib")), Path(sys.base_prefix)
        paths = {"stage": self.stage, "source": REPOSITORY, "libraries": libraries, "python": python}
        (self.stage / "boot").write_text(_BOOT.format_map({name: shlex.quote(str(p)) for name, p in paths.items()}))
        namespaces = "--mount --pid --fork --kill-child --cgroup --net --uts --ipc --mount-proc"
        join = f"echo $$ >{self._cgroup}/cgroup.procs; exec unshare {namespaces} sh {self.stage}/boot"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", join], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def halt(self) -> None:
        """End process 1, and all of its processes with it; remove the cgroups."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for _ in range(50):
            for folder in sorted(self._cgroup.rglob("*"), reverse=True):
                if folder.is_dir():
                    _try_rmdir(folder)
            if _try_rmdir(self._cgroup):
                return
            time.sleep(0.1)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command on the machine, as root; its output."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:  # not begun yet
            return ""
        enter = ["nsenter", "--target", children[0], "--mount", "--pid", "--net", "--uts", "--ipc"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)}: {done.stdout}{done.stderr}\n{self.log.read_text()[-4000:]}")
        return done.stdout

    def said(self) -> str:
        """The ends of what systemd and the service have written."""
        logs = (self.log, self.stage / "service.log")
        return "".join(log.read_text()[-3000:] for log in logs if log.exists())

    def shown(self, name: str) -> str:
        """One property of the service, as `systemctl show` prints it; "" while systemd does not answer."""
        return self.run("systemctl", "show", "cxrnode.service", "--value", "-p", name, check=False).strip()

    def wait_active(self, *, restarts: int) -> None:
        """Wait until the unit is active, after so many restarts."""
        until = time.monotonic() + 180
        while (now := (self.shown("ActiveState"), self.shown("NRestarts"))) != ("active", str(restarts)):
            if time.monotonic() > until or now[0] == "failed":
                pytest.fail(f"cxrnode.service is not active after {restarts} restarts but {now}:\n{self.said()}")
            time.sleep(0.3)


def _cgroups() -> Path:
    """Where the unified hierarchy is mounted: alone, or beside the controllers of version 1."""
    both = Path("/sys/fs/cgroup/unified")
    return both if (both / "cgroup.procs").exists() else Path("/sys/fs/cgroup")


def _try_rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() != 0 or not SYSTEMD.exists() or not (_cgroups() / "cgroup.procs").exists():
        pytest.skip("this needs root, systemd and the unified cgroups")
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "--net", "true"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip("no namespaces here: a container without the right to make them")
    stage = Path("/tmp") / f"cxrnode-machine-{os.getpid()}"
    (stage / "units").mkdir(parents=True)
    (stage / "layer").mkdir()
    for folder in (stage, stage / "units"):
        folder.chmod(0o755)
    shutil.copy(UNITS / "cxrnode.service", stage / "units")
    shutil.copy(UNITS / "cxrnode.sysusers", stage / "cxrnode.conf")
    # The watchdog of the unit, but sooner; and its log where the test finds it.
    (stage / "units" / "cxrnode.service.d").mkdir()
    (stage / "units" / "cxrnode.service.d" / "test.conf").write_text(
        f"[Service]\nWatchdogSec=8s\nStandardError=append:{stage}/service.log\n"
    )
    for target in ("sysinit", "basic", "shutdown", "network-online"):
        (stage / "units" / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (stage / "units" / "cxrnode-test.target").write_text("[Unit]\nWants=cxrnode.service\n")
    (stage / "program").write_text('#!/bin/sh\nexec /opt/cxrnode/python/bin/python3 -m cxrnode "$@"\n')
    (stage / "program").chmod(0o755)
    (stage / "cxrnode.toml").write_text(_CONFIG)
    (stage / "environment").write_text("\n".join(_ENVIRONMENT) + "\n")
    machine = Machine(stage)
    try:
        machine.boot()
        yield machine
    finally:
        machine.halt()
        shutil.rmtree(stage, ignore_errors=True)


def test_the_unit_runs_hardened_under_systemd_and_is_started_again(machine: Machine) -> None:
    machine.wait_active(restarts=0)

    # Its own user, no way to more rights, the system calls filtered: the supervisor and the roles alike.
    main = machine.shown("MainPID")
    user = machine.run("id", "-u", "cxrnode").strip()
    status = machine.run("cat", f"/proc/{main}/status")
    found = dict(re.findall(r"^(Uid|NoNewPrivs|Seccomp):\t(\d+)", status, re.MULTILINE))
    assert found == {"Uid": user, "NoNewPrivs": "1", "Seccomp": "2"}
    assert machine.run("stat", "-c", "%U %a", "/var/lib/cxrnode").split() == ["cxrnode", "750"]

    # The main job, up to a report: torch and the decoder live with the hardening.
    dcmtk = ("-aet", "MODALITY", "-aec", "CXRNODE", "127.0.0.1", "104")
    machine.run(require_tool("echoscu"), *dcmtk)
    (film,) = write_phantoms(machine.stage, [0], rows=704, cols=584)
    machine.run(require_tool("storescu"), *dcmtk, str(film))
    jobs = ("/opt/cxrnode/bin/cxrnode", "jobs", "ls", "--json")
    as_service = ("setpriv", f"--reuid={user}", "--clear-groups", "env", *_ENVIRONMENT)
    until = time.monotonic() + 240
    while '"state": "reported"' not in machine.run(*as_service, *jobs):
        assert time.monotonic() < until, machine.said()
        time.sleep(2.0)

    # A supervisor that is killed, and one that hangs, is started again.
    machine.run("kill", "-KILL", main)
    machine.wait_active(restarts=1)
    machine.run("kill", "-STOP", machine.shown("MainPID"))
    machine.wait_active(restarts=2)
    machine.run(require_tool("echoscu"), *dcmtk)

    began = time.monotonic()
    machine.run("systemctl", "stop", "cxrnode.service")
    assert time.monotonic() - began < 30
    assert (machine.shown("ActiveState"), machine.shown("Result")) == ("inactive", "success")
