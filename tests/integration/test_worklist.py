"""Films that a worklist says are to be read: claimed, fetched from a real Orthanc, read, told as done.

The worklist is the tests' own (`tests.worklist_server`); what has the films and gets the results is Orthanc.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from websockets.sync.server import ServerConnection

from cxrnode.config import parse_config
from cxrnode.dicom.ups_events import Channel, EventType, Heard
from cxrnode.errors import ConfigError, Transient
from cxrnode.https import HttpClient
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.roles.worklist import Performer
from cxrnode.sections import Auth, ClientTls
from cxrnode.store.schema import delivery, event, instance, job, workitem
from tests.acceptance.viewer import PLUGIN
from tests.integration.scripted import certificates
from tests.integration.test_faults import Site, reading
from tests.peers import Orthanc, require_tool, wait_until
from tests.worklist_server import FILTERED, GLOBAL, WorklistServer

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(write_phantoms(tmp_path_factory.mktemp("films")))


@pytest.fixture
def archive(tmp_path: Path, films: list[Path]) -> Iterator[Orthanc]:
    require_tool("Orthanc")
    settings = {"Plugins": [str(PLUGIN)], "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}}
    made = Orthanc(tmp_path / "orthanc", settings=settings)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def worklist() -> Iterator[WorklistServer]:
    made = WorklistServer()
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, archive: Orthanc, worklist: WorklistServer) -> Iterator[Site]:
    (tmp_path / "node").mkdir()
    made = Site(tmp_path / "node", {"PACS": (archive.aet, archive.dicom_port)}, send_to=["PACS"])
    made.config = parse_config(configured(made, archive, worklist))
    yield made
    made.close()


def configured(site: Site, archive: Orthanc, worklist: WorklistServer, **given: Any) -> dict[str, Any]:
    section = {
        "url": worklist.url,
        "films_url": f"http://127.0.0.1:{archive.http_port}/dicom-web",
        "aet": "READING",
        "match": {"WorklistLabel": "CHEST AI"},
        "poll_every": "1ms",
        **given,
    }
    return {
        "node": {"data_dir": str(site.folder), "roles": ["receive", "infer", "send", "worklist"], "purpose": "demo"},
        "nodes": {"PACS": {"aet": archive.aet, "host": "127.0.0.1", "port": archive.dicom_port}},
        "worklists": {"READING": section},
        "models": {"chest": {"bundle": "demo"}},
        "rules": [
            {
                "name": "all",
                "when": {"calling_aet": "READING"},
                "unsure": "read",
                "models": ["chest"],
                "send_to": ["PACS"],
            }
        ],
        "reading": {"implausible": "read"},
        "spool": {"min_free": "1 MiB"},
    }


def put(archive: Orthanc, film: Path) -> None:
    archive.request("/instances", film.read_bytes(), method="POST")


def stages(site: Site) -> list[str]:
    return [row[0] for row in site.all(sa.select(workitem.c.state).order_by(workitem.c.id))]


@pytest.fixture
def performer(site: Site) -> Iterator[Performer]:
    made = Performer(site.context())
    yield made
    made.close()


def until(performer: Performer, site: Site, wanted: str, *, seconds: float = 60) -> None:
    """Let the role work until the last step is so far."""

    def holds() -> bool:
        performer.turn()
        return stages(site)[-1:] == [wanted]

    wait_until(holds, seconds=seconds, what=f"a step {wanted}")


@pytest.mark.parametrize("in_path", [False, True])
def test_a_step_is_claimed_read_and_completed_with_what_was_made(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer, in_path: bool
) -> None:
    worklist.requester_in_path = in_path
    film = pydicom.dcmread(films[0])
    put(archive, films[0])
    uid, other = worklist.schedule(film), worklist.schedule(film, label="CT AI")
    until(performer, site, "fetched")
    assert worklist.state(uid) == "IN PROGRESS"
    assert worklist.items[uid].ProcedureStepProgressInformationSequence[0].ProcedureStepProgressDescription
    (row,) = site.all(sa.select(instance.c.calling_aet, instance.c.verdict, instance.c.sop_instance_uid))
    assert tuple(row) == ("READING", "accepted", film.SOPInstanceUID)
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    performer.turn()
    assert stages(site) == ["fetched"]  # what was made has not gone yet
    site.send()
    until(performer, site, "completed")
    assert worklist.state(uid) == "COMPLETED"
    (done,) = worklist.items[uid].UnifiedProcedureStepPerformedProcedureSequence
    assert done.PerformedWorkitemCodeSequence[0].CodeValue == "110004"
    assert done.PerformedProcedureStepStartDateTime <= done.PerformedProcedureStepEndDateTime
    made = {
        str(one.ReferencedSOPInstanceUID)
        for part in done.OutputInformationSequence
        for one in part.ReferencedSOPSequence
    }
    stored = {str(archive.dataset(one).SOPInstanceUID) for one in archive.instances()} - {film.SOPInstanceUID}
    assert made == stored and len(made) >= 2
    for part in done.OutputInformationSequence:
        assert part.StudyInstanceUID == film.StudyInstanceUID
        assert part.DICOMRetrievalSequence[0].RetrieveAETitle == archive.aet
    assert worklist.state(other) == "SCHEDULED"
    performer.turn()
    assert stages(site) == ["completed"] and worklist.told == [(uid, "IN PROGRESS"), (uid, "COMPLETED")]
    names = [row[0] for row in site.all(sa.select(event.c.name).where(event.c.name.startswith("workitem_")))]
    assert names == ["workitem_ours", "workitem_fetched", "workitem_completed"]


def test_a_film_that_the_archive_does_not_have_cancels_the_step_and_says_why(
    site: Site, worklist: WorklistServer, films: list[Path], performer: Performer
) -> None:
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    empty = worklist.schedule()
    wait_until(lambda: performer.turn() is False and stages(site) == ["canceled"] * 2, seconds=60, what="both steps")
    for one, said in ((uid, "does not have the film"), (empty, "names no instance")):
        assert worklist.state(one) == "CANCELED"
        progress = worklist.items[one].ProcedureStepProgressInformationSequence[0]
        assert said in progress.ReasonForCancellation
        assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110523"


def test_a_film_that_no_rule_takes_cancels_the_step_with_the_verdicts_reason(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer, tmp_path: Path
) -> None:
    lateral = pydicom.dcmread(films[0])
    lateral.ViewPosition = "LL"
    lateral.SeriesDescription = "CHEST LATERAL"
    del lateral.ViewCodeSequence
    lateral.save_as(tmp_path / "lateral.dcm")
    put(archive, tmp_path / "lateral.dcm")
    uid = worklist.schedule(lateral)
    until(performer, site, "canceled")
    progress = worklist.items[uid].ProcedureStepProgressInformationSequence[0]
    assert "view" in progress.ReasonForCancellation or "lateral" in progress.ReasonForCancellation
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110522"


def test_a_claim_whose_answer_was_lost_is_ours_and_one_of_somebody_else_is_not(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer
) -> None:
    put(archive, films[0])
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    worklist.lose_answer = lambda method, path: path.endswith("/state")
    performer.turn()
    assert stages(site) == ["asked"] and worklist.state(uid) == "IN PROGRESS"
    worklist.lose_answer = lambda method, path: False
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(workitem).values(not_before=0.0))
    until(performer, site, "fetched")
    assert len(worklist.keys) == 1
    taken = worklist.schedule(pydicom.dcmread(films[0]))
    found = performer._sources[0].worklist.scheduled(limit=5)
    assert [one.uid for one in found] == [taken]
    worklist.answer("PUT", f"/dicom-web/workitems/{taken}/state", _claim("1.2.3"))
    performer._sources[0].worklist.scheduled = lambda *, limit: found  # type: ignore[method-assign]
    until(performer, site, "lost")
    assert worklist.keys[taken] == "1.2.3"


def test_a_completion_that_was_asked_for_twice_is_one(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer
) -> None:
    """Its connection ended before the answer, and it was asked again: the step was called lost, and somebody else's."""
    put(archive, films[0])
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    until(performer, site, "fetched")
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    site.send()
    wait_until(lambda: job_states(site) == ["delivered"], seconds=60, what="all of it in the archive")
    lost: list[str] = []

    def lose_one(method: str, path: str) -> bool:
        if not path.endswith("/state") or lost:
            return False
        lost.append(worklist.state(uid))
        return True

    worklist.lose_answer = lose_one
    performer.turn()
    assert lost == ["COMPLETED"]
    assert stages(site) == ["completed"]


