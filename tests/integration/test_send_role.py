"""The send role against a scripted archive: every kind of answer, and every kind of silence."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from cxrnode.config import parse_config
from cxrnode.core.findings import Outcome, Reader, Report
from cxrnode.roles import send
from cxrnode.roles.context import Context
from cxrnode.spool import FolderSpool
from cxrnode.store import jobs, receipt, reports, upgrade
from cxrnode.store.database import Database
from cxrnode.store.jobs import Limits
from cxrnode.store.receipt import Arrival, Order
from cxrnode.store.reports import StoredOutput
from cxrnode.store.schema import circuit, delivery, delivery_output, event, job
from tests.peers import RecordingScp, unused_port, wait_until

SC = UID("1.2.840.10008.5.1.4.1.1.7")
IDENTITY = dict.fromkeys(
    ("patient_id", "patient_name", "birth_date", "sex", "accession", "study_instance_uid", "series_instance_uid"), "x"
)


def object_bytes(uid: str) -> bytes:
    """A small Part 10 file, enough for C-STORE."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = SC, UID(uid), "SYNTHETIC"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = SC, UID(uid)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


#: AE title and port, or the table of another kind of node.
Node = tuple[str, int] | dict[str, Any]


class Bench:
    """A store and a spool with reported jobs, and a send role that runs in this process until it is stopped."""

    def __init__(self, folder: Path, nodes: dict[str, Node], **send: Any) -> None:
        destinations = {
            name: {"aet": node[0], "host": "127.0.0.1", "port": node[1]} if isinstance(node, tuple) else node
            for name, node in nodes.items()
        }
        kinds = {node.get("kind") for node in destinations.values()}
        self.config = parse_config(
            {
                "node": {"data_dir": str(folder), "roles": ["send"]},
                "nodes": destinations,
                "models": {"chest": {"bundle": "demo"}},
                "rules": [
                    {
                        "name": "all",
                        "models": ["chest"],
                        "send_to": sorted(nodes),
                        "outputs": ["sr", "hl7"] if "hl7" in kinds else ["sr"],
                    }
                ],
                "send": {
                    "backoff_base": "100ms",
                    "backoff_cap": "200ms",
                    "probe_every": "500ms",
                    "max_attempts": 3,
                    # The archives answer here: only a busy machine makes them slow.
                    "dimse_timeout": "20s",
                    "acse_timeout": "20s",
                    "connect_timeout": "20s",
                    **send,
                },
            }
        )
        self.database = Database(f"sqlite+pysqlite:///{folder / 'test.sqlite'}")
        upgrade.upgrade(self.database)
        self.spool = FolderSpool(folder / "spool")
        self.stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def report(
        self,
        number: int,
        *destinations: str,
        objects: int = 2,
        files: Sequence[bytes] = (),
        message: bytes = b"",
        messages_to: Sequence[str] = (),
        header: bytes = b"",
        source: tuple[str, str, str] | None = None,
    ) -> int:
        """Make one reported job with outputs for the destinations, `files` or small ones; return its id.

        `source` is the film's Study, Series and SOP Instance UID.
        """
        study, series, film = source or ("x", "x", f"2.25.{number}")
        arrival = Arrival(
            sop_instance_uid=film,
            dataset_digest=f"{number:064}",
            sop_class_uid=SC,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            calling_aet="MOD",
            called_aet="CXRNODE",
            accepted=True,
            reason="a test",
            rule="all",
            header={},
            identity={**IDENTITY, "issuer": "", "study_instance_uid": study, "series_instance_uid": series},
            spool_key=f"{number:032x}",
            size=1,
            kept_header=header,
        )
        order = Order(model="chest", mode="active", outputs=("sr",), send_to=destinations, messages_to=messages_to)
        made = receipt.record(self.database, arrival, [order], ageing=1.0, config_digest="")
        [claim] = jobs.claim(
            self.database,
            owner="test",
            models={"chest": "digest"},
            engine="none",
            limit=1,
            lease=60.0,
            limits=Limits(),
        )
        reader = Reader(
            name="test",
            version="1",
            bundle_digest="",
            weights_digest="",
            calibration="none",
            demonstration=True,
            engine="none",
        )
        report = Report(outcome=Outcome.NOT_ANALYSED, reason="a test", read_at=0.0, revision=1, reader=reader)
        stored = []
        for index, data in enumerate([*(files or [b""] * objects), *([message] if message else [])]):
            uid = f"2.25.{number}{index:03}"
            [kept] = self.spool.put(data or object_bytes(uid))
            stored.append(
                StoredOutput(
                    kind="hl7" if data and data == message else "sr",
                    label="",
                    sop_class_uid=SC,
                    sop_instance_uid=uid,
                    series_instance_uid="2.25.9",
                    transfer_syntax_uid=ExplicitVRLittleEndian,
                    instance_number=index + 1,
                    file=kept,
                )
            )
        assert reports.settle_report(self.database, claim, report, stored, saliency=None, preview=None)
        return made.job_ids[0]

    @property
    def context(self) -> Context:
        return Context(
            config=self.config,
            database=self.database,
            spool=self.spool,
            owner="sender",
            stopping=self.stopping,
            beat=lambda: None,
            ready=lambda: None,
        )

    def start(self) -> None:
        self._thread = threading.Thread(target=send.run, args=(self.context,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.stopping.set()
        if self._thread is not None:
            self._thread.join(30)
        self.database.close()

    def one(self, statement: sa.Executable) -> Any:
        with self.database.read() as transaction:
            return transaction.row(statement)

    def state(self, job_id: int) -> str:
        return str(self.one(sa.select(job.c.state).where(job.c.id == job_id))[0])

    def events(self, job_id: int) -> list[tuple[str, dict[str, Any]]]:
        with self.database.read() as transaction:
            rows = transaction.rows(
                sa.select(event.c.name, event.c.detail).where(event.c.job_id == job_id).order_by(event.c.id)
            )
        return [(row[0], json.loads(row[1])) for row in rows]

    def wait_state(self, job_id: int, state: str, seconds: float = 60.0) -> None:
        wait_until(lambda: self.state(job_id) == state, seconds=seconds, what=f"job {job_id} {state}")


MakeBench = Callable[[dict[str, Node]], Bench]


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def make(nodes: dict[str, Node]) -> Bench:
        made.append(Bench(tmp_path, nodes))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def test_a_delivery_is_sent_and_closes_its_job(make_bench: MakeBench, recording_scp: RecordingScp) -> None:
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=3)
    bench.start()
    bench.wait_state(number, "delivered")
    assert [one.sop_instance_uid for one in recording_scp.stored] == ["2.25.1000", "2.25.1001", "2.25.1002"]
    assert recording_scp.stored[0].calling_aet == "CXRNODE"


@pytest.mark.parametrize("status", [0xA700, 0x0110])
def test_a_passing_fault_of_an_object_is_retried_and_only_that_object_goes_again(
    make_bench: MakeBench, recording_scp: RecordingScp, status: int
) -> None:
    recording_scp.answer = lambda number, uid: status if number == 1 else 0
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=3)
    bench.start()
    bench.wait_state(number, "delivered")
    sent = [one.sop_instance_uid for one in recording_scp.stored]
    assert sent == ["2.25.1000", "2.25.1001", "2.25.1002", "2.25.1001"]
    faults = [detail for name, detail in bench.events(number) if name == "delivery_faulted"]
    assert [fault["attempts"] for fault in faults] == [1]
    assert f"0x{status:04X}" in faults[0]["reason"]


