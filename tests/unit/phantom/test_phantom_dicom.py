"""Phantoms as DICOM: valid, synthetic in every label, the same instance from the same seed."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless

from cxrnode.core.identity import identity_digest
from cxrnode.phantom.anatomy import FILM_HEIGHT, PhantomFinding
from cxrnode.phantom.dicom import GALLERY, STUDY_DESCRIPTION, as_coerced, phantom_dx, write_phantoms
from tests.peers import require_tool

ROWS, COLS = 400, 340


def small(seed: int = 7, finding: PhantomFinding | None = None, **options: object) -> Dataset:
    return phantom_dx(seed, finding, ROWS, COLS, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def dciodvfy() -> str:
    return require_tool("dciodvfy")


@pytest.mark.parametrize("finding", GALLERY)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("view", ["PA", "AP"])
def test_dciodvfy_finds_nothing_to_say(
    finding: PhantomFinding | None, photometric: str, view: str, tmp_path: Path, dciodvfy: str
) -> None:
    path = tmp_path / "film.dcm"
    small(7, finding, photometric=photometric, view=view).save_as(path, enforce_file_format=True)
    said = subprocess.run([dciodvfy, path], capture_output=True, text=True, timeout=30, check=False)
    assert (said.returncode, said.stderr.strip()) == (0, "DXImageForPresentation")


@pytest.mark.parametrize("finding", list(PhantomFinding))
def test_the_patient_the_study_and_the_film_say_that_nobody_is_shown(finding: PhantomFinding) -> None:
    ds = small(7, finding)
    assert str(ds.PatientName) == f"PHANTOM^{finding.value}"
    assert ds.PatientID.startswith("PHANTOM-0007")
    assert ds.StudyDescription == STUDY_DESCRIPTION
    assert "SYNTHETIC" in ds.SeriesDescription


def test_one_patient_id_never_goes_by_two_names() -> None:
    pairs = {(small(7, f).PatientID, str(small(7, f).PatientName)) for f in GALLERY}
    assert len(GALLERY) == len({patient_id for patient_id, _ in pairs})


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        (path,) = write_phantoms(tmp_path / name, [3], rows=ROWS, cols=COLS)
        files.append((path.name, path.read_bytes()))
    assert files[0] == files[1]


def test_uids_differ_by_seed_finding_size_and_photometric_interpretation() -> None:
    others = [
        small(7),
        small(8),
        small(7, PhantomFinding.NODULE),
        small(7, photometric="MONOCHROME1"),
        small(7, view="AP"),
        phantom_dx(7, None, ROWS + 1, COLS),
    ]
    assert len(others) == len({ds.SOPInstanceUID for ds in others})


def test_jpeg_2000_holds_the_same_pixels_under_the_same_uid() -> None:
    raw, packed = small(), small(transfer_syntax=JPEG2000Lossless)
    assert packed.file_meta.TransferSyntaxUID == JPEG2000Lossless
    assert raw.SOPInstanceUID == packed.SOPInstanceUID
    assert np.array_equal(raw.pixel_array, packed.pixel_array)


def test_implicit_vr_can_be_written_and_read_back(tmp_path: Path) -> None:
    ds = small(transfer_syntax=ImplicitVRLittleEndian)
    ds.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    read = dcmread(tmp_path / "film.dcm")
    assert read.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert np.array_equal(ds.pixel_array, read.pixel_array)


def test_monochrome1_stores_the_complement_and_says_inverse() -> None:
    white, black = small(), small(photometric="MONOCHROME1")
    assert np.array_equal(4095 - white.pixel_array, black.pixel_array)
    assert (white.PresentationLUTShape, black.PresentationLUTShape) == ("IDENTITY", "INVERSE")
    assert (white.PixelIntensityRelationshipSign, black.PixelIntensityRelationshipSign) == (-1, 1)


def test_pixel_spacing_is_that_of_the_plate() -> None:
    assert [pytest.approx(FILM_HEIGHT * 10 / ROWS)] * 2 == [float(v) for v in small().ImagerPixelSpacing]


def test_a_coerced_film_has_the_same_pixels_and_identity_and_other_bytes(tmp_path: Path) -> None:
    ds = small()
    other = as_coerced(ds)
    for name, film in (("a", ds), ("b", other)):
        film.save_as(tmp_path / name, enforce_file_format=True)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    read = dcmread(tmp_path / "b")
    assert ds.PixelData == read.PixelData
    assert ds.SOPInstanceUID == read.SOPInstanceUID
    digests = {
        identity_digest(
            patient_id=film.PatientID,
            issuer=film.IssuerOfPatientID,
            accession=film.AccessionNumber,
            study_uid=film.StudyInstanceUID,
        )
        for film in (ds, read)
    }
    assert len(digests) == 1
    assert "InstitutionName" not in ds


def test_overrides_are_set_last_and_none_deletes() -> None:
    ds = small(PatientAge="003Y", ViewPosition=None, SOPInstanceUID="1.2.3")
    assert ds.PatientAge == "003Y"
    assert "ViewPosition" not in ds
    assert ds.file_meta.MediaStorageSOPInstanceUID == "1.2.3"


def test_a_name_in_another_character_set_survives(tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎"
    ds = small(patient_name=name, charset=["", "ISO 2022 IR 87"])
    ds.save_as(tmp_path / "film.dcm", enforce_file_format=True)
    assert name == str(dcmread(tmp_path / "film.dcm").PatientName)


def test_a_gallery_holds_every_finding_once(tmp_path: Path) -> None:
    paths = write_phantoms(tmp_path, rows=128, cols=100)
    named = ["normal", "effusion", "cardiomegaly", "nodule", "pneumothorax"]
    assert [f"phantom-{n:04d}-{name}.dcm" for n, name in enumerate(named)] == [path.name for path in paths]


def test_an_unwritable_transfer_syntax_is_refused() -> None:
    with pytest.raises(ValueError, match="little endian or JPEG 2000"):
        small(transfer_syntax=ExplicitVRBigEndian)
