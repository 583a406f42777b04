"""Results over the web: STOW-RS to Orthanc's DICOMweb, and to a scripted server for every answer and every silence."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.server
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from cxrnode.cli import main
from cxrnode.dicom import stow
from cxrnode.dicom.destination import AssociationFault, Credential, FaultKind, Sent, Stage, StowDestination, Timeouts
from cxrnode.dicom.outputs import KINDS, OPTIONAL, OutputSettings, build_outputs
from cxrnode.dicom.statuses import StatusClass
from cxrnode.dicom.tls import web_context
from cxrnode.errors import Rejected
from cxrnode.store.schema import circuit, delivery, delivery_output
from tests.acceptance.viewer import dicomweb_settings
from tests.integration.test_send_role import MakeBench, make_bench, object_bytes
from tests.peers import Orthanc, require_tool, unused_port, wait_until
from tests.unit.outputs.sources import make_film, make_report, make_saliency, make_source

__all__ = ["make_bench"]

SHORT = Timeouts(connect=30.0, acse=30.0, dimse=60.0)
#: For servers that do not answer.
IMPATIENT = Timeouts(connect=30.0, acse=30.0, dimse=1.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Posted:
    """One request as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def instance(self) -> bytes:
        """The one part of the body."""
        boundary = self.headers["Content-Type"].rpartition("boundary=")[2].encode()
        before, part, after = self.body.split(b"--" + boundary)
        assert (before, after) == (b"", b"--\r\n")
        head, _, instance = part.partition(b"\r\n\r\n")
        assert head == b"\r\nContent-Type: application/dicom"
        return instance.removesuffix(b"\r\n")

    @property
    def uid(self) -> str:
        found = re.search(rb"2\.25\.\d+", self.instance)
        assert found is not None
        return found[0].decode()


@dataclasses.dataclass(frozen=True, slots=True)
class Script:
    """What to answer: a status with a body, or one of the ways not to."""

    status: int = 200
    answer: Any = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: "cut": it hangs up unanswered; "half": within the headers; "early": it answers before it has read all; "mute";
    #: "drip": byte by byte; "bare": the status alone, without a length.
    manner: str = ""


def listed(*, stored: Mapping[str, int] | None = None, failed: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A Store Instances Response in the DICOM JSON model: UIDs with their warning (0: none) and failure reasons."""

    def item(uid: str, key: str, code: int) -> dict[str, Any]:
        found: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
        return found | ({key: {"vr": "US", "Value": [code]}} if code else {})

    answer: dict[str, Any] = {}
    if stored:
        answer["00081199"] = {"vr": "SQ", "Value": [item(uid, "00081196", code) for uid, code in stored.items()]}
    if failed:
        answer["00081198"] = {"vr": "SQ", "Value": [item(uid, "00081197", code) for uid, code in failed.items()]}
    return answer


class Server(http.server.ThreadingHTTPServer):
    """A web server on the loopback that keeps every request and answers each by the script."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.posted: list[Posted] = []
        self.script: Callable[[int, str], Script] = lambda number, uid: Script(200, listed(stored={uid: 0}))
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}/dicom-web"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that leaves is part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        early = self.server.script(len(self.server.posted), "")
        if early.manner == "early":
            self._answer(early)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        posted = Posted(self.path, dict(self.headers), body)
        self.server.posted.append(posted)
        script = self.server.script(len(self.server.posted) - 1, posted.uid if b"DICM" in body else "")
        if script.manner == "cut":
            self.close_connection = True
        elif script.manner == "half":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nServer: x\r\n")
            self.close_connection = True
        elif script.manner == "bare":
            self.wfile.write(f"HTTP/1.1 {script.status} x\r\nConnection: close\r\n\r\n".encode())
            self.close_connection = True
        elif script.manner == "mute":
            time.sleep(3)
        elif script.manner == "drip":
            with contextlib.suppress(OSError):
                for one in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100:
                    self.wfile.write(bytes([one]))
                    time.sleep(0.1)
        else:
            self._answer(script)

    def _answer(self, script: Script) -> None:
        told = script.answer
        body = b"" if told is None else told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(script.status)
        for name, value in script.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as made:
        yield made


