"""The sender against DCMTK's archives, a scripted archive and peers that misbehave."""

from __future__ import annotations

import dataclasses
import io
import queue
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.acse import ACSE
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.events import Event
from pynetdicom.pdu_primitives import A_ABORT, A_P_ABORT

from cxrnode.dicom.hardening import BoundedSocket
from cxrnode.dicom.messages import Found, Messages
from cxrnode.dicom.sender import (
    AssociationFault,
    DeadlineReached,
    Destination,
    FaultKind,
    Outbound,
    Part10,
    Sent,
    Stage,
    Timeouts,
    echo,
    open_association,
    parse_destination,
    send_files,
)
from cxrnode.dicom.statuses import StatusClass
from cxrnode.dicom.tls import Tls, client_context, server_context
from cxrnode.errors import Rejected
from tests.integration.scripted import (
    archive,
    await_that,
    certificates,
    dataset_of,
    film,
    read_pdu,
    settled_threads,
    tcp_peer,
)
from tests.peers import require_tool, unused_port

#: For peers that do not answer. All others are given longer: only a busy machine makes them slow.
SHORT = Timeouts(connect=2.0, acse=1.0, dimse=1.0)
PATIENT = Timeouts(connect=30.0, acse=30.0, dimse=30.0)
#: For those that take the association, and then no object.
MUTE = Timeouts(connect=30.0, acse=30.0, dimse=1.0)
CR = (ComputedRadiographyImageStorage, ExplicitVRLittleEndian)
SC = (SecondaryCaptureImageStorage, ExplicitVRLittleEndian)


