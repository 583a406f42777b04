"""The bell that wakes an association's thread, and the values of the PDUs that it reads."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
import types
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom.dimse_primitives import C_ECHO
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.pdu_primitives import P_DATA

from cxrnode.dicom.reactor import Bell, Value, WholeMessages, add_values, values_of


def descriptors() -> int:
    """The open descriptors of bells; what the tests before left to the garbage collector is gone."""
    gc.collect()
    held = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the look itself, or of another thread
            held += "eventfd" in os.readlink(descriptor)
    return held


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


def pdu(values: list[tuple[int, bytes]]) -> bytes:
    one = P_DATA()
    one.presentation_data_value_list.extend(values)
    return bytes(P_DATA_TF(one).encode())


@given(st.lists(st.tuples(st.integers(1, 255), st.binary(min_size=1, max_size=200)), max_size=6))
@settings(deadline=None)
def test_values_come_out_as_they_went_in(values: list[tuple[int, bytes]]) -> None:
    body = memoryview(pdu(values))[6:]
    assert [(context_id, bytes(fragment)) for context_id, fragment in values_of(body)] == values


@given(st.lists(st.tuples(st.integers(1, 255), st.binary(min_size=1, max_size=40)), min_size=1, max_size=3), st.data())
@settings(deadline=None)
def test_a_length_that_does_not_fit_is_refused_as_pynetdicom_refuses_it(
    values: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    whole = bytearray(pdu(values))
    place = data.draw(st.integers(6, len(whole) - 1))
    whole[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(7, len(whole))) :]
    whole[2:6] = (len(whole) - 6).to_bytes(4)
    theirs = P_DATA_TF()
    try:
        theirs.decode(bytes(whole))
        expected = [
            (item.presentation_context_id, item.presentation_data_value)
            for item in theirs.presentation_data_value_items
        ]
        # What is empty, it takes; its message control header is missed later, and ends the association as well.
        fits = all(value for _, value in expected)
    except Exception:  # noqa: BLE001 - whatever it raises ends the association
        fits = False
    if fits:
        assert [(context_id, bytes(fragment)) for context_id, fragment in values_of(memoryview(whole)[6:])] == expected
    else:
        with pytest.raises(ValueError, match="a value"):
            list(values_of(memoryview(whole)[6:]))


_VALUES = st.lists(st.tuples(st.integers(1, 255), st.binary(min_size=1, max_size=40)), max_size=3)


@given(st.lists(_VALUES, max_size=5), st.booleans())
@settings(deadline=None)
def test_values_of_several_pdus_come_in_their_order_and_those_before_a_broken_one_are_kept(
    several: list[list[tuple[int, bytes]]], broken: bool
) -> None:
    whole, found = b"".join(map(pdu, several)), list[Value]()
    if broken:
        with pytest.raises(ValueError, match="a value"):
            add_values(memoryview(whole + bytes((4, 0, 0, 0, 0, 3, 0, 0, 0))), found)
    else:
        add_values(memoryview(whole), found)
    assert [(context_id, bytes(one)) for context_id, one in found] == [one for values in several for one in values]


class Queue:
    """What a provider of the upper layer gets, with other threads let in between any two fragments."""

    def __init__(self) -> None:
        self.fragments: list[bytes] = []

    def send_pdu(self, primitive: P_DATA) -> None:
        self.fragments.append(primitive.presentation_data_value_list[0][1])
        time.sleep(0.001)


def test_messages_of_two_threads_go_out_one_after_the_other() -> None:
    association = types.SimpleNamespace(
        dul=Queue(), is_requestor=True, acceptor=types.SimpleNamespace(maximum_length=40), _handlers={}
    )
    association.get_handlers = lambda _event: []
    messages = WholeMessages(association)  # type: ignore[arg-type]

    def send() -> None:
        for _ in range(5):
            request = C_ECHO()
            request.MessageID = 1
            messages.send_msg(request, 1)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    controls = [fragment[0] for fragment in association.dul.fragments]
    per_message = len(controls) // 15
    assert per_message > 1
    assert controls == ([1] * (per_message - 1) + [3]) * 15