def test_a_passing_fault_that_never_passes_parks_the_delivery(
    make_bench: MakeBench, recording_scp: RecordingScp
) -> None:
    recording_scp.answer = lambda number, uid: 0xA700
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=1)
    bench.start()
    bench.wait_state(number, "failed")
    assert len(recording_scp.stored) == 3
    assert "after 3 attempts" in bench.one(sa.select(delivery.c.reason))[0]


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900, 0xC000])
def test_a_permanent_status_parks_the_delivery_at_once_and_the_other_objects_still_go(
    make_bench: MakeBench, recording_scp: RecordingScp, status: int
) -> None:
    recording_scp.answer = lambda number, uid: status if uid == "2.25.1000" else 0
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=2)
    bench.start()
    bench.wait_state(number, "failed")
    assert [one.sop_instance_uid for one in recording_scp.stored] == ["2.25.1000", "2.25.1001"]
    assert f"0x{status:04X}" in bench.one(sa.select(delivery.c.reason))[0]
    with bench.database.read() as transaction:
        done = transaction.rows(
            sa.select(delivery_output.c.status, delivery_output.c.done).order_by(delivery_output.c.output_id)
        )
    assert [tuple(row) for row in done] == [(status, False), (0, True)]


def test_a_warning_is_delivered_and_said_in_the_event(make_bench: MakeBench, recording_scp: RecordingScp) -> None:
    recording_scp.answer = lambda number, uid: 0xB000
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=1)
    bench.start()
    bench.wait_state(number, "delivered")
    assert [d["warnings"] for n, d in bench.events(number) if n == "delivery_sent"] == [["0xB000"]]


