"""Three hosts: PostgreSQL, the spool and the PACS on one, a node on each of the others. Whatever happens to one of
them, every film that was acknowledged is reported once, and the PACS has its objects once."""

from __future__ import annotations

import dataclasses
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa

from cxrnode.core.digests import matches
from cxrnode.core.lifecycle import job_after
from cxrnode.errors import Transient
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.reading.network import Architecture, Shape
from cxrnode.spool import FolderSpool, Spool
from cxrnode.spool.bucket import BucketSpool
from cxrnode.store import fleet
from cxrnode.store.audit import broken_link
from cxrnode.store.database import Database
from cxrnode.store.schema import delivery, event, identity, instance, job, output
from tests.acceptance.hosts import Host, Network
from tests.acceptance.site import Site
from tests.acceptance.test_architectures import write
from tests.peers import Bucket, Orthanc, Postgres, absent, require_tool, wait_until

FILMS = 64
PORT = 11112
#: Seconds: a worker that is lost or cut off is replaced after so long.
LEASE = 8.0
#: Seconds: how long PostgreSQL lets a transaction rest whose client went silent in the middle of it (store.database).
IDLE = 60.0

#: Of both nodes: pauses as short as the faults are.
_SETTINGS = {
    "listen": {"host": "0.0.0.0", "port": PORT},
    "reading": {"decode_timeout": "7s", "batch": 4, "max_attempts": 20},
    "heatmap": {"encoding": "jpeg", "max_px": 1000},
    "send": {
        "batch": 4,
        "connect_timeout": "2s",
        "acse_timeout": "4s",
        "dimse_timeout": "8s",
        "backoff_cap": "2s",
        "probe_every": "1s",
        "max_attempts": 100,
    },
}


@dataclasses.dataclass(slots=True)
class Gate:
    """How many films each modality may have sent by now."""

    films: int

    def open_for(self, films: int) -> None:
        """Let them go on up to here; never fewer than they may already."""
        self.films = max(self.films, films)