def to(port: int, *, aet: str = "ARCHIVE", host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> Destination:
    return Destination(name="PACS", aet=aet, host=host, port=port, tls=tls)


def send_one(port: int, data: bytes, timeouts: Timeouts = PATIENT) -> Sent:
    with open_association(to(port), calling_aet="CXRNODE", pairs=[Part10.of(data).pair], timeouts=timeouts) as outbound:
        return outbound.store(data)


def associated(port: int, pairs: list[tuple[str, str]]) -> Outbound:
    return open_association(to(port), calling_aet="CXRNODE", pairs=pairs, timeouts=PATIENT)


def fault_of(
    port: int, *, aet: str = "ARCHIVE", timeouts: Timeouts = PATIENT, data: bytes | None = None
) -> AssociationFault:
    with (
        pytest.raises(AssociationFault) as caught,
        open_association(to(port, aet=aet), calling_aet="CXRNODE", pairs=[CR], timeouts=timeouts) as outbound,
    ):
        outbound.store(data or film())
    return caught.value


@contextmanager
def storescp(folder: Path, *options: str | Path) -> Iterator[int]:
    """DCMTK's storescp, keeping what it gets bit by bit."""
    port = unused_port()
    command = [require_tool("storescp"), "+B", "-od", str(folder), *map(str, options), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listening() -> bool:
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert await_that(listening, 30)
        yield port
    finally:
        process.terminate()
        process.wait(10)


# ------------------------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_data_set_arrives_byte_for_byte(syntax: str) -> None:
    data = film(syntax=syntax, side=400)
    with archive() as (port, got):
        sent = send_one(port, data)
    assert sent == Sent(status=0, kind=StatusClass.SUCCESS)
    assert got == [dataset_of(data)]


def test_many_objects_of_several_classes_share_an_association() -> None:
    films = [
        film(uid=f"2.25.{i}", sop_class=(ComputedRadiographyImageStorage, SecondaryCaptureImageStorage)[i % 2])
        for i in range(1, 21)
    ]
    with archive() as (port, got), associated(port, [CR, SC]) as outbound:
        answers = [outbound.store(data).status for data in films]
    assert answers == [0] * 20
    assert got == [dataset_of(data) for data in films]


class Sluggish(threading.Event):
    """A checkpoint that the association's own thread leaves late, while it still says of itself that it is paused."""

    def wait(self, timeout: float | None = None) -> bool:
        passed = super().wait(timeout)
        time.sleep(0.03)
        return passed


def test_an_answer_is_never_taken_by_the_association_s_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was, once in some hundred objects where the archive is fast: the object then waited for the whole time-out."""
    real = Messages.get_msg

    def late(self: Messages, block: bool = False) -> Found:
        time.sleep(0.06 if block else 0.0)
        return real(self, block)

    monkeypatch.setattr(Messages, "get_msg", late)
    films = [film(uid=f"2.25.{number}") for number in range(1, 6)]
    with archive() as (port, got), associated(port, [CR]) as outbound:
        sluggish = Sluggish()
        sluggish.set()
        outbound.wire._reactor_checkpoint = sluggish
        time.sleep(0.1)
        for data in films:
            time.sleep(0.01)
            assert outbound.store(data).status == 0
    assert len(got) == 5


@pytest.mark.peers
def test_storescp_keeps_the_very_bytes(tmp_path: Path) -> None:
    data = film(side=500)
    with storescp(tmp_path) as port:
        assert send_one(port, data, Timeouts()).status == 0
    (kept,) = tmp_path.iterdir()
    assert dataset_of(kept.read_bytes()) == dataset_of(data)


@pytest.mark.peers
def test_an_archive_that_takes_implicit_only_gets_the_same_object(tmp_path: Path) -> None:
    data = film()
    with storescp(tmp_path, "+xi") as port:
        sent = send_one(port, data, Timeouts())
    assert (sent.status, sent.converted) == (0, True)
    (kept,) = tmp_path.iterdir()
    theirs, ours = dcmread(kept), dcmread(io.BytesIO(data))
    assert theirs.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert theirs.PixelData == ours.PixelData
    assert theirs.AnatomicRegionSequence == ours.AnatomicRegionSequence
    assert theirs.PatientName == ours.PatientName
    assert theirs[0x0099, 0x1001].value in ("kept", b"kept")
    assert sorted(theirs.keys()) == sorted(ours.keys())


def test_the_conversion_gives_the_same_bytes_each_time() -> None:
    with archive(syntaxes=(ImplicitVRLittleEndian,)) as (port, got):
        assert send_one(port, film()).converted
        assert send_one(port, film()).converted
    assert got[0] == got[1]


def test_what_the_peer_did_not_accept_is_a_matter_of_that_object_alone() -> None:
    compressed = film(syntax=ExplicitVRLittleEndian).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.5\0")
    pairs = [Part10.of(compressed).pair, CR]
    with archive() as (port, got), associated(port, pairs) as outbound:
        assert outbound.store(compressed).status == 0x0122
        assert outbound.store(compressed).kind is StatusClass.PERMANENT
        assert outbound.store(film()).status == 0
    assert got == [dataset_of(film())]


def test_what_is_no_dicom_file_is_rejected_and_the_association_goes_on() -> None:
    with archive() as (port, _), associated(port, [CR]) as outbound:
        for data in (b"", b"hello" * 100, bytes(128) + b"DICM", film()[:150]):
            with pytest.raises(Rejected):
                outbound.store(data)
        assert outbound.store(film()).status == 0


# ------------------------------------------------------------------------------------------------ statuses


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, StatusClass.SUCCESS),
        (0xB000, StatusClass.WARNING),
        (0xB006, StatusClass.WARNING),
        (0xB007, StatusClass.WARNING),
        (0xA700, StatusClass.TRANSIENT),
        (0xA7AA, StatusClass.TRANSIENT),
        (0x0110, StatusClass.TRANSIENT),
        (0x0122, StatusClass.PERMANENT),
        (0x0124, StatusClass.PERMANENT),
        (0x0210, StatusClass.TRANSIENT),
        (0x0211, StatusClass.PERMANENT),
        (0x0212, StatusClass.PERMANENT),
        (0xA900, StatusClass.PERMANENT),
        (0xC000, StatusClass.PERMANENT),
        (0xC123, StatusClass.PERMANENT),
        (0xFE00, StatusClass.TRANSIENT),
        (0xD000, StatusClass.TRANSIENT),
    ],
)
def test_an_answer_comes_back_with_its_class_and_comment(status: int, kind: StatusClass) -> None:
    def answer(event: Event) -> Dataset:
        ds = Dataset()
        ds.Status = status
        ds.ErrorComment = "because"
        return ds

    with archive(answer) as (port, _):
        assert send_one(port, film()) == Sent(status=status, kind=kind, comment="because")


# ------------------------------------------------------------------------------------------------ association faults


def test_nobody_at_the_port_is_unreachable() -> None:
    fault = fault_of(unused_port())
    assert (fault.kind, fault.stage, fault.detail) == (FaultKind.UNREACHABLE, Stage.CONNECT, "connection refused")
    assert "[nodes.PACS] host = '127.0.0.1'" in fault.remedy


def test_a_host_without_an_address_is_unreachable() -> None:
    with pytest.raises(AssociationFault) as caught:
        echo(to(104, host="no-such-host.invalid"), calling_aet="CXRNODE", timeouts=PATIENT)
    assert caught.value.kind is FaultKind.UNREACHABLE


def test_a_host_that_swallows_packets_costs_the_connect_timeout() -> None:
    with socket.socket() as full:  # a full backlog drops further SYNs
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        started = time.monotonic()
        fault = fault_of(full.getsockname()[1], timeouts=SHORT)
        assert time.monotonic() - started < 30  # the kernel would go on for two minutes
        for filler in fillers:
            filler.close()
    assert fault.kind in (FaultKind.UNREACHABLE, FaultKind.TIMEOUT)


def test_a_called_title_that_is_not_recognised_says_so() -> None:
    with archive(require_called=True) as (port, _):
        fault = fault_of(port, aet="WRONG")
    assert (fault.kind, fault.stage) == (FaultKind.CALLED_AET, Stage.NEGOTIATE)
    assert "aet = 'WRONG'" in fault.remedy


def test_a_calling_title_that_is_not_recognised_says_so() -> None:
    with archive(require_calling=("SOMEONE",)) as (port, _):
        fault = fault_of(port)
    assert fault.kind is FaultKind.CALLING_AET
    assert "list of known AEs" in fault.remedy


@pytest.mark.peers
def test_storescp_that_refuses_all_is_a_refusal(tmp_path: Path) -> None:
    with storescp(tmp_path, "--refuse") as port:
        fault = fault_of(port)
    assert fault.kind is FaultKind.REFUSED


class Late(threading.Event):
    """That a connection is made is noticed when all has been said on it."""

    def wait(self, timeout: float | None = None) -> bool:
        passed = super().wait(timeout)
        time.sleep(0.5)
        return passed


def _refuse(conversation: socket.socket) -> None:
    read_pdu(conversation)
    conversation.sendall(bytes.fromhex("03 00 00000004 00 01 01 07"))  # the called AE title is not known
    conversation.recv(1)


def _hang_up(conversation: socket.socket) -> None:
    read_pdu(conversation)
    conversation.close()


@pytest.mark.parametrize(
    ("answer", "kind"), [(_refuse, FaultKind.CALLED_AET), (_hang_up, FaultKind.ABORTED)], ids=["refused", "hung up"]
)
def test_who_answers_sooner_than_we_look_is_heard(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[socket.socket], None], kind: FaultKind
) -> None:
    """They were said to have given no answer, where the machine was busy."""
    made = BoundedSocket.__init__

    def late(self: BoundedSocket, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self._ready = Late()

    monkeypatch.setattr(BoundedSocket, "__init__", late)
    with tcp_peer(answer) as port:
        fault = fault_of(port)
    assert (fault.kind, fault.stage) == (kind, Stage.NEGOTIATE)


def test_who_accepts_when_we_have_given_up_gave_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were said to have closed the connection."""
    real = ACSE.send_abort

    def late(self: ACSE, source: int) -> None:
        time.sleep(1.0)
        real(self, source)

    with archive() as (port, _):
        acceptance = _acceptance(port)

    def hesitate(conversation: socket.socket) -> None:
        read_pdu(conversation)
        time.sleep(SHORT.acse + 0.3)
        conversation.sendall(acceptance)
        conversation.recv(1)

    monkeypatch.setattr(ACSE, "send_abort", late)
    with tcp_peer(hesitate) as port:
        fault = fault_of(port, timeouts=SHORT)
    assert (fault.kind, fault.stage) == (FaultKind.TIMEOUT, Stage.NEGOTIATE)


def test_a_peer_that_accepts_no_context_at_all_is_a_fault() -> None:
    with archive(classes=()) as (port, _):
        fault = fault_of(port)
    assert (fault.kind, fault.stage) == (FaultKind.NO_CONTEXT, Stage.NEGOTIATE)


def test_a_peer_that_never_answers_the_request_costs_the_acse_timeout() -> None:
    before = settled_threads()
    with tcp_peer(lambda conversation: None) as port:
        started = time.monotonic()
        fault = fault_of(port, timeouts=SHORT)
        assert SHORT.acse <= time.monotonic() - started < 30  # it would wait for ever
    assert (fault.kind, fault.stage) == (FaultKind.TIMEOUT, Stage.NEGOTIATE)
    assert await_that(lambda: threading.active_count() <= before, 30)


def test_a_peer_that_hangs_up_on_the_request_aborted_it() -> None:
    with tcp_peer(_hang_up) as port:
        fault = fault_of(port)
    assert (fault.kind, fault.stage) == (FaultKind.ABORTED, Stage.NEGOTIATE)


def test_a_peer_that_never_answers_an_object_costs_the_dimse_timeout() -> None:
    before = settled_threads()
    release = threading.Event()

    def answer(event: Event) -> int:
        release.wait(60)
        return 0

    with archive(answer) as (port, _):
        started = time.monotonic()
        fault = fault_of(port, timeouts=MUTE)
        assert MUTE.dimse <= time.monotonic() - started < 30
        release.set()
    assert (fault.kind, fault.stage) == (FaultKind.TIMEOUT, Stage.TRANSFER)
    assert await_that(lambda: threading.active_count() <= before, 30)


def accepting(behave_after: str) -> Iterator[int]:
    """A peer that takes the association by replaying an archive's acceptance, and then misbehaves."""
    with archive() as (port, _):
        acceptance = _acceptance(port)

    def behave(conversation: socket.socket) -> None:
        read_pdu(conversation)
        conversation.sendall(acceptance)
        if behave_after == "reads no more":
            return
        read_pdu(conversation)
        if behave_after == "cuts":
            conversation.close()
        elif behave_after == "aborts":
            conversation.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0]))
            conversation.close()
        elif behave_after == "claims two gigabytes":
            conversation.sendall(struct.pack(">BBI", 4, 0, 0x7FFFFFF0) + bytes(100))

    with tcp_peer(behave) as port:
        yield port


