"""The node under torture: a small model, short leases, two destinations and a database whose clock can be moved."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import psycopg
import sqlalchemy as sa

from cxrnode.errors import Transient
from cxrnode.reading.network import Architecture, Shape
from tests.acceptance.site import Site
from tests.acceptance.test_architectures import write
from tests.peers import REPOSITORY, wait_until

#: Seconds: how long a worker may be silent before another takes over.
LEASE = 3.0
#: Seconds that a peer has for an answer.
DIMSE = 3.0
ROLES = ("receive", "infer", "send", "tend")
#: AE titles of those who send.
SENDERS = ("ROOM1", "ROOM2", "ROOM3", "ORTHANC")

_CONFIG = """\
[node]
ae_title = "CXRNODE"
data_dir = {data}
purpose = "bench"
roles = ["receive", "infer", "send", "tend"]

[listen]
host = "127.0.0.1"
port = {port}
network_timeout = "10s"
dimse_timeout = "10s"
acse_timeout = "5s"

[nodes.PACS]
aet = "RECORDER"
host = "127.0.0.1"
port = {pacs}

[nodes.ARCHIVE]
aet = "ORTHANC"
host = "127.0.0.1"
port = {archive}
can_send = true
{senders}
[models.chest]
bundle = {bundle}

[models.candidate]
bundle = {bundle}
mode = "shadow"

[[rules]]
name = "with pictures, to both archives"
when = {{ Modality = "CR" }}
unsure = "read"
models = ["chest"]
outputs = ["sr", "heatmap"]
send_to = ["PACS", "ARCHIVE"]

[[rules]]
name = "with a candidate beside it"
when = {{ calling_aet = "ROOM2" }}
unsure = "read"
models = ["chest", "candidate"]
outputs = ["sr"]
send_to = ["PACS"]

[[rules]]
name = "films"
unsure = "read"
models = ["chest"]
outputs = ["sr"]
send_to = ["PACS"]

[reading]
implausible = "read"
lease = "{lease}s"
decode_timeout = "{decode}s"
batch = 4

[heatmap]
encoding = "jpeg"
max_px = 1000

[send]
lease = "{lease}s"
batch = 4
connect_timeout = "2s"
acse_timeout = "3s"
dimse_timeout = "{dimse}s"
backoff_base = "500ms"
backoff_cap = "4s"
probe_every = "1s"
max_attempts = 200

[database]
url = "{url}"

[spool]
min_free = "50 MiB"

[log]
level = "info"
format = "json"
"""

_SENDER = """
[nodes.{aet}]
aet = "{aet}"
host = "127.0.0.1"
port = 104
can_send = true
"""


def make_bundle(folder: Path) -> Path:
    """The smallest model that a node can load, with random weights; to it every finding is present."""
    shape = Shape(architecture=Architecture.CNN2, outputs=2, channels=1)
    write(folder, "torture", shape, ("Effusion", "Pneumonia"), 64)
    return folder


class DatabaseClock:
    """Moves the clock of the database: by a function in place of PostgreSQL's, by the node's environment on SQLite."""

    def __init__(self, folder: Path, url: str) -> None:
        self._file = folder / "clock"
        self._url = url.replace("+psycopg", "")
        self.environment: dict[str, str] = {}
        if url:
            with psycopg.connect(self._url, autocommit=True) as connection:
                for statement in _POSTGRES_CLOCK:
                    connection.execute(statement)
        else:
            self._file.write_text("0")
            path = os.pathsep.join([str(Path(__file__).parent / "clock"), str(REPOSITORY)])
            self.environment = {"TORTURE_CLOCK": str(self._file), "PYTHONPATH": path}

    def set(self, seconds: float) -> None:
        """Let the database's clock be so many seconds ahead of the true one."""
        if self._url:
            with psycopg.connect(self._url, autocommit=True, connect_timeout=5) as connection:
                connection.execute("UPDATE torture.ahead SET seconds = %s", (seconds,))
            return
        new = self._file.with_name("clock.new")
        new.write_text(repr(seconds))
        new.rename(self._file)


_POSTGRES_CLOCK = (
    "CREATE SCHEMA torture",
    "CREATE TABLE torture.ahead (seconds double precision)",
    "INSERT INTO torture.ahead VALUES (0)",
    """CREATE FUNCTION torture.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT seconds FROM torture.ahead))'""",
    # Before pg_catalog, which comes first unless it is named.
    """DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, torture, pg_catalog',
    current_database()); END $$""",
)


class TorturedSite(Site):
    """A site whose processes can be killed and stopped while its database may be away."""

    def __init__(self, folder: Path, *, bundle: Path, pacs: int, archive: int, url: str) -> None:
        super().__init__(folder, pacs=("RECORDER", pacs), url=url)
        self.clock = DatabaseClock(folder, url)
        self.environment = self.clock.environment
        self.config.write_text(
            _CONFIG.format(
                data=json.dumps(str(self.data_dir)),
                port=self.port,
                pacs=pacs,
                archive=archive,
                senders="".join(_SENDER.format(aet=aet) for aet in SENDERS[:-1]),
                bundle=json.dumps(str(bundle)),
                lease=f"{LEASE:g}",
                decode=f"{LEASE * 0.8:g}",
                dimse=f"{DIMSE:g}",
                url=url,
            )
        )

    def moment(self) -> Counter[str]:
        """What is under way or stands right now: what a fault at this moment interrupts. Empty without a database."""
        found: Counter[str] = Counter()
        incoming = self.data_dir / "spool" / "incoming"
        if incoming.is_dir() and any(incoming.glob("incoming-*")):
            found["receiving"] = 1
        try:
            return found + self.states()
        except Transient:
            return found

    def running(self, role: str, *, seconds: float = 60.0) -> int | None:
        """The process id of a role, waited for where it is just being started again."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pid = self.process_id if role == "supervisor" else self.pid(role)
            if pid is not None and is_ours(pid):
                return pid
            time.sleep(0.1)
        return None

    @property
    def process_id(self) -> int | None:
        """The supervisor's."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def restart(self) -> None:
        """SIGKILL of the supervisor, and the next one at once, as systemd does; its children end meanwhile."""
        self.kill()
        self.start(wait_for="receive")

    def settled(self, patience: float) -> bool:
        """Wait until nothing is under way and nothing is due; False where nothing changed for `patience` seconds."""
        last: Counter[str] = Counter()
        until = time.monotonic() + patience
        while time.monotonic() < until:
            now = self.moment()
            if now and not any(now[state] for state in _UNDER_WAY):
                return True
            if now != last:
                last, until = now, time.monotonic() + patience
            time.sleep(0.25)
        return False


_UNDER_WAY = ("job queued", "job reading", "delivery waiting", "delivery pending", "delivery sending")


def is_ours(pid: int) -> bool:
    """Whether this process is one of a node, and not one that got its number since."""
    try:
        return b"cxrnode" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def stopped(pid: int, seconds: float) -> None:
    """SIGSTOP, and SIGCONT after some seconds."""
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        if is_ours(pid):
            os.kill(pid, signal.SIGCONT)


def tables_of(site: Site, statement: sa.Executable, *, seconds: float = 30.0) -> list[sa.Row[tuple[object, ...]]]:
    """Rows, waited for while the database is away."""
    found: list[sa.Row[tuple[object, ...]]] = []

    def look() -> bool:
        try:
            found[:] = site.rows(statement)
        except Transient:
            return False
        return True

    wait_until(look, seconds=seconds, what="the database")
    return found
