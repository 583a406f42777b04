"""Those who send films: DCMTK's storescu and dcmsend, and Orthanc. Each keeps a film until it got Success for it."""

from __future__ import annotations

import json
import random
import re
import subprocess
import threading
import time
import urllib.error
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.peers import Orthanc, require_tool
from tests.torture.films import Film

#: What storescu prints before it sends a file, what dcmsend prints, and what both got for it.
_FILE = re.compile(r"Sending file: (.+)$")
_MESSAGE = re.compile(r"Sending C-STORE Request \(MsgID (\d+),")
_SUCCESS = re.compile(r"Received (?:Store|C-STORE) Response \(Success\)")


class Sender(threading.Thread):
    """Sends its films in a random order of batches, again and again until each is acknowledged.

    `may_go` holds the films back to the pace of the faults, so that these have something to strike.
    """

    def __init__(
        self, films: Sequence[Film], *, aet: str, port: int, seed: str, may_go: Callable[[], bool], give_up: float
    ) -> None:
        super().__init__(daemon=True, name=aet)
        self.aet = aet
        self.port = port
        self.acknowledged: set[Path] = set()
        self.tries = 0
        self.refused = 0
        self.films = tuple(films)
        self._chance = random.Random(seed)
        self._may_go = may_go
        self._give_up = give_up

    def run(self) -> None:
        until = time.monotonic() + self._give_up
        waiting = list(self.films)
        while waiting and time.monotonic() < until:
            if not self._may_go():
                time.sleep(0.1)
                continue
            batch = waiting[: self._chance.randint(1, 5)]
            self.tries += len(batch)
            got = self.send(batch)
            self.acknowledged |= got
            self.refused += len(batch) - len(got)
            waiting = [film for film in waiting if film.path not in got]
            if len(got) < len(batch):
                time.sleep(0.3)

    def send(self, batch: Sequence[Film]) -> set[Path]:
        """Send some films over one association; the files that were answered with Success."""
        raise NotImplementedError


class Storescu(Sender):
    """DCMTK's storescu, which proposes JPEG 2000 beside the native syntaxes."""

    def send(self, batch: Sequence[Film]) -> set[Path]:
        paths = [str(film.path) for film in batch]
        return self._sent(["storescu", "-v", "-xv", "-nh"], paths)

    def _sent(self, tool: list[str], paths: list[str]) -> set[Path]:
        command = [require_tool(tool[0]), *tool[1:], "-aet", self.aet, "-aec", "CXRNODE", "-to", "5", "-ta", "10"]
        done = subprocess.run(
            [*command, "-td", "15", "127.0.0.1", str(self.port), *paths],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=900,
            check=False,
        )
        got: set[Path] = set()
        under_way = ""
        for line in (done.stdout + done.stderr).splitlines():
            if named := _FILE.search(line):
                under_way = named.group(1)
            elif numbered := _MESSAGE.search(line):
                under_way = paths[int(numbered.group(1)) - 1]
            elif under_way and _SUCCESS.search(line):
                got.add(Path(under_way))
                under_way = ""
        return got


class Dcmsend(Storescu):
    """DCMTK's dcmsend. It names no files but numbers their messages, in their order: give it native films alone."""

    def send(self, batch: Sequence[Film]) -> set[Path]:
        return self._sent(["dcmsend", "-v", "-dn", "-nh", "-ma"], [str(film.path) for film in batch])


class Forwarding(Sender):
    """Orthanc, which got the films earlier and forwards them: a job of its own for each batch."""

    def __init__(
        self,
        archive: Orthanc,
        films: Sequence[Film],
        *,
        port: int,
        seed: str,
        may_go: Callable[[], bool],
        give_up: float,
    ) -> None:
        super().__init__(films, aet=archive.aet, port=port, seed=seed, may_go=may_go, give_up=give_up)
        self._archive = archive
        self._ids: dict[Path, str] = {}
        for film in films:
            self._ids[film.path] = json.loads(archive.request("/instances", film.path.read_bytes()))["ID"]

    def send(self, batch: Sequence[Film]) -> set[Path]:
        asked = {"Resources": [self._ids[film.path] for film in batch], "Synchronous": True, "Timeout": 10}
        try:
            self._archive.register("CXRNODE", "CXRNODE", self.port)  # a killed Orthanc forgets it
            self._archive.request("/modalities/CXRNODE/store", json.dumps(asked).encode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return set()
        return {film.path for film in batch}
