"""Faults around the films: a device that breaks, a spool or a database that is away, a peer that says too much.

What passes parks nothing and loses nothing; what stays is said; and no film costs another one its turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import structlog.testing
from pydicom import dcmread
from pydicom.uid import generate_uid

from cxrnode.config import Config, parse_config
from cxrnode.core.digests import Kind, kind_of
from cxrnode.core.routing import Association
from cxrnode.dicom.decoder import DecoderDied
from cxrnode.dicom.header import read_header
from cxrnode.dicom.listener import Received
from cxrnode.dicom.part10 import dataset_digest, dataset_offset
from cxrnode.dicom.sender import Outbound, Sent
from cxrnode.errors import Rejected, Transient
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.reading.engine import Reading
from cxrnode.roles import send, tend
from cxrnode.roles.context import Context
from cxrnode.roles.destinations import destination_of
from cxrnode.roles.infer import FilmReader
from cxrnode.roles.leases import LeaseKeeper
from cxrnode.roles.models import EngineBroken, Loaded
from cxrnode.roles.receive import Receiver
from cxrnode.roles.sender import Sender
from cxrnode.spool import FolderSpool
from cxrnode.store import changes, deliveries, jobs, retention, upgrade
from cxrnode.store.database import CommitUnknown, Database
from cxrnode.store.deliveries import DeliveryClaim
from cxrnode.store.jobs import Claim
from cxrnode.store.reports import Settled
from cxrnode.store.retention import Periods
from cxrnode.store.schema import circuit, delivery, delivery_output, event, instance, job, output
from tests.peers import RecordingScp, unused_port, wait_until


class Site:
    """The parts of a node in one process, with films received as a listener hands them over."""

    #: How long an archive may be silent: here they answer, and only a busy machine makes them slow.
    patience = "20s"

    def __init__(
        self,
        folder: Path,
        nodes: dict[str, tuple[str, int]],
        *,
        send_to: Sequence[str],
        bundle: str = "demo",
        digests: Kind = Kind.BLAKE3,
    ) -> None:
        self.folder = folder
        self.bundle = bundle
        self.config = self._configured(nodes, send_to)
        self.database = Database(f"sqlite+pysqlite:///{folder / 'test.sqlite'}")
        upgrade.upgrade(self.database)
        self.spool = FolderSpool(folder / "spool", digests)
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def _configured(self, nodes: dict[str, tuple[str, int]], send_to: Sequence[str]) -> Config:
        return parse_config(
            {
                "node": {"data_dir": str(self.folder), "roles": ["receive", "infer", "send"], "purpose": "demo"},
                "nodes": {name: {"aet": aet, "host": "127.0.0.1", "port": port} for name, (aet, port) in nodes.items()},
                "models": {"chest": {"bundle": self.bundle}},
                "rules": [{"name": "all", "unsure": "read", "models": ["chest"], "send_to": list(send_to)}],
                "reading": {"implausible": "read"},
                "spool": {"min_free": "1 MiB"},
                "send": {
                    "backoff_base": "3s",
                    "backoff_cap": "3s",
                    "probe_every": "100ms",
                    "max_attempts": 2,
                    "dimse_timeout": self.patience,
                    "lease": "60s",
                },
            }
        )

    def context(self) -> Context:
        return Context(
            config=self.config,
            database=self.database,
            spool=self.spool,
            owner="test",
            stopping=self.stopping,
            beat=lambda: None,
            ready=lambda: None,
        )

    def receive(self, film: Path) -> int:
        """Receive a copy of the film; return its instance."""
        copy = self.spool.incoming / f"copy-{time.monotonic_ns()}"
        shutil.copyfile(film, copy)
        source = read_header(film)
        Receiver(self.context()).receive(
            Received(
                path=copy,
                sop_class_uid=source.SOPClassUID,
                sop_instance_uid=source.SOPInstanceUID,
                transfer_syntax_uid=source.file_meta.TransferSyntaxUID,
                association=Association(calling_aet="MODALITY", called_aet="CXRNODE", host="127.0.0.1"),
                size=film.stat().st_size,
                dataset_offset=dataset_offset(film),
                digest=dataset_digest(film, self.spool.digests),
            )
        )
        return int(self.one(sa.select(instance.c.id).where(instance.c.sop_instance_uid == source.SOPInstanceUID))[0])

    def one(self, statement: sa.Executable) -> Any:
        with self.database.read() as transaction:
            return transaction.row(statement)

    def all(self, statement: sa.Executable) -> list[Any]:
        with self.database.read() as transaction:
            return list(transaction.rows(statement))

    def states(self) -> list[str]:
        return [row[0] for row in self.all(sa.select(job.c.state).order_by(job.c.id))]

    def files(self) -> int:
        return sum(1 for _ in (self.spool.root / "objects").glob("*/*"))

    def send(self) -> None:
        thread = threading.Thread(target=send.run, args=(self.context(),), daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        self.stopping.set()
        for thread in self._threads:
            thread.join(30)
        self.database.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(write_phantoms(tmp_path_factory.mktemp("films")))[:3]


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    made: list[Site] = []

    def make(
        nodes: dict[str, tuple[str, int]] | None = None,
        *,
        send_to: Sequence[str] = (),
        bundle: str = "demo",
        digests: Kind = Kind.BLAKE3,
    ) -> Site:
        made.append(Site(tmp_path, nodes or {}, send_to=send_to, bundle=bundle, digests=digests))
        return made[-1]

    yield make
    for site in made:
        site.close()


@contextlib.contextmanager
def reading(site: Site) -> Iterator[tuple[FilmReader, LeaseKeeper[Claim]]]:
    reader = FilmReader(site.context())
    with LeaseKeeper[Claim](lambda held: jobs.renew(site.database, held, lease=120.0), lease=120.0) as keeper:
        yield reader, keeper
    reader.close()


class Faulty:
    """The engine of a model with a fault put in: which films it fails on is the test's to say."""

    def __init__(self, inner: Any, fails: Callable[[Sequence[np.ndarray[Any, Any]]], bool]) -> None:
        self._inner = inner
        self._fails = fails
        self.name = inner.name

    def read(self, films: Sequence[np.ndarray[Any, Any]]) -> list[Reading]:
        if self._fails(films):
            raise RuntimeError("CUDA error: unspecified launch failure")
        found: list[Reading] = self._inner.read(films)
        return found