def _acceptance(port: int) -> bytes:
    """What an archive answers to our very request."""
    recorded: list[bytes] = []

    def relay(conversation: socket.socket) -> None:
        kind_length = b""
        while len(kind_length) < 6:
            kind_length += conversation.recv(6 - len(kind_length))
        body = b""
        while len(body) < struct.unpack(">I", kind_length[2:])[0]:
            body += conversation.recv(65536)
        with socket.create_connection(("127.0.0.1", port)) as real:
            real.sendall(kind_length + body)
            kind, answer = read_pdu(real)
            recorded.append(struct.pack(">BBI", kind, 0, len(answer)) + answer)
        conversation.close()

    with tcp_peer(relay) as between:
        fault_of(between)
    return recorded[0]


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("cuts", FaultKind.ABORTED),
        ("aborts", FaultKind.ABORTED),
        ("claims two gigabytes", None),
        ("reads no more", None),
    ],
)
def test_a_peer_that_breaks_off_within_an_object_is_a_fault_of_the_transfer(
    behaviour: str, kind: FaultKind | None
) -> None:
    before = settled_threads()
    with contextmanager(accepting)(behaviour) as port:
        started = time.monotonic()
        # Of who breaks off it is known at once, of the others after the time-out.
        fault = fault_of(port, data=film(side=3000), timeouts=MUTE if kind is None else PATIENT)
        assert time.monotonic() - started < PATIENT.dimse
    assert fault.stage is Stage.TRANSFER
    assert fault.kind is kind or (kind is None and fault.kind in (FaultKind.ABORTED, FaultKind.TIMEOUT))
    assert await_that(lambda: threading.active_count() <= before, 30)


