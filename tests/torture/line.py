"""A line between two DICOM peers that goes bad on demand: a TCP relay of the loopback with moods."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from enum import StrEnum

from tests.peers import unused_port

#: Bytes a second of a slow line.
SLOW = 1024


class Mood(StrEnum):
    """What a line does with what is sent over it."""

    GOOD = "good"
    AWAY = "away"  # nobody listens
    CLOSING = "closing"  # connections are accepted and closed at once
    CUTTING = "cutting"  # each connection is cut after some hundred kilobytes at most
    SILENT = "silent"  # accepted, read, and never answered
    SLOW = "slow"


class Line:
    """Relays `port` to `target` on the loopback. Set `mood` with `turn`; connections under way feel it too."""

    def __init__(self, target: int, *, seed: str) -> None:
        self.port = unused_port()
        self.target = target
        self.mood = Mood.GOOD
        self.cuts = 0
        #: Connections that met a bad mood.
        self.met = 0
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listening: socket.socket | None = None
        self._ended = False
        self._listen()

    def turn(self, mood: Mood) -> None:
        """Go into another mood. Leaving for `AWAY` ends what is under way, as a machine that is switched off does."""
        self.mood = mood
        if mood is Mood.AWAY:
            self._deaf()
            self._hang_up()
        elif self._listening is None:
            self._listen()

    def close(self) -> None:
        """End the relay."""
        self._ended = True
        self._deaf()
        self._hang_up()

    def _listen(self) -> None:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        listening.listen(64)
        self._listening = listening
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()

    def _deaf(self) -> None:
        if self._listening is not None:
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None

    def _hang_up(self) -> None:
        with self._lock:
            conversations = list(self._open)
        for one in conversations:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self, listening: socket.socket) -> None:
        while not self._ended:
            try:
                caller, _ = listening.accept()
            except OSError:
                return
            self.met += self.mood is not Mood.GOOD
            if self.mood is Mood.CLOSING:
                caller.close()
                continue
            threading.Thread(target=self._relay, args=(caller,), daemon=True).start()

    def _relay(self, caller: socket.socket) -> None:
        silent = self.mood is Mood.SILENT
        with self._lock:
            left = self._chance.randrange(300, 400_000) if self.mood is Mood.CUTTING else -1
        called = socket.socket()
        with caller, called:
            with self._lock:
                self._open |= {caller, called}
            try:
                if silent:
                    while caller.recv(1 << 16):
                        pass
                    return
                called.connect(("127.0.0.1", self.target))
                back = threading.Thread(target=self._pump, args=(called, caller, -1), daemon=True)
                back.start()
                self._pump(caller, called, left)
                back.join(30)
            except OSError:
                pass
            finally:
                with self._lock:
                    self._open -= {caller, called}

    def _pump(self, source: socket.socket, sink: socket.socket, left: int) -> None:
        """Pass on what comes until it ends, or `left` bytes went (-1: all)."""
        try:
            while piece := source.recv(SLOW // 4 if self.mood is Mood.SLOW else 1 << 16):
                if self.mood is Mood.SLOW:
                    time.sleep(len(piece) / SLOW)
                if 0 <= left <= len(piece):
                    sink.sendall(piece[:left])
                    self.cuts += 1
                    for end in (source, sink):
                        end.shutdown(socket.SHUT_RDWR)
                    return
                left -= len(piece) if left >= 0 else 0
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
