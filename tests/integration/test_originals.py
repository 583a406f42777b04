"""`require_source`: results wait until the film itself is in the archive, which is asked by C-FIND or QIDO-RS."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.uid import ComputedRadiographyImageStorage, ImplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at run time
    StudyRootQueryRetrieveInformationModelFind,
)

from cxrnode.dicom.destination import AssociationFault, FaultKind, Place, StowDestination, Timeouts
from cxrnode.dicom.sender import Destination, Sent, open_association, send_files
from cxrnode.dicom.stow import open_stow
from cxrnode.roles.destinations import destination_of
from cxrnode.roles.leases import LeaseKeeper
from cxrnode.roles.sender import Sender
from cxrnode.store import changes, deliveries
from cxrnode.store.deliveries import DeliveryClaim
from cxrnode.store.schema import circuit, delivery
from tests.acceptance.viewer import dicomweb_settings
from tests.integration.scripted import film
from tests.integration.test_send_role import Bench
from tests.peers import Orthanc, require_tool, unused_port, wait_until

#: The film of `scripted.film`: study, series and its own UID.
SOURCE = ("2.25.2", "2.25.3", "2.25.1")
PLACE = Place(study_instance_uid=SOURCE[0], series_instance_uid=SOURCE[1], sop_instance_uid=SOURCE[2])


class Archive:
    """A storage SCP that answers C-FIND at the IMAGE level for the films that it `has`."""

    def __init__(self, *, answers: bool = True) -> None:
        self.has: set[str] = set()
        self.stored: list[str] = []
        self.asked: list[tuple[str, str, str, str]] = []
        self.status = 0x0000
        self._entity = AE("ARCHIVE")
        self._entity.add_supported_context(SecondaryCaptureImageStorage)
        if answers:
            self._entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        server = self._entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_C_FIND, self._find)],
        )
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()

    def _store(self, event: evt.Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))  # type: ignore[union-attr]
        return 0x0000

    def _find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        wanted = event.identifier
        self.asked.append(
            (
                wanted.QueryRetrieveLevel,
                str(wanted.StudyInstanceUID),
                str(wanted.SeriesInstanceUID),
                str(wanted.SOPInstanceUID),
            )
        )
        if self.status:
            yield self.status, None
        elif wanted.SOPInstanceUID in self.has:
            yield 0xFF00, wanted


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[list[Bench]]:
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.close()


def make(benches: list[Bench], folder: Path, port: int, **send: Any) -> Bench:
    node = {"aet": "ARCHIVE", "host": "127.0.0.1", "port": port, "require_source": True}
    patient = {"connect_timeout": "20s", "acse_timeout": "20s", "dimse_timeout": "20s"}
    benches.append(Bench(folder, {"PACS": node}, **patient, **send))
    return benches[-1]


def test_results_of_a_film_that_is_there_go_at_once(tmp_path: Path, benches: list[Bench]) -> None:
    archive = Archive()
    archive.has = {SOURCE[2]}
    with archive.running() as port:
        bench = make(benches, tmp_path, port)
        number = bench.report(1, "PACS", source=SOURCE)
        bench.start()
        bench.wait_state(number, "delivered")
    assert archive.asked == [("IMAGE", *SOURCE)]
    assert archive.stored == ["2.25.1000", "2.25.1001"]


def test_results_wait_for_their_film_without_costing_attempts(tmp_path: Path, benches: list[Bench]) -> None:
    archive = Archive()
    archive.has = {"2.25.99"}
    with archive.running() as port:
        bench = make(benches, tmp_path, port)
        waits = bench.report(1, "PACS", source=SOURCE)
        goes = bench.report(2, "PACS", source=("2.25.2", "2.25.3", "2.25.99"))
        bench.start()
        bench.wait_state(goes, "delivered")
        # More often than an object may be refused.
        wait_until(lambda: archive.asked.count(("IMAGE", *SOURCE)) > 4, seconds=60, what="several questions")
        row = bench.one(sa.select(delivery).where(delivery.c.job_id == waits))
        assert (bench.state(waits), row.attempts) == ("reported", 0)
        assert row.reason == "waits until the film itself is in PACS"
        assert [uid for uid in archive.stored if uid.startswith("2.25.1")] == []
        archive.has.add(SOURCE[2])
        bench.wait_state(waits, "delivered")
    assert [name for name, _ in bench.events(waits)].count("original_awaited") == 1
    assert not bench.one(sa.select(sa.func.count()).select_from(circuit).where(circuit.c.open.is_(True)))[0]


def test_a_delivery_that_was_claimed_before_sending_was_stopped_is_not_even_asked_about(
    tmp_path: Path, benches: list[Bench]
) -> None:
    """Else one that waited too long would fail while its archive is moved, say."""
    archive = Archive()
    with archive.running() as port:
        bench = make(benches, tmp_path, port, source_wait="1ms")
        number = bench.report(1, "PACS", source=SOURCE)
        claims = deliveries.claim(bench.database, destination="PACS", owner="test", limit=1, lease=60.0)
        paused = {changes.SENDING: "paused"}
        changes.ask(bench.database, paused, configured={}, reason="a test", by="anna", consent=False)
        sender = Sender(bench.context, destination_of(bench.config, "PACS"))
        with LeaseKeeper[DeliveryClaim](len, lease=60.0) as keeper:
            sender._send(claims, keeper)
        sender._reading.shutdown()
    assert (len(claims), archive.asked, archive.stored) == (1, [], [])
    row = bench.one(sa.select(delivery))
    assert (bench.state(number), row.state, row.lease_owner, row.attempts) == ("reported", "pending", None, 0)


def test_a_film_that_never_comes_parks_its_results_and_says_what_to_do(tmp_path: Path, benches: list[Bench]) -> None:
    archive = Archive()
    with archive.running() as port:
        bench = make(benches, tmp_path, port, source_wait="1s")
        number = bench.report(1, "PACS", source=SOURCE)
        bench.start()
        bench.wait_state(number, "failed")
    reason = bench.one(sa.select(delivery.c.reason))[0]
    assert "the film itself is not in PACS after 1s: send it there, then `cxrnode jobs resend" in reason
    assert archive.stored == []


@pytest.mark.parametrize("how", ["not offered", "refused"])
def test_an_archive_that_does_not_tell_parks_nothing_and_the_remedy_is_said(
    tmp_path: Path, benches: list[Bench], how: str
) -> None:
    archive = Archive(answers=how == "refused")
    archive.status = 0xC000
    with archive.running() as port:
        bench = make(benches, tmp_path, port)
        number = bench.report(1, "PACS", source=SOURCE)
        bench.start()
        wait_until(lambda: bench.one(sa.select(circuit.c.open)) is not None, seconds=60, what="an open circuit")
        assert "require_source = false" in bench.one(sa.select(circuit.c.reason))[0]
        assert bench.state(number) == "reported"
        assert bench.one(sa.select(delivery.c.attempts))[0] == 0


@pytest.mark.peers
def test_orthanc_is_asked_by_c_find_and_by_qido(tmp_path: Path) -> None:
    require_tool("Orthanc")
    archive = Orthanc(tmp_path / "orthanc", settings=dicomweb_settings())
    archive.start()
    try:
        archive.register("CXRNODE", "CXRNODE", unused_port())
        timeouts = Timeouts(connect=10.0, acse=10.0, dimse=20.0)
        destination = Destination(name="PACS", aet=archive.aet, host="127.0.0.1", port=archive.dicom_port)
        web = StowDestination(name="WEB", url=f"http://127.0.0.1:{archive.http_port}/dicom-web")

        def asked() -> list[bool]:
            pairs = [(SecondaryCaptureImageStorage, ImplicitVRLittleEndian)]
            with open_association(destination, calling_aet="CXRNODE", pairs=pairs, to_ask=True) as way:
                by_find = way.has(PLACE)
            with open_stow(web, timeouts=timeouts) as other:
                return [by_find, other.has(PLACE), other.has(PLACE)]

        assert asked() == [False, False, False]
        path = tmp_path / "film.dcm"
        path.write_bytes(film(sop_class=ComputedRadiographyImageStorage))
        [(_, sent)] = send_files([path], destination, calling_aet="CXRNODE")
        assert isinstance(sent, Sent)
        assert sent.status == 0
        assert asked() == [True, True, True]
    finally:
        archive.kill()


@pytest.mark.parametrize(
    ("status", "body", "there"),
    [
        (200, b"[]", False),
        (200, b"[{}]", True),
        (204, b"", False),
        (404, b"", False),
        (404, b"<html>no such page</html>", FaultKind.NO_QUERY),
        (200, b"<html>log in</html>", FaultKind.NO_QUERY),
        (200, b"{}", FaultKind.NO_QUERY),
        (400, b"", FaultKind.NO_QUERY),
        (401, b"", FaultKind.UNAUTHORISED),
        (503, b"", FaultKind.BUSY),
    ],
)
def test_what_a_web_server_answers_is_yes_no_or_a_fault(status: int, body: bytes, there: bool | FaultKind) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        web = StowDestination(name="WEB", url=f"http://127.0.0.1:{server.server_address[1]}/dicom-web")
        with open_stow(web, timeouts=Timeouts(connect=5.0, acse=5.0, dimse=5.0)) as way:
            if isinstance(there, FaultKind):
                with pytest.raises(AssociationFault) as fault:
                    way.has(PLACE)
                assert fault.value.kind is there
            else:
                assert way.has(PLACE) is there
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert asked == ["/dicom-web/studies/2.25.2/series/2.25.3/instances?SOPInstanceUID=2.25.1&limit=1"]
