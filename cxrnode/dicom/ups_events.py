"""Hearing what a worklist says by itself: subscriptions (PS3.18 11.10) and their event reports over a WebSocket (8.10).

A request to cancel a step that is under way goes this way alone (PS3.4 CC.2.2): a step as it can be asked for does not
say that somebody wants it cancelled. What is said while the channel is closed is not heard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import time
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any
from urllib.parse import urlencode, urlsplit

from pydicom.dataset import Dataset
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from cxrnode.dicom.header import PARSE_FAULTS
from cxrnode.dicom.ups import StepState, in_path, text_of
from cxrnode.errors import Transient
from cxrnode.https import HttpClient

#: UPS Global Subscription and UPS Filtered Global Subscription (PS3.6): a subscription to all steps, also later ones.
_GLOBAL = "1.2.840.10008.5.1.4.34.5"
_FILTERED = "1.2.840.10008.5.1.4.34.5.1"
#: Of one event report, in bytes, and of an answer to a subscription.
_LARGEST = 1 << 20
#: Event reports that are looked at in one go.
_MOST = 200
#: Before the channel is opened again after it could not be, in seconds: at first, and at most.
_PAUSE, _LONGEST = 5.0, 300.0


class EventType(IntEnum):
    """Event Type ID (0000,1002) of PS3.4 table CC.2.4-1."""

    STATE = 1
    CANCEL_REQUESTED = 2
    PROGRESS = 3
    SERVER = 4
    ASSIGNED = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One event report: of which step, what happened, and its state where that is what is said."""

    uid: str
    type: EventType
    state: StepState | None


class Channel:
    """The event channel of one worklist, opened and subscribed to where it is not."""

    def __init__(self, server: HttpClient, *, ae_title: str, match: Mapping[str, str], connect_timeout: float) -> None:
        """`match` as for `Worklist`: the steps of which something is to be heard; seconds."""
        self._server = server
        self._ae_title = ae_title
        self._match = dict(match)
        self._seconds = connect_timeout
        self._line: ClientConnection | None = None
        self._until_closed = contextlib.ExitStack()
        self._opened_at = 0.0
        self._next_at = 0.0
        self._pause = _PAUSE
        #: Where the server says that the channel is.
        self._where = ""
        #: Whether the server took the subscription to all steps, so that none is needed to each that is claimed.
        self._to_all = False

    @property
    def is_open(self) -> bool:
        """Whether something would be heard now."""
        return self._line is not None

    def heard(self) -> list[Heard]:
        """What was said since the last call; does not wait for more. Raises Transient where the channel does not open.

        After that it says nothing for a while, and tries again later.
        """
        if self._line is None:
            if time.monotonic() < self._next_at:
                return []
            self._open()
        found: list[Heard] = []
        while self._line is not None and len(found) < _MOST:
            try:
                said = self._line.recv(timeout=0)
            except TimeoutError:
                break
            except (ConnectionClosed, OSError):
                self.close()
                self._next_at = self._opened_at + _PAUSE  # one that is ended at once each time is not asked each time
                break
            if (one := _report(said)) is not None:
                found.append(one)
        return found

    def follow(self, uid: str) -> None:
        """Subscribe to a step that was claimed, where the subscription to all was not taken. Raises Transient."""
        if self._to_all:
            return
        where = self._subscribe(uid)
        if where is not None:
            self._where = where
            if self._line is None:
                self._line = self._connect(where)

    def close(self) -> None:
        """Hear nothing more. The subscription stays: it is made for one AE title, and another machine may have it."""
        self._line = None
        self._until_closed.close()

    def _open(self) -> None:
        try:
            query = {"filter": ",".join(f"{key}={value}" for key, value in self._match.items())}
            where = self._subscribe(_FILTERED, query) if self._match else self._subscribe(_GLOBAL)
            self._to_all = where is not None
            self._line = self._connect(where or self._where)
        except Transient:
            self._next_at = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, _LONGEST)
            raise
        self._opened_at, self._pause = time.monotonic(), _PAUSE

    def _subscribe(self, uid: str, query: Mapping[str, str] | None = None) -> str | None:
        """Subscribe; where the server says that its channel is, or None where it does not take the subscription."""
        path = f"/workitems/{in_path(uid)}/subscribers/{in_path(self._ae_title)}"
        answer = self._server.ask("POST", path + (f"?{urlencode(query)}" if query else ""), largest=_LARGEST)
        if answer.status in (200, 201, 202, 204):
            return answer.headers.get("Content-Location", "")
        if answer.status in (400, 403, 404, 405, 409, 501):
            return None
        raise Transient(f"the worklist at {self._server.where} takes no subscription now (HTTP {answer.status})")

    def _connect(self, said: str) -> ClientConnection:
        """Open the WebSocket at the configured server; of what the server says of the place, its path counts.

        A port counts where the host is the configured one: a server behind a proxy names itself by what it knows.
        """
        path = f"{self._server.base}/subscribers/{in_path(self._ae_title)}"
        host, port = self._server.host, self._server.port
        try:
            place = urlsplit(said)
            if place.path:
                path = place.path
                port = place.port or port if place.hostname == host else port
            named = f"[{host}]" if ":" in host else host
            uri = f"{'wss' if self._server.tls else 'ws'}://{named}:{port}{path}"
            # A socket of ours: no redirection is followed then, and no proxy of the machine's variables is asked.
            opened = connect(
                uri,
                sock=socket.create_connection((host, port), timeout=self._seconds),
                ssl=self._server.tls,
                additional_headers=self._server.authorisation,
                user_agent_header="cxrnode",
                compression=None,
                proxy=None,
                open_timeout=self._seconds,
                close_timeout=self._seconds,
                max_size=_LARGEST,
            )
            return self._until_closed.enter_context(opened)
        except (OSError, WebSocketException, ValueError) as fault:
            raise Transient(
                f"the worklist at {self._server.where} opens no event channel ({type(fault).__name__})"
            ) from None


def _report(said: str | bytes) -> Heard | None:
    """An event report in DICOM JSON; None for what is none, or of a kind that there is not."""
    try:
        parsed = json.loads(said)
        several: Sequence[Any] = parsed if isinstance(parsed, list) else [parsed]
        report = Dataset.from_json(several[0])
        kind = EventType(int(report.get("EventTypeID") or 0))
        uid = text_of(report, "AffectedSOPInstanceUID")
    except (*PARSE_FAULTS, RecursionError):
        return None
    state = text_of(report, "ProcedureStepState")
    return Heard(uid=uid, type=kind, state=StepState(state) if state in list(StepState) else None)
