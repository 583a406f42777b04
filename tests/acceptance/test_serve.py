"""The daemon as systemd and an administrator see it: readiness, draining, a killed supervisor, a clear refusal."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from cxrnode.dicom.sender import Destination, Sent, send_files
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.store.schema import event
from tests.acceptance.conftest import MakeSite
from tests.acceptance.site import SENDER, Site
from tests.integration.scripted import certificates
from tests.peers import RecordingScp, wait_until


def burst(site: Site, films: tuple[Path, ...]) -> None:
    """Send films over one association, each answered with Success."""
    destination = Destination(name="node", aet="CXRNODE", host="127.0.0.1", port=site.port)
    answers = [answer for _, answer in send_files(films, destination, calling_aet=SENDER)]
    assert [answer.status for answer in answers if isinstance(answer, Sent)] == [0] * len(films)


def test_a_drain_gives_back_what_is_held_and_a_restart_finishes_it(
    make_site: MakeSite, recording_scp: RecordingScp, phantoms: tuple[Path, ...]
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True, lease="10m")
    site.start(wait_for="infer")
    burst(site, phantoms[:12])
    wait_until(lambda: site.states()["job reading"] > 0, seconds=30, what="a job under way")
    began = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - began < 25
    held = site.states()
    assert (held["job reading"], held["delivery sending"]) == (0, 0)
    assert held["job queued"] > 0, "the drain came too late to interrupt anything"
    site.start(wait_for="infer")
    site.wait_at_rest(120)
    assert {row.state for row in site.jobs()} == {"delivered"}
    # Nobody was lost: what was in hand was given back, and counts against no film.
    names = {row[0] for row in site.rows(sa.select(event.c.name))}
    assert "lease_expired" not in names
    assert {(row.attempts, row.losses) for row in site.jobs()} == {(0, 0)}
    site.check_audit()


def test_a_killed_supervisor_takes_its_roles_along_and_the_next_one_finishes_the_work(
    make_site: MakeSite, recording_scp: RecordingScp, phantoms: tuple[Path, ...]
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True, lease="5s")
    site.start(wait_for="infer")
    burst(site, phantoms[20:30])
    wait_until(lambda: site.states()["job reading"] > 0, seconds=30, what="a job under way")
    pids = [site.pid(role) for role in ("receive", "infer", "send", "tend")]
    site.kill()
    wait_until(lambda: not any(pid and _runs(pid) for pid in pids), seconds=40, what="the end of the orphaned roles")
    site.start(wait_for="infer")
    site.wait_at_rest(120)
    assert {row.state for row in site.jobs()} == {"delivered"}
    site.check_audit()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # the one where it is opened, the other where it is read
        return False
    return state != "Z"


def test_systemd_is_told_when_films_can_be_received(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
        site.start()
        said = {notify.recv(64)}
        while b"READY=1" not in said:  # a slow start pats the watchdog more than once
            said.add(notify.recv(64))
        assert said == {b"WATCHDOG=1", b"READY=1"}
        assert site.echo()
        site.stop()
        while b"STOPPING=1" not in said:
            said.add(notify.recv(64))


def test_with_tls_a_modality_needs_a_certificate_of_the_hospital(
    make_site: MakeSite, recording_scp: RecordingScp, phantoms: tuple[Path, ...], tmp_path: Path
) -> None:
    pem = certificates(tmp_path)
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    tls = f'tls = {{ ca = "{pem["ca"]}", cert = "{pem["server"]}", key = "{pem["server_key"]}" }}'
    site.config.write_text(site.config.read_text().replace("[listen]", f"[listen]\n{tls}"))
    site.start(wait_for="infer")
    # Neither in the clear nor without a certificate; then with one.
    assert not site.storescu(phantoms[4])
    assert not site.storescu(phantoms[4], "+tla", "+cf", str(pem["ca"]))
    assert site.jobs() == []
    assert site.storescu(phantoms[4], "+tls", str(pem["client_key"]), str(pem["client"]), "+cf", str(pem["ca"]))
    site.wait_at_rest(60)
    assert [row.state for row in site.jobs()] == ["delivered"]


def test_the_start_says_what_to_type_into_the_modality(make_site: MakeSite, recording_scp: RecordingScp) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    site.start()
    wanted = re.compile(r"AE title +CXRNODE\n +address +127\.0\.0\.1\n +port +" + str(site.port))
    wait_until(lambda: bool(wanted.search(site.log.read_text())), seconds=60, what="what to type into the modality")


def test_a_taken_port_is_an_error_that_names_the_key(make_site: MakeSite, recording_scp: RecordingScp) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.port))
        other.listen()
        command = [sys.executable, "-m", "cxrnode", "serve", "--config", str(site.config)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "listen.port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_role_that_hangs_past_its_lease_loses_it_and_nothing_is_reported_twice(
    make_site: MakeSite, recording_scp: RecordingScp, phantoms: tuple[Path, ...]
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True, lease="2s")
    site.start(wait_for="infer")
    burst(site, phantoms[40:46])
    wait_until(lambda: site.states()["job reading"] > 0, seconds=30, what="a job under way")
    pid = site.pid("infer")
    assert pid is not None
    wait_until(lambda: _stopped_outside_a_transaction(site, pid), seconds=30, what="a moment to stop the role at")
    wait_until(
        lambda: bool(site.rows(sa.select(event.c.id).where(event.c.name == "lease_expired"))),
        seconds=60,
        what="an expired lease",
    )
    os.kill(pid, signal.SIGCONT)
    site.wait_at_rest(120)
    assert {row.state for row in site.jobs()} == {"delivered"}
    reported = site.rows(
        sa.select(event.c.job_id, sa.func.count()).where(event.c.name == "reported").group_by(event.c.job_id)
    )
    assert {row[1] for row in reported} == {1}
    site.check_audit()


def _stopped_outside_a_transaction(site: Site, pid: int) -> bool:
    """SIGSTOP; a process that stops with SQLite's lock in hand would stop the whole node, so it may go on then."""
    os.kill(pid, signal.SIGSTOP)
    with contextlib.closing(sqlite3.connect(site.data_dir / "cxrnode.sqlite", timeout=0.5)) as database:
        try:
            database.execute("BEGIN EXCLUSIVE")
            database.rollback()
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)
            return False
    return True


