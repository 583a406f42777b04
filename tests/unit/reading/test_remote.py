"""The engine that is somewhere else, asked by two threads: one reads films, the other whether more may be claimed."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from cxrnode.errors import Transient
from cxrnode.https import Away
from cxrnode.reading import remote
from cxrnode.reading.bundle import load_bundle
from cxrnode.reading.oip import Array, Served
from cxrnode.sections import Server


class OneAtATime:
    """A client that tells what was asked of it while it was being asked."""

    where = "tiny at triton:8000"

    def __init__(self, server: Server, model: str) -> None:
        self.reading = threading.Event()
        self.overlaps: list[str] = []
        self._asked = threading.Lock()

    def _ask(self, what: str, seconds: float) -> None:
        if not self._asked.acquire(blocking=False):
            self.overlaps.append(what)
            return
        time.sleep(seconds)
        self._asked.release()

    def describe(self) -> Served:
        self._ask("describe", 0.0)
        raise Away("it does not answer")

    def infer(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> Mapping[str, Array]:
        self.reading.set()
        self._ask("infer", 0.5)
        raise Away("it does not answer")


def test_a_server_is_not_asked_who_it_is_while_it_reads(
    made_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both went over one connection: the films waited, or the server was left alone for longer, for no fault of its."""
    monkeypatch.setattr(remote, "OipClient", OneAtATime)
    engine = remote.RemoteEngine(load_bundle(made_once), Server(url="http://triton:8000"), tmp_path)
    client = engine._client
    assert isinstance(client, OneAtATime)

    def read() -> None:
        with pytest.raises(Transient):
            engine.read([np.zeros((64, 64), np.uint8)])

    reading = threading.Thread(target=read)
    reading.start()
    assert client.reading.wait(30.0)
    assert not engine.ready()
    reading.join()
    assert client.overlaps == []