def to(server: Server, **changes: Any) -> StowDestination:
    return StowDestination(name="WEB", url=server.url, **changes)


def stored(server: Server, data: bytes | None = None, timeouts: Timeouts = SHORT) -> Sent:
    with stow.open_stow(to(server), timeouts=timeouts) as way:
        return way.store(data or object_bytes("2.25.7"))


def fault_of(server: Server, timeouts: Timeouts = SHORT) -> AssociationFault:
    with pytest.raises(AssociationFault) as caught:
        stored(server, timeouts=timeouts)
    return caught.value


# ------------------------------------------------------------------------------------------- what an answer means


def test_an_instance_goes_as_the_bytes_it_is_and_the_same_request_goes_for_the_same_bytes(server: Server) -> None:
    data = object_bytes("2.25.7") + b"\r\n--not a boundary\r\n" * 50_000  # a megabyte: several pieces
    with stow.open_stow(to(server), timeouts=SHORT) as way:
        assert [way.store(data).kind, way.store(data).kind] == [StatusClass.SUCCESS] * 2
    first, second = server.posted
    assert first.instance == data
    assert (first.body, first.headers) == (second.body, second.headers)
    assert (first.path, first.headers["Accept"]) == ("/dicom-web/studies", "application/dicom+json")
    assert "2.25" not in str(first.headers)


@pytest.mark.parametrize(
    ("status", "answer", "expected", "kind"),
    [
        (200, listed(stored={"2.25.7": 0}), 0x0000, StatusClass.SUCCESS),
        (200, [listed(stored={"2.25.7": 0})], 0x0000, StatusClass.SUCCESS),
        (200, None, 0x0000, StatusClass.SUCCESS),
        (200, listed(stored={"2.25.8": 0}), 0x0110, StatusClass.TRANSIENT),
        (202, listed(stored={"2.25.7": 0xB000}), 0xB000, StatusClass.WARNING),
        (202, listed(stored={"2.25.7": 0xB007}), 0xB007, StatusClass.WARNING),
        (202, listed(stored={"2.25.8": 0}, failed={"2.25.7": 0xA700}), 0xA700, StatusClass.TRANSIENT),
        (202, listed(failed={"2.25.7": 0x0122}), 0x0122, StatusClass.PERMANENT),
        (202, None, 0x0110, StatusClass.TRANSIENT),
        (409, listed(failed={"2.25.7": 0xA900}), 0xA900, StatusClass.PERMANENT),
        (409, listed(failed={"2.25.7": 0xC122}), 0xC122, StatusClass.PERMANENT),
        (409, listed(failed={"2.25.7": 0x0110}), 0x0110, StatusClass.TRANSIENT),
        # It is there already: under a UID of ours that is the same object.
        (409, listed(failed={"2.25.7": 0x0111}), 0x0111, StatusClass.WARNING),
        (409, listed(failed={"2.25.7": 0xB00E}), 0xB00E, StatusClass.WARNING),
        # A warning among the failures is no storage.
        (409, listed(failed={"2.25.7": 0xB000}), 0xB000, StatusClass.TRANSIENT),
        (
            409,
            {"0008119A": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}},
            0xA700,
            StatusClass.TRANSIENT,
        ),
        (409, None, 0xC000, StatusClass.PERMANENT),
        (400, {"message": "PATIENT^NAME is wrong"}, 0xC000, StatusClass.PERMANENT),
        (413, None, 0xC000, StatusClass.PERMANENT),
        (415, None, 0x0122, StatusClass.PERMANENT),
        (500, None, 0x0110, StatusClass.TRANSIENT),
        (507, None, 0xA700, StatusClass.TRANSIENT),
        (200, {"00081199": {"Value": [{"00081155": 3}]}, "00081198": 7}, 0x0110, StatusClass.TRANSIENT),
    ],
)
def test_what_the_server_says_of_an_instance_has_its_class(
    server: Server, status: int, answer: Any, expected: int, kind: StatusClass
) -> None:
    server.script = lambda number, uid: Script(status, answer)
    sent = stored(server)
    assert (sent.status, sent.kind) == (expected, kind)
    assert "PATIENT" not in sent.said + sent.comment
    assert (sent.said == "") == (kind is StatusClass.SUCCESS)


