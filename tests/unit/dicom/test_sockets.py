"""The socket of an association, as other threads than its own use it."""

from __future__ import annotations

import random
import select
import socket
import threading

import pytest

from cxrnode.dicom.hardening import PDU_CAP, BoundedSocket


def test_a_socket_that_its_own_thread_closes_meanwhile_is_hung_up_all_the_same() -> None:
    """Who ended an association from outside met an AttributeError: the sender's role ended, or a listener's drain."""
    ours, theirs = socket.socketpair()

    class Closing(BoundedSocket):
        def __init__(self) -> None:
            self.looks = 0

        @property
        def socket(self) -> socket.socket | None:  # type: ignore[override]
            self.looks += 1
            return ours if self.looks == 1 else None

    with ours, theirs:
        Closing().hang_up()
        assert theirs.recv(1) == b""


class Line(BoundedSocket):
    """The reading half alone, over a socket of its own."""

    def __init__(self, line: socket.socket) -> None:
        self.socket = line
        self.heard_at = self.moved_at = 0.0
        self._memory = bytearray()
        self._start = self._end = 0
        line.settimeout(5.0)

    @property
    def _patience(self) -> float:
        return 5.0


@pytest.mark.parametrize("seed", range(8))
def test_what_comes_is_read_as_it_was_sent_however_it_was_cut(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice((1, 6, 200, 4096, 131_066, 262_144, 600_000)) for _ in range(30)]
    parts = [chance.randbytes(size) for size in sizes]
    ours, theirs = socket.socketpair()

    def send() -> None:
        whole, at = b"".join(parts), 0
        while at < len(whole):
            count = chance.choice((1, 7, 5000, 131_072, 900_000))
            theirs.sendall(whole[at : at + count])
            at += count
        theirs.close()

    sender = threading.Thread(target=send)
    sender.start()
    with ours:
        line = Line(ours)
        for part in parts:
            if len(part) > 6:  # as a PDU is read: its header first, which may be looked at and put back
                assert line.recv(6) == part[:6]
                line.put_back(6)
            assert line.received(len(part)) == part
        assert line.recv(10) == b""
    sender.join()


def test_what_waits_in_memory_is_more_to_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Line(ours)
        assert not line.more()
        theirs.sendall(b"headerbody")
        assert line.more()
        assert line.recv(6) == b"header"
        assert line.more()
        assert bytes(line.received(4)) == b"body"
        assert not line.more()


def test_several_pdus_are_taken_from_the_kernel_at_once() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with ours, theirs:
        line = Line(ours)
        theirs.sendall(bytes(20_000))
        assert len(line.received(20_000)) == 20_000  # from here on there is room for half a megabyte
        theirs.sendall(bytes(60_000))
        line.received(20_000)
        assert select.select([ours], [], [], 0)[0] == []
        assert (len(line.received(20_000)), len(line.received(20_000))) == (20_000, 20_000)


def test_small_pdus_that_come_in_numbers_are_taken_many_at_once_and_a_quiet_line_holds_little() -> None:
    """16 KiB is what most peers announce."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    with ours, theirs:
        line = Line(ours)
        for _ in range(5):
            theirs.sendall(bytes(4096))
            line.received(4096)
        assert len(line._memory) == 16 * 1024
        theirs.sendall(bytes(8 * 16_384))
        for _ in range(3):
            line.received(16_384)
        assert select.select([ours], [], [], 0)[0] == []
        assert [len(line.received(16_384)) for _ in range(5)] == [16_384] * 5


def test_a_peer_that_closes_in_the_middle_gives_what_came() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        line = Line(ours)
        theirs.sendall(b"half")
        theirs.close()
        assert bytes(line.received(100)) == b"half"
        assert line.unread is None


def test_more_than_the_cap_is_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Line(ours)
        with pytest.raises(OSError, match="over the cap"):
            line.received(PDU_CAP + 1)
        assert line.unread is not None


def test_whole_pdus_of_a_kind_that_were_read_are_taken_together() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = Line(ours)
        pdus = [bytes((4, 0)) + len(body).to_bytes(4) + body for body in (b"first", b"", b"third")]
        other, cut = bytes((5, 0, 0, 0, 0, 4)) + bytes(4), pdus[0][:8]
        theirs.sendall(b"".join((*pdus, other, cut)))
        assert line.more()
        assert line.recv(2) == pdus[0][:2]  # reads on, all that waits
        line.put_back(2)
        assert line.held(4, 2) == b"".join(pdus[:2])
        assert len(line.held(4, 0)) == 0
        assert len(line.held(5, 9)) == 0
        assert line.held(4, 9) == pdus[2]
        assert line.held(5, 9) == other
        assert len(line.held(4, 9)) == 0, "not all of it is there"
        assert line.recv(8) == cut