def test_a_worklist_that_is_away_costs_nothing_but_time(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer
) -> None:
    put(archive, films[0])
    worklist.broken = True
    assert performer.turn() is False and stages(site) == []
    worklist.broken = False
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    until(performer, site, "ours")
    archive.kill()
    performer.turn()
    assert stages(site) == ["ours"] and worklist.state(uid) == "IN PROGRESS"
    assert "is away" in site.one(sa.select(workitem.c.reason))[0]
    archive.start()
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(workitem).values(not_before=0.0))
    until(performer, site, "fetched")


def _ask_to_cancel(worklist: WorklistServer, uid: str, *, answered: int = 202) -> None:
    if answered == 202:  # the server knows of a channel a moment after who opened it
        wait_until(lambda: bool(worklist.channels), seconds=60, what="a channel")
    assert worklist.answer("POST", f"/dicom-web/workitems/{uid}/cancelrequest", b"")[0] == answered


def job_states(site: Site) -> list[str]:
    return [row[0] for row in site.all(sa.select(job.c.state).order_by(job.c.id))]


@pytest.mark.parametrize("takes", ["filtered", "each"])
def test_a_step_under_way_that_somebody_cancels_is_left_undone_and_told(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer, takes: str
) -> None:
    worklist.takes = takes
    put(archive, films[0])
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    until(performer, site, "fetched")
    if takes == "filtered":
        assert worklist.subscriptions == {FILTERED: {"filter": "WorklistLabel=CHEST AI"}}
    else:
        assert set(worklist.subscriptions) == {uid}
    assert job_states(site) == ["queued"]
    _ask_to_cancel(worklist, uid)
    assert worklist.state(uid) == "IN PROGRESS"  # it is for its performer to say
    until(performer, site, "canceled")
    assert worklist.state(uid) == "CANCELED" and job_states(site) == ["withdrawn"]
    progress = worklist.items[uid].ProcedureStepProgressInformationSequence[0]
    assert "asked to cancel" in progress.ReasonForCancellation
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"
    with reading(site) as (reader, keeper):
        assert reader.turn(keeper) is False  # nothing is left to read
    assert site.all(sa.select(delivery.c.id)) == []
    written = " ".join(str(tuple(row)) for row in site.all(sa.select(event.c.name, event.c.detail)))
    assert "workitem_stopping" in written and "DOE" not in written