class Modality(threading.Thread):
    """Sends its films to a node, and to the other where that one does not answer with Success, as a balancer would."""

    def __init__(self, films: tuple[Path, ...], addresses: tuple[str, str], gate: Gate) -> None:
        super().__init__(daemon=True)
        self.films = films
        self.addresses = addresses
        self.gate = gate
        self.acknowledged: dict[Path, str] = {}
        self.refused = 0

    def run(self) -> None:
        until = time.monotonic() + 600
        for number, film in enumerate(self.films):
            while number >= self.gate.films and time.monotonic() < until:
                time.sleep(0.05)
            turn = 0
            while film not in self.acknowledged and time.monotonic() < until:
                address = self.addresses[turn % 2]
                if self.send(film, address):
                    self.acknowledged[film] = address
                else:
                    self.refused += 1
                    turn += 1
                    time.sleep(0.2)

    @staticmethod
    def send(film: Path, address: str) -> bool:
        """One C-STORE with DCMTK's storescu; True for Success."""
        options = ("-v", "-aet", "MODALITY", "-aec", "CXRNODE", "-to", "3", "-ta", "20", "-td", "30")
        done = subprocess.run(
            [require_tool("storescu"), *options, address, str(PORT), str(film)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode == 0 and "(Success)" in done.stdout + done.stderr


@dataclasses.dataclass(slots=True, kw_only=True)
class Group:
    """The three hosts at work."""

    network: Network
    postgres: Postgres
    orthanc: Orthanc
    bucket: Bucket | None
    shared: Path
    spool: Spool
    database: Database
    a: Site
    b: Site

    def host(self, name: str) -> Host:
        """The host of this name."""
        return self.network.hosts[name]

    def states(self) -> Counter[str]:
        """How many jobs and deliveries are in each state; empty while the database is away."""
        found: Counter[str] = Counter()
        try:
            with self.database.read() as transaction:
                for name, table in (("job", job), ("delivery", delivery)):
                    for row in transaction.rows(sa.select(table.c.state, sa.func.count()).group_by(table.c.state)):
                        found[f"{name} {row[0]}"] = row[1]
        except Transient:
            return Counter()
        return found

    def held_by(self, node: str) -> list[str]:
        """What a node has leases of at the moment."""
        with self.database.read() as transaction:
            return [
                f"{table.name} {row.state}"
                for table in (job, delivery)
                for row in transaction.rows(sa.select(table.c.state).where(table.c.lease_owner.like(f"{node}/%")))
            ]

    def wait_held_by(self, node: str, gate: Gate) -> list[str]:
        """Wait until a node has something in its hands, so that what happens next interrupts it.

        Where the other one was quicker and has read all that there was, more films may come, several at once: one alone
        is the quicker one's again.
        """
        until = time.monotonic() + 150
        more = time.monotonic() + 4
        while not (found := self.held_by(node)):
            if time.monotonic() > until:
                pytest.fail(f"no work on {node}: {dict(self.states())}")
            if time.monotonic() > more:
                gate.open_for(gate.films + 2)
                more += 4
            time.sleep(0.02)
        return found

    def wait_at_rest(self, seconds: float) -> None:
        """Wait until no job and no delivery is under way."""
        busy = ("job queued", "job reading", "delivery pending", "delivery sending", "delivery waiting")

        def rests() -> bool:
            found = self.states()
            return bool(found) and not any(found[state] for state in busy)

        wait_until(rests, seconds=seconds, what="the fleet at rest")

    def take_spool_away(self) -> None:
        """The share is not mounted, or the object store says nothing."""
        if self.bucket is not None:
            self.bucket.pause()
        else:
            (self.shared / "objects").rename(self.shared / "away")

    def bring_spool_back(self) -> None:
        """With all that it had."""
        if self.bucket is not None:
            self.bucket.resume()
        else:
            (self.shared / "away").rename(self.shared / "objects")


@pytest.fixture
def network() -> Iterator[Network]:
    """Three hosts: `hub` for what all share, and the nodes `a` and `b`."""
    require_tool("ip")
    try:
        made = Network(("hub", "a", "b"))
    except OSError as error:
        absent(f"no network namespaces here ({error})", "CXRNODE_REQUIRE_PEERS")
    yield made
    made.close()
    assert not Path(f"/run/netns/{made.hosts['a'].space}").exists()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest model that a node can load."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    shape = Shape(architecture=Architecture.CNN2, outputs=2, channels=1)
    write(folder, "tiny", shape, ("Effusion", "Pneumonia"), 64)
    return folder


@pytest.fixture(params=["folder", "bucket"])
def group(request: pytest.FixtureRequest, network: Network, tmp_path: Path, tiny: Path) -> Iterator[Group]:
    """PostgreSQL, Orthanc and the spool on `hub`, a node on `a` and on `b`; not yet started."""
    hub = network.hosts["hub"]
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        absent("postgresql is not installed: make peers", "CXRNODE_REQUIRE_PEERS")
    require_tool("Orthanc")
    remote = {"RemoteAccessAllowed": True}
    postgres = Postgres(programs[-1].parent, host=hub.address, prefix=hub.prefix)
    orthanc = Orthanc(tmp_path / "orthanc", settings=remote, host=hub.address, prefix=hub.prefix)
    bucket = Bucket(host=hub.address, prefix=hub.prefix) if request.param == "bucket" else None
    shared = tmp_path / "shared"
    spool: Spool = FolderSpool(shared)
    nodes: list[Site] = []
    with pytest.MonkeyPatch.context() as patched:
        for name, value in Bucket.variables.items():
            patched.setenv(name, value)
        try:
            postgres.start()
            orthanc.start()
            if bucket is not None:
                bucket.start()
                spool = BucketSpool(bucket.url, scratch=tmp_path / "scratch", endpoint=bucket.endpoint)
            url = postgres.new_database()
            for name in ("a", "b"):
                (tmp_path / name).mkdir()
                settings = {
                    "node": {"name": name},
                    "nodes": {"PACS": {"host": hub.address}, "MODALITY": {"host": network.address}},
                    "models": {"chest": {"bundle": str(tiny)}},
                    "spool": {
                        "url": bucket.url if bucket else str(shared),
                        "endpoint": bucket.endpoint if bucket else "",
                    },
                    **_SETTINGS,
                }
                nodes.append(
                    Site(
                        tmp_path / name,
                        pacs=(orthanc.aet, orthanc.dicom_port),
                        url=url,
                        phantoms=True,
                        lease=f"{LEASE:g}s",
                        settings=settings,
                        prefix=network.hosts[name].prefix,
                    )
                )
                nodes[-1].environment = {**Bucket.variables, "OMP_NUM_THREADS": "1"}
            database = Database(url)
            yield Group(
                network=network,
                postgres=postgres,
                orthanc=orthanc,
                bucket=bucket,
                shared=shared,
                spool=spool,
                database=database,
                a=nodes[0],
                b=nodes[1],
            )
            database.close()
        finally:
            for node in nodes:
                network.hosts[node.folder.name].kill_all()
                node.gone(30)
                node.database.close()
            if bucket is not None:
                bucket.stop()
            orthanc.kill()
            postgres.stop()


@pytest.mark.timeout(1200)
def test_a_fleet_loses_nothing_and_reports_nothing_twice(group: Group, tmp_path: Path) -> None:
    films = write_phantoms(tmp_path / "films", range(FILMS), rows=640, cols=530)
    a, b = group.a, group.b
    began = time.monotonic()
    a.start(wait_for="")
    a.wait_ready("receive", seconds=300)
    b.start(wait_for="")
    for one in (a, b):
        one.wait_ready("infer", seconds=300)
    steps = [f"both nodes ready after {time.monotonic() - began:.0f} s"]
    both = {"a": (True, {"chest"}), "b": (True, {"chest"})}
    wait_until(
        lambda: {one.node: (one.alive, set(one.models)) for one in fleet.members(group.database)} == both,
        seconds=30,
        what="both nodes in the list, with their model",
    )
    gate = Gate(3)
    addresses = (group.host("a").address, group.host("b").address)
    modalities = [
        Modality(films[0::2], addresses, gate),
        Modality(films[1::2], addresses[::-1], gate),
    ]
    for modality in modalities:
        modality.start()

    # One node's power goes away in the middle of its work, and comes back.
    gate.open_for(8)
    hit = group.wait_held_by("a", gate)
    since = a.log.stat().st_size
    group.host("a").kill_all()
    a.gone(30)
    steps.append(f"a killed with {hit}")
    time.sleep(LEASE / 2)
    a.start(wait_for="")

    # The other one is cut off for longer than its lease; the first one takes its work meanwhile.
    a.wait_ready("infer", since=since, seconds=300)
    gate.open_for(14)
    hit = group.wait_held_by("b", gate)
    group.host("b").cut_off()
    cut = time.monotonic()
    while time.monotonic() - cut < 1.5 * LEASE or (group.held_by("b") and time.monotonic() - cut < IDLE + 2 * LEASE):
        time.sleep(0.2)
    left = group.held_by("b")
    group.host("b").join(group.network.bridge)
    steps.append(f"b cut off for {time.monotonic() - cut:.0f} s with {hit}, then with {left}")
    assert left == []

    # PostgreSQL is stopped and started again.
    gate.open_for(19)
    group.wait_held_by("a", gate)
    group.postgres.halt()
    time.sleep(2.0)
    group.postgres.run()
    steps.append("PostgreSQL restarted")

    # The spool is away for longer than a request's patience.
    gate.open_for(22)
    group.wait_held_by("b", gate)
    group.take_spool_away()
    away = time.monotonic()
    time.sleep(18.0 if group.bucket is not None else 5.0)
    group.bring_spool_back()
    steps.append(f"the spool was away for {time.monotonic() - away:.0f} s")
    gate.open_for(FILMS)

    for modality in modalities:
        modality.join(600)
    group.wait_at_rest(300)
    acknowledged = modalities[0].acknowledged | modalities[1].acknowledged
    steps.append(
        f"at rest after {time.monotonic() - began:.0f} s, {sum(m.refused for m in modalities)} C-STOREs failed"
    )
    print("\n".join(steps), flush=True)
    assert set(acknowledged) == set(films)
    assert set(acknowledged.values()) == set(addresses)
    check_accounting(group, films)
    assert [one.stop() for one in (a, b)] == [0, 0]
    assert fleet.members(group.database) == []


def check_accounting(group: Group, films: tuple[Path, ...]) -> None:
    """Each film: one instance with its bytes, one job, one report, one chain; the PACS has its objects alone."""
    sources = {str(one.SOPInstanceUID): one for one in (pydicom.dcmread(f, stop_before_pixels=True) for f in films)}
    with group.database.read() as transaction:
        instances = transaction.rows(sa.select(instance))
        jobs = transaction.rows(sa.select(job).order_by(job.c.id))
        outputs = transaction.rows(sa.select(output))
        deliveries = transaction.rows(sa.select(delivery))
        events = transaction.rows(sa.select(event.c.job_id, event.c.name, event.c.detail).order_by(event.c.id))
        people = transaction.rows(sa.select(identity.c.patient_id, identity.c.patient_name, identity.c.accession))
    assert Counter(one.sop_instance_uid for one in instances) == Counter(sources.keys())
    assert Counter(one.instance_id for one in jobs) == Counter(one.id for one in instances)
    assert Counter(one.state for one in jobs) == {"delivered": len(films)}
    assert Counter(one.state for one in deliveries) == {"sent": len(films)}
    reported = Counter(one.job_id for one in events if one.name == "reported")
    assert reported == {one.id: 1 for one in jobs}
    for one in jobs:
        assert job_after(e.name for e in events if e.job_id == one.id) == one.state
        assert broken_link(group.database, one.id) is None
    for one in outputs:
        assert matches(group.spool.read(one.spool_key, digest=one.sha256), one.sha256)
    for one in instances:
        assert group.spool.has(one.spool_key)
    # Orthanc answers each C-STORE of what it has with Success and keeps one: what it has is what was made.
    found = [one["MainDicomTags"]["SOPInstanceUID"] for one in group.orthanc.json("/instances?expand")]
    assert Counter(found) == Counter(one.sop_instance_uid for one in outputs)
    of_job = {one.id: sources[next(i.sop_instance_uid for i in instances if i.id == one.instance_id)] for one in jobs}
    of_output = {one.sop_instance_uid: of_job[one.job_id] for one in outputs}
    for kept in group.orthanc.instances():
        made = group.orthanc.dataset(kept)
        source = of_output[str(made.SOPInstanceUID)]
        assert (made.PatientID, made.PatientName, made.StudyInstanceUID) == (
            source.PatientID,
            source.PatientName,
            source.StudyInstanceUID,
        )
    written = " ".join(one.detail for one in events) + "".join(
        one.log.read_text(errors="replace") for one in (group.a, group.b)
    )
    for person in people:
        assert [value for value in person if len(value) > 3 and value in written] == []
    for node in (group.a, group.b):
        assert [node.logged(name) for name in ("bug", "receive_failed", "sender_failed")] == [[], [], []]
    print(f"{len(jobs)} films, {len(outputs)} objects, each once")
