"""Storage commitment against an archive of the tests' own, in both ways of reporting, and against Orthanc.

The archive keeps what it is sent and commits to it as it is told: at once, in part, late, twice, or not at all.
"""

from __future__ import annotations

import dataclasses
import io
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import sqlalchemy as sa
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, acse, build_role, evt, presentation
from pynetdicom.association import Association as Wire
from pynetdicom.dimse_messages import N_EVENT_REPORT_RQ
from pynetdicom.dimse_primitives import N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.events import EventHandlerType
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)

from cxrnode.dicom import messages
from cxrnode.dicom.association import Exchange
from cxrnode.dicom.commitment import Asking, Report, Reporter, open_commitment
from cxrnode.dicom.destination import Destination, Timeouts
from cxrnode.roles import receive, tend
from cxrnode.store import withdrawals
from cxrnode.store.schema import commitment, delivery, delivery_output, event, output
from cxrnode.store.withdrawals import Cause
from tests.integration.scripted import await_that, film, read_pdu, tcp_peer
from tests.integration.test_send_role import Bench
from tests.peers import Orthanc, unused_port, wait_until

#: The archive always answers here: only a busy machine makes it slow.
PATIENT = {"connect_timeout": "20s", "acse_timeout": "20s", "dimse_timeout": "20s"}
#: How the archive reports: on an association that it makes, on that of the request, or not of itself.
Mode = Literal["new", "same", "silent"]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One N-ACTION as it came."""

    transaction_uid: str
    references: tuple[tuple[str, str], ...]


class Archive:
    """A storage and commitment SCP. `verdict` gives the Failure Reason of an object, or None to commit to it."""

    def __init__(self, report_to: int, *, mode: Mode = "new", aet: str = "ARCHIVE") -> None:
        self.aet, self.mode, self.report_to = aet, mode, report_to
        self.port = unused_port()
        self.stored: list[str] = []
        self.asked: list[Asked] = []
        self.answered: list[int | None] = []
        self.verdict: Callable[[int, str], int | None] = lambda number, uid: None
        self.refuse_actions = 0
        self.offers_commitment = True
        self.role_selection = True
        self._server: Any = None

    def start(self, *, dimse_timeout: float = 30.0) -> None:
        entity = AE(self.aet)
        entity.dimse_timeout = dimse_timeout
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax or "", ALL_TRANSFER_SYNTAXES)
        entity.add_supported_context(Verification)
        if self.offers_commitment:
            entity.add_supported_context(StorageCommitmentPushModel)
        handlers: list[EventHandlerType] = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        self._server = entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
        return 0x0000

    def _action(self, event: evt.Event) -> tuple[int, None]:
        if self.refuse_actions:
            self.refuse_actions -= 1
            return 0x0110, None
        info = event.action_information
        items = info.ReferencedSOPSequence
        asked = Asked(
            str(info.TransactionUID),
            tuple((str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in items),
        )
        self.asked.append(asked)
        if self.mode == "new":
            threading.Thread(target=self.report, args=(asked,), daemon=True).start()
        elif self.mode == "same":
            threading.Thread(target=self._report_on, args=(event.assoc, asked), daemon=True).start()
        return 0x0000, None

    def report(self, asked: Asked, *, calling: str | None = None) -> int | None:
        """Report on an association of our own; return the status of the answer, None where there was none."""
        entity = AE(calling or self.aet)
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True, scu_role=False)
        wire = entity.associate(
            "127.0.0.1", self.report_to, ae_title="CXRNODE", ext_neg=[role] if self.role_selection else []
        )
        if not wire.is_established:
            return None
        status = self._report_on(wire, asked)
        wire.release()
        return status

    def _report_on(self, wire: Wire, asked: Asked) -> int | None:
        number = self.asked.index(asked) if asked in self.asked else len(self.asked)
        information = Dataset()
        information.TransactionUID = asked.transaction_uid
        good: list[Dataset] = []
        bad: list[Dataset] = []
        for sop_class, uid in asked.references:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
            reason = self.verdict(number, uid)
            if reason is None:
                good.append(item)
            else:
                item.FailureReason = reason
                bad.append(item)
        if good:
            information.ReferencedSOPSequence = good
        if bad:
            information.FailedSOPSequence = bad
        status, _ = wire.send_n_event_report(
            information, 2 if bad else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        self.answered.append(status.Status if "Status" in status else None)
        return self.answered[-1]


class Node:
    """The roles send and receive in this process, as long as they run; the store and the spool outlive them."""

    def __init__(self, bench: Bench, port: int) -> None:
        self.bench = bench
        self.port = port
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self.bench.stopping = threading.Event()
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen()
        self.bench.start()
        self._threads = [threading.Thread(target=receive.run, args=(self.bench.context, listening), daemon=True)]
        self._threads[0].start()

    def stop(self) -> None:
        self.bench.stopping.set()
        for thread in self._threads:
            thread.join(30)
        if self.bench._thread is not None:
            self.bench._thread.join(30)

    def delivery(self) -> Any:
        return self.bench.one(sa.select(delivery).where(delivery.c.act == "report"))

    def objects(self) -> list[tuple[bool, bool, int | None]]:
        """Done, committed and Failure Reason of each object, in order."""
        with self.bench.database.read() as transaction:
            rows = transaction.rows(
                sa.select(delivery_output.c.done, delivery_output.c.committed, delivery_output.c.commit_failure)
                .join(output, output.c.id == delivery_output.c.output_id)
                .order_by(output.c.id)
            )
        return [(row[0], row[1], row[2]) for row in rows]

    def names(self, job_id: int) -> list[str]:
        return [name for name, _ in self.bench.events(job_id)]

    def happened(self, name: str) -> list[dict[str, Any]]:
        with self.bench.database.read() as transaction:
            rows = transaction.rows(sa.select(event.c.detail).where(event.c.name == name).order_by(event.c.id))
        return [json.loads(row[0]) for row in rows]


MakeNode = Callable[..., tuple[Node, Archive]]


@pytest.fixture
def make_node(tmp_path: Path) -> Iterator[MakeNode]:
    made: list[tuple[Node, Archive]] = []

    def make(*, mode: Mode = "new", wait: str = "30s", nodes: dict[str, Any] | None = None) -> tuple[Node, Archive]:
        port = unused_port()
        archive = Archive(port, mode=mode)
        pacs = {"aet": archive.aet, "host": "127.0.0.1", "port": archive.port, "commitment": True}
        bench = Bench(tmp_path, {"PACS": pacs, **(nodes or {})}, commitment_wait=wait, **PATIENT)
        made.append((Node(bench, port), archive))
        return made[-1]

    yield make
    for node, archive in made:
        node.stop()
        archive.stop()
        node.bench.close()


def waits(node: Node, what: str, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    wait_until(holds, seconds=seconds, what=what)


@pytest.mark.parametrize("role_selection", [True, False])
def test_a_report_on_an_association_of_the_archive_closes_the_job(make_node: MakeNode, role_selection: bool) -> None:
    node, archive = make_node(mode="new")
    archive.role_selection = role_selection
    archive.start()
    number = node.bench.report(1, "PACS", objects=3)
    node.start()
    node.bench.wait_state(number, "delivered")
    assert node.delivery().state == "committed"
    assert node.objects() == [(True, True, None)] * 3
    assert [[uid for _, uid in one.references] for one in archive.asked] == [["2.25.1000", "2.25.1001", "2.25.1002"]]
    told = node.names(number)[-5:]
    assert told == ["delivery_sent", "commitment_asked", "commitment_reported", "delivery_committed", "delivered"]
    waits(node, "the answer", lambda: archive.answered == [0])


def test_a_report_on_the_association_of_the_request_closes_the_job(make_node: MakeNode) -> None:
    node, archive = make_node(mode="same")
    archive.start()
    numbers = [node.bench.report(number, "PACS", objects=2) for number in range(1, 6)]
    node.start()
    for number in numbers:
        node.bench.wait_state(number, "delivered")
    waits(node, "the answers", lambda: archive.answered == [0] * 5)


def test_the_transaction_uid_stands_in_the_store_before_the_request_is_made(make_node: MakeNode) -> None:
    node, archive = make_node(mode="silent")
    known: list[int] = []

    def verdict(number: int, uid: str) -> None:
        known.append(0)

    real = archive._action

    def action(event: evt.Event) -> tuple[int, None]:
        uid = str(event.action_information.TransactionUID)
        with node.bench.database.read() as transaction:
            its = sa.select(sa.func.count()).where(commitment.c.transaction_uid == uid)
            known.append(int(transaction.scalar(its)))
        return real(event)

    archive._action = action  # type: ignore[method-assign]
    archive.start()
    node.bench.report(1, "PACS", objects=1)
    node.start()
    waits(node, "a request", lambda: bool(known))
    assert known == [1]


def test_only_what_the_archive_does_not_have_goes_again_and_only_that_is_asked_for_again(make_node: MakeNode) -> None:
    node, archive = make_node(mode="new")
    archive.verdict = lambda number, uid: 0x0112 if number == 0 and uid == "2.25.1001" else None
    archive.start()
    number = node.bench.report(1, "PACS", objects=3)
    node.start()
    node.bench.wait_state(number, "delivered")
    assert archive.stored == ["2.25.1000", "2.25.1001", "2.25.1002", "2.25.1001"]
    assert [[uid for _, uid in one.references] for one in archive.asked] == [
        ["2.25.1000", "2.25.1001", "2.25.1002"],
        ["2.25.1001"],
    ]
    assert archive.asked[0].transaction_uid != archive.asked[1].transaction_uid
    assert node.objects() == [(True, True, None)] * 3
    [again] = node.happened("delivery_uncommitted")
    assert (again["objects"], again["attempts"], "0x0112" in again["reason"]) == (1, 1, True)


def test_an_archive_that_never_commits_parks_the_delivery_with_its_reason(make_node: MakeNode) -> None:
    node, archive = make_node(mode="new")
    archive.verdict = lambda number, uid: 0x0112
    archive.start()
    number = node.bench.report(1, "PACS", objects=1)
    node.start()
    node.bench.wait_state(number, "failed")
    assert archive.stored == ["2.25.1000"] * 3
    assert "did not commit to 1 objects: 0x0112" in node.delivery().reason
    assert node.objects() == [(True, False, 0x0112)]


def test_a_class_that_the_archive_does_not_commit_to_parks_at_once(make_node: MakeNode) -> None:
    node, archive = make_node(mode="same")
    archive.verdict = lambda number, uid: 0x0122 if uid == "2.25.1001" else None
    archive.start()
    number = node.bench.report(1, "PACS", objects=2)
    node.start()
    node.bench.wait_state(number, "failed")
    assert archive.stored == ["2.25.1000", "2.25.1001"]
    assert node.objects() == [(True, True, None), (True, False, 0x0122)]


def test_silence_is_asked_again_and_a_late_report_to_the_first_request_still_counts(make_node: MakeNode) -> None:
    node, archive = make_node(mode="silent", wait="1s")
    archive.start()
    number = node.bench.report(1, "PACS", objects=2)
    node.start()
    waits(node, "a second request", lambda: len(archive.asked) >= 2)  # the next one comes a second later
    assert node.bench.state(number) == "reported"
    asked = [one.transaction_uid for one in archive.asked]
    assert len(set(asked)) == len(asked)
    assert [one["again"] for one in node.happened("commitment_asked")][:2] == [False, True]
    assert archive.report(archive.asked[0]) == 0x0000
    assert node.bench.state(number) == "delivered"
    assert archive.stored == ["2.25.1000", "2.25.1001"]


def test_a_report_that_comes_twice_changes_nothing_the_second_time(make_node: MakeNode) -> None:
    node, archive = make_node(mode="silent")
    archive.start()
    number = node.bench.report(1, "PACS", objects=1)
    node.start()
    waits(node, "a request", lambda: len(archive.asked) == 1)
    assert [archive.report(archive.asked[0]) for _ in range(3)] == [0, 0, 0]
    archive.verdict = lambda n, uid: 0x0112
    assert archive.report(archive.asked[0]) == 0
    names = node.names(number)
    assert (names.count("commitment_reported"), names.count("delivery_committed"), names[-1]) == (1, 1, "delivered")


def test_a_stranger_reports_nothing(make_node: MakeNode) -> None:
    """Neither an AE that is not known, nor another archive, nor somebody who makes up a transaction."""
    other = {"aet": "OTHER", "host": "127.0.0.9", "port": unused_port(), "commitment": True}
    node, archive = make_node(mode="silent", nodes={"OTHER": other})
    archive.start()
    number = node.bench.report(1, "PACS", objects=1)
    node.start()
    waits(node, "a request", lambda: len(archive.asked) == 1)
    # The archive's host is that of every peer here: let it be another's.
    peers = dict(node.bench.config.nodes)
    peers["PACS"] = peers["PACS"].model_copy(update={"host": "127.0.0.8"})
    object.__setattr__(node.bench.config, "nodes", peers)
    assert archive.report(archive.asked[0], calling="NOBODY") is None
    assert archive.report(archive.asked[0], calling="OTHER") == 0x0124
    assert archive.report(dataclasses.replace(archive.asked[0], transaction_uid="2.25.4711")) == 0x0115
    assert node.bench.state(number) == "reported"
    assert node.happened("commitment_reported") == []
    assert archive.report(archive.asked[0]) == 0x0000
    assert node.bench.state(number) == "delivered"


def test_a_report_is_known_after_a_restart(make_node: MakeNode) -> None:
    node, archive = make_node(mode="silent")
    archive.start()
    number = node.bench.report(1, "PACS", objects=1)
    node.start()
    waits(node, "a request", lambda: len(archive.asked) == 1)
    node.stop()
    assert archive.report(archive.asked[0]) is None
    node.start()
    waits(node, "the listener", lambda: archive.report(archive.asked[0]) == 0)
    assert node.bench.state(number) == "delivered"
    assert len(archive.asked) == 1


def test_a_result_that_is_withdrawn_meanwhile_is_not_sent_again(make_node: MakeNode) -> None:
    node, archive = make_node(mode="silent")
    archive.verdict = lambda number, uid: 0x0112
    archive.start()
    number = node.bench.report(1, "PACS", objects=1)
    node.start()
    waits(node, "a request", lambda: len(archive.asked) == 1)
    withdrawals.withdraw(node.bench.database, number, Cause(rejection="quality", note="a test", by="me"))
    assert archive.report(archive.asked[0]) == 0
    assert node.names(number)[-2:] == ["commitment_reported", "commitment_waived"]
    assert (node.delivery().state, node.delivery().commit_at) == ("sent", None)
    assert not await_that(lambda: len(archive.stored) > 1, 2.0)


@pytest.mark.parametrize("how", ["not offered", "refused"])
def test_an_archive_without_commitment_gets_its_objects_and_the_reason_is_said(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    node, archive = make_node(mode="new")
    archive.offers_commitment = how != "not offered"
    archive.refuse_actions = 1000
    archive.start()
    numbers = [node.bench.report(number, "PACS", objects=1) for number in (1, 2)]
    node.start()
    waits(node, "an alert", lambda: bool(node.happened("commitment_refused")))
    waits(node, "both films", lambda: sorted(archive.stored) == ["2.25.1000", "2.25.2000"])
    assert {node.bench.state(number) for number in numbers} == {"reported"}
    assert "commitment = false" in node.happened("commitment_refused")[0]["reason"]
    node.stop()
    # The administrator follows the remedy: nothing waits any more, and the jobs are delivered.
    peers = dict(node.bench.config.nodes)
    peers["PACS"] = peers["PACS"].model_copy(update={"commitment": False})
    object.__setattr__(node.bench.config, "nodes", peers)
    tend.watch_queues(node.bench.context)
    assert {node.bench.state(number) for number in numbers} == {"delivered"}


def test_a_request_that_is_refused_once_is_made_again(make_node: MakeNode) -> None:
    node, archive = make_node(mode="new")
    archive.refuse_actions = 1
    archive.start()
    number = node.bench.report(1, "PACS", objects=1)
    node.start()
    node.bench.wait_state(number, "delivered")
    assert len(archive.asked) == 1


def test_an_archive_that_may_only_report_is_not_let_store(make_node: MakeNode) -> None:
    node, archive = make_node(mode="new")
    archive.start()
    node.bench.report(1, "PACS", objects=1)
    node.start()
    waits(node, "the listener", lambda: bool(archive.answered))
    entity = AE(archive.aet)
    entity.add_requested_context("1.2.840.10008.5.1.4.1.1.1")
    wire = entity.associate("127.0.0.1", node.port, ae_title="CXRNODE")
    assert wire.is_established
    answer = wire.send_c_store(dcmread(io.BytesIO(film())))
    wire.release()
    assert answer.Status == 0x0124


def captures(number: int) -> list[bytes]:
    """Two objects that an archive files, under the UIDs that the bench gives to the outputs of its job."""
    return [film(uid=f"2.25.{number}{index:03}", sop_class=SecondaryCaptureImageStorage) for index in range(2)]


@pytest.mark.peers
def test_orthanc_commits(tmp_path: Path, orthanc: Orthanc) -> None:
    """Orthanc reports on an association of its own, and knows what it does not have."""
    port = unused_port()
    orthanc.register("CXRNODE", "CXRNODE", port)
    pacs = {"aet": orthanc.aet, "host": "127.0.0.1", "port": orthanc.dicom_port, "commitment": True}
    node = Node(Bench(tmp_path, {"PACS": pacs}, **PATIENT), port)
    try:
        numbers = [node.bench.report(number, "PACS", files=captures(number)) for number in (1, 2, 3)]
        node.start()
        for number in numbers:
            node.bench.wait_state(number, "delivered", 60)
        assert node.objects() == [(True, True, None)] * 6
        assert len(orthanc.instances()) == 6
    finally:
        node.stop()
        node.bench.close()


@pytest.mark.peers
def test_orthanc_gets_again_what_it_lost_before_it_committed(tmp_path: Path, orthanc: Orthanc) -> None:
    port = unused_port()
    pacs = {"aet": orthanc.aet, "host": "127.0.0.1", "port": orthanc.dicom_port, "commitment": True}
    # Orthanc does not know where to report yet: its first request is lost, and so is then one object.
    node = Node(Bench(tmp_path, {"PACS": pacs}, commitment_wait="3s", **PATIENT), port)
    try:
        number = node.bench.report(1, "PACS", files=captures(1))
        node.start()
        waits(node, "a request", lambda: bool(node.happened("commitment_asked")))
        waits(node, "both objects", lambda: len(orthanc.instances()) == 2)
        orthanc.request(f"/instances/{orthanc.instances()[0]}", method="DELETE")
        orthanc.register("CXRNODE", "CXRNODE", port)
        node.bench.wait_state(number, "delivered", 60)
        assert len(orthanc.instances()) == 2
        assert len(node.happened("delivery_uncommitted")) == 1
    finally:
        node.stop()
        node.bench.close()


# ------------------------------------------------------------------------------------------------ busy machines


class SlowToClear(threading.Event):
    """Who closes a gate goes on only half a second later."""

    def clear(self) -> None:
        super().clear()
        time.sleep(0.5)


@pytest.fixture
def archive_alone() -> Iterator[Archive]:
    """An archive that reports on the association of the request, and waits two seconds for the answer."""
    archive = Archive(0, mode="same")
    archive.start(dimse_timeout=2.0)
    yield archive
    archive.stop()


def asks(port: int, hear: Callable[[Report, Reporter], int]) -> Asking:
    destination = Destination(name="PACS", aet="ARCHIVE", host="127.0.0.1", port=port)
    return open_commitment(
        destination, calling_aet="CXRNODE", timeouts=Timeouts(connect=20.0, acse=20.0, dimse=20.0), hear=hear
    )


def slowly(heard: threading.Event) -> Callable[[Report, Reporter], int]:
    """What hears a report and needs a moment before it answers."""

    def hear(report: Report, who: Reporter) -> int:
        heard.set()
        time.sleep(0.4)
        return 0

    return hear


def test_a_report_is_answered_before_the_association_is_released(archive_alone: Archive) -> None:
    """It was settled in the store, and the release went out while the answer was on its way: it never came."""
    heard = threading.Event()
    with asks(archive_alone.port, slowly(heard)) as asking:
        asking.ask("2.25.77", [(SecondaryCaptureImageStorage, "2.25.1000")])
        asking.linger(20.0, heard.is_set)
    assert await_that(lambda: archive_alone.answered == [0])


def test_a_report_that_is_served_to_its_end_within_the_release_does_not_keep_it_waiting(
    archive_alone: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for ever, and with it all that was to be committed to there."""
    monkeypatch.setattr(messages, "_ANSWERS_WITHIN", 0.05)
    heard, over = threading.Event(), threading.Event()

    def ask() -> None:
        with asks(archive_alone.port, slowly(heard)) as asking:
            gate = SlowToClear()
            gate.set()
            asking.wire._reactor_checkpoint = gate
            asking.ask("2.25.77", [(SecondaryCaptureImageStorage, "2.25.1000")])
            asking.linger(20.0, heard.is_set)
        over.set()

    threading.Thread(target=ask, daemon=True).start()
    assert over.wait(20.0)