class LateWord(queue.Queue[Any]):
    """The word that the connection is gone comes later than the end of all messages."""

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        time.sleep(0.5 if isinstance(item, A_P_ABORT) else 0.0)
        super().put(item, block, timeout)


def test_who_cuts_is_not_silent_however_late_the_association_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were said to have given no answer: such an attempt does not count, and the object goes on for days."""
    made = DULServiceProvider.__init__

    def late(self: DULServiceProvider, association: Association) -> None:
        made(self, association)
        self.to_user_queue = LateWord()

    monkeypatch.setattr(DULServiceProvider, "__init__", late)
    with contextmanager(accepting)("cuts") as port:
        fault = fault_of(port, data=film())
    assert (fault.kind, fault.stage) == (FaultKind.ABORTED, Stage.TRANSFER)


@pytest.fixture
def slow_own_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The association's own thread takes the word of an abort, and says only later that the association is over."""
    real = DULServiceProvider.receive_pdu

    def slow(self: DULServiceProvider, wait: bool = False, timeout: float | None = None) -> Any:
        primitive = real(self, wait, timeout)
        time.sleep(1.0 if isinstance(primitive, A_ABORT | A_P_ABORT) else 0.0)
        return primitive

    monkeypatch.setattr(DULServiceProvider, "receive_pdu", slow)


