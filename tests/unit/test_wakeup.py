"""Wake-ups: a hint without content, which may be lost and never blocks."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrnode import wakeup
from cxrnode.wakeup import Waiter, wake


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    tmp_path_factory.getbasetemp()  # of the whole run: it stands where it would have stood
    # Not below tmp_path: a socket's path holds at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wake", dir="/tmp") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield


def test_a_waiter_without_a_hint_waits_its_time(tmp_path: Path) -> None:
    with Waiter(tmp_path, "infer") as waiter:
        started = time.monotonic()
        assert not waiter.wait(0.05)
        assert time.monotonic() - started >= 0.045


def test_a_hint_ends_the_wait_at_once(tmp_path: Path) -> None:
    with Waiter(tmp_path, "infer") as waiter:
        threading.Timer(0.05, wake, (tmp_path, "infer")).start()
        started = time.monotonic()
        assert waiter.wait(20.0)
        assert time.monotonic() - started < 10.0


def test_a_hint_given_before_the_wait_is_not_lost_and_many_count_once(tmp_path: Path) -> None:
    with Waiter(tmp_path, "infer") as waiter:
        for _ in range(5):
            wake(tmp_path, "infer")
        assert waiter.wait(0.05)
        assert not waiter.wait(0.01)


def test_every_process_of_the_role_is_woken_and_no_other_role(tmp_path: Path) -> None:
    with Waiter(tmp_path, "send") as one, Waiter(tmp_path, "send") as two, Waiter(tmp_path, "infer") as other:
        wake(tmp_path, "send")
        assert [one.wait(0.05), two.wait(0.05), other.wait(0.05)] == [True, True, False]


def test_another_node_on_the_machine_is_not_woken(tmp_path: Path) -> None:
    with Waiter(tmp_path / "a", "infer") as waiter:
        wake(tmp_path / "b", "infer")
        assert not waiter.wait(0.02)


def test_one_that_comes_as_the_last_of_the_others_leaves_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked, uid = wakeup._folder(tmp_path), [0], os.getuid()

    def last_one_leaves() -> int:
        asked[0] += 1
        if asked[0] == 2:  # between the folder's making and the socket's
            folder.rmdir()
        return uid

    monkeypatch.setattr(os, "getuid", last_one_leaves)
    with Waiter(tmp_path, "infer") as waiter:
        assert asked[0] > 2, "nothing was in its way"
        wake(tmp_path, "infer")
        assert waiter.wait(20.0)


def test_a_full_queue_never_blocks(tmp_path: Path) -> None:
    with Waiter(tmp_path, "infer") as waiter:
        started = time.monotonic()
        for _ in range(2000):
            wake(tmp_path, "infer")
        assert time.monotonic() - started < 20.0
        assert waiter.wait(0.05)


def test_hinting_to_nobody_is_no_error(tmp_path: Path) -> None:
    wake(tmp_path, "infer")


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path, "infer")
    path = waiter._path
    assert path is not None
    assert waiter._socket is not None
    waiter._socket.close()  # as a kill does: the file stays
    assert path.exists()
    wake(tmp_path, "infer")
    assert not path.exists()


def test_closing_removes_the_socket_and_may_be_done_twice(tmp_path: Path) -> None:
    waiter = Waiter(tmp_path, "infer")
    path = waiter._path
    assert path is not None
    waiter.close()
    assert not path.exists()
    waiter.close()


def test_without_a_socket_every_wait_is_a_poll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with Waiter(tmp_path, "infer") as waiter:
        wake(tmp_path, "infer")
        assert not waiter.wait(0.01)


def test_a_waiter_whose_socket_cannot_be_bound_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A socket's path holds at most 107 bytes: binding fails once the folder stands.
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with Waiter(tmp_path, "infer") as waiter:
        started = time.monotonic()
        assert not waiter.wait(0.05)
        assert time.monotonic() - started >= 0.045


def test_a_folder_under_our_name_that_is_somebody_elses_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = wakeup._folder(tmp_path)
    folder.mkdir()
    monkeypatch.setattr("os.getuid", lambda: 12345)
    monkeypatch.setattr("cxrnode.wakeup._folder", lambda _data_dir: folder)
    with Waiter(tmp_path, "infer") as waiter:
        assert not waiter.wait(0.01)
    assert list(folder.iterdir()) == []
