"""A process's row in the list of all machines' processes, renewed from a thread of its own while it lives."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import structlog

from cxrnode.errors import Transient
from cxrnode.store import fleet
from cxrnode.store.database import Database
from cxrnode.store.fleet import Process

log = structlog.get_logger()


class Heartbeat:
    """Renews the row every few seconds; a database that is away is no fault of the process, and is asked again."""

    def __init__(self, database: Database, process: Process) -> None:
        """Write the row once the block is entered."""
        self._database = database
        self._process = process
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def say(self, *, device: str, models: Mapping[str, str]) -> None:
        """What the process works on, and the models that it has loaded: name -> bundle digest."""
        with self._lock:
            self._process = dataclasses.replace(self._process, device=device, models=dict(models))
        self._changed.set()

    def _run(self) -> None:
        while True:
            self._changed.clear()
            if self._ended:  # looked at after the bell is cleared, which the end rings
                return
            with self._lock:
                process = self._process
            try:
                fleet.beat(self._database, process)
            except Transient as fault:
                log.warning("heartbeat_missed", reason=str(fault))
            self._changed.wait(fleet.BEAT_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._changed.set()
        self._thread.join(5.0)
        try:
            fleet.leave(self._database, self._process.owner)
        except Transient:
            log.warning("heartbeat_missed", reason="the row of this process stays until it is forgotten")
