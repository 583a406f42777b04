"""HL7 messages over MLLP: to hl7apy's receiver, and to a scripted one for every acknowledgement and every silence."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hl7apy.core import Message
from hl7apy.mllp import AbstractHandler, MLLPServer
from hl7apy.parser import parse_message

from cxrnode.dicom import mllp
from cxrnode.dicom.destination import AssociationFault, FaultKind, Hl7Destination, Sent, Stage, Timeouts
from cxrnode.dicom.kept_header import keep_header
from cxrnode.dicom.outputs import OutputSettings, build_outputs
from cxrnode.dicom.statuses import StatusClass
from cxrnode.dicom.tls import web_context
from cxrnode.errors import Rejected
from cxrnode.roles.withdraw import make_withdrawals
from cxrnode.store import withdrawals
from cxrnode.store.schema import circuit, delivery
from tests.integration.test_send_role import Bench, MakeBench, make_bench
from tests.integration.test_stow import authority
from tests.peers import RecordingScp, recording_scp, unused_port, wait_until
from tests.unit.outputs.sources import make_report, make_source

__all__ = ["authority", "make_bench", "recording_scp"]

SHORT = Timeouts(connect=30.0, acse=30.0, dimse=60.0)
#: For receivers that do not answer.
IMPATIENT = Timeouts(connect=30.0, acse=30.0, dimse=1.0)


def message(revision: int = 1) -> bytes:
    [made] = build_outputs(
        make_source(), make_report(revision=revision), None, None, OutputSettings(), frozenset({"hl7"})
    )
    return made.data


def control_id(data: bytes) -> str:
    return data.split(b"|")[9].decode()


def acknowledged(data: bytes, code: str = "AA", text: str = "", *, to: str = "") -> bytes:
    head = "MSH|^~\\&|RIS||CXRNODE||20260101||ACK^R01|1|P|2.5.1"
    return f"\x0b{head}\rMSA|{code}|{to or control_id(data)}|{text}\r\x1c\r".encode()


class Receiver:
    """A receiver on the loopback that keeps every message; `answer` gives the bytes to answer with, None to hang up."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.received: list[bytes] = []
        self.answer: Callable[[int, bytes], bytes | None] = lambda number, data: acknowledged(data)
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(line.close)
            if self._context is not None:
                line = stack.enter_context(self._context.wrap_socket(line, server_side=True))
            while data := self._frame(line):
                self.received.append(data)
                answer = self.answer(len(self.received) - 1, data)
                if answer is None:
                    return
                for start in range(0, len(answer), 7):  # in pieces, as networks do
                    line.sendall(answer[start : start + 7])

    @staticmethod
    def _frame(line: socket.socket) -> bytes:
        whole = b""
        while not whole.endswith(b"\x1c\r"):
            chunk = line.recv(4096)
            if not chunk:
                return b""
            whole += chunk
        assert whole.startswith(b"\x0b")
        return whole[1:-2]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def sent(receiver: Receiver, data: bytes, timeouts: Timeouts = SHORT) -> Sent:
    with mllp.open_mllp(Hl7Destination(name="RIS", host="127.0.0.1", port=receiver.port), timeouts=timeouts) as way:
        return way.store(data)


# ---------------------------------------------------------------------------------------- what an answer means


class _Keeps(AbstractHandler):  # type: ignore[misc]  # shipped without types
    """hl7apy's way to receive: it parses the message and makes the acknowledgement itself."""

    def __init__(self, text: str, kept: list[Message]) -> None:
        super().__init__(text)
        self._kept = kept

    def reply(self) -> str:
        read = parse_message(self.incoming_message, find_groups=True)
        self._kept.append(read)
        answer = Message("ACK", version="2.5.1")
        answer.MSH.MSH_9 = "ACK^R01^ACK"
        answer.MSH.MSH_10 = "1"
        answer.MSA = f"MSA|AA|{read.MSH.MSH_10.value}"
        return str(answer.to_mllp())