@pytest.mark.usefixtures("slow_own_thread")
def test_who_aborts_is_not_silent_though_another_thread_took_the_word_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Messages.get_msg

    def late(self: Messages, block: bool = False) -> Found:
        found = real(self, block)
        time.sleep(0.2 if block else 0.0)
        return found

    monkeypatch.setattr(Messages, "get_msg", late)
    with contextmanager(accepting)("aborts") as port:
        fault = fault_of(port, data=film())
    assert (fault.kind, fault.stage) == (FaultKind.ABORTED, Stage.TRANSFER)


@pytest.mark.usefixtures("slow_own_thread")
def test_an_object_after_an_abort_does_not_wait_for_the_time_out() -> None:
    with archive() as (port, _):
        acceptance = _acceptance(port)

    def abort(conversation: socket.socket) -> None:
        read_pdu(conversation)
        conversation.sendall(acceptance)
        time.sleep(0.1)  # both at once are read at once: an association that ended before it began
        conversation.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0]))
        conversation.recv(1)

    started = time.monotonic()
    with tcp_peer(abort) as port, pytest.raises(AssociationFault) as caught, associated(port, [CR]) as outbound:
        time.sleep(0.4)
        outbound.store(film())
    assert (caught.value.kind, caught.value.stage) == (FaultKind.ABORTED, Stage.TRANSFER)
    assert time.monotonic() - started < PATIENT.dimse