def test_a_dead_destination_opens_its_circuit_parks_nothing_and_drains_when_it_is_back(
    make_bench: MakeBench,
) -> None:
    archive = RecordingScp(port=unused_port())
    bench = make_bench({"PACS": (archive.aet, archive.port)})
    numbers = [bench.report(n, "PACS", objects=1) for n in range(1, 6)]
    bench.start()
    wait_until(
        lambda: bool((row := bench.one(sa.select(circuit.c.open, circuit.c.faults))) and row[0] and row[1] >= 2),
        seconds=60,
        what="an open circuit",
    )
    assert {bench.state(n) for n in numbers} == {"reported"}
    with bench.database.read() as transaction:
        assert {r[0] for r in transaction.rows(sa.select(delivery.c.attempts))} == {0}
    archive.start()
    try:
        for number in numbers:
            bench.wait_state(number, "delivered")
    finally:
        archive.stop()
    assert not bench.one(sa.select(circuit.c.open))[0]
    assert sorted(one.sop_instance_uid for one in archive.stored) == [f"2.25.{n}000" for n in range(1, 6)]


def test_a_refused_association_says_what_to_change(make_bench: MakeBench, recording_scp: RecordingScp) -> None:
    recording_scp.refuse = True
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=1)
    bench.start()
    wait_until(lambda: bench.one(sa.select(circuit.c.open)) is not None, seconds=60, what="an open circuit")
    assert "AE title" in bench.one(sa.select(circuit.c.reason))[0]
    recording_scp.refuse = False
    bench.wait_state(number, "delivered")


def test_one_dead_destination_delays_nobody_else(make_bench: MakeBench, recording_scp: RecordingScp) -> None:
    bench = make_bench({"DEAD": ("NOBODY", unused_port()), "PACS": (recording_scp.aet, recording_scp.port)})
    numbers = [bench.report(n, "DEAD", "PACS", objects=1) for n in range(1, 6)]
    bench.start()
    recording_scp.wait_for(5, seconds=60)
    assert {bench.state(n) for n in numbers} == {"reported"}


def test_an_object_that_makes_the_peer_abort_does_not_block_the_others(
    make_bench: MakeBench, recording_scp: RecordingScp
) -> None:
    recording_scp.answer = lambda number, uid: "abort" if uid == "2.25.1000" else 0
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    poison, good = bench.report(1, "PACS", objects=1), bench.report(2, "PACS", objects=1)
    bench.start()
    bench.wait_state(good, "delivered")
    bench.wait_state(poison, "failed")


def test_an_object_that_the_spool_no_longer_has_parks_its_delivery(
    make_bench: MakeBench, recording_scp: RecordingScp
) -> None:
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=1)
    for file in (bench.spool.root / "objects").glob("*/*"):
        file.write_bytes(b"altered")
    bench.start()
    bench.wait_state(number, "failed")
    assert recording_scp.stored == []
    assert "altered" in bench.one(sa.select(delivery.c.reason))[0]
