"""Corrections, as the archives see them: a wrong patient, a second reading, a withdrawal; processes die meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.uid import UID

from cxrnode.phantom.dicom import phantom_dx
from cxrnode.store.schema import delivery, event, job
from tests.acceptance.conftest import MakeSite
from tests.acceptance.site import Site
from tests.peers import Dcmtk, Orthanc, RecordingScp, require_tool, wait_until

KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
WRONG, RIGHT = "WRONG-1", "RIGHT-2"


def film(folder: Path, patient: str, *, seed: int = 11) -> Path:
    """The film of this seed under a patient; a modality that corrects it gives it another study and other UIDs."""
    made = phantom_dx(seed, rows=1024, cols=848)
    made.PatientID, made.PatientName, made.AccessionNumber = patient, f"{patient}^Test", f"ACC-{patient}"
    number = sum(patient.encode())
    made.StudyInstanceUID, made.SeriesInstanceUID = f"2.25.{number}01", f"2.25.{number}02"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{number}03")
    path = folder / f"{patient}.dcm"
    made.save_as(path, enforce_file_format=True)
    return path


def command(site: Site, *arguments: str) -> Any:
    """Run a command of the command line on the site, and parse its answer."""
    done = subprocess.run(
        [sys.executable, "-m", "cxrnode", "--config", str(site.config), *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kill(site: Site, role: str) -> None:
    """SIGKILL of a role, waited for where it is just being started again."""
    until = time.monotonic() + 60
    while (pid := site.pid(role)) is None:
        assert time.monotonic() < until, f"{role} does not run"
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)


def at_rest(site: Site) -> bool:
    return site.at_rest() and not site.states()["delivery waiting"]


def wait_at_rest(site: Site) -> None:
    wait_until(lambda: at_rest(site), seconds=120, what="the site at rest")


def logged_events(site: Site, name: str) -> list[dict[str, Any]]:
    return [json.loads(row.detail) for row in site.rows(sa.select(event.c.detail).where(event.c.name == name))]


@pytest.fixture
def late(tmp_path: Path) -> Iterator[Orthanc]:
    """An Orthanc that is not started yet: the archive is down."""
    require_tool("Orthanc")
    archive = Orthanc(tmp_path / "late")
    yield archive
    archive.kill()


def two_archives(site: Site, recorder: RecordingScp, *, corrections: str = "") -> None:
    """Beside the PACS, which does not know rejection notes, send to the recorder, which does."""
    text = site.config.read_text()
    text = text.replace("[nodes.PACS]\n", "[nodes.PACS]\niocm = false\n").replace('["PACS"]', '["PACS", "RECORDER"]')
    node = f'[nodes.RECORDER]\naet = "{recorder.aet}"\nhost = "127.0.0.1"\nport = {recorder.port}\n'
    site.config.write_text(f"{text}\n{node}\n[corrections]\n{corrections}\n")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("policy", ["reissue", "hold"])
def test_a_wrong_patient_film_corrected_while_the_pacs_is_down_leaves_nothing_under_the_old_patient(
    make_site: MakeSite, late: Orthanc, recording_scp: RecordingScp, tmp_path: Path, policy: str
) -> None:
    recording_scp.stop()
    site = make_site((late.aet, late.dicom_port), phantoms=True)
    two_archives(site, recording_scp, corrections=f'on_identity_change = "{policy}"')
    site.start(wait_for="infer")
    assert site.storescu(film(tmp_path, WRONG))
    wait_until(lambda: len(site.logged("destination_down")) >= 2, seconds=60, what="both archives found down")
    # The power fails while a sender tries: what did not go out is not taken for sent afterwards.
    kill(site, "send")
    assert site.storescu(film(tmp_path, RIGHT))
    wait_until(lambda: len(site.logged("reported")) == 2, seconds=60, what="both films read")
    (alert,) = site.logged("identity_changed")
    assert (alert["level"], alert["job"], alert["others"], alert["policy"]) == ("error", 2, [1], policy)
    if policy == "hold":
        late.start()
        recording_scp.start()
        time.sleep(5.0)
        assert (late.instances(), recording_scp.stored) == ([], [])
        (said,) = command(site, "jobs", "decide", "2", "--reason", "the technician corrected the order")
        assert said["detail"] == "deliveries released: 2, jobs withdrawn: 1"
    else:
        late.start()
        recording_scp.start()
    wait_at_rest(site)
    assert [(row.state, row.rejection) for row in site.jobs()] == [("withdrawn", "worklist"), ("delivered", "")]
    stored = [late.dataset(one) for one in late.instances()]
    assert {str(one.PatientID) for one in stored} == {RIGHT}
    assert {str(one.dataset().PatientID) for one in recording_scp.stored} == {RIGHT}
    assert not any(WRONG.encode() in one.data for one in recording_scp.stored)
    assert len(stored) == len(recording_scp.by_uid()) == len(site.outputs(2))
    site.check_audit()
    assert site.stop() == 0


@pytest.mark.timeout(600)
def test_a_second_reading_and_a_withdrawal_are_said_in_the_archive_whatever_dies(
    make_site: MakeSite, orthanc: Orthanc, recording_scp: RecordingScp, dcmtk: Dcmtk, tmp_path: Path
) -> None:
    site = make_site((orthanc.aet, orthanc.dicom_port), phantoms=True)
    two_archives(site, recording_scp)
    site.start(wait_for="infer")
    assert site.storescu(film(tmp_path, RIGHT))
    wait_at_rest(site)
    first = {row.sop_instance_uid: row for row in site.outputs(1)}

    command(site, "jobs", "retry", "1", "--reason", "a new model")
    wait_until(lambda: len(site.jobs()) == 2 and site.jobs()[1].state == "delivered", seconds=120, what="revision 2")
    wait_at_rest(site)
    assert [(row.state, row.revision, row.predecessor) for row in site.jobs()] == [
        ("superseded", 1, None),
        ("delivered", 2, 1),
    ]
    archive = {str(one.SOPInstanceUID): one for one in map(orthanc.dataset, orthanc.instances())}
    second = {row.sop_instance_uid: row for row in site.outputs(2)}
    (report,) = [archive[uid] for uid, row in second.items() if row.kind == "sr"]
    (old_report,) = [uid for uid, row in first.items() if row.kind == "sr"]
    assert referenced(report.PredecessorDocumentsSequence) == {old_report}
    quality = rejection_of(archive, set(first))
    assert (quality.CodeValue, quality.CodeMeaning) == ("113001", "Rejected for Quality Reasons")

    # The archives are down, a person withdraws, and everything dies at some moment or other.
    recording_scp.stop()
    orthanc.stop()
    (said,) = command(site, "jobs", "withdraw", "2", "--reason", "patient-safety", "--note", "the wrong side is marked")
    assert said["detail"] == "withdrawn; deliveries cancelled: 0, destinations to be told: 2"
    for role in ("tend", "send"):
        kill(site, role)
        time.sleep(1.5)
    orthanc.start()
    # The note's answer is lost once: it goes again, the same to the byte.
    recording_scp.answer = lambda number, uid: "abort" if number == before else 0
    before = len(recording_scp.stored)
    recording_scp.start()
    wait_until(lambda: at_rest(site), seconds=240, what="the withdrawal in both archives")

    archive = {str(one.SOPInstanceUID): one for one in map(orthanc.dataset, orthanc.instances())}
    safety = rejection_of(archive, set(second))
    assert (safety.CodeValue, safety.CodeMeaning) == ("113037", "Rejected for Patient Safety Reasons")
    told = [one for one in archive.values() if "WITHDRAWN" in one.get("SeriesDescription", "")]
    assert Counter(str(one.Modality) for one in told) == {"SR": 2, "OT": 2}
    new = recording_scp.stored[before:]
    assert [one.sop_class_uid for one in new] == [KEY_OBJECTS] * 2
    assert len({(one.sop_instance_uid, one.sha256) for one in new}) == 1
    said_by = logged_events(site, "withdrawn")
    assert [(one["rejection"], one["reason"]) for one in said_by] == [("patient-safety", "the wrong side is marked")]
    assert said_by[0]["by"]
    listed = {row["id"]: row for row in command(site, "jobs", "ls")}
    assert (listed[2]["state"], listed[2]["revision"], listed[2]["predecessor"]) == ("withdrawn", 2, 1)
    assert listed[2]["withdrawals"] == {"PACS": "sent", "RECORDER": "sent"}
    check_standard(dcmtk, tmp_path, [*told, *notes(archive)])
    acts = site.rows(sa.select(delivery.c.act, delivery.c.state).where(delivery.c.act == "withdrawal"))
    assert [tuple(row) for row in acts] == [("withdrawal", "sent")] * 4
    assert site.rows(sa.select(job.c.id).where(job.c.disputed)) == []
    site.check_audit()
    assert site.stop() == 0


def notes(archive: dict[str, Dataset]) -> list[Dataset]:
    return [one for one in archive.values() if one.SOPClassUID == KEY_OBJECTS]


def rejection_of(archive: dict[str, Dataset], uids: set[str]) -> Dataset:
    """The title of the one rejection note that rejects exactly these objects."""
    (found,) = [one for one in notes(archive) if referenced(one.CurrentRequestedProcedureEvidenceSequence) == uids]
    (study,) = found.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == found.StudyInstanceUID
    title: Dataset = found.ConceptNameCodeSequence[0]
    return title


def referenced(studies: Any) -> set[str]:
    return {
        str(one.ReferencedSOPInstanceUID)
        for study in studies
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }


def check_standard(dcmtk: Dcmtk, folder: Path, objects: list[Dataset]) -> None:
    """dciodvfy finds no error, and dsrdump reads every document."""
    for number, one in enumerate(objects):
        path = folder / f"object{number}.dcm"
        one.save_as(path, enforce_file_format=True)
        found = dcmtk.run("dciodvfy", path, check=False)
        errors = [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]
        assert errors == [], f"{one.SOPClassUID}: {errors}"
        if one.Modality in ("SR", "KO"):
            dcmtk.run("dsrdump", path)