def test_an_independent_receiver_parses_our_message_and_we_its_acknowledgement() -> None:
    kept: list[Message] = []
    port = unused_port()
    server = MLLPServer("127.0.0.1", port, {"ORU^R01^ORU_R01": (_Keeps, kept)})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with mllp.open_mllp(Hl7Destination(name="RIS", host="127.0.0.1", port=port), timeouts=SHORT) as way:
            answers = [way.store(message()), way.store(message(2))]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert [one.kind for one in answers] == [StatusClass.SUCCESS] * 2
    assert [one.MSH.MSH_10.value for one in kept] == [control_id(message()), control_id(message(2))]
    assert all(one.validate() for one in kept)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AA", StatusClass.SUCCESS),
        ("CA", StatusClass.SUCCESS),
        ("AE", StatusClass.PERMANENT),
        ("CE", StatusClass.PERMANENT),
        ("AR", StatusClass.TRANSIENT),
        ("CR", StatusClass.TRANSIENT),
        ("??", StatusClass.TRANSIENT),
    ],
)
def test_an_acknowledgement_has_its_class_and_the_receivers_words_stay_out_of_ours(
    receiver: Receiver, code: str, kind: StatusClass
) -> None:
    receiver.answer = lambda number, data: acknowledged(data, code, "PID-3 of YAMADA is wrong")
    answer = sent(receiver, message())
    assert (answer.kind, answer.comment) == (kind, "PID-3 of YAMADA is wrong")
    assert "YAMADA" not in answer.said
    assert receiver.received == [message()]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (None, FaultKind.ABORTED),
        (b"", FaultKind.TIMEOUT),
        (b"\x0bMSH|^~\\&|", FaultKind.TIMEOUT),
        (b"\x0bno acknowledgement\x1c\r", FaultKind.ABORTED),
        (b"\x0bMSH|^~\\&|RIS\rERR|1\x1c\r", FaultKind.ABORTED),
        (acknowledged(b"", to="ANOTHER"), FaultKind.ABORTED),
        (b"x" * 100_000, FaultKind.ABORTED),
    ],
)
def test_an_answer_that_is_none_is_a_fault_of_the_way(
    receiver: Receiver, answer: bytes | None, kind: FaultKind
) -> None:
    receiver.answer = lambda number, data: answer
    began = time.monotonic()
    with pytest.raises(AssociationFault) as caught:
        sent(receiver, message(), IMPATIENT if kind is FaultKind.TIMEOUT else SHORT)
    assert (caught.value.kind, caught.value.stage) == (kind, Stage.TRANSFER)
    assert time.monotonic() - began < SHORT.dimse


@pytest.mark.parametrize("data", [b"", b"DICM" + bytes(200), b"MSH|^~\\&|short", message() + b"\x1c\r"])
def test_what_is_no_message_is_never_sent(receiver: Receiver, data: bytes) -> None:
    with pytest.raises(Rejected):
        sent(receiver, data)
    assert receiver.received == []