#: The steps of one film's way, from one event of the audit trail to the next.
STEPS = (
    ("enqueued", "claimed"),
    ("claimed", "reported"),
    ("reported", "delivery_claimed"),
    ("delivery_claimed", "delivery_sent"),
)


@pytest.mark.parametrize(("rows", "cols"), [(2500, 2048), (1024, 848)])
def test_single_films_on_an_idle_node_come_back_soon(
    make_site: MakeSite, recording_scp: RecordingScp, tmp_path: Path, rows: int, cols: int
) -> None:
    films = write_phantoms(tmp_path / "films", range(100, 120), rows=rows, cols=cols)
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    site.start(wait_for="infer")
    destination = Destination(name="node", aet="CXRNODE", host="127.0.0.1", port=site.port)
    taken = []
    for film in films:
        before = len(recording_scp.stored)
        for _, answer in send_files([film], destination, calling_aet=SENDER):
            at = time.time()
            assert isinstance(answer, Sent) and answer.status == 0
        site.wait_at_rest(60)
        taken.append(max(one.at for one in recording_scp.stored[before:]) - at)
    steps = statistics.quantiles(taken, n=20)
    said = f"median {steps[9]:.2f} s, P95 {steps[18]:.2f} s, n {len(taken)}"
    print(f"{rows} x {cols}, Success to SR and SC in the archive: {said}")
    print(" ".join(f"{one:.2f}" for one in taken))
    at_event: dict[tuple[int, str], float] = {
        (row.job_id, row.name): row.at for row in site.rows(sa.select(event).where(event.c.job_id.is_not(None)))
    }
    for begin, end in STEPS:
        step = [at_event[row.id, end] - at_event[row.id, begin] for row in site.jobs()]
        print(f"    {begin} to {end}: median {1000 * statistics.median(step):.0f} ms")
    # One second on a quiet machine; what is asserted leaves room for a noisy one.
    assert statistics.median(taken) < 4
