"""Batches pass the line in order, their steps overlap, and a fault comes out once and stops those behind it."""

from __future__ import annotations

import threading

import pytest

from cxrnode.roles.line import Line


def test_batches_are_settled_in_the_order_in_which_they_came() -> None:
    settled: list[int] = []
    line = Line[int, int](lambda n: n * 10, settled.append)
    for number in range(20):
        line.put(number)
    line.drain()
    line.close()
    assert settled == [n * 10 for n in range(20)]


def test_one_batch_is_read_while_another_is_settled() -> None:
    both = threading.Barrier(2, timeout=20)

    def read(number: int) -> int:
        if number == 1:
            both.wait()
        return number

    def settle(number: int) -> None:
        if number == 0:
            both.wait()

    line = Line[int, int](read, settle)
    line.put(0)
    line.put(1)
    line.drain()
    line.close()


def test_no_more_than_a_few_are_under_way() -> None:
    go = threading.Event()
    taken: list[int] = []

    def read(number: int) -> int:
        go.wait(20)
        return number

    line = Line[int, int](read, taken.append)

    def feed() -> None:
        for number in range(6):
            line.put(number)

    feeder = threading.Thread(target=feed)
    feeder.start()
    feeder.join(0.3)
    assert feeder.is_alive()
    go.set()
    feeder.join(20)
    line.drain()
    line.close()
    assert taken == list(range(6))


def test_a_fault_comes_out_and_what_stands_behind_it_is_not_read() -> None:
    began, go = threading.Event(), threading.Event()
    read_at_all: list[int] = []

    def read(number: int) -> int:
        began.set()
        go.wait(20)
        read_at_all.append(number)
        if number == 0:
            raise ValueError("broken")
        return number

    settled: list[int] = []
    line = Line[int, int](read, settled.append)
    line.put(0)
    line.put(1)
    began.wait(20)
    go.set()
    with pytest.raises(ValueError, match="broken"):
        line.drain()
    assert (read_at_all, settled) == ([0], [])
    line.put(2)  # after the fault was told it goes on
    line.drain()
    line.close()
    assert settled == [2]