def test_what_was_read_and_not_sent_yet_is_not_sent(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer
) -> None:
    put(archive, films[0])
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    until(performer, site, "fetched")
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    assert job_states(site) == ["reported"]
    _ask_to_cancel(worklist, uid)
    until(performer, site, "canceled")
    assert {row[0] for row in site.all(sa.select(delivery.c.state))} == {"cancelled"}
    assert worklist.state(uid) == "CANCELED" and job_states(site) == ["withdrawn"]


def test_a_request_that_comes_too_late_finds_the_step_completed(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer
) -> None:
    put(archive, films[0])
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    until(performer, site, "fetched")
    with reading(site) as (reader, keeper):
        reader.turn(keeper)
    site.send()
    wait_until(lambda: job_states(site) == ["delivered"], seconds=60, what="all of it in the archive")
    _ask_to_cancel(worklist, uid)
    until(performer, site, "completed")
    assert worklist.state(uid) == "COMPLETED" and job_states(site) == ["delivered"]


def test_a_film_that_another_step_or_a_modality_wants_too_is_read_all_the_same(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer
) -> None:
    put(archive, films[0])
    film = pydicom.dcmread(films[0])
    one = worklist.schedule(film)
    until(performer, site, "fetched")
    other = worklist.schedule(film)
    wait_until(lambda: performer.turn() is False and stages(site) == ["fetched"] * 2, seconds=60, what="both steps")
    _ask_to_cancel(worklist, other)
    until(performer, site, "canceled")
    assert job_states(site) == ["queued"] and worklist.state(one) == "IN PROGRESS"
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(instance).values(calling_aet="MODALITY"))
    _ask_to_cancel(worklist, one)
    wait_until(lambda: performer.turn() is False and stages(site) == ["canceled"] * 2, seconds=60, what="the other")
    assert job_states(site) == ["queued"]


