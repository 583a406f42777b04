"""A worklist that is worked off over the web: UPS-RS as PS3.18 chapter 11 and PS3.4 annex CC have it, for the tests.

No server of it can be installed here. It refuses what the standard lets it refuse: a claim of what is claimed, a change
under another Transaction UID, a completion without what was performed, a cancellation without a date. Who subscribed
is told over a WebSocket what happens to its steps.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

GLOBAL = "1.2.840.10008.5.1.4.34.5"
FILTERED = "1.2.840.10008.5.1.4.34.5.1"


class WorklistServer:
    """One worklist. `requester_in_path`: it wants to be told who asks, as dcm4chee does."""

    def __init__(self, *, requester_in_path: bool = False, tls: ssl.SSLContext | None = None) -> None:
        self.items: dict[str, Dataset] = {}
        self.keys: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []
        self.requester_in_path = requester_in_path
        #: Called with (method, path); where it returns True the deed is done and the answer is lost.
        self.lose_answer: Callable[[str, str], bool] = lambda method, path: False
        self.broken = False
        #: Which subscriptions it takes: "filtered" (and to all), "each" (to one step alone), "" for none.
        self.takes = "filtered"
        #: What it says of its channel's place instead of where that is.
        self.says_channel = ""
        self.subscriptions: dict[str, dict[str, str]] = {}
        self.channels: list[ServerConnection] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                status, answer = outer.answer(self.command, self.path, body)
                if outer.lose_answer(self.command, self.path):
                    self.close_connection = True
                    return
                said = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                if "/subscribers/" in self.path and status == 201:
                    place = f"ws://127.0.0.1:{outer.events_port}/ws/subscribers/{self.path.rpartition('/')[2]}"
                    self.send_header("Content-Location", outer.says_channel or place.partition("?")[0])
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_PUT = do_POST = _do

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self._events = serve(self._channel, "127.0.0.1", 0, ssl=tls)
        self._events_thread = threading.Thread(target=self._events.serve_forever, daemon=True)
        self._events_thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self._server.server_port}/dicom-web"

    @property
    def events_port(self) -> int:
        return int(self._events.socket.getsockname()[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self.hang_up()
        self._events.shutdown()
        self._events_thread.join(5)

    def hang_up(self) -> None:
        """End every event channel."""
        for channel in list(self.channels):
            channel.close()

    def schedule(self, *films: Dataset, label: str = "CHEST AI") -> str:
        """Add a step about these films; return its UID."""
        item = Dataset()
        item.SOPInstanceUID = generate_uid()
        item.ProcedureStepState = "SCHEDULED"
        item.WorklistLabel = label
        item.ScheduledWorkitemCodeSequence = [Dataset()]
        item.ScheduledWorkitemCodeSequence[0].CodeValue = "110004"
        item.ScheduledWorkitemCodeSequence[0].CodingSchemeDesignator = "DCM"
        item.ScheduledWorkitemCodeSequence[0].CodeMeaning = "Computer Aided Detection"
        inputs = []
        for film in films:
            one, reference = Dataset(), Dataset()
            one.StudyInstanceUID, one.SeriesInstanceUID = film.StudyInstanceUID, film.SeriesInstanceUID
            reference.ReferencedSOPClassUID = film.SOPClassUID
            reference.ReferencedSOPInstanceUID = film.SOPInstanceUID
            one.ReferencedSOPSequence = [reference]
            inputs.append(one)
        item.InputInformationSequence = inputs
        self.items[str(item.SOPInstanceUID)] = item
        self.report(str(item.SOPInstanceUID), 1)
        return str(item.SOPInstanceUID)

    def state(self, uid: str) -> str:
        return str(self.items[uid].ProcedureStepState)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if self.broken:
            return 503, None
        parts = urlsplit(path)
        where = [unquote(one) for one in parts.path.removeprefix("/dicom-web/").split("/")]
        match method, where:
            case "GET", ["workitems"]:
                return self._search(dict(parse_qsl(parts.query)))
            case "GET", ["workitems", uid]:
                return (200, [self.items[uid].to_json_dict()]) if uid in self.items else (404, None)
            case "POST", ["workitems", uid]:
                return self._update(uid, unquote(parts.query), _dataset(body))
            case "POST", ["workitems", uid, "cancelrequest"]:
                return self._request_cancel(uid)
            case "POST", ["workitems", uid, "subscribers", subscriber] if subscriber:
                return self._subscribe(uid, dict(parse_qsl(parts.query)))
            case "PUT", ["workitems", uid, "state"] if not self.requester_in_path:
                return self._change(uid, _dataset(body))
            case "PUT", ["workitems", uid, "state", requester] if self.requester_in_path and requester:
                return self._change(uid, _dataset(body))
        return 404, None

    def _search(self, query: dict[str, str]) -> tuple[int, Any]:
        limit = int(query.pop("limit", "100"))
        query.pop("includefield", None)
        found = [
            one.to_json_dict()
            for one in self.items.values()
            if all(str(one.get(key, "")) == value for key, value in query.items())
        ]
        return (200, found[:limit]) if found else (204, None)

    def _change(self, uid: str, wanted: Dataset) -> tuple[int, Any]:
        item, key = self.items.get(uid), str(wanted.get("TransactionUID", ""))
        if item is None:
            return 404, None
        state, new = item.ProcedureStepState, wanted.ProcedureStepState
        if new == "IN PROGRESS" and state == "SCHEDULED" and key:
            self.keys[uid] = key
        elif state != "IN PROGRESS" or new == "IN PROGRESS":
            return 409, None
        elif key != self.keys[uid]:
            return 400, None
        elif (new == "COMPLETED" and not _performed(item)) or (new == "CANCELED" and not _canceled(item)):
            return 409, None
        item.ProcedureStepState = new
        self.told.append((uid, str(new)))
        self.report(uid, 1)
        return 200, None

    def _request_cancel(self, uid: str) -> tuple[int, Any]:
        """PS3.18 11.8: what nobody claimed is cancelled here; who performs a step is told, and nothing is changed."""
        item = self.items.get(uid)
        if item is None:
            return 404, None
        if item.ProcedureStepState == "SCHEDULED":
            item.ProcedureStepState = "CANCELED"
            self.report(uid, 1)
            return 202, None
        if item.ProcedureStepState != "IN PROGRESS" or not self._listens(uid):
            return 409, None
        self.report(uid, 2)
        return 202, None

    def _subscribe(self, uid: str, query: dict[str, str]) -> tuple[int, Any]:
        to_all = uid in (GLOBAL, FILTERED)
        if not self.takes or (to_all and self.takes == "each") or not (to_all or uid in self.items):
            return 404, None
        self.subscriptions[uid] = query
        return 201, None

    def _listens(self, uid: str) -> bool:
        return bool(self.channels) and any(one in self.subscriptions for one in (uid, GLOBAL, FILTERED))

    def report(self, uid: str, kind: int) -> None:
        """Tell who listens what happened to a step (PS3.4 table CC.2.4-1)."""
        if not self._listens(uid):
            return
        said = Dataset()
        said.AffectedSOPInstanceUID, said.EventTypeID = uid, kind
        if kind == 1:
            said.ProcedureStepState = self.items[uid].ProcedureStepState
        else:
            said.RequestingAE, said.ReasonForCancellation = "REQUESTER", "wrong film of DOE^JANE"
        for channel in list(self.channels):
            channel.send(said.to_json())

    def _channel(self, channel: ServerConnection) -> None:
        """One event channel, until it ends."""
        assert channel.request is not None
        if not channel.request.path.startswith("/ws/subscribers/"):
            channel.close(1008)
            return
        self.channels.append(channel)
        try:
            for _ in channel:
                continue
        except ConnectionClosed:
            pass
        finally:
            self.channels.remove(channel)

    def _update(self, uid: str, key: str, change: Dataset) -> tuple[int, Any]:
        item = self.items.get(uid)
        if item is None:
            return 404, None
        if item.ProcedureStepState != "IN PROGRESS" or key != self.keys[uid]:
            return 400, None
        for element in change:
            if element.keyword != "TransactionUID":
                item.add(element)
        return 200, None


def _dataset(body: bytes) -> Dataset:
    said = json.loads(body)
    assert isinstance(said, list) and len(said) == 1
    return Dataset.from_json(said[0])


def _performed(item: Dataset) -> bool:
    """What PS3.4 table CC.2.5-3 requires of a completed step."""
    done = item.get("UnifiedProcedureStepPerformedProcedureSequence")
    return bool(done) and all(
        done[0].get(keyword)
        for keyword in (
            "PerformedStationNameCodeSequence",
            "PerformedProcedureStepStartDateTime",
            "PerformedProcedureStepEndDateTime",
            "PerformedWorkitemCodeSequence",
        )
    )


def _canceled(item: Dataset) -> bool:
    progress = item.get("ProcedureStepProgressInformationSequence")
    return bool(progress) and bool(
        progress[0].get("ProcedureStepCancellationDateTime")
        and progress[0].get("ProcedureStepDiscontinuationReasonCodeSequence")
    )
