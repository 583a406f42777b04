"""`check`, `echo`, `send`, `rules test` and `serve` against real peers, real sockets and real films."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxrnode import health
from cxrnode.dicom.admission import Objection
from cxrnode.dicom.listener import Answer, Listener, Received
from cxrnode.phantom.dicom import STUDY_DESCRIPTION, phantom_dx
from cxrnode.reading.bundle import SHIPPED
from cxrnode.store import details, upgrade
from cxrnode.store.database import Database
from cxrnode.store.listing import InstanceFilter, JobFilter, list_instances, list_jobs
from tests.peers import REPOSITORY, RecordingScp, require_tool, unused_port, wait_until
from tests.unit.cli.clinic import IDENTITY, Clinic, run


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "phantom.dcm"
    phantom_dx(1, rows=640, cols=560, patient_name="Secret^Person").save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """DCMTK's storescp: its port, and the folder where it keeps what it gets."""
    port, kept = unused_port(), tmp_path / "kept"
    kept.mkdir()
    process = subprocess.Popen(
        [require_tool("storescp"), "-aet", "STORESCP", "-od", str(kept), str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: _listens(port), seconds=60, what="storescp", process=process)
    yield port, kept
    process.terminate()
    process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.peers
def test_echo_is_answered_by_storescp(storescp: tuple[int, Path]) -> None:
    result = run("echo", f"STORESCP@127.0.0.1:{storescp[0]}")
    assert (result.exit_code, result.stdout.startswith(f"STORESCP@127.0.0.1:{storescp[0]} answers C-ECHO")) == (0, True)


@pytest.mark.peers
def test_send_stores_files_and_folders_in_storescp(storescp: tuple[int, Path], film: Path, tmp_path: Path) -> None:
    port, kept = storescp
    folder = tmp_path / "folder" / "deeper"
    folder.mkdir(parents=True)
    other = phantom_dx(2, rows=640, cols=560, transfer_syntax="1.2.840.10008.1.2.4.90")
    other.save_as(folder / "j2k.dcm", enforce_file_format=True)
    (folder / ".hidden").write_bytes(b"x")
    result = run("send", film, folder.parent, "--to", f"STORESCP@127.0.0.1:{port}", "--json")
    answer = json.loads(result.stdout)
    assert [(one["stored"], one["status"]) for one in answer["files"][:1]] == [(True, "0x0000")]
    # storescp takes uncompressed syntaxes alone unless it is told more: a real refusal of one file among good ones.
    assert (answer["files"][1]["file"], answer["files"][1]["status"]) == (str(folder / "j2k.dcm"), "0x0122")
    assert (result.exit_code, answer["stored"], len(list(kept.iterdir()))) == (1, 1, 1)


@pytest.mark.peers
def test_check_says_ok_of_a_site_that_is_well(tmp_path: Path, storescp: tuple[int, Path]) -> None:
    clinic = Clinic.found(tmp_path / "clinic", listen=unused_port(), archive=storescp[0], web=unused_port())
    answer = clinic.json("check")
    names = [one["name"] for one in answer["checks"]]
    assert (answer["ok"], [one for one in answer["checks"] if not one["ok"]]) == (True, [])
    assert names == [
        *("configuration", "rules", "database", "queue", "clock", "spool", "model chest", "node PACS", "time zone"),
        *("port", "console"),
    ]
    table = clinic.run("check")
    assert (table.exit_code, "FAULT" in table.stdout, "DEMONSTRATION MODEL" in table.stdout) == (0, False, True)
    clinic.database.close()


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `cxrnode` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cxrnode.cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def checked(clinic: Clinic) -> dict[str, tuple[str, str]]:
    """The faults: what was seen, and what to do."""
    answer = clinic.json("check", status=1)
    assert answer["ok"] is False
    return {one["name"]: (one["detail"], one["remedy"]) for one in answer["checks"] if not one["ok"]}


@pytest.fixture
def site(tmp_path: Path, recording_scp: RecordingScp) -> Iterator[Clinic]:
    """A site in good order: its archive answers."""
    ports = {"listen": unused_port(), "web": unused_port()}
    clinic = Clinic.found(tmp_path / "clinic", archive=recording_scp.port, **ports)
    yield clinic
    clinic.database.close()


def change(clinic: Clinic, before: str, after: str) -> None:
    text = clinic.config.read_text()
    assert before in text
    clinic.config.write_text(text.replace(before, after))


def test_check_finds_a_node_that_is_down_and_says_what_to_look_at(site: Clinic) -> None:
    change(site, "[nodes.PACS]", '[nodes.LOST]\naet = "LOST"\nhost = "127.0.0.1"\nport = 1\n[nodes.PACS]')
    ((name, (detail, remedy)),) = checked(site).items()
    assert (name, detail) == ("node LOST", "LOST@127.0.0.1:1: unreachable (connection refused)")
    assert "[nodes.LOST] host = '127.0.0.1' and port = 1" in remedy


def test_check_bears_a_modality_that_only_sends_and_answers_no_echo(site: Clinic) -> None:
    room = '[nodes.ROOM]\naet = "ROOM"\nhost = "127.0.0.1"\nport = 1\ncan_send = true\n'
    change(site, "[nodes.PACS]", f"{room}[nodes.PACS]")
    (one,) = [one for one in site.json("check")["checks"] if one["name"] == "node ROOM"]
    assert one["detail"] == "ROOM@127.0.0.1:1: unreachable (connection refused); it only sends to us, and may be silent"


def test_check_waits_no_longer_than_seconds_for_a_node_that_is_silent(site: Clinic) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        change(site, "[nodes.PACS]", f'[nodes.MUTE]\naet = "MUTE"\nhost = "127.0.0.1"\nport = {port}\n[nodes.PACS]')
        started = time.monotonic()
        faults = checked(site)
        assert (list(faults), time.monotonic() - started < 15) == (["node MUTE"], True)


def test_check_finds_a_condition_that_no_rule_can_have(site: Clinic) -> None:
    change(site, "Modality =", "Modalty =")
    detail, remedy = checked(site)["rules"]
    assert ("when.Modalty is not known" in detail, remedy.startswith("a rule may look at")) == (True, True)


def test_check_finds_an_altered_bundle_without_torch(site: Clinic) -> None:
    weights = site.folder / "data" / "models" / "tiny" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    detail, remedy = checked(site)["model chest"]
    assert ("tiny/weights.safetensors: SHA-256 is" in detail, "copy the bundle again" in remedy) == (True, True)


def test_check_finds_a_database_that_is_not_there_and_one_of_another_schema(site: Clinic) -> None:
    import sqlalchemy as sa

    with site.database.write() as transaction:
        transaction.connection.execute(sa.text("DELETE FROM alembic_version"))
    said = f"the database has schema none, not {upgrade.HEAD}: run `cxrnode db upgrade`"
    assert checked(site)["database"] == (said, "cxrnode db upgrade")
    site.database.close()
    (site.folder / "data" / "cxrnode.sqlite").unlink()
    detail, remedy = checked(site)["database"]
    assert ("there is no database" in detail, "cxrnode db upgrade" in remedy) == (True, True)
    assert not (site.folder / "data" / "cxrnode.sqlite").exists()


def test_check_finds_a_postgresql_that_does_not_answer(site: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql+psycopg://cxrnode:hunter2@127.0.0.1:{unused_port()}/cxrnode"
    monkeypatch.setenv("CXRNODE__DATABASE__URL", url)
    detail, remedy = checked(site)["database"]
    assert ("does not answer" in detail, "hunter2" in detail, "database.url" in remedy) == (True, False, True)


def test_check_finds_a_spool_without_room_and_one_that_cannot_be_made(site: Clinic) -> None:
    change(site, 'min_free = "1 MiB"', 'min_free = "1000000 GiB"')
    assert checked(site)["spool"][1].startswith("free space, or lower spool.min_free")
    (site.folder / "file").write_text("no folder")
    change(site, "[spool]", f'[spool]\nurl = "{site.folder / "file"}"')
    assert "cannot be written to" in checked(site)["spool"][0]
    assert not (site.folder / "data" / "spool").exists()


def test_check_finds_a_clock_that_differs_from_the_databases(site: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 3.0)
    began = time.monotonic()
    seen, unit, *_ = checked(site)["clock"][0].split()
    # The two are not read at the same moment: what lies between them is seen too.
    assert (2.9 < float(seen) < 3.1 + time.monotonic() - began, unit) == (True, "s")


def test_check_finds_a_time_zone_that_was_never_set(site: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    change(site, 'timezone = "UTC"', "")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert checked(site)["time zone"] == (
            "not set for films of PACS; this machine's is IST (UTC+0530)",
            'set node.timezone, like "Europe/Berlin"; "UTC" if that is meant',
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_check_finds_a_site_that_nobody_may_send_to(site: Clinic) -> None:
    change(site, "can_send = true", "can_send = false")
    assert "can_send = true" in checked(site)["senders"][1]


def test_check_tells_a_strangers_port_from_our_own(site: Clinic, tmp_path: Path) -> None:
    port = int(site.config.read_text().split("port = ")[1].split()[0])
    with socket.create_server(("127.0.0.1", port)):
        assert "cannot be used" in checked(site)["port"][0]

    def receive(received: Received) -> Answer:
        raise AssertionError("nothing is sent")

    ours = Listener(
        ae_title="CXRNODE",
        folder=tmp_path,
        admit=lambda *_: Objection(reason="no node has this AE title", remedy="add it"),
        receive=receive,
        host="127.0.0.1",
        port=port,
    )
    ours.start()
    try:
        # A process of its own: the listener in this one writes its log to stdout.
        strange = json.loads(script("check", "--json", "--config", str(site.config)).stdout)
        health.write(site.folder / "data", {"receive": True})
        answer = json.loads(script("check", "--json", "--config", str(site.config)).stdout)
    finally:
        ours.drain(2.0)
    # Another DICOM node answers C-ECHO too: only where this one runs is it this one's port.
    assert [one["ok"] for one in strange["checks"] if one["name"] == "port"] == [False]
    assert [one["detail"] for one in answer["checks"] if one["name"] == "port"] == [
        f"127.0.0.1:{port}, this node answers there already"
    ]


def test_check_finds_a_database_that_the_service_may_read_but_not_write(
    site: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = site.folder / "data" / "cxrnode.sqlite"
    monkeypatch.setattr(os, "access", lambda place, _mode: Path(place) != file)
    detail, remedy = checked(site)["database"]
    assert (detail, remedy) == (
        f"{file} or its folder cannot be written to by this user",
        "give both to the service's user (chown)",
    )


def test_check_says_what_to_do_about_a_configuration_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    def told(config: Path) -> tuple[str, str]:
        (one,) = json.loads(run("--config", config, "check", "--json").stdout)["checks"]
        return one["detail"], one["remedy"]

    missing, broken, misspelt = tmp_path / "missing.toml", tmp_path / "broken.toml", tmp_path / "misspelt.toml"
    broken.write_text("[node]\nae_title =\n")
    misspelt.write_text('[node]\nae_titel = "CXRNODE"\n')
    assert told(missing) == (
        f"cannot read {missing}: No such file or directory",
        "Check the path and its permissions",
    )
    assert told(broken)[1] == "mend what is named in that file"
    assert told(misspelt) == (f"{misspelt}: unknown key node.ae_titel", "did you mean ae_title?")


def test_echo_knows_the_nodes_of_the_configuration_and_says_why_one_does_not_answer(
    site: Clinic, recording_scp: RecordingScp
) -> None:
    assert site.json("echo", "PACS")["ok"] is True
    recording_scp.stop()
    answer = site.json("echo", "PACS", status=1)
    assert (answer["ok"], answer["kind"]) == (False, "unreachable")
    result = site.run("echo", "PACS")
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    assert result.stderr.startswith("cxrnode: PACS: unreachable (connection refused). Check [nodes.PACS]")


def test_echo_of_neither_a_name_nor_a_triple_names_the_nodes_there_are(site: Clinic) -> None:
    result = site.run("echo", "NOWHERE")
    assert result.exit_code == 1
    assert result.stderr == "cxrnode: 'NOWHERE' is neither AET@host:port nor a node of the configuration (PACS)\n"


def test_send_calls_as_this_node_or_as_it_is_told(site: Clinic, recording_scp: RecordingScp, film: Path) -> None:
    assert site.run("send", film, "--to", "PACS").exit_code == 0
    assert site.run("send", film, "--to", "PACS", "--calling-aet", "OTHER").exit_code == 0
    assert [one.calling_aet for one in recording_scp.stored] == ["CXRNODE", "OTHER"]


def test_send_tells_each_refusal_and_what_is_no_dicom(
    site: Clinic, recording_scp: RecordingScp, film: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("not DICOM")
    recording_scp.answer = lambda number, uid: 0xA700
    result = site.run("send", film, tmp_path / "notes.txt", "--to", "PACS")
    assert (result.exit_code, "0xA700" in result.stdout) == (1, True)
    assert "not a DICOM Part 10 file: no DICM after a preamble of 128 bytes" in result.stdout
    assert result.stdout.rstrip().endswith("0 of 2 stored")


def test_send_names_the_files_that_were_left_when_the_association_broke(
    site: Clinic, recording_scp: RecordingScp, film: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second.dcm"
    second.write_bytes(film.read_bytes())
    recording_scp.answer = lambda number, uid: 0x0000 if number == 0 else "abort"
    answer = site.json("send", film, second, "--to", "PACS", status=1)
    assert [one["stored"] for one in answer["files"]] == [True, False]
    assert (answer["files"][1]["meaning"], answer["fault"] is None) == ("not sent: the association failed", False)
    result = site.run("send", film, "--to", "X@127.0.0.1:1")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)


def test_rules_test_accepts_a_chest_film_and_says_what_follows(site: Clinic, film: Path) -> None:
    answer = site.json("rules", "test", film, "--calling-aet", "ARCHIVE")
    (one,) = answer["files"]
    assert (answer["admitted"], one["verdict"], one["rule"], one["view"]) == (True, "accepted", "chest films", "PA")
    assert one["models"] == [{"model": "chest", "mode": "active", "refusal": ""}]
    assert (one["outputs"], one["send_to"], "BodyPartExamined" in one["region"]["chest_tags"]) == (
        *(["sr", "heatmap"], ["PACS"], True),
    )


def test_rules_test_tells_no_name_and_no_free_text(site: Clinic, film: Path) -> None:
    text = site.run("rules", "test", film).output
    assert ("Secret" in text, STUDY_DESCRIPTION in text, "frontal chest radiograph" in text) == (False, False, True)


def test_rules_test_ends_in_1_where_a_film_is_not_accepted(site: Clinic, film: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"\0" * 500)
    answer = site.json("rules", "test", film, broken, status=1)
    assert [one["verdict"] for one in answer["files"]] == ["accepted", "refused"]
    change(site, 'when = { Modality = ["CR", "DX"] }', 'when = { calling_aet = "ER_*" }')
    (one,) = site.json("rules", "test", film, status=1)["files"]
    assert (one["verdict"], one["reason"]) == ("ignored", 'no rule matches: "chest films": calling_aet is not ER_*')
    assert site.json("rules", "test", film, "--calling-aet", "ER_3")["admitted"] is False


def test_rules_test_says_when_the_model_would_refuse_the_film(site: Clinic, tmp_path: Path) -> None:
    child = tmp_path / "child.dcm"
    made = phantom_dx(3, rows=640, cols=560, PatientAge="003Y", PatientBirthDate=None)
    made.save_as(child, enforce_file_format=True)
    (one,) = site.json("rules", "test", child)["files"]
    assert one["models"][0]["refusal"] == ("outside its intended use: the patient's age, 3 years, is outside 18 to 120")


def test_rules_test_judges_the_real_films(site: Clinic, data_dir: Path) -> None:
    files = sorted((data_dir / "dicom" / "negative").iterdir())
    answer = site.json("rules", "test", *files, status=1)
    assert {one["verdict"] for one in answer["files"]} <= {"ignored", "refused"}
    assert len(answer["files"]) == len(files)


def test_check_finds_a_stranger_on_the_console_s_port(site: Clinic) -> None:
    """`serve` would go on without the console, and wait for its port: a line of the log says so, and nothing else."""
    port = int(site.config.read_text().rpartition("port = ")[2])
    health.write(site.folder / "data", {"web": False})  # this node runs, which is no sign that the port is its own
    with socket.create_server(("127.0.0.1", port)):
        detail, remedy = checked(site)["console"]
    assert (detail, "web.port" in remedy) == (f"127.0.0.1:{port} cannot be used (Address already in use)", True)
    with http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler) as stranger:
        serving = threading.Thread(target=stranger.serve_forever)
        serving.start()
        assert "cannot be used" in checked(site)["console"][0]
        stranger.shutdown()
        serving.join()
    site.config.write_text(site.config.read_text().replace("[node]", '[node]\nroles = ["receive"]'))
    assert "console" not in [one["name"] for one in site.json("check")["checks"]]


@pytest.mark.slow
def test_serve_runs_until_sigterm_and_says_what_to_type_into_the_modality(site: Clinic, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "CXRNODE__NODE__ROLES": '["receive", "tend", "web"]'}
    port = int(site.config.read_text().split("port = ")[1].split()[0])
    (site.folder / "data" / "cxrnode.sqlite").unlink()  # made anew, as at a first start
    said = tmp_path / "said"
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "cxrnode.cli", "serve", "--config", str(site.config)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            umask=0o022,
        )
    try:
        here = f"CXRNODE@127.0.0.1:{port}"
        wait_until(lambda: run("echo", here, "--calling-aet", "ARCHIVE").exit_code == 0, seconds=60, what="the node")
        # What patients' data go into is closed to others, in a folder that somebody else left open.
        made = {p.name: p.stat().st_mode & 0o777 for p in (site.folder / "data").rglob("*") if "models" not in p.parts}
        assert made["cxrnode.sqlite"] == 0o600 and made["spool"] == 0o700
        assert {name: oct(mode) for name, mode in made.items() if mode & 0o077} == {}
        # The supervisor says it when it hears of the listener, which answers already.
        wait_until(lambda: "AE title  CXRNODE" in said.read_text(), seconds=60, what="what to type in", process=process)
        web = int(site.config.read_text().rpartition("port = ")[2])
        wait_until(lambda: _listens(web), seconds=60, what="the console", process=process)
        seen = {one["name"]: one["detail"] for one in site.json("check")["checks"]}
        assert seen["console"] == f"127.0.0.1:{web}, this node answers there already"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said.read_text()


@pytest.mark.parametrize("roles", ['["receive", "tend"]', '["tend"]'])
def test_serve_refuses_a_condition_that_no_rule_can_have(
    site: Clinic, monkeypatch: pytest.MonkeyPatch, roles: str
) -> None:
    """The role `receive` could not start with it: the node would stand there without one, and start it for ever."""
    site.config.write_text(site.config.read_text().replace("Modality =", "Modalitaet ="))
    monkeypatch.setenv("CXRNODE__NODE__ROLES", roles)
    done = script("--config", str(site.config), "serve")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith('cxrnode: rule "chest films": when.Modalitaet is not known; a rule may look at ')
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # fourteen ways back through the network for each film, on a machine that may have other work
def test_model_verify_of_the_shipped_bundle_is_good() -> None:
    assert (SHIPPED / "demo" / "manifest.toml").is_file()
    result = run("model", "verify", SHIPPED / "demo")
    assert result.exit_code == 0, result.output


def test_both_databases_list_and_show_the_same(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url)
    upgrade.upgrade(database)
    clinic = Clinic(folder=tmp_path, database=database)
    for number in (1, 2, 3):
        clinic.receive(number, accepted=number != 2)
    clinic.report()
    clinic.deliver()
    chosen = InstanceFilter(verdict="accepted", since=time.time() - 3600)
    assert [row.jobs for row in list_instances(database, chosen, limit=5)] == [(2,), (1,)]
    assert [(row.id, row.state) for row in list_jobs(database, JobFilter(), limit=5)] == [
        (2, "queued"),
        (1, "delivered"),
    ]
    detail = details.job_detail(database, 1)
    assert (detail.job.deliveries, detail.deliveries[0].objects[0].status, len(detail.outputs)) == (
        {"PACS": "sent"},
        0,
        1,
    )
    assert [event.name for event in detail.events][-2:] == ["delivery_sent", "delivered"]
    seen = details.reveal(database, [1, 3, 99], by="tester")
    assert {one: who.patient_id for one, who in seen.items()} == dict.fromkeys((1, 3), IDENTITY["patient_id"])
    assert [event.name for event in details.instance_events(database, 3)][-1] == "identity_viewed"
    database.close()
