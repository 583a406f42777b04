"""The listener against DCMTK, scripted peers and raw sockets."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom.association import Association as Wire
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from cxrnode.core.associations import Cause
from cxrnode.core.digests import Kind, digest_of
from cxrnode.dicom import hardening, incoming, sender
from cxrnode.dicom.admission import Admission, Ended, Objection, Refusal
from cxrnode.dicom.incoming import IncomingMessages
from cxrnode.dicom.listener import SPARE_SEATS, Answer, Listener, Received, Timeouts
from cxrnode.dicom.tls import Tls, server_context
from cxrnode.errors import Rejected, Transient
from tests.integration.scripted import (
    PATIENT,
    answered_status,
    await_that,
    certificates,
    command,
    data_pdu,
    dataset_of,
    film,
    read_pdu,
    request_pdu,
    run,
    settled_threads,
    store_command,
)
from tests.peers import require_tool, wait_until

Make = Callable[..., Listener]
#: For peers that fall silent. All others are given longer, or a machine that stalls ends their associations.
SHORT = Timeouts(acse=2.0, network=2.0, dimse=2.0)
#: A-RELEASE-RQ and A-ABORT by a user (PS3.8 9.3.6, 9.3.8).
RELEASE, ABORT = bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]), bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0])
LONG = Timeouts(acse=30.0, network=30.0, dimse=30.0)


class Kept:
    """A callback that moves what it gets to a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.received: list[Received] = []
        self.files: list[bytes] = []
        folder.mkdir()

    def __call__(self, received: Received) -> Answer:
        kept = self.folder / f"{len(self.received)}.dcm"
        received.path.rename(kept)
        self.received.append(received)
        self.files.append(kept.read_bytes())
        return Answer(status=0x0000)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    return folder


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "kept")


@pytest.fixture
def make(spool: Path, kept: Kept) -> Iterator[Make]:
    started: list[Listener] = []

    def listener(**changes: object) -> Listener:
        settings: dict[str, object] = {
            "ae_title": "CXRNODE",
            "folder": spool,
            "admit": lambda calling, called, address: None,
            "receive": kept,
            "host": "127.0.0.1",
            "timeouts": LONG,
        }
        one = Listener(**(settings | changes))  # type: ignore[arg-type]
        one.start()
        started.append(one)
        return one

    yield listener
    for one in started:
        one.close()


