"""A worklist that is worked off over the web: UPS-RS as PS3.18 chapter 11 and PS3.4 annex CC have it, for the tests.

No server of it can be installed here. It refuses what the standard lets it refuse: a claim of what is claimed, a change
under another Transaction UID, a completion without what was performed, a cancellation without a date.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid


class WorklistServer:
    """One worklist. `requester_in_path`: it wants to be told who asks, as dcm4chee does."""

    def __init__(self, *, requester_in_path: bool = False) -> None:
        self.items: dict[str, Dataset] = {}
        self.keys: dict[str, str] = {}
        self.told: list[tuple[str, str]] = []
        self.requester_in_path = requester_in_path
        #: Called with (method, path); where it returns True the deed is done and the answer is lost.
        self.lose_answer: Callable[[str, str], bool] = lambda method, path: False
        self.broken = False
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
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_GET = do_PUT = do_POST = _do

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/dicom-web"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

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
        return 200, None

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
