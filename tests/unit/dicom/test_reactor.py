"""The bell that wakes an association's thread."""

from __future__ import annotations

import os
import socket
import threading
import time

from cxrnode.dicom.reactor import Bell


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_ring_ends_the_wait_and_is_no_byte() -> None:
    bell = Bell()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        threading.Timer(0.05, bell.ring).start()
        began = time.monotonic()
        assert not bell.wait(ours, 30.0)
        assert time.monotonic() - began < 10.0
        assert not bell.wait(ours, 0.0)
    bell.end()


def test_rings_before_a_wait_end_it_once() -> None:
    bell = Bell()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(3):
            bell.ring()
        began = time.monotonic()
        assert not bell.wait(ours, 30.0)
        assert time.monotonic() - began < 10.0
        began = time.monotonic()
        assert not bell.wait(ours, 0.2)
        assert time.monotonic() - began >= 0.2
    bell.end()


def test_bytes_and_the_end_of_the_stream_are_told() -> None:
    bell = Bell()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.send(b"x")
            assert bell.wait(ours, 30.0)
            assert ours.recv(1) == b"x"
        assert bell.wait(ours, 30.0)
    bell.end()


def test_a_ring_after_the_end_does_nothing_and_no_descriptor_is_left() -> None:
    before = descriptors()
    bells = [Bell() for _ in range(5)]
    for bell in bells:
        bell.end()
        bell.ring()
        bell.end()
    del bell
    assert descriptors() == before
    bells = [Bell()]
    bells.clear()
    assert descriptors() == before
