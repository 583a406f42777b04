"""The main job: real films in with DCMTK, reports and heatmaps back in a real Orthanc, every step in the database."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless

from cxrnode.phantom.dicom import as_coerced, phantom_dx
from cxrnode.store.schema import event, finding, instance, job
from tests.acceptance.conftest import MakeSite
from tests.peers import Dcmtk, Orthanc, RecordingScp

SR = "1.2.840.10008.5.1.4.1.1.88.33"
SC = "1.2.840.10008.5.1.4.1.1.7"
#: What must come back as it was sent, to the byte.
IDENTITY = ("PatientID", "PatientName", "PatientBirthDate", "AccessionNumber", "StudyInstanceUID", "StudyID")


def raw(dataset: pydicom.Dataset, keyword: str) -> bytes:
    """The value's bytes as they stand in the file, without the padding that makes their number even."""
    element = dataset.get_item(keyword)
    value = getattr(element, "value", None)
    return value.rstrip(b" \0") if isinstance(value, bytes) else str(value or "").encode()


def expected(source: pydicom.Dataset, keyword: str) -> bytes:
    """What must come back: the bytes as sent; a birth date that is no date (a hash, in one film) comes back empty."""
    value = raw(source, keyword)
    return value if keyword != "PatientBirthDate" or re.fullmatch(rb"\d{8}", value) else b""


def charset_films(source: Path, folder: Path) -> list[Path]:
    """The Japanese headers with a phantom's pixels added: they come without any."""
    made = []
    for number, path in enumerate(sorted(source.glob("*.dcm"))):
        header = pydicom.dcmread(path)
        film = phantom_dx(900 + number, rows=1024, cols=848)
        for keyword in ("SpecificCharacterSet", "PatientName", "PatientID", "AccessionNumber"):
            if keyword in header:
                film[keyword] = header[keyword]
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{77000 + number}")
        film.save_as(folder / path.name, enforce_file_format=True)
        made.append(folder / path.name)
    return made


def test_every_chest_film_comes_back_as_report_and_heatmaps_in_its_study(
    make_site: MakeSite, orthanc: Orthanc, dcmtk: Dcmtk, data_dir: Path
) -> None:
    site = make_site((orthanc.aet, orthanc.dicom_port))
    site.start()
    films = sorted((data_dir / "dicom" / "chest").glob("*.dcm"))
    assert len(films) == 4
    dcmtk.send(site.port, *films, calling="MODALITY", called="CXRNODE")
    site.wait_at_rest(120)

    states = {row.sop_instance_uid: (row.state, row.outcome, row.reason) for row in site.jobs()}
    assert states == {
        str(pydicom.dcmread(f, stop_before_pixels=True).SOPInstanceUID): ("delivered", "analysed", "") for f in films
    }
    stored = [orthanc.dataset(one) for one in orthanc.instances()]
    for film in films:
        source = pydicom.dcmread(film, stop_before_pixels=True)
        ours = [one for one in stored if one.StudyInstanceUID == source.StudyInstanceUID]
        assert {str(one.SOPClassUID) for one in ours} == {SR, SC}
        assert sum(one.SOPClassUID == SR for one in ours) == 1
        for one in ours:
            assert {k: raw(one, k) for k in IDENTITY} == {k: expected(source, k) for k in IDENTITY}
            assert one.get("SpecificCharacterSet") == source.get("SpecificCharacterSet")
    assert site.rows(sa.select(sa.func.count()).select_from(finding))[0][0] == 4 * 14
    site.check_audit()
    assert site.stop() == 0


def test_names_in_any_character_set_come_back_to_the_byte(
    make_site: MakeSite, orthanc: Orthanc, dcmtk: Dcmtk, data_dir: Path, tmp_path: Path
) -> None:
    site = make_site((orthanc.aet, orthanc.dicom_port), phantoms=True)
    site.start()
    films = charset_films(data_dir / "dicom" / "chest_charset", tmp_path)
    assert len(films) == 2
    dcmtk.send(site.port, *films, calling="MODALITY", called="CXRNODE")
    site.wait_at_rest(120)
    stored = [orthanc.dataset(one) for one in orthanc.instances()]
    for film in films:
        source = pydicom.dcmread(film, stop_before_pixels=True)
        ours = [one for one in stored if one.StudyInstanceUID == source.StudyInstanceUID]
        assert len(ours) >= 2
        for one in ours:
            assert raw(one, "PatientName") == raw(source, "PatientName")
            assert one.SpecificCharacterSet == source.SpecificCharacterSet


