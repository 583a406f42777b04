"""A process's row in the list of all: there while it lives, gone when it ended in good order."""

from __future__ import annotations

import threading
import time

from cxrnode.roles.heartbeat import Heartbeat
from cxrnode.store import fleet
from cxrnode.store.database import Database
from cxrnode.store.fleet import Process


class SlowToClear(threading.Event):
    """The thread is held up just before it clears its bell."""

    def clear(self) -> None:
        time.sleep(0.5)
        super().clear()


def test_the_end_is_noticed_by_a_thread_that_was_about_to_clear_its_bell(database: Database) -> None:
    """The role waited for it, five seconds of the twenty that it has to end."""
    process = Process(owner="test", node="here", role="send", version="1", revision="1", config_digest="")
    beating = Heartbeat(database, process)
    beating._changed = SlowToClear()
    with beating:
        time.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 4.0
    assert fleet.members(database) == []