def _late_init(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Exchange.__init__

    def late(self: Exchange, *args: Any) -> None:
        time.sleep(0.5)
        real(self, *args)

    monkeypatch.setattr(Exchange, "__init__", late)


def _late_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    real = presentation.negotiate_as_requestor

    def late(*args: Any) -> Any:
        time.sleep(0.5)
        return real(*args)

    monkeypatch.setattr(acse, "negotiate_as_requestor", late)


@pytest.mark.parametrize("late", [_late_init, _late_contexts], ids=["not taken over yet", "contexts not noted yet"])
def test_a_report_that_comes_with_the_acceptance_is_heard(
    archive_alone: Archive, monkeypatch: pytest.MonkeyPatch, late: Callable[[pytest.MonkeyPatch], None]
) -> None:
    """The association was aborted: half of the report had come before we were ready for it."""
    information = Dataset()
    information.TransactionUID = "2.25.9"
    report = N_EVENT_REPORT()
    report.MessageID, report.EventTypeID = 7, 1
    report.AffectedSOPClassUID = StorageCommitmentPushModel
    report.AffectedSOPInstanceUID = StorageCommitmentPushModelInstance
    answers: list[int] = []

    def at_once(conversation: socket.socket) -> None:
        kind, body = read_pdu(conversation)
        with socket.create_connection(("127.0.0.1", archive_alone.port)) as real:
            real.sendall(struct.pack(">BBI", kind, 0, len(body)) + body)
            kind, acceptance = read_pdu(real)
        report.EventInformation = io.BytesIO(encode(information, b"1.2.840.10008.1.2.1" not in acceptance, True) or b"")
        message = N_EVENT_REPORT_RQ()
        message.primitive_to_message(report)
        first, *others = (P_DATA_TF(one).encode() for one in message.encode_msg(1, 16384))
        conversation.sendall(struct.pack(">BBI", kind, 0, len(acceptance)) + acceptance + first)
        time.sleep(0.8 if late is _late_init else 0.0)
        conversation.sendall(b"".join(others))
        answers.append(read_pdu(conversation)[0])
        read_pdu(conversation)
        conversation.sendall(bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0]))  # released

    late(monkeypatch)
    heard: list[str] = []

    def hear(report: Report, who: Reporter) -> int:
        heard.append(report.transaction_uid)
        return 0

    with tcp_peer(at_once) as port, asks(port, hear) as asking:
        assert await_that(lambda: bool(answers))
        assert (heard, answers, asking.wire.is_established) == (["2.25.9"], [0x04], True)
