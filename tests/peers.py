"""The real programs that the tests talk to, as fixtures: DCMTK, Orthanc, PostgreSQL, a recording archive, the films.

A peer that is not installed skips the test by name, and fails it under CXRNODE_REQUIRE_PEERS=1; the films likewise
under CXRNODE_REQUIRE_DATA=1. Nothing here outlives the test session, and every port is a free one of the loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn

import pydicom
import pytest
from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time

REPOSITORY = Path(__file__).resolve().parent.parent
# By their full path: pip puts pynetdicom's own storescu on PATH before DCMTK's.
_PLACES = (Path("/usr/bin"), Path("/usr/sbin"), Path("/usr/local/bin"))
_START_SECONDS = 60.0


def require_tool(name: str) -> str:
    """Return the path of a Debian program; skip the test, or fail it under CXRNODE_REQUIRE_PEERS=1, without it."""
    for place in _PLACES:
        if (place / name).is_file():
            return str(place / name)
    absent(f"{name} is not installed: make peers", "CXRNODE_REQUIRE_PEERS")


def require_deploy_tool(name: str) -> Path:
    """Return the path of a program of .tools (scripts/install-tools); skip the test, or fail it, without it."""
    tool = REPOSITORY / ".tools" / "bin" / name
    if not tool.exists():
        absent(f"{name} is not installed: make tools", "CXRNODE_REQUIRE_PEERS")
    return tool


def absent(reason: str, variable: str) -> NoReturn:
    """Skip by name, or fail where the variable forbids skipping."""
    if os.environ.get(variable) == "1":
        pytest.fail(f"{reason} ({variable}=1)", pytrace=False)
    pytest.skip(reason)


def _ports() -> Iterator[int]:
    """Ports below those that the kernel gives away by itself, in turn from a random one on.

    So neither a connection that goes out nor a socket bound to port 0 gets one before its owner binds it, and no port
    is given twice while others are left.
    """
    least = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = range(15_000, max(20_000, min(least, 32_768)))
    start = random.SystemRandom().randrange(len(ports))  # hypothesis seeds `random`: two processes would go in step
    for number in itertools.count(start):
        yield ports[number % len(ports)]


_UNUSED = _ports()


def unused_port() -> int:
    """Return a TCP port of the loopback that nobody listens on, nor will until who asked does."""
    for port in _UNUSED:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the ports are endless")


def wait_until(
    holds: Callable[[], bool], *, seconds: float, what: str, process: subprocess.Popen[bytes] | None = None
) -> None:
    """Poll until `holds()`; fail the test after `seconds`, or at once when the process has ended."""
    deadline = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None:
            pytest.fail(f"{what}: the process ended with {process.returncode}")
        if time.monotonic() > deadline:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


@pytest.fixture
def free_port() -> int:
    return unused_port()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real films: CXRNODE_TEST_DATA, else shared/data beside the repository."""
    folder = Path(os.environ.get("CXRNODE_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "dicom").is_dir():
        absent("the films are not here: set CXRNODE_TEST_DATA", "CXRNODE_REQUIRE_DATA")
    return folder


@dataclasses.dataclass(frozen=True, slots=True)
class Dcmtk:
    """DCMTK's tools, run with a time limit. `cwd` is where they write."""

    cwd: Path

    def run(
        self, tool: str, *arguments: str | Path | int, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run one tool; its output and errors are in the result. Fails the test on another exit status than 0."""
        command = [require_tool(tool), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=self.cwd, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            pytest.fail(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def send(self, port: int, *files: Path, calling: str = "MODALITY", called: str = "ANY-SCP") -> None:
        """C-STORE the files, each in its own transfer syntax."""
        self.run("dcmsend", "-dn", "-nuc", "-aet", calling, "-aec", called, "127.0.0.1", port, *files)


@pytest.fixture
def dcmtk(tmp_path: Path) -> Dcmtk:
    require_tool("storescu")
    return Dcmtk(tmp_path)


class Orthanc:
    """A real Orthanc with an empty storage of its own. It accepts every C-STORE; its HTTP knows no password."""

    aet = "ORTHANC"

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any] | None = None,
        host: str = "127.0.0.1",
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix` is what its command line begins with, as that which runs it in a network of its own."""
        self.host = host
        self._prefix = prefix
        self.dicom_port = unused_port()
        self.http_port = unused_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        configuration = {
            "Name": "archive of the tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [],
            "DicomAet": self.aet,
            "DicomPort": self.dicom_port,
            "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": False,
            "DicomModalities": {},
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StableAge": 1,
            "SyncStorageArea": False,
            "ConcurrentJobs": 1,
            **(settings or {}),
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "orthanc.json").write_text(json.dumps(configuration, indent=1))

    def start(self) -> None:
        """Start it, or start it again on the same ports and storage; returns when it answers."""
        with (self._folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, require_tool("Orthanc"), str(self._folder / "orthanc.json")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, seconds=_START_SECONDS, what="Orthanc", process=self._process)

    def stop(self) -> None:
        """Stop it: from here on the archive is down."""
        if self._process is not None:
            _end(self._process, signal.SIGTERM)
            self._process = None

    def kill(self) -> None:
        """Stop it at once: its storage is thrown away, and its orderly end takes three seconds."""
        if self._process is not None:
            _end(self._process, signal.SIGKILL)
            self._process = None

    def register(self, name: str, aet: str, port: int, host: str = "127.0.0.1") -> None:
        """Tell it a node to send to, as an administrator would."""
        body = json.dumps({"AET": aet, "Host": host, "Port": port}).encode()
        self.request(f"/modalities/{name}", body, method="PUT")

    def instances(self) -> list[str]:
        """Orthanc's identifiers of all instances."""
        return list(self.json("/instances"))

    def studies(self) -> list[dict[str, Any]]:
        """All studies, with their main DICOM tags and their series."""
        return list(self.json("/studies?expand"))

    def tags(self, instance: str) -> dict[str, Any]:
        """The instance's data set by keyword, sequences as lists."""
        return dict(self.json(f"/instances/{instance}/simplified-tags"))

    def file(self, instance: str) -> bytes:
        """The instance as a DICOM file."""
        return self.request(f"/instances/{instance}/file")

    def dataset(self, instance: str) -> pydicom.Dataset:
        """The instance, parsed."""
        return pydicom.dcmread(io.BytesIO(self.file(instance)))

    def json(self, path: str) -> Any:
        """GET and parse."""
        return json.loads(self.request(path))

    def request(self, path: str, body: bytes | None = None, *, method: str | None = None) -> bytes:
        """One HTTP request to its REST API. Raises urllib's HTTPError for a status that is no success."""
        request = urllib.request.Request(f"http://{self.host}:{self.http_port}{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return bytes(response.read())

    def _answers(self) -> bool:
        try:
            self.request("/system")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    require_tool("Orthanc")
    archive = Orthanc(tmp_path / "orthanc")
    archive.start()
    yield archive
    archive.kill()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One C-STORE as it arrived: `data` is the data set's bytes without group 0002, `at` is time.time()."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax: str
    calling_aet: str
    association: int
    at: float
    data: bytes
    sha256: str
    status: int

    def dataset(self) -> pydicom.Dataset:
        """The data set, parsed."""
        syntax = UID(self.transfer_syntax)
        return pydicom.filereader.read_dataset(io.BytesIO(self.data), syntax.is_implicit_VR, syntax.is_little_endian)


#: What the archive answers: a status (PS3.4 B.2.3, PS3.7 Annex C), or the connection torn down.
Answer = int | Literal["abort"]


class RecordingScp:
    """A storage SCP in this process that keeps every C-STORE, the repeated ones too, and answers as it is told.

    `answer` is called with (the number of C-STOREs before this one, SOP Instance UID). `refuse` rejects associations.
    """

    host = "127.0.0.1"

    def __init__(self, *, aet: str = "RECORDER", port: int | None = None) -> None:
        self.aet = aet
        self.port = port or unused_port()
        self.stored: list[Stored] = []
        self.associations = 0
        self.answer: Callable[[int, str], Answer] = lambda number, uid: 0x0000
        self.delay = 0.0
        self.refuse = False
        self._lock = threading.Lock()
        self._numbers: dict[int, int] = {}
        self._server: Any = None

    def start(self) -> None:
        """Listen; again after `stop` on the same port."""
        ae = AE(ae_title=self.aet)
        ae.maximum_associations = 50
        ae.add_supported_context(Verification, ALL_TRANSFER_SYNTAXES)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax or "", ALL_TRANSFER_SYNTAXES)
        self._server = ae.start_server(
            (self.host, self.port),
            block=False,
            evt_handlers=[(evt.EVT_REQUESTED, self._requested), (evt.EVT_C_STORE, self._store)],
        )

    def stop(self) -> None:
        """Close the port and every association."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def by_uid(self) -> dict[str, list[Stored]]:
        """The C-STOREs answered with Success or a warning, by SOP Instance UID, in their order."""
        kept: dict[str, list[Stored]] = {}
        for one in self.stored:
            if one.status == 0 or one.status & 0xF000 == 0xB000:
                kept.setdefault(one.sop_instance_uid, []).append(one)
        return kept

    def wait_for(self, count: int, *, seconds: float = 30.0) -> list[Stored]:
        """Return once this many different instances are kept; fails the test after `seconds`."""
        wait_until(lambda: len(self.by_uid()) >= count, seconds=seconds, what=f"{count} instances in the archive")
        return list(self.stored)

    def _requested(self, event: evt.Event) -> None:
        with self._lock:
            self.associations += 1
            self._numbers[id(event.assoc)] = self.associations
        if self.refuse:
            # PS3.8 9.3.4: rejected permanently, by the service user, calling AE title not recognised.
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)
            event.assoc.kill()

    def _store(self, event: evt.Event) -> int:
        if self.delay:
            time.sleep(self.delay)
        request: Any = event.request
        data = request.DataSet.getvalue()
        with self._lock:
            answer = self.answer(len(self.stored), str(request.AffectedSOPInstanceUID))
            self.stored.append(
                Stored(
                    sop_class_uid=str(request.AffectedSOPClassUID),
                    sop_instance_uid=str(request.AffectedSOPInstanceUID),
                    transfer_syntax=str(event.context.transfer_syntax),
                    calling_aet=str(event.assoc.requestor.ae_title).strip(),
                    association=self._numbers[id(event.assoc)],
                    at=time.time(),
                    data=data,
                    sha256=hashlib.sha256(data).hexdigest(),
                    status=-1 if answer == "abort" else answer,
                )
            )
        if answer == "abort":
            event.assoc.abort()
            return 0x0110
        return answer


@pytest.fixture
def recording_scp() -> Iterator[RecordingScp]:
    archive = RecordingScp()
    archive.start()
    yield archive
    archive.stop()


class Postgres:
    """A PostgreSQL cluster of this test session. fsync is off: the tests kill our processes, never the database's."""

    def __init__(self, programs: Path, *, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        """`prefix` is what the server's command line begins with, as that which runs it in a network of its own."""
        self.host = host
        self._prefix = prefix
        self.port = unused_port()
        self._programs = programs
        # Not below pytest's own folder: that is closed to the user postgres.
        self._folder = Path(tempfile.mkdtemp(prefix="cxrnode-postgres-"))
        # PostgreSQL refuses to run as root; setpriv replaces itself, so that the process is the postmaster.
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = [require_tool("setpriv"), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0

    def start(self) -> None:
        """Make the cluster and start it; returns when it answers."""
        initdb = [str(self._programs / "initdb"), "-D", str(self._folder / "cluster"), "-U", "cxrnode", "-A", "trust"]
        made = subprocess.run(
            [*self._as, *initdb, "-E", "UTF8", "--locale=C", "--no-sync"],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            pytest.fail(f"initdb ended with {made.returncode}:\n{made.stderr}")
        with (self._folder / "cluster" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self.host}/24 trust\n")
        self.run()

    def run(self) -> None:
        """Start the server of the cluster that was made, or start it again; returns when it answers."""
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "max_connections": "200",
            "shared_buffers": "32MB",
        }
        command = [str(self._programs / "postgres"), "-D", str(self._folder / "cluster")]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]

        def answers() -> bool:
            # It refuses to start while processes of the one that was killed still end.
            if self._process is None or self._process.poll() is not None:
                with (self._folder / "log").open("ab") as log:
                    self._process = subprocess.Popen(
                        [*self._prefix, *self._as, *command],
                        cwd=self._folder,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
            return self._answers()

        wait_until(answers, seconds=_START_SECONDS, what="PostgreSQL")

    def crash(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it as a crash does: SIGKILL of the postmaster, or SIGQUIT, its immediate shutdown. The data stay."""
        if self._process is not None:
            _end(self._process, how)
            self._process = None

    def new_database(self) -> str:
        """Return the SQLAlchemy URL of a fresh, empty database."""
        import psycopg

        self._made += 1
        name = f"test_{self._made}"
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return f"postgresql+psycopg://cxrnode@{self.host}:{self.port}/{name}"

    def halt(self) -> None:
        """Stop the server; `run` starts it again with all that it has."""
        if self._process is not None:
            _end(self._process, signal.SIGINT)  # PostgreSQL's fast shutdown: it waits for no client
            self._process = None

    def stop(self) -> None:
        """Stop it and remove every database."""
        self.halt()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _conninfo(self) -> str:
        return f"host={self.host} port={self.port} user=cxrnode dbname=postgres"

    def _answers(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self._conninfo, connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        absent("postgresql is not installed: make peers", "CXRNODE_REQUIRE_PEERS")
    cluster = Postgres(programs[-1].parent)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peers)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite+pysqlite:///{tmp_path / 'cxrnode.sqlite'}"
    return str(request.getfixturevalue("postgres").new_database())


class Bucket:
    """An S3 server (moto) with one bucket. It keeps all in memory: `stop` loses it, `pause` only takes it away."""

    name = "films"
    variables: ClassVar[Mapping[str, str]] = {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
    }

    def __init__(self, *, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        """`prefix` is what its command line begins with, as that which runs it in a network of its own."""
        self.endpoint = f"http://{host}:{unused_port()}"
        self.url = f"s3://{self.name}/node"
        self._host = host
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and make the bucket; returns when it answers."""
        port = self.endpoint.rpartition(":")[2]
        self._process = subprocess.Popen(
            [*self._prefix, sys.executable, "-m", "moto.server", "-H", self._host, "-p", port],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self._answers, seconds=_START_SECONDS, what="the S3 server", process=self._process)
        self.request("PUT", f"/{self.name}")

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """One HTTP request, past every client of ours. Raises urllib's HTTPError for a status that is no success."""
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=t/20260101/us-east-1/s3/aws4_request"}
        request = urllib.request.Request(f"{self.endpoint}{path}", data=body, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            return bytes(response.read())

    def names(self) -> list[str]:
        """The names of all objects, as the server lists them."""
        listed = self.request("GET", f"/{self.name}?list-type=2").decode()
        return re.findall(r"<Key>([^<]+)</Key>", listed)

    def pause(self) -> None:
        """It takes connections and answers nothing, as a server behind a broken network."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It answers again, with all that it had."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, and lose what it had."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            _end(self._process, signal.SIGKILL)
            self._process = None

    def _answers(self) -> bool:
        try:
            self.request("GET", "/moto-api/data.json")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Bucket]:
    server = Bucket()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def bucket(s3_server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An S3 server with an empty bucket, and the variables with which this process may use it."""
    s3_server.resume()
    for name, value in Bucket.variables.items():
        monkeypatch.setenv(name, value)
    for key in s3_server.names():
        s3_server.request("DELETE", f"/{Bucket.name}/{key}")
    return s3_server


def _end(process: subprocess.Popen[bytes], how: signal.Signals) -> None:
    process.send_signal(how)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)