def test_one_film_sent_three_ways_is_reported_once(
    make_site: MakeSite, recording_scp: RecordingScp, dcmtk: Dcmtk, tmp_path: Path
) -> None:
    film = phantom_dx(7, rows=1024, cols=848, transfer_syntax=ExplicitVRLittleEndian)
    film.save_as(tmp_path / "raw.dcm", enforce_file_format=True)
    phantom_dx(7, rows=1024, cols=848, transfer_syntax=JPEG2000Lossless).save_as(
        tmp_path / "j2k.dcm", enforce_file_format=True
    )
    as_coerced(film).save_as(tmp_path / "coerced.dcm", enforce_file_format=True)
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    site.start()
    for name in ("raw.dcm", "j2k.dcm", "coerced.dcm"):
        dcmtk.send(site.port, tmp_path / name, calling="MODALITY", called="CXRNODE")
    site.wait_at_rest(120)
    rows = site.jobs()
    assert [(row.state, row.outcome) for row in rows] == [
        ("delivered", "analysed"),
        ("reported", "duplicate"),
        ("reported", "duplicate"),
    ]
    assert [row.duplicate_of for row in rows] == [None, rows[0].id, rows[0].id]
    assert sum(one.sop_class_uid == SR for one in recording_scp.stored) == 1
    # The same bytes once more are Success and nothing more.
    assert site.storescu(tmp_path / "raw.dcm")
    assert len(site.jobs()) == 3
    site.check_audit()


def test_a_shadow_model_reads_and_is_recorded_and_never_sends(
    make_site: MakeSite, recording_scp: RecordingScp, phantoms: tuple[Path, ...]
) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True, shadow=True)
    site.start()
    assert site.storescu(phantoms[0])
    site.wait_at_rest(120)
    rows = {row.model: row for row in site.jobs()}
    assert (rows["chest"].state, rows["candidate"].state) == ("delivered", "reported")
    assert rows["candidate"].outcome == "analysed"
    assert site.rows(sa.select(sa.func.count()).where(finding.c.job_id == rows["candidate"].id))[0][0] == 14
    assert site.outputs(rows["candidate"].id) == []
    ours = {one.sop_instance_uid for one in site.outputs(rows["chest"].id)}
    assert set(recording_scp.by_uid()) == ours


def test_own_outputs_that_a_pacs_routes_back_are_ignored(
    make_site: MakeSite, orthanc: Orthanc, phantoms: tuple[Path, ...]
) -> None:
    site = make_site((orthanc.aet, orthanc.dicom_port), phantoms=True)
    site.start()
    assert site.storescu(phantoms[3])
    site.wait_at_rest(120)
    orthanc.register("cxrnode", "CXRNODE", site.port)
    for one in orthanc.instances():
        # Orthanc calls with its own AE title, which may not send: the modality's is used, as a router would.
        orthanc.request(
            "/modalities/cxrnode/store", f'{{"Resources": ["{one}"], "LocalAet": "MODALITY"}}'.encode(), method="POST"
        )
    rows = site.rows(sa.select(instance.c.verdict, instance.c.reason).where(instance.c.verdict == "ignored"))
    assert len(rows) == len(orthanc.instances())
    assert all("cxrnode" in row.reason or "own" in row.reason for row in rows)
    assert len(site.jobs()) == 1


def test_the_node_takes_films_before_the_model_is_loaded(make_site: MakeSite, recording_scp: RecordingScp) -> None:
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True)
    seconds = site.start(wait_for="receive")
    assert site.echo()
    print(f"ready for C-STORE after {seconds:.2f} s")
    # Two seconds on a quiet machine; what is asserted leaves room for a noisy one.
    assert seconds < 6


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_every_step_stands_in_the_audit_database(
    make_site: MakeSite,
    recording_scp: RecordingScp,
    phantoms: tuple[Path, ...],
    backend: str,
    request: pytest.FixtureRequest,
) -> None:
    url = request.getfixturevalue("postgres").new_database() if backend == "postgresql" else ""
    site = make_site((recording_scp.aet, recording_scp.port), phantoms=True, url=url)
    site.start()
    assert site.storescu(phantoms[1])
    site.wait_at_rest(120)
    names = [row.name for row in site.rows(sa.select(event.c.name).order_by(event.c.id))]
    expected = ["received", "accepted", "enqueued", "claimed", "reported", "delivery_created"]
    assert names == [*expected, "delivery_claimed", "delivery_sent", "delivered"]
    row = site.rows(sa.select(job))[0]
    assert row.report_sha256 and row.bundle_digest and row.config_digest and row.engine
    site.check_audit()
