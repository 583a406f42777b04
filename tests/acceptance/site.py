"""A node under test: its configuration, its process, its database, and what an administrator would do with them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from cxrnode.core.lifecycle import job_after
from cxrnode.quantities import parse_duration
from cxrnode.store.audit import broken_link
from cxrnode.store.database import Database
from cxrnode.store.schema import delivery, event, identity, instance, job, output
from tests.configuration import COMMON, configuration
from tests.peers import REPOSITORY, require_tool, unused_port, wait_until

SENDER = "MODALITY"

#: A second model, which reads in the shadow of the first.
_SHADOW = {
    "models": {"candidate": {"bundle": "demo", "mode": "shadow"}},
    "rules": [{**COMMON["rules"][0], "models": ["chest", "candidate"]}],
}


class Site:
    """A node of its own in `folder`, started and stopped by the test, with one PACS."""

    def __init__(
        self,
        folder: Path,
        *,
        pacs: tuple[str, int],
        url: str = "",
        phantoms: bool = False,
        shadow: bool = False,
        lease: str = "60s",
        web: bool = False,
        settings: Mapping[str, Any] = MappingProxyType({}),
        prefix: Sequence[str] = (),
        tree: Path = REPOSITORY,
    ) -> None:
        """`phantoms`: read films that no model was made for. `url`: PostgreSQL, else SQLite in the folder.

        `settings` are laid over the configuration that this makes. `prefix` is what the command line begins with, as
        that which runs a node in a network of its own; `tree` is the code that runs.
        """
        self.port = unused_port()
        self.web = unused_port()
        self.folder = folder
        self.data_dir = folder / "data"
        self.config = folder / "cxrnode.toml"
        self.log = folder / "cxrnode.log"
        self.tree = tree
        self._prefix = prefix
        seconds = parse_duration(lease)
        made = {
            "node": {
                "data_dir": str(self.data_dir),
                "roles": ["receive", "infer", "send", "tend", *(["web"] if web else [])],
                "purpose": "demo" if phantoms else "service",
            },
            "listen": {"port": self.port},
            "nodes": {"PACS": {"aet": pacs[0], "host": "127.0.0.1", "port": pacs[1]}},
            "reading": {
                "implausible": "read" if phantoms else "refuse",
                "lease": lease,
                "decode_timeout": "20s" if seconds > 20 else f"{seconds * 0.8:g}s",
            },
            "send": {"lease": lease, "backoff_base": "1s", "probe_every": "2s"},
            "database": {"url": url},
            "web": {"port": self.web},
        }
        self.config.write_text(configuration(made, _SHADOW if shadow else {}, settings))
        self.database = Database(url or f"sqlite+pysqlite:///{self.data_dir / 'cxrnode.sqlite'}")
        #: What the node's processes find in their environment, beside what the test has.
        self.environment: dict[str, str] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait_for: str = "receive") -> float:
        """Serve; return the seconds until the role was ready. With "" it is not waited for."""
        began = time.monotonic()
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", "cxrnode", "serve", "--config", str(self.config)],
                cwd=self.tree,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(self.tree), **self.environment},
            )
        if wait_for:
            self.wait_ready(wait_for, since=before, seconds=120)
        return time.monotonic() - began

    def wait_ready(self, role: str, *, since: int = 0, seconds: float) -> None:
        """Wait until a role says, past this byte of the log, that it is ready."""
        wait_until(
            lambda: any(one["role"] == role for one in self.logged("role_ready", since=since)),
            seconds=seconds,
            what=f"the {role} role",
            process=self._process,
        )

    def stop(self) -> int:
        """Drain on SIGTERM; return the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(120)

    def gone(self, seconds: float) -> None:
        """Wait for the end of a node whose processes were killed."""
        if self._process is not None:
            self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL of the supervisor; its children see it and end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def logged(self, name: str, *, since: int = 0) -> list[dict[str, Any]]:
        """The events of this name in the node's log, from a byte offset on."""
        with self.log.open("rb") as log:
            log.seek(since)
            whole, _, _ = log.read().rpartition(b"\n")  # the last line may still be written
            lines = whole.decode(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [one for one in found if one.get("event") == name]

    def pid(self, role: str) -> int | None:
        """The process of a role, if it runs now."""
        started = [one["pid"] for one in self.logged("role_started") if one["role"] == role]
        for pid in reversed(started):
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                continue
            return int(pid)
        return None

    def resident(self, role: str) -> tuple[int, int]:
        """Bytes of memory that a role's process holds now, and at its peak (VmRSS, VmHWM)."""
        pid = self.pid(role)
        assert pid is not None, f"{role} does not run"
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        now, peak = (int(lines[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
        return now, peak

    def storescu(self, film: Path, *options: str, timeout: float = 60) -> bool:
        """Send one film with DCMTK's storescu; True if the node answered Success."""
        command = [require_tool("storescu"), "-v", "-aet", SENDER, "-aec", "CXRNODE", *options]
        done = subprocess.run(
            [*command, "127.0.0.1", str(self.port), str(film)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode == 0 and "(Success)" in done.stdout + done.stderr

    def echo(self) -> bool:
        """C-ECHO with DCMTK's echoscu."""
        command = [require_tool("echoscu"), "-aet", SENDER, "-aec", "CXRNODE", "127.0.0.1", str(self.port)]
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0

    def rows(self, statement: sa.Executable) -> list[Any]:
        """Read from the node's database."""
        with self.database.read() as transaction:
            return list(transaction.rows(statement))

    def jobs(self) -> list[Any]:
        """All jobs with the SOP Instance UID of their instance, in order."""
        return self.rows(
            sa.select(job, instance.c.sop_instance_uid)
            .join(instance, instance.c.id == job.c.instance_id)
            .order_by(job.c.id)
        )

    def states(self) -> Counter[str]:
        """How many jobs and deliveries are in each state."""
        found: Counter[str] = Counter()
        with self.database.read() as transaction:
            for name, table in (("job", job), ("delivery", delivery)):
                for row in transaction.rows(sa.select(table.c.state, sa.func.count()).group_by(table.c.state)):
                    found[f"{name} {row[0]}"] = row[1]
        return found

    def at_rest(self) -> bool:
        """Whether no job is under way and no delivery is due."""
        busy = self.states()
        return not any(busy[state] for state in ("job queued", "job reading", "delivery pending", "delivery sending"))

    def wait_at_rest(self, seconds: float) -> None:
        """Wait until `at_rest`."""
        wait_until(self.at_rest, seconds=seconds, what=f"the node at rest ({dict(self.states())})")

    def check_audit(self) -> None:
        """Every job's events follow the table and end in its state; every chain holds; no event names a patient."""
        with self.database.read() as transaction:
            names = transaction.rows(sa.select(event.c.job_id, event.c.name).order_by(event.c.id))
            details = " ".join(row[0] for row in transaction.rows(sa.select(event.c.detail)))
            people = [
                *transaction.rows(
                    sa.select(*(c for c in identity.c if c.name not in ("instance_id", "header", "sex")))
                ),
                *transaction.rows(sa.select(instance.c.sop_instance_uid)),
                *transaction.rows(sa.select(output.c.sop_instance_uid, output.c.series_instance_uid)),
            ]
        chains: dict[int | None, list[str]] = {}
        for job_id, name in names:
            chains.setdefault(job_id, []).append(name)
        for row in self.jobs():
            assert job_after(chains[row.id]) == row.state
            assert broken_link(self.database, row.id) is None
        said = details + self.log.read_text(errors="replace")
        values = {value for person in people for value in person if len(value) > 3}
        # Whole words: eight digits of a birth date may stand within any digest. Most values are one word, and thousands
        # of films have tens of thousands of them.
        words = set(re.findall(r"[\w.]+", said))
        named = {value for value in values if value in words}
        for value in values - named:
            if not re.fullmatch(r"[\w.]+", value) and value in said:
                named |= {value} if re.search(rf"(?<![\w.]){re.escape(value)}(?![\w.])", said) else set()
        assert not named, f"{len(named)} identifiers stand in the log or in events"

    def outputs(self, job_id: int) -> list[Any]:
        """The rows of a job's outputs."""
        return self.rows(sa.select(output).where(output.c.job_id == job_id).order_by(output.c.id))