@pytest.mark.parametrize(
    ("status", "kind", "stage"),
    [
        (401, FaultKind.UNAUTHORISED, Stage.NEGOTIATE),
        (403, FaultKind.UNAUTHORISED, Stage.NEGOTIATE),
        (404, FaultKind.REFUSED, Stage.NEGOTIATE),
        (302, FaultKind.REFUSED, Stage.NEGOTIATE),
        (429, FaultKind.BUSY, Stage.NEGOTIATE),
        (503, FaultKind.BUSY, Stage.NEGOTIATE),
        (502, FaultKind.BUSY, Stage.TRANSFER),
    ],
)
def test_what_the_server_says_of_itself_is_a_fault_of_the_way(
    server: Server, status: int, kind: FaultKind, stage: Stage
) -> None:
    server.script = lambda number, uid: Script(status, headers={"Location": "/elsewhere", "Retry-After": "7"})
    fault = fault_of(server)
    assert (fault.kind, fault.stage, fault.detail) == (kind, stage, f"HTTP {status}")
    assert fault.pause == 7.0
    assert "WEB" in fault.remedy or "asks to be left alone" in fault.remedy
    assert len(server.posted) == 1  # nobody goes elsewhere, nobody repeats


@pytest.mark.parametrize(
    ("answer", "headers"),
    [
        (b"<html>Please log in</html>", {"Content-Type": "text/html"}),
        (b"<html/>", {"Content-Type": "application/xhtml+xml"}),
        (b"OK", {}),
        ({"error": "log in"}, {"Content-Type": "application/json"}),
        (b"{" + b" " * 2 * 2**20 + b"}", {"Content-Type": "application/dicom+json"}),
        (gzip.compress(b" " * 100 * 2**20), {"Content-Encoding": "gzip"}),
    ],
    ids=["page", "xhtml", "text", "json", "long", "bomb"],
)
def test_a_success_that_is_no_answer_of_stow_stores_nothing(
    server: Server, answer: Any, headers: Mapping[str, str]
) -> None:
    """The log-in page of a proxy comes as a 200 too: what met it must not count as delivered."""
    server.script = lambda number, uid: Script(200, answer, headers)
    fault = fault_of(server)
    assert (fault.kind, fault.stage) == (FaultKind.REFUSED, Stage.TRANSFER)
    with pytest.raises(AssociationFault, match="no answer of STOW-RS"):
        stow.reach(to(server), timeouts=SHORT)


@pytest.mark.parametrize(
    ("answer", "headers"),
    [(b"<NativeDicomModel/>", {"Content-Type": "application/dicom+xml"}), ({}, {}), ({"00081190": {}}, {})],
)
def test_all_is_stored_where_the_server_says_so_without_a_list(
    server: Server, answer: Any, headers: Mapping[str, str]
) -> None:
    server.script = lambda number, uid: Script(200, answer, headers)
    assert stored(server).kind is StatusClass.SUCCESS


def test_a_refusal_without_a_length_is_heard(server: Server) -> None:
    server.script = lambda number, uid: Script(401, manner="bare")
    assert fault_of(server).kind is FaultKind.UNAUTHORISED


def test_a_token_that_no_header_can_hold_is_said_and_never_told(server: Server, monkeypatch: Any) -> None:
    monkeypatch.setenv("WEB_TOKEN", "s\u20accret")
    with pytest.raises(AssociationFault, match="not in ASCII") as caught:
        stow.open_stow(to(server, credential=Credential(variable="WEB_TOKEN")), timeouts=SHORT)
    assert caught.value.kind is FaultKind.UNAUTHORISED
    assert "cret" not in str(caught.value)


def test_a_date_in_retry_after_is_understood_and_nonsense_is_no_pause(server: Server) -> None:
    server.script = lambda number, uid: Script(503, headers={"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"})
    assert fault_of(server).pause == 3600.0
    for nonsense in ("soon", "Fri, 01 Jan 2026 00:00:00 +99999999999999"):
        server.script = lambda number, uid, said=nonsense: Script(503, headers={"Retry-After": said})  # type: ignore[misc]
        assert fault_of(server).pause == 0.0