def put_fault(reader: FilmReader, fails: Callable[[Sequence[np.ndarray[Any, Any]]], bool]) -> None:
    whole = reader._models["chest"]
    reader._models["chest"] = Loaded(bundle=whole.bundle, engine=Faulty(whole.engine, fails))


@pytest.mark.parametrize("kind", [b"ZZ", b"U\x00", b"XX"])
def test_an_attribute_of_a_kind_that_there_is_not_is_refused_for_good_and_nothing_is_kept(
    make_site: MakeSite, films: list[Path], tmp_path: Path, kind: bytes
) -> None:
    """Found by `make fuzz`: pydicom knows no VR of this name, and says so with NotImplementedError."""
    site = make_site()
    whole = films[0].read_bytes()
    physician = b"\x08\x00\x90\x00PN"
    assert whole.count(physician) == 1
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(whole.replace(physician, physician[:4] + kind))
    with pytest.raises(Rejected, match=r"^an attribute of the data set cannot be read \(\w+\)$"):
        site.receive(damaged)
    assert site.all(sa.select(instance.c.id)) == []
    assert site.files() == 0
    assert site.receive(films[0]) == 1


# ------------------------------------------------------------------------------------------------ infer


def test_a_device_that_broke_parks_no_film_and_ends_the_role(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site()
    for film in films:
        site.receive(film)
    with reading(site) as (reader, keeper):
        put_fault(reader, lambda _: True)
        with pytest.raises(EngineBroken):
            reader.turn(keeper)
        assert keeper.held == ()
    assert site.states() == ["queued"] * 3
    assert {row[0] for row in site.all(sa.select(job.c.attempts))} == {0}


def test_a_device_that_broke_ends_the_role_also_when_the_next_claim_fails(
    make_site: MakeSite, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of the claim was raised in its place: the films lay until their leases ended, as of a lost worker."""
    site = make_site()
    for film in films:
        site.receive(film)
    broken = threading.Event()
    with reading(site) as (reader, keeper):
        claim, asked = reader._claim, 0

        def claim_once(held: int) -> list[Claim]:
            nonlocal asked
            asked += 1
            if asked == 1:
                return claim(held)
            broken.wait(30)
            raise Transient("the database does not answer")

        def breaks(_: Sequence[np.ndarray[Any, Any]]) -> bool:
            broken.set()
            return True

        put_fault(reader, breaks)
        monkeypatch.setattr(reader, "_claim", claim_once)
        with pytest.raises(EngineBroken):
            reader.turn(keeper)
    assert site.states() == ["queued"] * 3


def test_a_film_that_breaks_the_device_every_time_is_parked_and_the_others_are_read(
    make_site: MakeSite, films: list[Path]
) -> None:
    site = make_site()
    for film in films:
        site.receive(film)
    broken = False

    def breaks_on_the_second(_: Sequence[np.ndarray[Any, Any]]) -> bool:
        nonlocal broken
        under_way = {row[0] for row in site.all(sa.select(job.c.id).where(job.c.state == "reading"))}
        broken = broken or 2 in under_way
        return broken

    with reading(site) as (reader, keeper):
        whole = reader._models["chest"]
        for _ in range(12):
            broken = False  # a new process has a new engine
            reader._models["chest"] = whole
            put_fault(reader, breaks_on_the_second)
            with contextlib.suppress(EngineBroken):
                reader.turn(keeper)
            with site.database.write() as transaction:
                transaction.connection.execute(sa.update(job).values(not_before=0.0))
    assert site.states() == ["reported", "failed", "reported"]


def test_a_film_that_kills_every_decoder_is_said_to_be_not_analysed_and_costs_the_others_nothing(
    make_site: MakeSite, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site({"PACS": ("PACS", unused_port())}, send_to=["PACS"])
    for film in films[:2]:
        site.receive(film)
    with reading(site) as (reader, keeper):
        real = reader._decoder.decode

        def decode(path: Path, *, dataset_digest: str) -> Any:
            if dataset_digest == poison:
                raise DecoderDied("the decoder was ended by signal 11 on this film")
            return real(path, dataset_digest=dataset_digest)

        poison = dataset_digest(films[0])
        monkeypatch.setattr(reader._decoder, "decode", decode)
        for _ in range(4):
            reader.turn(keeper)
            with site.database.write() as transaction:
                transaction.connection.execute(sa.update(job).values(not_before=0.0))
    rows = site.all(sa.select(job.c.state, job.c.outcome).order_by(job.c.id))
    assert [tuple(row) for row in rows] == [("reported", "not_analysed"), ("reported", "analysed")]
    assert "signal 11 on this film (3 attempts)" in site.one(sa.select(job.c.reason).where(job.c.id == 1))[0]
    names = [row[0] for row in site.all(sa.select(event.c.name).where(event.c.job_id == 1).order_by(event.c.id))]
    assert names.count("faulted") == 2
    assert len(site.all(sa.select(delivery.c.id))) == 2


def test_a_queue_that_was_paused_a_moment_ago_stands_still(
    make_site: MakeSite, films: list[Path], recording_scp: RecordingScp
) -> None:
    """A second's grace is a film read, or sent, after its administrator saw "paused"."""
    site = make_site({"PACS": (recording_scp.aet, recording_scp.port)}, send_to=["PACS"])

    def ask(queue: str, value: str) -> None:
        changes.ask(site.database, {queue: value}, configured={}, reason="a test", by="anna", consent=False)

    sender = Sender(site.context(), destination_of(site.config, "PACS"))
    sending = LeaseKeeper[DeliveryClaim](lambda held: deliveries.renew(site.database, held, lease=60.0), lease=60.0)
    with reading(site) as (reader, keeper), sending as sent:
        site.receive(films[0])
        assert reader.turn(keeper)
        assert sender._turn(sent)
        ask(changes.READING, "paused")
        site.receive(films[1])
        assert not reader.turn(keeper)
        assert site.states() == ["delivered", "queued"]
        ask(changes.READING, "running")
        assert reader.turn(keeper)
        ask(changes.SENDING, "paused")
        assert not sender._turn(sent)
        assert site.states() == ["delivered", "reported"]
        ask(changes.SENDING, "running")
        assert sender._turn(sent)
        assert site.states() == ["delivered", "delivered"]
    sender._reading.shutdown()


def test_a_spool_that_is_away_parks_no_film(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site()
    site.receive(films[0])
    objects = site.spool.root / "objects"
    with reading(site) as (reader, keeper):
        objects.rename(objects.with_name("elsewhere"))
        with pytest.raises(Transient, match="mounted"):
            reader.turn(keeper)
        assert site.states() == ["queued"]
        objects.with_name("elsewhere").rename(objects)
        with site.database.write() as transaction:
            transaction.connection.execute(sa.update(job).values(not_before=0.0))
        assert reader.turn(keeper)
    assert site.states() == ["reported"]


def test_a_film_that_the_spool_lost_is_parked_with_what_to_do(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site()
    site.receive(films[0])
    for file in (site.spool.root / "objects").glob("*/*"):
        file.unlink()
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    assert site.states() == ["failed"]
    assert "send the film again" in site.one(sa.select(job.c.reason))[0]


def test_nothing_is_said_in_the_name_of_a_film_that_was_altered(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site({"PACS": ("PACS", unused_port())}, send_to=["PACS"])
    site.receive(films[0])
    [file] = (site.spool.root / "objects").glob("*/*")
    file.write_bytes(file.read_bytes()[:-2] + b"XX")
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    assert site.states() == ["failed"]
    assert site.all(sa.select(delivery.c.id)) == []


def test_a_database_of_before_goes_on_with_sha_256_and_finds_the_same_film_and_pixels(
    make_site: MakeSite, films: list[Path], tmp_path: Path
) -> None:
    site = make_site(digests=Kind.SHA256)
    first = site.receive(films[0])
    assert site.receive(films[0]) == first
    twin = dcmread(films[0])
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    twin.save_as(tmp_path / "twin.dcm", enforce_file_format=True)
    site.receive(tmp_path / "twin.dcm")
    read_all(site)
    assert site.all(sa.select(job.c.duplicate_of).order_by(job.c.id)) == [(None,), (1,)]
    recorded = [
        digest
        for columns in (
            sa.select(instance.c.dataset_sha256),
            sa.select(job.c.pixel_digest),
            sa.select(output.c.sha256),
            sa.select(job.c.preview_sha256).where(job.c.id == 1),
        )
        for (digest,) in site.all(columns)
    ]
    assert len(recorded) > 5
    assert {kind_of(digest) for digest in recorded} == {Kind.SHA256}


def test_a_full_disk_stops_the_claims_rather_than_reading_films_over_and_over(
    make_site: MakeSite, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()
    site.receive(films[0])
    with reading(site) as (reader, keeper):
        monkeypatch.setattr(site.spool, "free", lambda: 1000)
        with pytest.raises(Transient, match="room"):
            reader.turn(keeper)
    assert site.all(sa.select(event.c.id).where(event.c.name == "claimed")) == []


def test_a_disk_that_fills_while_a_film_is_read_costs_it_nothing(
    make_site: MakeSite, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()
    site.receive(films[0])

    def full(_contents: object) -> None:
        raise Transient("the spool cannot keep a file: No space left on device")

    with reading(site) as (reader, keeper):
        monkeypatch.setattr(site.spool, "put_each", full)
        with pytest.raises(Transient, match="No space"):
            reader.turn(keeper)
    assert tuple(site.one(sa.select(job.c.state, job.c.attempts))) == ("queued", 0)


@dataclasses.dataclass
class Outage:
    """Lets a database fail at its next commit, before or after it stands."""

    database: Database
    stands: bool = False

    def strike(self) -> None:
        engine = self.database.engine
        done = False

        def fail(connection: sa.Connection) -> None:
            nonlocal done
            if done or connection.get_execution_options().get("cxrnode_readonly"):
                return
            done = True
            if self.stands:
                connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            raise sa.exc.OperationalError("COMMIT", None, Exception("gone"))

        sa.event.listen(engine, "commit", fail)


def test_a_report_whose_commit_was_lost_keeps_its_files(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site({"PACS": ("PACS", unused_port())}, send_to=["PACS"])
    site.receive(films[0])
    with reading(site) as (reader, keeper):
        [held] = jobs.claim(
            site.database,
            owner="test",
            models={"chest": "d"},
            engine="x",
            limit=1,
            lease=60.0,
            limits=reader._limits,
        )
        keeper.hold([held], asked=time.monotonic())
        strikes = Outage(site.database, stands=True)
        settle = reader._publisher.settle_together

        def struck(*given: Any) -> Mapping[int, Settled]:
            strikes.strike()
            return settle(*given)

        reader._publisher.settle_together = struck  # type: ignore[method-assign,assignment]
        reader._settle_batch(reader._read_batch([reader._look_at([held], "chest", keeper)]))
    assert site.states() == ["reported"]
    keys = {row[0] for row in site.all(sa.text("SELECT spool_key FROM output"))}
    assert keys and all(site.spool.has(key) for key in keys)


# ------------------------------------------------------------------------------------------------ receive


def test_a_database_that_is_away_leaves_no_films_behind_for_each_attempt(
    make_site: MakeSite, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site()

    def away(*_: object, **__: object) -> None:
        raise Transient("the database does not answer")

    monkeypatch.setattr("cxrnode.roles.receive.receipt.record", away)
    with pytest.raises(Transient):
        site.receive(films[0])
    assert site.files() == 0


def test_a_film_whose_commit_was_lost_is_kept(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site()
    Outage(site.database, stands=True).strike()
    with pytest.raises(CommitUnknown):
        site.receive(films[0])
    [key] = site.one(sa.select(instance.c.spool_key))
    assert site.spool.has(key)
    site.receive(films[0])
    assert site.files() == 1


def test_a_film_sent_again_after_retention_can_be_read_again(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site()
    number = site.receive(films[0])
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
        assert site.states() == ["reported"]
        with site.database.write() as transaction:
            transaction.connection.execute(sa.update(job).values(settled_at=0.0))
            transaction.connection.execute(sa.update(instance).values(received_at=0.0))
        periods = Periods(accepted=3600.0, ignored=3600.0, failed=3600.0)
        for key in retention.retire(site.database, periods, limit=10):
            site.spool.remove(key)
        assert site.files() == 0
        assert site.receive(films[0]) == number
        assert retention.retire(site.database, periods, limit=10) == []
        jobs.retry(site.database, 1, reason="sent again")
        assert reader.turn(keeper)
    assert site.states() == ["superseded", "reported"]


def test_a_film_that_the_spool_lost_is_restored_by_sending_it_again(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site()
    site.receive(films[0])
    for file in (site.spool.root / "objects").glob("*/*"):
        file.unlink()
    site.receive(films[0])
    [key] = site.one(sa.select(instance.c.spool_key))
    assert site.spool.has(key)
    site.receive(films[0])
    assert site.files() == 1


# ------------------------------------------------------------------------------------------------ send


def read_all(site: Site) -> None:
    with reading(site) as (reader, keeper):
        reader.turn(keeper)


def test_deliveries_of_a_rule_that_was_changed_still_go(
    make_site: MakeSite, films: list[Path], recording_scp: RecordingScp
) -> None:
    site = make_site({"PACS": (recording_scp.aet, recording_scp.port)}, send_to=["PACS"])
    site.receive(films[0])
    read_all(site)
    site.config = site._configured({"PACS": (recording_scp.aet, recording_scp.port)}, [])
    site.send()
    wait_until(lambda: site.states() == ["delivered"], seconds=60, what="a delivered job")


def test_what_waits_for_a_node_or_model_that_is_gone_is_said(make_site: MakeSite, films: list[Path]) -> None:
    site = make_site({"PACS": ("PACS", unused_port())}, send_to=["PACS"])
    site.receive(films[0])
    read_all(site)
    site.receive(films[1])
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(job).where(job.c.state == "queued").values(model="old"))
        transaction.connection.execute(sa.update(delivery).values(held=True))
    site.config = site._configured({}, [])
    with structlog.testing.capture_logs() as said:
        tend.watch_queues(site.context())
    assert {line["event"] for line in said} == {"jobs_stranded", "deliveries_stranded", "deliveries_held"}


def test_what_a_peer_says_of_the_patient_stands_in_no_event_and_no_log(
    make_site: MakeSite, films: list[Path], recording_scp: RecordingScp, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site({"PACS": (recording_scp.aet, recording_scp.port)}, send_to=["PACS"])
    site.receive(films[0])
    read_all(site)
    with site.database.write() as transaction:
        transaction.connection.execute(
            sa.text("UPDATE identity SET patient_id = 'PID-4711', patient_name = 'Mustermann^Erika'")
        )
    recording_scp.answer = lambda number, uid: 0xC000
    real = Outbound.store

    def telling(self: Outbound, data: bytes) -> Sent:
        return dataclasses.replace(real(self, data), comment="Patient ID PID-4711 is not ERIKA MUSTERMANN")

    monkeypatch.setattr(Outbound, "store", telling)
    with structlog.testing.capture_logs() as said:
        site.send()
        wait_until(lambda: site.states() == ["failed"], seconds=60, what="a failed job")
    written = [row[0] for row in site.all(sa.select(event.c.detail))] + [str(line) for line in said]
    written += [row[0] for row in site.all(sa.select(delivery.c.reason))]
    comments = {row[0] for row in site.all(sa.select(delivery_output.c.comment))}
    assert comments == {"Patient ID [...] is not [...] [...]"}
    assert [text for text in written if "4711" in text or "MUSTERMANN" in text.upper()] == []
    assert "0xC000" in site.one(sa.select(delivery.c.reason))[0]


def test_an_object_that_a_peer_never_answers_does_not_block_the_others(
    make_site: MakeSite, films: list[Path], recording_scp: RecordingScp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Site, "patience", "2s")
    site = make_site({"PACS": (recording_scp.aet, recording_scp.port)}, send_to=["PACS"])
    for film in films[:2]:
        site.receive(film)
    read_all(site)
    poison = site.one(sa.text("SELECT sop_instance_uid FROM output WHERE job_id = 1 ORDER BY id"))[0]

    def answer(number: int, uid: str) -> int:
        if uid == poison:
            time.sleep(3.0)
        return 0

    with site.database.write() as transaction:  # it was tried more often than the limit already
        transaction.connection.execute(sa.update(delivery).where(delivery.c.job_id == 1).values(attempts=5))
    recording_scp.answer = answer
    site.send()
    wait_until(lambda: site.states()[1] == "delivered", seconds=60, what="the other film delivered")


def test_a_bug_over_one_delivery_parks_it_and_the_others_go(
    make_site: MakeSite, films: list[Path], recording_scp: RecordingScp, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site({"PACS": (recording_scp.aet, recording_scp.port)}, send_to=["PACS"])
    for film in films[:2]:
        site.receive(film)
    read_all(site)
    [key] = site.one(sa.text("SELECT sha256 FROM output WHERE job_id = 1 ORDER BY id"))
    real = Sender._read

    def fails(self: Sender, parcel: Any) -> bytes:
        if parcel.digest == key:
            raise ZeroDivisionError
        return real(self, parcel)

    monkeypatch.setattr(Sender, "_read", fails)
    site.send()
    wait_until(lambda: site.states() == ["failed", "delivered"], seconds=60, what="one parked, one delivered")


def test_a_spool_that_is_away_costs_a_delivery_nothing_and_it_goes_at_once_when_it_is_back(
    make_site: MakeSite, films: list[Path], recording_scp: RecordingScp
) -> None:
    site = make_site({"PACS": (recording_scp.aet, recording_scp.port)}, send_to=["PACS"])
    site.receive(films[0])
    read_all(site)
    objects = site.spool.root / "objects"
    objects.rename(objects.with_name("elsewhere"))
    site.send()
    given_back = sa.select(event.c.id).where(event.c.name == "delivery_given_back")
    wait_until(lambda: site.all(given_back) != [], seconds=60, what="a delivery given back")
    objects.with_name("elsewhere").rename(objects)
    wait_until(lambda: site.states() == ["delivered"], seconds=60, what="a delivered job")
    assert site.one(sa.select(delivery.c.attempts))[0] == 0
    assert site.all(sa.select(circuit.c.open).where(circuit.c.open)) == []


@pytest.mark.parametrize("removed", [False, True])
def test_a_film_that_no_rule_wanted_is_read_when_it_comes_again_after_the_rules_were_changed(
    make_site: MakeSite, films: list[Path], removed: bool
) -> None:
    site = make_site()
    wanted = site.config
    (rule,) = wanted.rules
    site.config = wanted.model_copy(update={"rules": (rule.model_copy(update={"when": {"calling_aet": ("CT",)}}),)})
    number = site.receive(films[0])
    assert site.states() == []
    if removed:  # its time was over: the row stays, its bytes do not
        periods = Periods(accepted=0.0, ignored=-1.0, failed=0.0)
        for key in retention.retire(site.database, periods, limit=9):
            site.spool.remove(key)
        assert site.files() == 0
    else:
        site.receive(films[0])
    assert (site.states(), site.files()) == ([], 0 if removed else 1)
    site.config = wanted
    assert site.receive(films[0]) == number
    assert (site.states(), site.files()) == (["queued"], 1)
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    assert site.states() == ["reported"]
