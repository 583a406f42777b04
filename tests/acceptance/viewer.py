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
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

from tests.peers import REPOSITORY, Orthanc, absent, require_tool

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
VIEWER = REPOSITORY / ".viewer" / "package" / "dist"
#: The whole window in pixels: a screen of 1600 x 1000.
_ROOT = "/dicom-web"
SIZE = (1600, 1000)
#: How long one thing may take to show, in seconds: drawn without a graphics card, on a busy machine.
_PATIENCE = 120.0
_BROWSER = [
    "--no-sandbox",  # the tests may run as root
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
]


def require_viewer() -> Path:
    """Return the folder of OHIF's built page; skip the test, or fail it under CXRNODE_REQUIRE_PEERS=1, without it."""
    if not (VIEWER / "index.html").is_file():
        absent("the OHIF viewer is not here: make viewer (with npm)", "CXRNODE_REQUIRE_PEERS")
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


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """One row of the viewer's list of series."""

    modality: str
    description: str
    images: int


class Ohif:
    """OHIF with one study open, as a person uses it: what it lists, what it shows, what it complains of."""

    def __init__(self, page: Page, origin: Origin, shots: Path) -> None:
        self._page = page
        self._shots = shots
        self.origin = origin
        #: Errors that no code of the page caught.
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        # Otherwise a guided tour covers the page. The frame of a PDF has no storage.
        page.add_init_script("window.localStorage?.setItem('shownTours', JSON.stringify(['basicViewerTour']))")

    def open(self, study_instance_uid: str, *, seconds: float = _PATIENCE) -> None:
        """Open a study and wait until its first picture stands: OHIF then writes its window and its number beside it.

        Not the canvas, which is there before it: where another series is opened before the first picture has come from
        the archive, OHIF 3.13.2 leaves the viewport black for good.
        """
        self._page.goto(f"{self.origin.url}/viewer?StudyInstanceUIDs={study_instance_uid}")
        self._page.wait_for_selector("canvas", timeout=seconds * 1000)
        _until(self._settled, seconds, lambda: f"a first picture with its window, not {self.text()!r}")

    def series(self, count: int, *, seconds: float = _PATIENCE) -> list[Listed]:
        """The list of series once it has `count` rows; what it has by then, where it does not come to that."""
        rows = self._rows()
        with contextlib.suppress(TimeoutError):
            _until(lambda: rows.count() >= count, seconds)
        found = []
        for text in rows.all_inner_texts():
            modality, *description, _, images = text.splitlines()
            found.append(Listed(modality, " ".join(description), int(images)))  # a film may have no description
        return sorted(found, key=lambda one: (one.modality, one.description))

    def show(self, modality: str, begins: str) -> None:
        """Open a series by its modality and the beginning of its description, with a double click as everybody does."""
        self.dismiss()
        row = self._rows().filter(has_text=modality).filter(has_text=begins)
        row.dblclick()

    def close_player(self) -> None:
        """Close the film player that OHIF lays over every picture once a stack was opened, by its key."""
        player = self._page.get_by_text("FPS", exact=True)
        if player.count():
            self._page.keyboard.press("c")
            _until(lambda: not player.count(), 15, lambda: "the film player to be closed")

    def scroll(self) -> None:
        """One notch of the mouse wheel on the picture."""
        box = self._pane().bounding_box()
        assert box is not None
        self._page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        self._page.mouse.wheel(0, 120)

    def text(self) -> str:
        """All words in the viewport: a text report, or what is written over a picture."""
        return self._pane().inner_text()

    def wait_for_text(self, words: str, *, seconds: float = _PATIENCE) -> str:
        """The viewport's words once `words` are among them."""
        _until(lambda: words in self.text(), seconds, lambda: f"{words!r} in {self.text()!r}")
        return self.text()

    def wait_for_picture(self, picture: Image.Image, *, seconds: float = _PATIENCE) -> float:
        """Wait until the viewport shows this picture; return the likeness that was reached, a correlation."""
        reached: list[float] = []

        def shown() -> bool:
            reached.append(likeness(self._pixels(), picture))
            return reached[-1] > 0.95

        _until(shown, seconds, lambda: f"a likeness of 0.95, not {max(reached):.3f}")
        return reached[-1]

    def wait_for_colour(self, colour: tuple[int, int, int], *, seconds: float = _PATIENCE) -> None:
        """Wait until a thousand pixels of the viewport have this colour or nearly: for what scales its page itself."""

        def shown() -> bool:
            apart = np.abs(np.asarray(self._pixels(), int) - colour).max(axis=2)
            return int((apart < 24).sum()) >= 1000

        _until(shown, seconds, lambda: f"a thousand pixels of {colour}")

    def troubled(self) -> bool:
        """Whether the viewer says that something went wrong."""
        return self._page.get_by_text("Something went wrong").count() > 0

    def dismiss(self) -> None:
        """Forget what it has complained of, on the page too."""
        self.complaints.clear()
        with contextlib.suppress(TimeoutError):
            _until(lambda: not self.troubled(), 15)

    def shot(self, name: str) -> Path:
        """Keep a picture of the whole window."""
        path = self._shots / f"{name}.png"
        self._page.screenshot(path=path)
        return path

    def _settled(self) -> bool:
        words = self.text().split()
        return "W:" in words and any(re.fullmatch(r"\(?1/[1-9]\d*\)?", word) for word in words)

    def _rows(self) -> Locator:
        return self._page.locator("[data-cy=study-browser-thumbnail], [data-cy=study-browser-thumbnail-no-image]")

    def _pane(self) -> Locator:
        return self._page.locator("[data-cy=viewport-pane]").first

    def _pixels(self) -> Image.Image:
        return Image.open(io.BytesIO(self._pane().screenshot())).convert("RGB")


def likeness(shown: Image.Image, picture: Image.Image) -> float:
    """The correlation, over all pixels and colours, of a viewport with the picture fitted into its middle.

    0 for a blank viewport. What the viewer writes over the picture costs a little.
    """
    factor = min(shown.width / picture.width, shown.height / picture.height)
    width, height = round(picture.width * factor), round(picture.height * factor)
    left, top = (shown.width - width) // 2, (shown.height - height) // 2
    # At an eighth of the size: what counts is that it is the same picture, not how the viewer resamples.
    small = (max(1, width // 8), max(1, height // 8))
    there = np.asarray(shown.crop((left, top, left + width, top + height)).resize(small), np.float64).ravel()
    wanted = np.asarray(picture.convert("RGB").resize(small), np.float64).ravel()
    if there.std() == 0 or wanted.std() == 0:
        return 0.0
    return float(np.corrcoef(there, wanted)[0, 1])


@contextlib.contextmanager
def browsing(origin: Origin, shots: Path) -> Iterator[Ohif]:
    """OHIF in a browser of its own, closed at the end of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_tool("chromium"), headless=True, args=_BROWSER)
        try:
            page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
            page.set_default_timeout(120_000)
            yield Ohif(page, origin, shots)
        finally:
            browser.close()


def _until(holds: Callable[[], bool], seconds: float, what: Callable[[], str] = lambda: "") -> None:
    """Poll; raises TimeoutError. Tests must go on to say what they saw, so that this is not `wait_until`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what()}")
        time.sleep(0.2)