@pytest.mark.parametrize(
    ("manner", "kind"),
    [("cut", FaultKind.ABORTED), ("half", FaultKind.ABORTED), ("mute", FaultKind.TIMEOUT), ("drip", FaultKind.TIMEOUT)],
)
def test_a_server_that_does_not_answer_is_left(server: Server, manner: str, kind: FaultKind) -> None:
    server.script = lambda number, uid: Script(manner=manner)
    began = time.monotonic()
    fault = fault_of(server, IMPATIENT if kind is FaultKind.TIMEOUT else SHORT)
    assert (fault.kind, fault.stage) == (kind, Stage.TRANSFER)
    assert time.monotonic() - began < 50  # the drip alone would last 70


def test_who_refuses_before_it_has_all_is_heard(server: Server) -> None:
    server.script = lambda number, uid: Script(413, manner="early")
    sent = stored(server, object_bytes("2.25.7") + bytes(8 * 2**20))
    assert (sent.kind, "HTTP 413" in sent.said) == (StatusClass.PERMANENT, True)


def test_a_connection_that_the_server_ends_between_two_instances_is_made_anew(server: Server) -> None:
    server.script = lambda number, uid: Script(200, listed(stored={uid: 0}), headers={"Connection": "close"})
    with stow.open_stow(to(server), timeouts=SHORT) as way:
        assert [way.store(object_bytes(f"2.25.{n}")).status for n in range(3)] == [0, 0, 0]


def test_what_is_no_dicom_file_is_never_sent(server: Server) -> None:
    with stow.open_stow(to(server), timeouts=SHORT) as way, pytest.raises(Rejected):
        way.store(b"no file at all")
    assert server.posted == []


def test_nobody_there_is_said_with_the_url_to_check() -> None:
    with pytest.raises(AssociationFault) as caught:
        stow.open_stow(StowDestination(name="WEB", url=f"http://127.0.0.1:{unused_port()}/x"), timeouts=SHORT)
    assert (caught.value.kind, caught.value.stage) == (FaultKind.UNREACHABLE, Stage.CONNECT)
    assert "[nodes.WEB] url" in caught.value.remedy


# ----------------------------------------------------------------------------------------------- secrets and TLS


def test_a_password_a_token_and_a_renewed_token_are_shown_and_never_told(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("open sesame\n")
    with stow.open_stow(to(server, credential=Credential(user="ann", file=secret)), timeouts=SHORT) as way:
        way.store(object_bytes("2.25.1"))
    monkeypatch.setenv("TOKEN", "abc")
    bearer = to(server, credential=Credential(variable="TOKEN"))
    for token in ("abc", "def"):
        monkeypatch.setenv("TOKEN", token)
        with stow.open_stow(bearer, timeouts=SHORT) as way:
            way.store(object_bytes("2.25.1"))
    shown = [one.headers["Authorization"] for one in server.posted]
    assert shown == ["Basic YW5uOm9wZW4gc2VzYW1l", "Bearer abc", "Bearer def"]
    monkeypatch.delenv("TOKEN")
    with pytest.raises(AssociationFault, match="no secret of one line in the variable TOKEN") as caught:
        stow.open_stow(bearer, timeouts=SHORT)
    assert caught.value.kind is FaultKind.UNAUTHORISED


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and certificates of it for 127.0.0.1 and for a client."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(command: str) -> None:
        subprocess.run([require_tool("openssl"), *command.split()], cwd=folder, check=True, capture_output=True)

    openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=Authority -keyout ca.key -out ca.pem")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        openssl(f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -days 2 -out {name}.pem -extfile names")
    return folder


