"""What a TCP load balancer does to a listener besides passing films on: connects that ask for nothing.

Every kind of health check, and connections cut in the middle: no seat, thread, descriptor or file is left over.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cxrnode.dicom import sender
from cxrnode.dicom.listener import Answer, Listener, Timeouts
from cxrnode.dicom.seats import Seats
from tests.integration.scripted import read_pdu, request_pdu, settled_threads
from tests.peers import wait_until

#: Associations that may be open together: one seat that leaks is soon missed.
SEATS = 3


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    (tmp_path / "spool").mkdir()
    made = Listener(
        ae_title="CXRNODE",
        folder=tmp_path / "spool",
        admit=lambda calling, called, address: None,
        receive=lambda received: Answer(status=0),
        host="127.0.0.1",
        max_associations=SEATS,
        seats=Seats(tmp_path / "seats", SEATS),
        timeouts=Timeouts(acse=1.0, network=1.0, dimse=1.0),
    )
    made.start()
    yield made
    made.close()


def connected(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.address[1]), timeout=5)


def bare(listener: Listener) -> None:
    """AWS NLB, keepalived: a connect and a FIN."""
    connected(listener).close()


def reset(listener: Listener) -> None:
    """HAProxy's `option tcp-check`, F5's half-open monitor: a connect and a RST."""
    with connected(listener) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_closed(listener: Listener) -> None:
    """No more will come, and the answer is waited for."""
    with connected(listener) as line:
        line.shutdown(socket.SHUT_WR)
        line.recv(1)


def begun(listener: Listener) -> None:
    """The first bytes of a request for an association, then a RST."""
    with connected(listener) as line:
        line.sendall(request_pdu()[:50])
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def accepted_and_gone(listener: Listener) -> None:
    """A whole request, then a RST before or after the answer."""
    with connected(listener) as line:
        line.sendall(request_pdu())
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def http(listener: Listener) -> None:
    """A health check of the wrong kind."""
    with connected(listener) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        line.settimeout(3)
        try:
            while line.recv(1024):
                pass
        except (TimeoutError, ConnectionError):
            pass


@pytest.mark.parametrize(
    ("check", "times"),
    [(bare, 200), (reset, 200), (half_closed, 100), (begun, 100), (accepted_and_gone, 50), (http, 20)],
)
def test_health_checks_leak_no_association(
    listener: Listener, tmp_path: Path, check: Callable[[Listener], None], times: int
) -> None:
    node = sender.Destination(name="node", aet="CXRNODE", host="127.0.0.1", port=listener.address[1])
    sender.echo(node, calling_aet="TEST")
    threads, descriptors = settled_threads(), len(os.listdir("/proc/self/fd"))
    for _ in range(times):
        check(listener)
    # All seats are there at once: as many associations as there may be.
    wait_until(lambda: _all_seats(node), seconds=20, what="all seats")
    wait_until(lambda: threading.active_count() <= threads, seconds=20, what="the threads of before")
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors, seconds=20, what="the descriptors of before")
    assert list((tmp_path / "spool").iterdir()) == []


def test_half_open_connections_take_no_seat_and_are_given_up(listener: Listener) -> None:
    """Forty that say nothing, or half a request, and stay: films come in beside them."""
    node = sender.Destination(name="node", aet="CXRNODE", host="127.0.0.1", port=listener.address[1])
    sender.echo(node, calling_aet="TEST")
    threads = settled_threads()
    lines = [connected(listener) for _ in range(40)]
    for line in lines[::2]:
        line.sendall(request_pdu()[:50])
    assert _all_seats(node)
    for line in lines:  # each is ended by the listener, after its time-out
        line.settimeout(20)
        try:
            while line.recv(1024):
                pass
        except ConnectionError:
            pass
        line.close()
    wait_until(lambda: threading.active_count() <= threads, seconds=20, what="the threads of before")


def _all_seats(node: sender.Destination) -> bool:
    """Whether as many associations can be open together as there are seats."""
    open_now: list[socket.socket] = []
    try:
        for _ in range(SEATS):
            line = socket.create_connection((node.host, node.port), timeout=10)
            open_now.append(line)
            line.sendall(request_pdu(calling="BALANCED"))
            if read_pdu(line)[0] != 2:  # A-ASSOCIATE-AC
                return False
        return True
    finally:
        for line in open_now:
            line.close()