def test_a_channel_that_ended_is_opened_again_and_one_that_there_is_not_costs_nothing(
    site: Site, worklist: WorklistServer, archive: Orthanc, films: list[Path], performer: Performer
) -> None:
    worklist.takes = ""
    put(archive, films[0])
    uid = worklist.schedule(pydicom.dcmread(films[0]))
    until(performer, site, "fetched")
    channel = performer._sources[0].channel
    assert channel is not None and not channel.is_open
    _ask_to_cancel(worklist, uid, answered=409)  # nobody would hear of it: the standard lets a server say so
    worklist.takes = "filtered"
    for nonsense in ("ws://[bad/", "ws://127.0.0.1:bad/x", "ws://elsewhere.example.org/ws/subscribers/CXRNODE"):
        worklist.says_channel, channel._next_at = nonsense, 0.0
        assert performer.turn() is False and not channel.is_open  # at another host nobody is asked
    worklist.says_channel, channel._next_at = "", 0.0
    wait_until(lambda: performer.turn() is False and len(worklist.channels) == 1, seconds=60, what="a channel")
    (ended,) = worklist.channels
    worklist.hang_up()
    wait_until(lambda: not channel.is_open or performer.turn(), seconds=60, what="the end of the channel")

    def others() -> list[ServerConnection]:
        return [one for one in worklist.channels if one is not ended]

    wait_until(lambda: performer.turn() is False and bool(others()), seconds=60, what="another channel")
    (another,) = others()
    for said in ("no JSON", "[]", '{"00001002": {"vr": "US", "Value": [99]}}', "[" * 5000):
        another.send(said)
    performer._sources[0].next_at = 2e9  # it is not asked for; what it says by itself brings the next step
    later = worklist.schedule(pydicom.dcmread(films[0]))
    until(performer, site, "fetched")
    assert worklist.state(later) == "IN PROGRESS"
    _ask_to_cancel(worklist, later)
    until(performer, site, "canceled")


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[WorklistServer, Path]]:
    """A worklist over TLS, and the authority that signed its certificate."""
    pem = certificates(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem["server"], pem["server_key"])
    monkeypatch.setenv("WORKLIST_TOKEN", "of-the-tests")
    made = WorklistServer(tls=tls)
    yield made, pem["ca"]
    made.close()


def channel_to(server: WorklistServer, tls: ClientTls | None) -> Channel:
    auth = Auth(variable="WORKLIST_TOKEN")
    client = HttpClient(server.url, what="the worklist", auth=auth, tls=tls, connect_timeout=10.0, timeout=10.0)
    return Channel(client, ae_title="CXRNODE", match={}, connect_timeout=10.0)


def test_the_event_channel_has_the_tls_and_the_secret_of_the_server(guarded: tuple[WorklistServer, Path]) -> None:
    server, ca = guarded
    channel = channel_to(server, ClientTls(ca=ca))
    assert channel.heard() == [] and channel.is_open
    wait_until(lambda: len(server.channels) == 1, seconds=60, what="the channel")
    assert server.subscriptions == {GLOBAL: {}}
    request = server.channels[0].request
    assert request is not None and request.headers["Authorization"] == "Bearer of-the-tests"
    uid = server.schedule()
    reports: list[Heard] = []

    def came() -> bool:
        reports.extend(channel.heard())
        return bool(reports)

    wait_until(came, seconds=60, what="a report")
    assert [(one.uid, one.type, one.state) for one in reports] == [(uid, EventType.STATE, "SCHEDULED")]
    channel.close()


def test_no_event_channel_is_opened_to_a_server_that_cannot_say_who_it_is(guarded: tuple[WorklistServer, Path]) -> None:
    channel = channel_to(guarded[0], None)
    with pytest.raises(Transient, match="is away: SSL"):
        channel.heard()
    assert not channel.is_open and channel.heard() == []  # not asked again at once


def test_the_configuration_says_what_is_wrong(site: Site, archive: Orthanc, worklist: WorklistServer) -> None:
    wrong = configured(site, archive, worklist, match={"WorklistLable": "x"})
    site.config = parse_config(wrong)
    with pytest.raises(ConfigError, match="'WorklistLable' is no DICOM keyword"):
        Performer(site.context())
    alone = configured(site, archive, worklist)
    del alone["worklists"]
    with pytest.raises(ConfigError, match=r"worklist has nothing to work off; add \[worklists.NAME\]"):
        parse_config(alone)


def _claim(key: str) -> bytes:
    said = Dataset()
    said.TransactionUID, said.ProcedureStepState = key, "IN PROGRESS"
    return f"[{said.to_json()}]".encode()