def secured(server: Server, authority: Path, *, ask: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    if ask:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority / "ca.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.scheme = "https"


@pytest.mark.parametrize("ask", [False, True])
def test_a_server_is_verified_and_shown_a_certificate_where_it_asks(authority: Path, ask: bool) -> None:
    made = Server()
    secured(made, authority, ask=ask)
    own = {"cert": authority / "client.pem", "key": authority / "client.key"} if ask else {"cert": None, "key": None}
    with running(made) as server:
        good = to(server, tls=web_context(ca=authority / "ca.pem", **own))
        with stow.open_stow(good, timeouts=SHORT) as way:
            assert [way.store(object_bytes("2.25.1")).status for _ in range(2)] == [0, 0]
        strange = to(server, tls=web_context(ca=None, **own))
        with pytest.raises(AssociationFault, match="certificate") as caught:
            stow.open_stow(strange, timeouts=SHORT)
        assert (caught.value.kind, caught.value.stage) == (FaultKind.TLS, Stage.CONNECT)
        other = dataclasses.replace(good, url=server.url.replace("127.0.0.1", "localhost"))
        with pytest.raises(AssociationFault) as caught:
            stow.open_stow(other, timeouts=SHORT)
        assert caught.value.kind is FaultKind.TLS


# ---------------------------------------------------------------------------------------------------- the send role


def test_deliveries_go_over_the_web_with_retries_and_warnings_as_over_an_association(
    make_bench: MakeBench, server: Server
) -> None:
    def script(number: int, uid: str) -> Script:
        if uid == "2.25.1001" and number == 1:
            return Script(409, listed(failed={uid: 0xA700}))
        return Script(202, listed(stored={uid: 0xB000}))

    server.script = script
    bench = make_bench({"WEB": {"kind": "stow", "url": server.url}})
    number = bench.report(1, "WEB", objects=2)
    bench.start()
    bench.wait_state(number, "delivered")
    assert [one.uid for one in server.posted] == ["2.25.1000", "2.25.1001", "2.25.1001"]
    events = bench.events(number)
    assert [d["warnings"] for n, d in events if n == "delivery_sent"] == [["0xB000"]]
    assert [d["reason"] for n, d in events if n == "delivery_faulted"] == [
        "sr: HTTP 409, 0xA700, the peer is out of resources"
    ]
    server.script = lambda number, uid: (
        Script(409, listed(failed={uid: 0xA900})) if uid == "2.25.2000" else Script(200, listed(stored={uid: 0}))
    )
    refused = bench.report(2, "WEB", objects=2)
    bench.wait_state(refused, "failed")
    assert "0xA900" in bench.one(sa.select(delivery.c.reason).where(delivery.c.job_id == refused))[0]


def test_a_server_that_asks_to_be_left_alone_is_and_costs_no_attempt(make_bench: MakeBench, server: Server) -> None:
    asked: list[float] = []

    def script(number: int, uid: str) -> Script:
        if uid:  # not the look before the body has come
            asked.append(time.monotonic())
        return Script(503, headers={"Retry-After": "3"}) if len(asked) < 2 else Script(200, listed(stored={uid: 0}))

    server.script = script
    bench = make_bench({"WEB": {"kind": "stow", "url": server.url}})
    numbers = [bench.report(n, "WEB", objects=1) for n in range(1, 4)]
    bench.start()
    wait_until(lambda: bool(bench.one(sa.select(circuit.c.open))), seconds=60, what="an open circuit")
    for number in numbers:
        bench.wait_state(number, "delivered")
    assert asked[1] - asked[0] > 2.9  # six times probe_every
    assert len(asked) == 4
    assert not bench.one(sa.select(circuit.c.open))[0]
    with bench.database.read() as transaction:
        assert {row[0] for row in transaction.rows(sa.select(delivery.c.attempts))} == {0}
    names = [name for name, _ in bench.events(numbers[0])]
    assert "delivery_faulted" not in names


def test_a_proxy_before_a_dead_server_keeps_the_circuit_open_and_parks_nothing(
    make_bench: MakeBench, server: Server
) -> None:
    server.script = lambda number, uid: Script(502)
    bench = make_bench({"WEB": {"kind": "stow", "url": server.url}})
    number = bench.report(1, "WEB", objects=1)
    bench.start()
    wait_until(lambda: len(server.posted) >= 4, seconds=60, what="four probes")  # max_attempts is three
    assert bench.state(number) == "reported"
    assert bench.one(sa.select(circuit.c.faults))[0] >= 3  # connecting alone did not close it
    server.script = lambda number, uid: Script(200, listed(stored={uid: 0}))
    bench.wait_state(number, "delivered")


def test_an_instance_that_ends_the_connection_every_time_is_parked_and_the_others_go(
    make_bench: MakeBench, server: Server
) -> None:
    server.script = lambda number, uid: (
        Script(manner="cut") if uid == "2.25.1000" else Script(200, listed(stored={uid: 0}))
    )
    bench = make_bench({"WEB": {"kind": "stow", "url": server.url}})
    poison, good = bench.report(1, "WEB", objects=1), bench.report(2, "WEB", objects=1)
    bench.start()
    bench.wait_state(good, "delivered")
    bench.wait_state(poison, "failed")


# --------------------------------------------------------------------------------------------------------- Orthanc


@pytest.mark.peers
def test_every_output_reaches_orthanc_over_the_web_also_again_and_after_it_was_down(
    make_bench: MakeBench, tmp_path: Path
) -> None:
    require_tool("Orthanc")
    archive = Orthanc(tmp_path / "orthanc", settings=dicomweb_settings())
    outputs = build_outputs(
        make_source(), make_report(), make_film(), make_saliency(), OutputSettings(), KINDS | OPTIONAL - {"hl7"}
    )
    bench = make_bench({"WEB": {"kind": "stow", "url": f"http://127.0.0.1:{archive.http_port}/dicom-web"}})
    first = bench.report(1, "WEB", files=[one.data for one in outputs])
    bench.start()
    wait_until(lambda: bool(bench.one(sa.select(circuit.c.open))), seconds=60, what="an open circuit")
    archive.start()
    try:
        bench.wait_state(first, "delivered")
        again = bench.report(2, "WEB", files=[one.data for one in outputs])  # the same objects once more
        bench.wait_state(again, "delivered")
        kept = {archive.tags(one)["SOPInstanceUID"]: archive.file(one) for one in archive.instances()}
        assert {uid: file[132:] for uid, file in kept.items()} == {o.sop_instance_uid: o.data[132:] for o in outputs}
    finally:
        archive.kill()
    with bench.database.read() as transaction:
        statuses = {row[0] for row in transaction.rows(sa.select(delivery_output.c.status))}
    assert statuses <= {0x0000, 0x0111}


@pytest.mark.peers
def test_echo_check_and_send_speak_to_a_web_server(tmp_path: Path) -> None:
    require_tool("Orthanc")
    archive = Orthanc(tmp_path / "orthanc", settings=dicomweb_settings())
    archive.start()
    config = tmp_path / "cxrnode.toml"
    url = f"http://127.0.0.1:{archive.http_port}/dicom-web"
    config.write_text(
        f'[node]\ndata_dir = "{tmp_path}"\nroles = ["send"]\n[nodes.WEB]\nkind = "stow"\nurl = "{url}"\n'
        f'[nodes.WRONG]\nkind = "stow"\nurl = "{url}-not"\n'
    )
    film = tmp_path / "film.dcm"
    [report] = build_outputs(make_source(), make_report(), None, None, OutputSettings(), frozenset({"sr"}))
    film.write_bytes(report.data)

    def run(*arguments: str) -> tuple[int, Any]:
        done = CliRunner().invoke(main, [*arguments, "--json", "--config", str(config)])
        return done.exit_code, json.loads(done.stdout)

    try:
        status, said = run("echo", "WEB")
        assert (status, said["ok"], said["address"]) == (0, True, url)
        status, said = run("echo", "WRONG")
        assert (status, said["kind"], "[nodes.WRONG] url" in said["remedy"]) == (1, "refused", True)
        _, said = run("check")
        found = {one["name"]: one for one in said["checks"]}
        assert (found["node WEB"]["ok"], found["node WRONG"]["ok"]) == (True, False)
        status, said = run("send", str(film), "--to", "WEB")
        assert (status, said["stored"]) == (0, 1)
        assert len(archive.instances()) == 1
    finally:
        archive.kill()
