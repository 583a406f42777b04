"""The supervisor's own faults: it goes on whatever becomes of a child."""

from __future__ import annotations

import errno
import gc
import subprocess
import time
from pathlib import Path

import pytest

from cxrnode.config import parse_config
from cxrnode.store.database import Database
from cxrnode.store.upgrade import upgrade
from cxrnode.supervisor import Supervisor, bind_remedy


def sockets() -> int:
    """The open sockets of this process; what the tests before left to the garbage collector is gone."""
    gc.collect()
    return sum(descriptor.is_socket() for descriptor in Path("/proc/self/fd").iterdir())


def test_a_role_that_cannot_be_started_is_tried_again_later_and_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "no process id left")

    database = Database(f"sqlite+pysqlite:///{tmp_path / 'test.sqlite'}")
    upgrade(database)
    config = parse_config({"node": {"data_dir": str(tmp_path), "roles": ["tend"]}})
    supervisor = Supervisor(config, database, config_path=None)
    [child] = supervisor._children
    monkeypatch.setattr(subprocess, "Popen", no_room)
    before, first, began = sockets(), child.backoff, time.monotonic()
    supervisor._watch(child)
    assert child.process is None
    assert child.not_before >= began + first
    assert child.backoff == 2 * first
    assert sockets() == before
    database.close()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EACCES, "CAP_NET_BIND_SERVICE"),
        (errno.EADDRNOTAVAIL, "listen.host is no address of this machine"),
        (errno.EADDRINUSE, "stop what holds it"),
    ],
)
def test_the_remedy_for_an_address_that_cannot_be_used_goes_by_its_reason(number: int, remedy: str) -> None:
    assert remedy in bind_remedy(OSError(number, ""))
