"""A real viewer in a real browser: OHIF's built page before an Orthanc's DICOMweb, in Debian's Chromium.

Page and archive stand behind one small server, so that the browser asks one origin alone; every other host is out of
its reach. What the page asked for, what it was answered and what it complained of is kept for the test to look at.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import http.server
import io
import json
import mimetypes
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from playwright.sync_api import ConsoleMessage, FloatRect, Locator, sync_playwright
from playwright.sync_api import Page as BrowserPage

from tests.peers import REPOSITORY, Orthanc, absent, require_tool

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
VIEWER = REPOSITORY / ".viewer" / "package" / "dist"
_ROOT = "/dicom-web"
_SIZE = (1600, 1000)
_BROWSER = (
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


def require_viewer() -> Path:
    """Return the folder of OHIF's built page; skip the test, or fail it under CXRNODE_REQUIRE_PEERS=1, without it."""
    if not (VIEWER / "index.html").is_file():
        absent("the OHIF viewer is not here: scripts/install-viewer (with npm)", "CXRNODE_REQUIRE_PEERS")
    return VIEWER


def dicomweb_settings() -> dict[str, Any]:
    """What Orthanc's configuration gains so that it speaks DICOMweb; skips the test without the plugin."""
    if not PLUGIN.is_file():
        absent("orthanc-dicomweb is not installed: make peers", "CXRNODE_REQUIRE_PEERS")
    return {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": f"{_ROOT}/", "EnableWado": False}}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One request of the browser, and how it was answered."""

    path: str
    status: int


class Origin(http.server.ThreadingHTTPServer):
    """One origin: OHIF's files, its configuration, and the archive's DICOMweb handed on."""

    daemon_threads = True

    def __init__(self, viewer: Path, archive: Orthanc) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.viewer = viewer
        self.archive = archive
        self.asked: list[Asked] = []

    @property
    def url(self) -> str:
        """Where the browser finds it."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def dicomweb(self) -> list[Asked]:
        """What was asked of the archive."""
        return [one for one in self.asked if one.path.startswith(_ROOT)]

    @property
    def configuration(self) -> str:
        """OHIF's app-config.js: one DICOMweb source, this origin."""
        root = f"{self.url}{_ROOT}"
        source = {
            "name": "archive",
            "friendlyName": "archive of the tests",
            "qidoRoot": root,
            "wadoRoot": root,
            "wadoUriRoot": root,
            "qidoSupportsIncludeField": False,
            "imageRendering": "wadors",
            "thumbnailRendering": "wadors",
            "enableStudyLazyLoad": True,
            "supportsFuzzyMatching": False,
            "supportsWildcard": True,
            "omitQuotationForMultipartRequest": True,
            "bulkDataURI": {"enabled": True},
        }
        config = {
            "routerBasename": None,
            "extensions": [],
            "modes": [],
            "customizationService": {},
            "showStudyList": True,
            "maxNumberOfWebWorkers": 2,
            "showWarningMessageForCrossOrigin": False,
            "showCPUFallbackMessage": False,
            "showLoadingIndicator": True,
            "showErrorDetails": "always",
            "investigationalUseDialog": {"option": "never"},
            "defaultDataSourceName": "archive",
            "dataSources": [
                {
                    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
                    "sourceName": "archive",
                    "configuration": source,
                }
            ],
        }
        return f"window.config = {json.dumps(config)};"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Origin
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A file of the page, or what the archive answers."""
        path = urllib.parse.urlsplit(self.path).path
        if path.startswith(_ROOT):
            self._hand_on()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", self.server.configuration.encode())
        else:
            self._file(path)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: `asked` keeps it."""

    def _hand_on(self) -> None:
        # With the browser's own Host, so that the archive names this origin in what it answers.
        headers = {k: v for k, v in self.headers.items() if k.lower() in ("accept", "host")}
        upstream = http.client.HTTPConnection(self.server.archive.host, self.server.archive.http_port, timeout=60)
        with contextlib.closing(upstream):
            upstream.request("GET", self.path, headers=headers)
            answer = upstream.getresponse()
            body = answer.read()
        self._answer(answer.status, answer.headers.get("Content-Type") or "application/octet-stream", body)

    def _file(self, path: str) -> None:
        root = self.server.viewer.resolve()
        file = (root / urllib.parse.unquote(path).lstrip("/")).resolve()
        if not file.is_relative_to(root):
            self._answer(404, "text/plain", b"")
            return
        # A single page: what is no file is a route of its own.
        if not file.is_file():
            file = root / "index.html"
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._answer(200, kind, file.read_bytes())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.server.asked.append(Asked(self.path, status))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the browser changed its mind
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)


@contextlib.contextmanager
def serving(viewer: Path, archive: Orthanc) -> Iterator[Origin]:
    """The origin, served by threads of this process until the end of the block."""
    origin = Origin(viewer, archive)
    thread = threading.Thread(target=origin.serve_forever, daemon=True)
    thread.start()
    try:
        yield origin
    finally:
        origin.shutdown()
        origin.server_close()
        thread.join(10)
