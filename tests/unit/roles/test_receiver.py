"""What many associations ask of one receiver at the same time."""

from __future__ import annotations

import threading
import time
from typing import Any

from cxrnode.roles.receive import Receiver
from tests.unit.roles.conftest import MakeContext


class Delayed(Receiver):
    """The digest of the rules is noted late."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_rules_hash" and hasattr(self, "_room"):
            time.sleep(0.3)
        super().__setattr__(name, value)


def test_two_films_at_once_are_recorded_under_the_digest_of_the_rules(make_context: MakeContext) -> None:
    """The second of the first two after a start, or after a change of a model's mode, had none, or the old one."""
    receiver, context = Delayed(make_context()), make_context()
    told: list[str] = []
    threads = [
        threading.Thread(target=lambda: told.append(receiver._rules_digest({"chest": "active"}))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert told == [context.config.rules_digest({"chest": "active"})] * 2