def test_messages_go_over_tls_to_a_receiver_that_is_verified(authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    made = Receiver(context=context)
    try:
        trusting = web_context(ca=authority / "ca.pem", cert=None, key=None)
        there = Hl7Destination(name="RIS", host="127.0.0.1", port=made.port, tls=trusting)
        with mllp.open_mllp(there, timeouts=SHORT) as way:
            assert way.store(message()).kind is StatusClass.SUCCESS
        strange = web_context(ca=None, cert=None, key=None)
        with pytest.raises(AssociationFault, match="certificate") as caught:
            mllp.open_mllp(Hl7Destination(name="RIS", host="127.0.0.1", port=made.port, tls=strange), timeouts=SHORT)
        assert caught.value.kind is FaultKind.TLS
    finally:
        made.close()


def test_nobody_there_is_said_with_the_address_to_check() -> None:
    with pytest.raises(AssociationFault) as caught:
        mllp.open_mllp(Hl7Destination(name="RIS", host="127.0.0.1", port=unused_port()), timeouts=SHORT)
    assert (caught.value.kind, "[nodes.RIS] host" in caught.value.remedy) == (FaultKind.UNREACHABLE, True)


# ------------------------------------------------------------------------------------------------ the send role


def test_each_kind_of_node_gets_what_is_meant_for_it_and_a_refusal_is_retried_with_the_same_message(
    make_bench: MakeBench, receiver: Receiver, recording_scp: RecordingScp
) -> None:
    receiver.answer = lambda number, data: acknowledged(data, "AA" if number else "AR")
    ris = {"kind": "hl7", "host": "127.0.0.1", "port": receiver.port}
    bench = make_bench({"RIS": ris, "PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(1, "PACS", objects=2, message=message(), messages_to=("RIS",))
    bench.start()
    bench.wait_state(number, "delivered")
    assert receiver.received == [message(), message()]
    assert [one.sop_instance_uid for one in recording_scp.stored] == ["2.25.1000", "2.25.1001"]
    faults = [detail["reason"] for name, detail in bench.events(number) if name == "delivery_faulted"]
    assert faults == ["hl7: AR, the receiver refused the message"]


def test_an_error_in_the_message_parks_it(make_bench: MakeBench, receiver: Receiver) -> None:
    receiver.answer = lambda number, data: acknowledged(data, "AE", "segment sequence error")
    bench = make_bench({"RIS": {"kind": "hl7", "host": "127.0.0.1", "port": receiver.port}})
    number = bench.report(1, objects=0, message=message(), messages_to=("RIS",))
    bench.start()
    bench.wait_state(number, "failed")
    assert len(receiver.received) == 1
    assert "AE" in bench.one(sa.select(delivery.c.reason))[0]


def test_a_withdrawn_result_is_taken_back_by_a_message_and_no_dicom_object_goes_there(
    make_bench: MakeBench, receiver: Receiver, recording_scp: RecordingScp
) -> None:
    ris = {"kind": "hl7", "host": "127.0.0.1", "port": receiver.port}
    bench = make_bench({"RIS": ris, "PACS": (recording_scp.aet, recording_scp.port)})
    number = bench.report(
        1, "PACS", objects=1, message=message(), messages_to=("RIS",), header=keep_header(make_source())
    )
    bench.start()
    bench.wait_state(number, "delivered")
    cause = withdrawals.Cause(rejection="patient-safety", note="another patient's film", by="test")
    assert withdrawals.withdraw(bench.database, number, cause).ordered == 2
    make_withdrawals(bench.context)
    wait_until(lambda: len(receiver.received) == 2, seconds=60, what="the message that takes it back")
    taken = parse_message(receiver.received[1].decode(), find_groups=True)
    assert taken.validate()
    assert "AI RESULT WITHDRAWN: another patient's film" in receiver.received[1].decode()
    assert taken.MSH.MSH_10.value != control_id(message())
    recording_scp.wait_for(2)
    kept = {one.sop_class_uid for one in recording_scp.stored}
    assert kept == {"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.59"}


def test_a_receiver_that_is_down_parks_nothing_and_gets_all_when_it_is_back(make_bench: MakeBench) -> None:
    port = unused_port()
    bench = make_bench({"RIS": {"kind": "hl7", "host": "127.0.0.1", "port": port}})
    numbers = [bench.report(n, objects=0, message=message(n), messages_to=("RIS",)) for n in (1, 2, 3)]
    bench.start()
    wait_until(lambda: bool(bench.one(sa.select(circuit.c.open))), seconds=60, what="an open circuit")
    made = Receiver(port)
    try:
        for number in numbers:
            bench.wait_state(number, "delivered")
    finally:
        made.close()
    assert sorted(map(control_id, made.received)) == sorted(control_id(message(n)) for n in (1, 2, 3))
    assert not bench.one(sa.select(circuit.c.open))[0]


def test_a_destination_whose_tls_files_are_missing_delays_nobody_else_and_is_taken_up_when_they_are_there(
    make_bench: MakeBench, recording_scp: RecordingScp, authority: Path
) -> None:
    ca = authority / "late" / "ca.pem"
    locked = {"kind": "stow", "url": f"https://127.0.0.1:{unused_port()}", "tls": {"ca": str(ca)}}
    bench = make_bench({"PACS": (recording_scp.aet, recording_scp.port), "LOCKED": locked})
    number = bench.report(1, "PACS", "LOCKED")
    bench.start()
    recording_scp.wait_for(2)
    wait_until(lambda: "cannot be used" in _reason_of_circuit(bench), seconds=60, what="the circuit that says why")
    ca.parent.mkdir()
    ca.write_bytes((authority / "ca.pem").read_bytes())
    wait_until(lambda: "unreachable" in _reason_of_circuit(bench), seconds=60, what="an attempt to reach it")
    assert bench.state(number) == "reported"


def _reason_of_circuit(bench: Bench) -> str:
    with bench.database.read() as transaction:
        return str(transaction.scalar(sa.select(circuit.c.reason).where(circuit.c.destination == "LOCKED")) or "")
