"""The fixtures are what they say: otherwise every test that leans on them proves nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pydicom
import pytest
import sqlalchemy as sa
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from tests.peers import Dcmtk, Orthanc, RecordingScp, require_tool

pytestmark = pytest.mark.peers


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """A small secondary capture with an umlaut in its patient's name."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    film = pydicom.Dataset()
    film.file_meta = meta
    film.SpecificCharacterSet = "ISO_IR 192"
    film.SOPClassUID, film.SOPInstanceUID = SecondaryCaptureImageStorage, "2.25.1"
    film.StudyInstanceUID, film.SeriesInstanceUID = "2.25.2", "2.25.3"
    film.PatientName, film.PatientID, film.Modality = "Möller^Käte", "P1", "OT"
    film.Rows = film.Columns = 4
    film.BitsAllocated = film.BitsStored = 8
    film.HighBit, film.PixelRepresentation, film.SamplesPerPixel = 7, 0, 1
    film.PhotometricInterpretation = "MONOCHROME2"
    film.PixelData = bytes(range(16))
    path = tmp_path / "film.dcm"
    film.save_as(path, enforce_file_format=True)
    return path


def test_what_storescu_sends_comes_back_out_of_orthanc(dcmtk: Dcmtk, orthanc: Orthanc, film: Path) -> None:
    dcmtk.run("storescu", "-aec", orthanc.aet, orthanc.host, orthanc.dicom_port, film)
    (instance,) = orthanc.instances()
    assert orthanc.tags(instance)["PatientName"] == "Möller^Käte"
    assert orthanc.dataset(instance).PixelData == bytes(range(16))
    assert [study["MainDicomTags"]["StudyInstanceUID"] for study in orthanc.studies()] == ["2.25.2"]


def test_orthanc_forwards_to_a_node_that_it_was_told(orthanc: Orthanc, recording_scp: RecordingScp, film: Path) -> None:
    orthanc.request("/instances", film.read_bytes())
    orthanc.register("RECORDER", recording_scp.aet, recording_scp.port)
    orthanc.request("/modalities/RECORDER/store", orthanc.instances()[0].encode())
    assert [(one.calling_aet, one.sop_instance_uid) for one in recording_scp.wait_for(1)] == [("ORTHANC", "2.25.1")]


def test_orthanc_keeps_what_it_has_over_a_restart(dcmtk: Dcmtk, orthanc: Orthanc, film: Path) -> None:
    dcmtk.send(orthanc.dicom_port, film)
    before = orthanc.instances()
    orthanc.stop()
    assert dcmtk.run("echoscu", orthanc.host, orthanc.dicom_port, check=False).returncode != 0
    orthanc.start()
    assert orthanc.instances() == before


def test_the_recorder_keeps_each_repeat_and_its_bytes(dcmtk: Dcmtk, recording_scp: RecordingScp, film: Path) -> None:
    for calling in ("FIRST", "SECOND"):
        dcmtk.send(recording_scp.port, film, calling=calling)
    first, second = recording_scp.stored
    assert [first.calling_aet, second.calling_aet] == ["FIRST", "SECOND"]
    assert first.sha256 == second.sha256 == hashlib.sha256(first.data).hexdigest()
    assert first.dataset().PixelData == bytes(range(16))
    assert (first.association, second.association) == (1, 2)
    assert list(recording_scp.by_uid()) == ["2.25.1"]


def test_the_recorder_answers_as_it_is_told(dcmtk: Dcmtk, recording_scp: RecordingScp, film: Path) -> None:
    recording_scp.answer = lambda number, uid: 0xA700
    refused = dcmtk.run("storescu", "-v", recording_scp.host, recording_scp.port, film, check=False)
    assert "OutOfResources" in refused.stdout + refused.stderr
    recording_scp.answer = lambda number, uid: "abort"
    aborted = dcmtk.run("storescu", "-v", recording_scp.host, recording_scp.port, film, check=False)
    assert "Peer aborted" in aborted.stdout + aborted.stderr
    assert [one.status for one in recording_scp.stored] == [0xA700, -1]
    assert recording_scp.by_uid() == {}


def test_the_recorder_can_refuse_and_be_down(dcmtk: Dcmtk, recording_scp: RecordingScp) -> None:
    where = (recording_scp.host, recording_scp.port)
    dcmtk.run("echoscu", *where)
    recording_scp.refuse = True
    refused = dcmtk.run("echoscu", *where, check=False)
    assert "Calling AE Title Not Recognized" in refused.stdout + refused.stderr
    recording_scp.refuse = False
    recording_scp.stop()
    assert "refused" in dcmtk.run("echoscu", *where, check=False).stderr
    recording_scp.start()
    dcmtk.run("echoscu", *where)


def test_every_database_is_empty_and_takes_a_table(database_url: str) -> None:
    engine = sa.create_engine(database_url)
    with engine.begin() as connection:
        assert sa.inspect(connection).get_table_names() == []
        connection.execute(sa.text("CREATE TABLE one (id integer)"))
    engine.dispose()


def test_dciodvfy_and_dsrdump_are_there() -> None:
    assert Path(require_tool("dciodvfy")).is_file()
    assert Path(require_tool("dsrdump")).is_file()


def test_the_films_are_there(data_dir: Path) -> None:
    assert len(list((data_dir / "dicom" / "chest").iterdir())) == 4


def test_a_missing_peer_skips_by_name_and_fails_where_skipping_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXRNODE_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no-such-tool is not installed"):
        require_tool("no-such-tool")
    monkeypatch.setenv("CXRNODE_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match="no-such-tool is not installed"):
        require_tool("no-such-tool")