def write(folder: Path, data: bytes, name: str = "film.dcm") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_garbage_is_collected_after_an_association_ended_and_not_while_none_has(
    spool: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full collection holds up every association of the process."""
    collected: list[None] = []
    monkeypatch.setattr("pynetdicom.transport.gc.collect", lambda: collected.append(None))
    listener = Listener(
        ae_title="CXRNODE", folder=spool, admit=lambda *_: None, receive=kept, host="127.0.0.1", timeouts=SHORT
    )
    server = listener._server  # not started: the turns of its loop are ours
    try:
        for _ in range(300):
            server.service_actions()
        assert collected == []
        ours, theirs = socket.socketpair()
        theirs.close()
        server.process_request(ours, ("127.0.0.1", 1))
        assert await_that(lambda: server._ended)
        for _ in range(300):
            server.service_actions()
        assert len(collected) == 1
    finally:
        listener.close()


def test_who_ends_while_garbage_is_collected_is_collected_in_turn(
    spool: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left lay there until another one ended."""
    listener = Listener(
        ae_title="CXRNODE", folder=spool, admit=lambda *_: None, receive=kept, host="127.0.0.1", timeouts=SHORT
    )
    server = listener._server  # not started: the turns of its loop are ours
    collected: list[None] = []

    def collect() -> None:
        if not collected:
            server._ended = True
        collected.append(None)

    monkeypatch.setattr("pynetdicom.transport.gc.collect", collect)
    try:
        server._ended = True
        for _ in range(300):
            server.service_actions()
        assert len(collected) == 2
    finally:
        listener.close()


def storescu(listener: Listener, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return run("storescu", "-v", "-aec", "CXRNODE", "127.0.0.1", str(listener.address[1]), *args)


def connected(listener: Listener) -> socket.socket:
    return socket.create_connection(listener.address, timeout=10)


def associated(listener: Listener) -> socket.socket:
    conversation = connected(listener)
    conversation.sendall(request_pdu())
    assert read_pdu(conversation)[0] == 2
    return conversation


# ------------------------------------------------------------------------------------------------ the good case


@pytest.mark.peers
def test_an_object_of_storescu_arrives_with_its_data_set_unchanged(make: Make, kept: Kept, tmp_path: Path) -> None:
    data = film(syntax=ExplicitVRLittleEndian)
    done = storescu(make(), "-xe", write(tmp_path, data))
    assert done.returncode == 0, done.stderr
    assert dataset_of(kept.files[0]) == dataset_of(data)
    (one,) = kept.received
    assert one.digest == digest_of(dataset_of(data), Kind.BLAKE3)
    assert kept.files[0][one.dataset_offset :] == dataset_of(data)
    assert one.size == len(kept.files[0])
    assert (one.sop_instance_uid, one.transfer_syntax_uid) == ("2.25.1", ExplicitVRLittleEndian)
    assert one.association.calling_aet == "STORESCU"
    assert (one.association.called_aet, one.association.host) == ("CXRNODE", "127.0.0.1")


def test_a_release_that_comes_with_the_last_film_does_not_take_its_answer(
    make: Make, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The film is whole, and its release is there, just after the association's thread looked for messages."""
    look, looked = IncomingMessages.get_msg, threading.Event()

    def too_early(messages: IncomingMessages, block: bool = False) -> tuple[Any, Any]:
        if looked.is_set():
            return look(messages, block)
        both = (messages.msg_queue, messages.dul.to_user_queue)
        wait_until(lambda: not any(one.empty() for one in both), seconds=10, what="the film and the release")
        looked.set()
        return None, None

    monkeypatch.setattr(IncomingMessages, "get_msg", too_early)
    with associated(make()) as conversation:
        data = data_pdu(dataset_of(film()), is_command=False, last=True)
        conversation.sendall(data_pdu(store_command(), is_command=True, last=True) + data + RELEASE)
        assert answered_status(read_pdu(conversation)[1])[0] == 0x0000
        assert read_pdu(conversation)[0] == 6
    assert looked.is_set()
    assert len(kept.files) == 1


def test_what_a_slow_peer_sends_is_not_swept_before_it_fills_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for every, swept in ((60.0, 1), (0.0, 0)):
        monkeypatch.setattr("cxrnode.dicom.incoming._TOUCHED_EVERY", every)
        file = incoming.IncomingFile(tmp_path, 1000, Kind.BLAKE3)
        os.utime(file.path, (0, 0))
        file.write(b"a few bytes")
        assert incoming.sweep(tmp_path, 900) == swept
        file.discard()


@pytest.mark.parametrize("seed", range(6))
def test_a_data_set_arrives_as_it_was_however_it_was_cut(make: Make, kept: Kept, seed: int) -> None:
    """Values by the thousand in one read, several in a PDU, one that fills many reads; two films behind
    each other without waiting for an answer, the release behind the third, and the answers come all the same."""
    chance = random.Random(seed)

    def slowly(received: Received) -> Answer:
        time.sleep(0.2)  # the release is read before the answer is there
        return kept(received)

    sets = [dataset_of(film(side=64)) + padding(chance.choice((0, 300_000, 1_500_000)), chance) for _ in range(3)]
    streams: list[bytes] = []
    for dataset in sets:
        stream = data_pdu(store_command(), is_command=True, last=True)
        at, most = 0, chance.choice((3, 800, 20_000, 260_000))
        longest = 40_000 if most == 3 else len(dataset)  # of the first bytes alone, by threes
        while at < len(dataset):
            one = P_DATA()
            for _ in range(chance.choice((1, 1, 4))):
                fragment = dataset[at : at + (most if at < longest else 100_000)]
                at += len(fragment)
                if fragment:
                    control = b"\x02" if at == len(dataset) else b"\x00"
                    one.presentation_data_value_list.append((1, control + fragment))
            stream += P_DATA_TF(one).encode()
        streams.append(stream)
    conversation = associated(make(receive=slowly))
    with conversation:
        conversation.sendall(streams[0] + streams[1])
        assert [answered_status(read_pdu(conversation)[1])[0] for _ in range(2)] == [0x0000, 0x0000]
        conversation.sendall(streams[2] + RELEASE)
        assert answered_status(read_pdu(conversation)[1])[0] == 0x0000
        assert read_pdu(conversation)[0] == 0x06
    arrived = [file[one.dataset_offset :] for file, one in zip(kept.files, kept.received, strict=True)]
    assert [digest_of(one, Kind.BLAKE3) for one in arrived] == [digest_of(one, Kind.BLAKE3) for one in sets]
    assert [one.digest for one in kept.received] == [digest_of(dataset, Kind.BLAKE3) for dataset in sets]


def test_what_comes_behind_fragments_in_the_same_read_counts_in_its_order(make: Make, kept: Kept, spool: Path) -> None:
    """The last fragment and an abort: the film was whole, and its sender hears nothing of it any more."""
    listener = make()
    with associated(listener) as conversation:
        whole = dataset_of(film())
        conversation.sendall(
            data_pdu(store_command(), is_command=True, last=True)
            + data_pdu(whole[:5000], is_command=False, last=False)
            + data_pdu(whole[5000:6000], is_command=False, last=False)
            + ABORT
        )
        assert conversation.recv(10) == b""
    assert await_that(lambda: listener.active == 0 and not list(spool.iterdir()))
    assert kept.received == []
    with associated(listener) as conversation:  # a value that lies about its length, behind two that do not
        whole_pdu = data_pdu(whole[:5000], is_command=False, last=False)
        broken = whole_pdu[:6] + (9000).to_bytes(4) + whole_pdu[10:]
        conversation.sendall(data_pdu(store_command(), is_command=True, last=True) + whole_pdu + whole_pdu + broken)
        assert read_pdu(conversation)[0] == 7
    assert await_that(lambda: listener.active == 0 and not list(spool.iterdir()))


def test_no_byte_of_one_object_gets_into_the_next(make: Make, kept: Kept) -> None:
    """A command within a data set says that there is none: its object ends with what came, and the next begins."""
    none_follows = store_command().replace(b"\x00\x00\x00\x08\x02\0\0\0\x01\0", b"\x00\x00\x00\x08\x02\0\0\0\x01\x01")
    assert none_follows != store_command()
    whole = dataset_of(film())
    listener = make()
    with associated(listener) as conversation:
        conversation.sendall(
            data_pdu(store_command(), is_command=True, last=True)
            + data_pdu(bytes(range(100)), is_command=False, last=False)
            + data_pdu(none_follows, is_command=True, last=True)
            + data_pdu(store_command(), is_command=True, last=True)
            + data_pdu(whole, is_command=False, last=True)
        )
        assert [read_pdu(conversation)[0] for _ in range(2)] == [0x04, 0x04]
    assert await_that(lambda: listener.active == 0)
    arrived = [file[one.dataset_offset :] for file, one in zip(kept.files, kept.received, strict=True)]
    assert arrived[-1] == whole, [len(one) for one in arrived]


def padding(size: int, chance: random.Random) -> bytes:
    """PixelData behind all else: so many bytes."""
    return b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", size) + chance.randbytes(size)


@pytest.mark.peers
def test_echoscu_is_answered(make: Make) -> None:
    assert run("echoscu", "-aec", "CXRNODE", "127.0.0.1", str(make().address[1])).returncode == 0


@pytest.mark.peers
def test_films_of_the_corpus_arrive_in_their_own_syntax(make: Make, kept: Kept, data_dir: Path) -> None:
    films = sorted((data_dir / "dicom" / "chest").iterdir())[:12]
    listener = make()
    done = run("dcmsend", "-dn", "-nuc", "-aec", "CXRNODE", "127.0.0.1", str(listener.address[1]), *films, timeout=60)
    assert done.returncode == 0, done.stderr
    sent = {sender.Part10.of(f.read_bytes()).transfer_syntax_uid for f in films}
    compressed = sent - {ImplicitVRLittleEndian, ExplicitVRLittleEndian}  # dcmsend turns one of these into the other
    assert len(kept.received) == len(films)
    assert compressed and compressed <= {r.transfer_syntax_uid for r in kept.received}


@pytest.mark.peers
def test_a_class_nobody_reads_is_taken_too(make: Make, kept: Kept, tmp_path: Path) -> None:
    data = film(sop_class=SecondaryCaptureImageStorage)
    assert storescu(make(), "-xe", write(tmp_path, data)).returncode == 0
    assert kept.received[0].sop_class_uid == SecondaryCaptureImageStorage


def test_it_serves_a_socket_that_somebody_else_listens_on(spool: Path, kept: Kept, make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        one, two = make(adopted=ours.dup()), make(adopted=ours.dup())
        destination = sender.Destination(name="N", aet="CXRNODE", host="127.0.0.1", port=ours.getsockname()[1])
        for _ in range(6):
            sender.echo(destination, calling_aet="TEST")
        assert one.drain(30.0) == 0
        sender.echo(destination, calling_aet="TEST")  # the other one still serves, and the socket still listens
        assert two.drain(30.0) == 0
        waiting = socket.create_connection(ours.getsockname(), timeout=2)
        waiting.close()


# ------------------------------------------------------------------------------------------------ answers


@pytest.mark.parametrize(
    ("outcome", "status", "comment"),
    [
        (Answer(status=0x0000, comment="not said"), 0x0000, ""),
        (Answer(status=0xA900, comment="no such\\class \x1b é " + "x" * 90), 0xA900, "no such?class ? ? " + "x" * 46),
        (
            Answer(status=0xA700, comment="the spool folder /var/lib/x/spool is away; mount it"),
            0xA700,
            "the spool folder ... is away; mount it",
        ),
        (Transient("disk full"), 0xA700, "disk full"),
        (Rejected("unusable"), 0xC000, "unusable"),
        (RuntimeError(PATIENT), 0xA700, "internal fault (RuntimeError)"),
    ],
)
def test_the_answer_of_the_callback_is_the_response(
    make: Make, spool: Path, outcome: Answer | Exception, status: int, comment: str
) -> None:
    def receive(received: Received) -> Answer:
        assert received.path.exists()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    conversation = associated(make(receive=receive))
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    conversation.sendall(data_pdu(b"\x08\0\x60\0\x02\0\0\0CR", is_command=False, last=True))
    kind, body = read_pdu(conversation)
    assert kind == 4
    assert answered_status(body) == (status, comment)
    conversation.close()
    assert await_that(lambda: not list(spool.iterdir()))


def test_a_bug_is_logged_without_what_it_said(make: Make) -> None:
    def receive(received: Received) -> Answer:
        raise KeyError(PATIENT)

    with structlog.testing.capture_logs() as lines:
        conversation = associated(make(receive=receive))
        conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
        conversation.sendall(data_pdu(b"\x08\0\x60\0\x02\0\0\0CR", is_command=False, last=True))
        read_pdu(conversation)
        conversation.close()
    (line,) = [one for one in lines if one["event"] == "receive_failed"]
    assert line["error"] == "KeyError"
    assert any(where.endswith(" receive") for where in line["where"])
    assert PATIENT not in repr(lines)


def test_an_object_over_the_limit_is_refused_for_good(make: Make, spool: Path) -> None:
    conversation = associated(make(max_object=10_000))
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    for last in (False, False, True):
        conversation.sendall(data_pdu(bytes(8_000), is_command=False, last=last))
    _, body = read_pdu(conversation)
    assert answered_status(body) == (0xC000, "larger than 10000 bytes")
    assert not list(spool.iterdir())
    conversation.close()


def test_a_folder_that_cannot_be_written_is_a_passing_fault(make: Make, spool: Path) -> None:
    listener = make()
    conversation = associated(listener)
    spool.rmdir()
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    conversation.sendall(data_pdu(bytes(100), is_command=False, last=True))
    _, body = read_pdu(conversation)
    assert answered_status(body) == (0xA700, "No such file or directory")
    spool.mkdir()
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    conversation.sendall(data_pdu(bytes(100), is_command=False, last=True))
    _, body = read_pdu(conversation)
    assert answered_status(body) == (0x0000, "")
    conversation.close()


def test_a_class_other_than_the_contexts_is_a_mismatch(make: Make, kept: Kept) -> None:
    conversation = associated(make())
    other = store_command().replace(b"1.2.840.10008.5.1.4.1.1.1\0", b"1.2.840.10008.5.1.4.1.1.7\0")
    conversation.sendall(data_pdu(other, is_command=True, last=True))
    conversation.sendall(data_pdu(bytes(100), is_command=False, last=True))
    _, body = read_pdu(conversation)
    assert answered_status(body)[0] == 0xA900
    assert kept.received == []
    conversation.close()


def test_a_file_is_never_named_after_what_the_peer_sent(make: Make, spool: Path) -> None:
    paths: list[Path] = []

    def receive(received: Received) -> Answer:
        paths.append(received.path)
        assert received.sop_instance_uid == "../../evil"
        return Answer(status=0)

    conversation = associated(make(receive=receive))
    conversation.sendall(data_pdu(store_command(b"../../evil"), is_command=True, last=True))
    conversation.sendall(data_pdu(bytes(100), is_command=False, last=True))
    read_pdu(conversation)
    conversation.close()
    (path,) = paths
    assert path.parent == spool
    assert "evil" not in path.name
    assert await_that(lambda: not list(spool.iterdir()))


# ------------------------------------------------------------------------------------------------ admission


@pytest.mark.peers
def test_an_unknown_ae_is_told_so_and_the_log_says_what_to_add(make: Make) -> None:
    with structlog.testing.capture_logs() as lines:
        listener = make(
            admit=lambda calling, called, address: Objection(reason=f"unknown AE at {address}", remedy="add it")
        )
        port = str(listener.address[1])
        done = [run("echoscu", "-aet", "XRAY1", "-aec", "CXRNODE", "127.0.0.1", port) for _ in range(3)]
    assert all(d.returncode != 0 and "Calling AE Title Not Recognized" in d.stderr for d in done)
    assert "Rejected Permanent" in done[0].stderr
    (line,) = [one for one in lines if one["event"] == "association_rejected"]
    assert (line["reason"], line["remedy"]) == ("unknown AE at 127.0.0.1", "add it")


@pytest.mark.peers
def test_a_wrong_called_title_is_told_so(make: Make) -> None:
    with structlog.testing.capture_logs() as lines:
        listener = make(aliases=frozenset({"OTHER"}))
        port = str(listener.address[1])
        assert run("echoscu", "-aec", "OTHER", "127.0.0.1", port).returncode == 0
        done = run("echoscu", "-aec", "WRONG", "127.0.0.1", port)
    assert "Called AE Title Not Recognized" in done.stderr
    (line,) = [one for one in lines if one["event"] == "association_rejected"]
    assert '"CXRNODE"' in line["remedy"]


def test_one_association_too_many_is_refused_for_now_and_welcome_later(make: Make) -> None:
    listener = make(max_associations=2, timeouts=Timeouts())
    first, second, third = associated(listener), associated(listener), connected(listener)
    third.sendall(request_pdu())
    assert read_pdu(third) == (3, bytes([0, 2, 3, 2]))
    first.close()
    assert await_that(lambda: listener.active == 1)
    associated(listener).close()
    second.close()
    third.close()


@pytest.mark.parametrize("release", [True, False], ids=["released", "aborted"])
def test_who_ends_an_association_and_comes_again_at_once_is_not_one_too_many(
    make: Make, monkeypatch: pytest.MonkeyPatch, release: bool
) -> None:
    """Its own seat was not free yet, where the node was busy: it was refused, and the limit said to be reached."""
    real = Admission.left

    def late(self: Admission, wire: Wire) -> None:
        time.sleep(0.5)
        real(self, wire)

    monkeypatch.setattr(Admission, "left", late)
    listener = make(max_associations=1)
    for _ in range(2):
        with associated(listener) as conversation:
            if release:
                conversation.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
                assert read_pdu(conversation)[0] == 6
            else:
                conversation.sendall(bytes([7, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
                assert conversation.recv(1) == b""
    assert await_that(lambda: not listener.admission.connected)


def test_nobody_is_let_in_when_deciding_fails(make: Make) -> None:
    def admit(calling: str, called: str, address: str) -> Objection | None:
        raise Transient("the store is away") if calling == "SCRIPT" else RuntimeError(calling)

    listener = make(admit=admit)
    for calling in ("SCRIPT", "OTHER"):
        conversation = connected(listener)
        conversation.sendall(request_pdu(calling=calling))
        assert read_pdu(conversation) == (3, bytes([0, 2, 3, 1]))
        conversation.close()
    assert listener.active == 0


def test_made_up_titles_do_not_fill_the_log(make: Make) -> None:
    with structlog.testing.capture_logs() as lines:
        listener = make(admit=lambda *_: Objection(reason="unknown", remedy="add it"))
        listener.admission._said = hardening.Throttle(keys=4)
        for i in range(12):
            conversation = connected(listener)
            conversation.sendall(request_pdu(calling=f"AE{i}"))
            read_pdu(conversation)
            conversation.close()
    assert len([one for one in lines if one["event"] == "association_rejected"]) == 4


# ------------------------------------------------------------------------------------------------ peers that vanish


@pytest.mark.parametrize("cut", ["mid PDU", "between PDUs", "after the command"])
def test_a_peer_that_vanishes_leaves_nothing(make: Make, spool: Path, kept: Kept, cut: str) -> None:
    listener = make()
    conversation = associated(listener)
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    if cut != "after the command":
        conversation.sendall(data_pdu(bytes(50_000), is_command=False, last=False))
    assert await_that(lambda: len(list(spool.iterdir())) == 1)
    if cut == "mid PDU":
        conversation.sendall(data_pdu(bytes(50_000), is_command=False, last=False)[:20_000])
    conversation.close()
    assert await_that(lambda: not list(spool.iterdir()))
    assert await_that(lambda: listener.active == 0)
    assert kept.received == []


def test_a_peer_that_falls_silent_within_a_pdu_is_given_up(make: Make, spool: Path) -> None:
    listener = make(timeouts=SHORT)
    conversation = associated(listener)
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    conversation.sendall(data_pdu(bytes(50_000), is_command=False, last=False)[:20_000])
    assert await_that(lambda: len(list(spool.iterdir())) == 1)
    assert await_that(lambda: listener.active == 0, SHORT.network + 20)
    assert await_that(lambda: not list(spool.iterdir()))
    conversation.close()


def test_what_we_take_to_answer_is_not_the_peer_s_silence(make: Make) -> None:
    """An object that took us longer than the network time-out was answered, and its association aborted at once."""

    def receive(received: Received) -> Answer:
        time.sleep(2.5)
        return Answer(status=0x0000)

    listener = make(receive=receive, timeouts=Timeouts(acse=30.0, network=2.0, dimse=30.0))
    with associated(listener) as conversation:
        conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
        conversation.sendall(data_pdu(bytes(100), is_command=False, last=True))
        assert answered_status(read_pdu(conversation)[1]) == (0x0000, "")
        time.sleep(0.5)
        conversation.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        assert read_pdu(conversation)[0] == 6


def test_a_step_of_the_clock_ends_no_association(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock was set forward ended all of them as silent."""
    listener = make(timeouts=LONG)
    with associated(listener) as conversation:
        set_clock = time.time() + 3600
        monkeypatch.setattr(time, "time", lambda: set_clock)
        time.sleep(0.5)  # the timers are looked at each 50 ms
        conversation.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        assert read_pdu(conversation)[0] == 6


@pytest.mark.peers
def test_storescu_killed_in_the_middle_leaves_nothing(make: Make, spool: Path, kept: Kept, tmp_path: Path) -> None:
    listener = make()
    big = write(tmp_path, film(side=3000))
    for _ in range(3):
        process = subprocess.Popen(
            [require_tool("storescu"), "-xe", "--max-send-pdu", "4096", "--repeat", "50",
             "-aec", "CXRNODE", "127.0.0.1", str(listener.address[1]), str(big)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert await_that(lambda: bool(list(spool.iterdir())), 30)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert await_that(lambda: listener.active == 0)
        assert await_that(lambda: not list(spool.iterdir()))
    assert all(len(f) > 18_000_000 for f in kept.files)  # only whole objects were handed over


def test_health_checks_leave_no_thread(make: Make) -> None:
    listener = make()
    connected(listener).close()
    before = settled_threads()
    for _ in range(200):
        connected(listener).close()
    # Fewer where something that an earlier test left behind ends meanwhile.
    assert await_that(lambda: threading.active_count() <= before, 30)
    associated(listener).close()


def test_silent_connections_do_not_use_up_the_associations(make: Make) -> None:
    listener = make(max_associations=2, timeouts=Timeouts(acse=60, network=60))
    silent = [connected(listener) for _ in range(40)]
    started = time.monotonic()
    associated(listener).close()
    assert time.monotonic() - started < 20  # none of them was given up meanwhile
    for one in silent:
        one.close()


def test_idle_associations_cost_little(make: Make) -> None:
    listener = make(timeouts=Timeouts())
    without = cost_of_waiting()  # what earlier tests left running in this process is not ours
    idle = [associated(listener) for _ in range(30)]
    try:
        time.sleep(1.2)
        assert cost_of_waiting() - without < 0.25  # of one core; 30 took over half a core when polled
    finally:
        for one in idle:
            one.close()


def cost_of_waiting() -> float:
    """The share of a core that this process takes while nothing happens: the least of three seconds."""
    shares = []
    for _ in range(3):
        before = time.process_time()
        time.sleep(1.0)
        shares.append(time.process_time() - before)
    return min(shares)


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    old, new = tmp_path / "incoming-a.part", tmp_path / "incoming-b.part"
    other = tmp_path / "film.dcm"
    for path in (old, new, other):
        path.write_bytes(b"x")
    hour_ago = time.time() - 3600
    os.utime(old, (hour_ago, hour_ago))
    os.utime(other, (hour_ago, hour_ago))
    assert incoming.sweep(tmp_path, 900) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.dcm", "incoming-b.part"]


# ------------------------------------------------------------------------------------------------ hostile peers


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@pytest.mark.parametrize("pdu_type", [1, 4])
def test_a_pdu_of_two_gigabytes_is_not_buffered(make: Make, pdu_type: int) -> None:
    listener = make()
    conversation = associated(listener) if pdu_type == 4 else connected(listener)
    before = _resident_mib()
    conversation.sendall(struct.pack(">BBI", pdu_type, 0, 0x7FFFFFF0))
    sent = 0
    with pytest.raises(OSError):
        for _ in range(200):
            conversation.sendall(bytes(1 << 20))
            sent += 1
    assert sent < 32
    assert _resident_mib() - before < 32
    conversation.close()
    associated(listener).close()


@pytest.mark.filterwarnings("ignore:End of file reached:UserWarning:pydicom")
@pytest.mark.parametrize(
    "fragments",
    [
        [data_pdu(b"", is_command=True, last=True)],
        [data_pdu(b"\xff" * 40, is_command=True, last=True)],
        [data_pdu(store_command(), is_command=True, last=True, context_id=99)],
        [data_pdu(store_command(b"1" * 70), is_command=True, last=True), data_pdu(b"xx", is_command=False, last=True)],
        [data_pdu(bytes(200_000), is_command=True, last=False)] * 8,
        [data_pdu(command((0x0100, b"\xc9")), is_command=True, last=True)],
        [struct.pack(">BBI", 9, 0, 4) + bytes(4)],
        [struct.pack(">BBIBBBB", 7, 0, 4, 0, 0, 77, 77)],
        [struct.pack(">BBI", 4, 0, 3) + bytes(3)],
    ],
    ids=[
        "empty",
        "garbage",
        "no such context",
        "long UID",
        "endless command",
        "odd number",
        "no such PDU",
        "odd abort",
        "torn value",
    ],
)
def test_a_malformed_message_ends_the_association_and_nothing_else(
    make: Make, spool: Path, fragments: list[bytes]
) -> None:
    listener = make()
    conversation = associated(listener)
    for fragment in fragments:
        try:
            conversation.sendall(fragment)
        except OSError:
            break
    assert read_pdu(conversation)[0] in (0, 7)
    conversation.close()
    assert await_that(lambda: listener.active == 0)
    assert await_that(lambda: not list(spool.iterdir()))
    associated(listener).close()


def test_a_peer_that_does_not_wait_to_be_accepted_is_aborted_and_ends_no_thread(
    make: Make, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by `make fuzz`: our acceptance met the abort on its way, and pynetdicom's thread died of it."""
    died: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: died.append(str(args.exc_type)))
    listener = make()
    for _ in range(60):
        conversation = connected(listener)
        message = [data_pdu(store_command(), is_command=True, last=True), data_pdu(b"xx", is_command=False, last=True)]
        conversation.sendall(request_pdu() + b"".join(message))
        assert read_pdu(conversation)[0] in (0, 7)
        conversation.close()
    # Our acceptance, which came too late for any state, stood in the way of the peer's end until the timer ran out.
    assert await_that(lambda: listener.active == 0, LONG.acse / 2)
    associated(listener).close()
    assert died == []


def test_a_request_that_no_data_set_follows_is_told_so(make: Make) -> None:
    """Found by `make fuzz`: it was answered with a status of pynetdicom's own and without a reason."""
    listener = make()
    conversation = associated(listener)
    said = store_command().replace(struct.pack("<HHIH", 0, 0x0800, 2, 1), struct.pack("<HHIH", 0, 0x0800, 2, 0x0101))
    conversation.sendall(data_pdu(said, is_command=True, last=True))
    kind, body = read_pdu(conversation)
    assert (kind, answered_status(body)) == (4, (0xC000, "no data set came with the request"))
    conversation.close()


def test_garbage_after_an_abort_is_neither_answered_nor_logged_six_bytes_at_a_time(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Found by `make fuzz`: each six bytes cost an A-ABORT and a line of the log."""
    listener = make()
    with caplog.at_level(logging.WARNING):
        conversation = associated(listener)
        with contextlib.suppress(OSError):
            conversation.sendall(b"\xfe" * 60_000)
        answers = 0
        while read_pdu(conversation)[0]:
            answers += 1
        conversation.close()
        assert await_that(lambda: listener.active == 0)
    assert answers <= 2
    assert len([r for r in caplog.records if r.name.startswith("pynetdicom")]) < 10


def test_pynetdicoms_log_quotes_nothing_that_passed_through(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    listener = make()
    with caplog.at_level(logging.WARNING):
        conversation = associated(listener)
        long_uid = b"1.2.3." + b"9" * 70
        conversation.sendall(data_pdu(store_command(long_uid), is_command=True, last=True))
        conversation.sendall(data_pdu(b"xx", is_command=False, last=True))
        read_pdu(conversation)
        conversation.close()
        assert await_that(lambda: listener.active == 0)
    said = [r for r in caplog.records if r.name.startswith("pynetdicom")]
    assert said
    assert not [r for r in said if "999999" in r.getMessage() or r.exc_info]


# ------------------------------------------------------------------------------------------------ the end


def test_draining_lets_an_association_finish(make: Make, kept: Kept) -> None:
    listener = make()
    conversation = associated(listener)
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    aborted: list[int] = []
    draining = threading.Thread(target=lambda: aborted.append(listener.drain(30)))
    draining.start()
    assert await_that(lambda: refused(listener), 30)
    conversation.sendall(data_pdu(bytes(100), is_command=False, last=True))
    assert answered_status(read_pdu(conversation)[1]) == (0x0000, "")
    conversation.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
    assert read_pdu(conversation)[0] == 6
    conversation.close()
    draining.join(30)
    assert aborted == [0]
    assert len(kept.received) == 1


def refused(listener: Listener) -> bool:
    """Whether nobody listens there any more."""
    try:
        connected(listener).close()
    except OSError:
        return True
    return False


def test_draining_aborts_who_stays_too_long(make: Make, spool: Path) -> None:
    listener = make(timeouts=Timeouts())
    before = settled_threads()
    idle, stuck = associated(listener), associated(listener)
    stuck.sendall(data_pdu(store_command(), is_command=True, last=True))
    stuck.sendall(data_pdu(bytes(5000), is_command=False, last=False)[:300])
    assert await_that(lambda: len(list(spool.iterdir())) == 1)
    started = time.monotonic()
    assert listener.drain(0.3) == 2
    assert time.monotonic() - started < 20  # without the deadline it would be the time-out of a minute
    assert read_pdu(idle)[0] == 7
    assert await_that(lambda: listener.active == 0)
    assert not list(spool.iterdir())
    assert await_that(lambda: threading.active_count() < before)
    idle.close()
    stuck.close()


def test_draining_lets_in_who_asked_before(make: Make, kept: Kept) -> None:
    """A request that was being looked at had half a second; then the connection was cut, and counted as nothing."""
    asked, decide = threading.Event(), threading.Event()

    def admit(*_: str) -> None:
        asked.set()
        decide.wait(30)

    listener = make(admit=admit)
    aborted: list[int] = []
    draining = threading.Thread(target=lambda: aborted.append(listener.drain(30)))

    def late() -> None:
        assert asked.wait(30)
        draining.start()
        time.sleep(1.5)
        decide.set()

    holding = threading.Thread(target=late)
    holding.start()
    conversation = associated(listener)
    holding.join()
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    conversation.sendall(data_pdu(bytes(100), is_command=False, last=True))
    assert answered_status(read_pdu(conversation)[1]) == (0x0000, "")
    conversation.sendall(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
    assert read_pdu(conversation)[0] == 6
    conversation.close()
    draining.join(30)
    assert aborted == [0] and len(kept.received) == 1


def test_draining_waits_until_the_last_association_is_told_of(make: Make) -> None:
    """It counted as over before it was told of: what the role writes down at its end lacked it."""
    told: list[Ended] = []

    def observe(ended: Ended) -> None:
        time.sleep(0.5)
        told.append(ended)

    listener = make(observe=observe)
    associated(listener).close()
    assert await_that(lambda: listener.active == 0)
    listener.drain(10)
    assert [one.refusal for one in told] == [None]


# ------------------------------------------------------------------------------------------------ TLS


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, Path]:
    return certificates(tmp_path)


@pytest.fixture
def tls(pem: dict[str, Path]) -> ssl.SSLContext:
    return server_context(Tls(ca=pem["ca"], cert=pem["server"], key=pem["server_key"]))


@pytest.mark.peers
def test_storescu_over_tls_with_its_certificate_is_served(
    make: Make, kept: Kept, tls: ssl.SSLContext, pem: dict[str, Path], tmp_path: Path
) -> None:
    data = film()
    listener = make(tls=tls)
    done = storescu(listener, "-xe", "+tls", pem["client_key"], pem["client"], "+cf", pem["ca"], write(tmp_path, data))
    assert done.returncode == 0, done.stderr
    assert dataset_of(kept.files[0]) == dataset_of(data)


@pytest.mark.peers
def test_a_peer_without_a_certificate_is_refused_and_the_log_says_why(
    make: Make, kept: Kept, tls: ssl.SSLContext, pem: dict[str, Path], tmp_path: Path
) -> None:
    with structlog.testing.capture_logs() as lines:
        listener = make(tls=tls)
        assert storescu(listener, "-xe", "+tla", "+cf", pem["ca"], write(tmp_path, film())).returncode != 0
        assert await_that(lambda: any(one["event"] == "tls_handshake_failed" for one in lines))
    assert kept.received == []


def test_who_does_not_get_as_far_as_an_association_is_told_of_with_the_cause(
    make: Make, tls: ssl.SSLContext, pem: dict[str, Path]
) -> None:
    ended: list[Ended] = []
    some = Timeouts(acse=5.0, network=5.0, dimse=5.0)
    plain = make(observe=ended.append, max_associations=1, timeouts=some)
    secured = make(observe=ended.append, tls=tls, timeouts=some)

    def after(conversation: socket.socket, *sent: bytes) -> Ended:
        before = len(ended)
        for one in sent:
            conversation.sendall(one)
        with contextlib.suppress(OSError):
            conversation.recv(1024)
        conversation.close()
        assert await_that(lambda: len(ended) > before)
        return ended[-1]

    assert after(connected(plain), b"\x16\x03\x01\x02\x00\x01").cause is Cause.SPEAKS_TLS
    assert after(connected(secured), request_pdu()).cause is Cause.TLS
    huge = after(connected(plain), b"\x01\x00" + (1 << 31).to_bytes(4, "big"))
    assert (huge.cause, huge.refusal) == (Cause.PDU, None)
    assert huge.reason == "a PDU of 2147483648 bytes is over the cap of 1048576"
    assert after(connected(plain), b"GET / HTTP/1.0\r\n\r\n").cause is Cause.BROKEN
    assert after(connected(plain), request_pdu()[:40]).cause in (Cause.BROKEN, Cause.SILENT)
    granted = after(associated(plain), b"\x04\x00" + (1 << 31).to_bytes(4, "big"))
    assert (granted.cause, granted.refusal, granted.calling_aet != "") == (None, None, True)
    assert "over the cap" in granted.reason
    told, before = associated(plain), len(ended)
    told.sendall(b"\x04\x00" + (1 << 31).to_bytes(4, "big"))
    told.settimeout(10)
    # PS3.8 table 9-26: A-ABORT by the provider, unrecognised or unexpected; then it hangs up on what goes on.
    assert (told.recv(1), told.recv(9)[7:8]) == (b"\x07", b"\x02")
    told.close()
    assert await_that(lambda: len(ended) > before)
    first = associated(plain)
    second = after(connected(plain), request_pdu())
    assert (second.refusal, second.cause) == (Refusal.LIMIT, None)
    first.close()
    assert await_that(lambda: ended[-1].refusal is None)
    assert ended[-1].reason == ""  # it closed by itself
    crowd = [connected(plain) for _ in range(SPARE_SEATS + 2)]
    assert await_that(lambda: any(one.cause is Cause.CONNECTIONS for one in ended))
    for one in crowd:
        one.close()


def test_idle_connections_do_not_hold_up_a_handshake(make: Make, tls: ssl.SSLContext, pem: dict[str, Path]) -> None:
    from cxrnode.dicom.tls import client_context

    listener = make(tls=tls, timeouts=Timeouts())
    before = settled_threads()
    idle = [connected(listener) for _ in range(20)]
    context = client_context(Tls(ca=pem["ca"], cert=pem["client"], key=pem["client_key"]))
    node = sender.Destination(name="N", aet="CXRNODE", host="localhost", port=listener.address[1], tls=context)
    started = time.monotonic()
    sender.echo(node, calling_aet="TEST")
    assert time.monotonic() - started < hardening.HANDSHAKE_S  # before any idle one was given up
    assert await_that(lambda: threading.active_count() <= before, hardening.HANDSHAKE_S + 30)
    for one in idle:
        one.close()


# ------------------------------------------------------------------------------------------------ start-up


def test_what_strangers_talk_to_loads_no_codec_and_no_network_of_others() -> None:
    """OpenCV's wheel holds FFmpeg and an OpenSSL of its own."""
    code = (
        "import sys, cxrnode.roles.receive, cxrnode.roles.send\n"
        "print([m for m in ('cv2', 'torch', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_it_is_ready_within_two_seconds_and_without_torch(spool: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from cxrnode.dicom.listener import Answer, Listener\n"
        f"l = Listener(ae_title='CXRNODE', folder=Path({str(spool)!r}), admit=lambda *a: None,\n"
        "             receive=lambda r: Answer(status=0), host='127.0.0.1')\n"
        "l.start(); print(time.process_time())  # the machine may be busy with other things\n"
        "print([m for m in ('torch', 'torchvision', 'highdicom', 'matplotlib', 'sqlalchemy') if m in sys.modules])\n"
        "l.close()\n"
    )
    took = []
    for _ in range(3):  # where two threads share a core, each takes more of it for the same work
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        seconds, heavy = done.stdout.splitlines()
        assert heavy == "[]"
        took.append(float(seconds))
        if took[-1] < 2.0:
            break
    assert min(took) < 2.0


def test_implicit_little_endian_is_taken_when_it_is_all_that_is_offered(make: Make, kept: Kept) -> None:
    conversation = associated(make())
    conversation.sendall(data_pdu(store_command(), is_command=True, last=True))
    conversation.sendall(data_pdu(b"\x08\0\x60\0\x02\0\0\0CR", is_command=False, last=True))
    read_pdu(conversation)
    conversation.close()
    assert kept.received[0].transfer_syntax_uid == ImplicitVRLittleEndian
    assert dataset_of(kept.files[0]) == b"\x08\0\x60\0\x02\0\0\0CR"