def test_an_answer_that_lies_there_at_the_deadline_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not looked for, and the object went again though the archive had it."""
    real = Messages.get_msg

    def late(self: Messages, block: bool = False) -> Found:
        if block:
            while self.deadline is not None and time.monotonic() < self.deadline + 0.2:
                time.sleep(0.05)
        return real(self, block)

    monkeypatch.setattr(Messages, "get_msg", late)
    with archive() as (port, _), associated(port, [CR]) as outbound:
        outbound._messages.deadline = time.monotonic() + 1.0
        assert outbound.store(film()).status == 0


def test_a_slow_peer_is_waited_for_as_long_as_it_takes_bytes() -> None:
    data = film(side=2200)
    enough = Timeouts(connect=30.0, acse=30.0, dimse=3.0)  # for a moment's silence, and not for the whole way
    with archive() as (port, got):

        def crawl(conversation: socket.socket) -> None:
            real = socket.create_connection(("127.0.0.1", port))

            def back() -> None:
                try:
                    while piece := real.recv(4096):
                        conversation.sendall(piece)
                except OSError:
                    return

            threading.Thread(target=back, daemon=True).start()
            try:
                while piece := conversation.recv(60_000):
                    real.sendall(piece)
                    time.sleep(0.03)
            except OSError:
                pass
            real.close()

        with tcp_peer(crawl) as slow:
            started = time.monotonic()
            sent = send_one(slow, data, enough)
            took = time.monotonic() - started
    assert sent.status == 0
    assert took > enough.dimse
    assert got == [dataset_of(data)]


def abort(event: Event) -> int:
    event.assoc.abort()
    return 0


def test_a_broken_association_stays_broken() -> None:
    with (
        archive(abort) as (port, _),
        pytest.raises(AssociationFault) as caught,
        open_association(to(port), calling_aet="CXRNODE", pairs=[CR], timeouts=PATIENT) as outbound,
    ):
        with pytest.raises(AssociationFault):
            outbound.store(film())
        began = time.monotonic()
        outbound.store(film())
    assert (caught.value.kind, caught.value.stage) == (FaultKind.ABORTED, Stage.TRANSFER)
    assert time.monotonic() - began < PATIENT.dimse / 2  # nothing is waited for


def test_a_fault_says_no_more_of_the_object_than_that_there_was_one() -> None:
    with archive(abort) as (port, _):
        fault = fault_of(port)
    assert "SECRET" not in str(fault) + fault.remedy


# ------------------------------------------------------------------------------------------------ deadline


def test_no_object_is_begun_after_the_deadline() -> None:
    deadline = time.monotonic() + 8.0  # far enough for the first object, however busy the machine is
    with (
        archive() as (port, got),
        pytest.raises(DeadlineReached),
        open_association(to(port), calling_aet="CXRNODE", pairs=[CR], timeouts=PATIENT, deadline=deadline) as outbound,
    ):
        assert outbound.store(film()).status == 0
        time.sleep(deadline - time.monotonic() + 0.1)
        outbound.store(film(uid="2.25.9"))
    assert got == [dataset_of(film())]


def test_no_answer_is_waited_for_past_the_deadline() -> None:
    release = threading.Event()
    with archive(lambda event: int(not release.wait(60))) as (port, _):
        started = time.monotonic()
        with (
            pytest.raises(DeadlineReached),
            open_association(
                to(port), calling_aet="CXRNODE", pairs=[CR], timeouts=Timeouts(), deadline=started + 0.8
            ) as outbound,
        ):
            outbound.store(film())
        assert time.monotonic() - started < 20  # and not the time-out, which is a minute
        release.set()


# ------------------------------------------------------------------------------------------------ echo, files, TLS


def test_echo_is_answered_or_says_why_not() -> None:
    with archive(require_called=True) as (port, _):
        echo(to(port), calling_aet="CXRNODE", timeouts=PATIENT)
        with pytest.raises(AssociationFault) as caught:
            echo(to(port, aet="WRONG"), calling_aet="CXRNODE", timeouts=PATIENT)
    assert caught.value.kind is FaultKind.CALLED_AET


def test_files_are_sent_in_order_and_what_is_no_dicom_is_said(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.dcm").write_bytes(film(uid=f"2.25.{i + 1}"))
    (tmp_path / "1.txt").write_text("hello")
    with archive() as (port, got):
        answers = list(send_files(sorted(tmp_path.iterdir()), to(port), calling_aet="CXRNODE", timeouts=PATIENT))
    assert {p.name for p, a in answers if isinstance(a, Sent) and a.status == 0} == {"0.dcm", "1.dcm", "2.dcm"}
    assert [p.name for p, a in answers if isinstance(a, Rejected)] == ["1.txt"]
    assert got == [dataset_of(film(uid=f"2.25.{i + 1}")) for i in range(3)]


def test_more_syntaxes_than_fit_into_one_association_take_several(tmp_path: Path) -> None:
    classes = tuple(str(c.abstract_syntax) for c in AllStoragePresentationContexts[:150])
    for i, sop_class in enumerate(classes):
        (tmp_path / f"{i:03}.dcm").write_bytes(film(uid=f"2.25.{i + 1}", sop_class=sop_class, side=4))
    with archive(classes=classes[::2]) as (port, got):
        sent = send_files(sorted(tmp_path.iterdir()), to(port), calling_aet="CXRNODE", timeouts=Timeouts())
        answers = [a for _, a in sent]
    assert [a.status for a in answers if isinstance(a, Sent)] == [0x0000, 0x0122] * 75
    assert len(got) == 75


def test_films_of_the_corpus_are_sent_as_they_are(data_dir: Path) -> None:
    films = sorted((data_dir / "dicom" / "chest").iterdir())
    pairs = {Part10.of(f.read_bytes()).pair for f in films}
    classes = tuple({c for c, _ in pairs})
    with archive(classes=classes, syntaxes=tuple({s for _, s in pairs})) as (port, got):
        answers = [a for _, a in send_files(films, to(port), calling_aet="CXRNODE", timeouts=Timeouts())]
    assert all(isinstance(a, Sent) and a.status == 0 and not a.converted for a in answers)
    assert [dataset_of(f.read_bytes()) for f in films] == got
    assert JPEG2000Lossless in {s for _, s in pairs}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ORTHANC@localhost:4242", ("ORTHANC", "localhost", 4242)),
        ("A B@[::1]:104", ("A B", "::1", 104)),
    ],
)
def test_a_destination_is_read_from_its_triple(text: str, expected: tuple[str, str, int]) -> None:
    read = parse_destination(text)
    assert (read.aet, read.host, read.port) == expected


def test_the_remedy_for_a_triple_names_no_table_of_the_configuration() -> None:
    triple = parse_destination("ORTHANC@localhost:4242")
    assert triple.remedy(FaultKind.CALLED_AET) == "Check aet = 'ORTHANC': the peer does not answer to it"
    named = dataclasses.replace(triple, configured=True)
    assert named.remedy(FaultKind.CALLED_AET).startswith("Check [nodes.ORTHANC] aet = 'ORTHANC'")


@pytest.mark.parametrize(
    ("lacks", "said"),
    [
        ("TransferSyntaxUID", "group 0002 lacks TransferSyntaxUID"),
        ("MediaStorageSOPClassUID", "group 0002 lacks MediaStorageSOPClassUID"),
    ],
)
def test_a_file_without_its_meta_information_is_told_what_it_lacks(lacks: str, said: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    delattr(meta, lacks)
    data = DicomBytesIO()
    data.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(data, meta, enforce_standard=False)
    with pytest.raises(Rejected, match=said):
        Part10.of(data.getvalue())


@pytest.mark.parametrize(
    "text", ["", "host:104", "AET@host", "AET@:104", "AET@host:0", "AET@host:x", "A" * 17 + "@h:1"]
)
def test_what_is_no_triple_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ValueError, match="is not AET@host:port"):
        parse_destination(text)


def test_tls_goes_both_ways_or_says_why_not(tmp_path: Path) -> None:
    pem = certificates(tmp_path)
    server = server_context(Tls(ca=pem["ca"], cert=pem["server"], key=pem["server_key"]))
    ours = client_context(Tls(ca=pem["ca"], cert=pem["client"], key=pem["client_key"]))
    with (
        archive(tls=server) as (port, got),
        open_association(
            to(port, host="localhost", tls=ours), calling_aet="CXRNODE", pairs=[CR], timeouts=PATIENT
        ) as outbound,
    ):
        assert outbound.store(film(side=600)).status == 0
    assert got == [dataset_of(film(side=600))]
    with archive() as (port, _), pytest.raises(AssociationFault) as caught:
        echo(to(port, host="localhost", tls=ours), calling_aet="CXRNODE", timeouts=PATIENT)
    assert caught.value.kind in (FaultKind.TLS, FaultKind.UNREACHABLE)


@pytest.mark.peers
def test_storescp_over_tls_takes_our_certificate(tmp_path: Path) -> None:
    pem = certificates(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    ours = client_context(Tls(ca=pem["ca"], cert=pem["client"], key=pem["client_key"]))
    with (
        storescp(kept, "+tls", pem["server_key"], pem["server"], "+cf", pem["ca"]) as port,
        open_association(
            to(port, host="localhost", tls=ours), calling_aet="CXRNODE", pairs=[CR], timeouts=Timeouts()
        ) as outbound,
    ):
        assert outbound.store(film()).status == 0
    assert dataset_of(next(kept.iterdir()).read_bytes()) == dataset_of(film())


def test_a_certificate_for_another_host_is_a_fault_of_tls(tmp_path: Path) -> None:
    pem = certificates(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    strangers = certificates(other)
    server = server_context(Tls(ca=pem["ca"], cert=strangers["server"], key=strangers["server_key"]))
    ours = client_context(Tls(ca=pem["ca"], cert=pem["client"], key=pem["client_key"]))
    with archive(tls=server) as (port, _), pytest.raises(AssociationFault) as caught:
        echo(to(port, host="localhost", tls=ours), calling_aet="CXRNODE", timeouts=PATIENT)
    assert caught.value.kind is FaultKind.TLS
    assert "certificate" in caught.value.detail
