"""Silence is said, and studies are put together: what an Orthanc has of a film that was parked, and of two films."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
import sqlalchemy as sa
from PIL import Image

from cxrnode.phantom.dicom import write_phantoms
from cxrnode.store.schema import delivery, instance, job, notice, output, study_summary
from tests.acceptance.conftest import MakeSite
from tests.peers import Dcmtk, Orthanc, wait_until

_SETTINGS = """
[study]
summary = true
quiet = "2s"
"""


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    """Three films; the last two are of one patient and study, a second apart."""
    paths = list(write_phantoms(tmp_path / "films", range(3), rows=1024, cols=848))
    first = pydicom.dcmread(paths[1])
    for number, path in enumerate(paths[1:]):
        film = pydicom.dcmread(path)
        for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
            film[keyword] = first[keyword]
        film.AcquisitionTime = film.ContentTime = f"10150{number}"
        film.save_as(path)
    return paths


@pytest.mark.timeout(300)
def test_a_parked_film_is_said_to_be_not_analysed_and_two_films_get_one_page(
    make_site: MakeSite, orthanc: Orthanc, dcmtk: Dcmtk, films: list[Path]
) -> None:
    site = make_site((orthanc.aet, orthanc.dicom_port), phantoms=True)
    configured = site.config.read_text() + _SETTINGS
    # Received where nothing reads yet, so that the film is lost before it is read.
    site.config.write_text(re.sub(r"^roles = .*$", 'roles = ["receive"]', configured, flags=re.MULTILINE))
    site.start()
    dcmtk.send(site.port, films[0], calling="MODALITY", called="CXRNODE")
    [(key,)] = site.rows(sa.select(instance.c.spool_key))
    (site.data_dir / "spool" / "objects" / key[:2] / key).unlink()
    assert site.stop() == 0
    site.config.write_text(configured)
    site.start()
    dcmtk.send(site.port, *films[1:], calling="MODALITY", called="CXRNODE")

    wait_until(lambda: bool(site.rows(sa.select(notice.c.job_id))), seconds=120, what="a notice")
    wait_until(lambda: bool(site.rows(sa.select(study_summary.c.id))), seconds=120, what="a summary of the study")
    site.wait_at_rest(60)
    assert [row.state for row in site.jobs()] == ["failed", "delivered", "delivered"]
    acts = sa.select(delivery.c.act, delivery.c.state).order_by(delivery.c.act)
    assert [tuple(row) for row in site.rows(acts)] == [
        *[("notice", "sent")],
        *[("report", "sent")] * 2,
        *[("study-1", "sent")],
    ]

    stored = {str(one.SOPInstanceUID): one for one in map(orthanc.dataset, orthanc.instances())}
    rows = {row.kind: row for row in site.rows(sa.select(output).order_by(output.c.id)) if row.job_id == 1}
    assert set(rows) == {"sr", "notice"}
    lost = pydicom.dcmread(films[0], stop_before_pixels=True)
    report, page = stored[rows["sr"].sop_instance_uid], stored[rows["notice"].sop_instance_uid]
    for one in (report, page):
        assert (one.StudyInstanceUID, one.PatientID) == (lost.StudyInstanceUID, lost.PatientID)
        assert "NOT ANALYSED" in one.SeriesDescription
        assert "DEMONSTRATION" in one.SeriesDescription
    said = [str(e.value) for e in report.iterall() if e.keyword in ("TextValue", "CodeMeaning")]
    assert any("AI: not analysed. Reason: the spool has no file" in text for text in said)
    assert not {"Absent", "Present", "Finding"} & set(said)
    _looks_like_a_page(orthanc, page)

    kinds = site.rows(sa.select(output.c.kind, output.c.sop_instance_uid).where(output.c.kind.like("study%")))
    summary = {kind: stored[uid] for kind, uid in kinds}
    assert set(summary) == {"study_sr", "study"}
    source = pydicom.dcmread(films[1], stop_before_pixels=True)
    assert {str(one.StudyInstanceUID) for one in summary.values()} == {source.StudyInstanceUID}
    assert len(summary["study"].SourceImageSequence) == 2
    _looks_like_a_page(orthanc, summary["study"])
    site.check_audit()
    assert site.rows(sa.select(sa.func.count()).select_from(job))[0][0] == 3
    assert site.stop() == 0


def _looks_like_a_page(orthanc: Orthanc, ds: pydicom.Dataset) -> None:
    """Orthanc draws it, and what it draws is what was sent."""
    drawn = Image.open(io.BytesIO(orthanc.request(f"/instances/{_id(orthanc, ds)}/preview")))
    sent = np.frombuffer(ds.PixelData, dtype=np.uint8)[: ds.Rows * ds.Columns * 3].reshape(ds.Rows, ds.Columns, 3)
    assert np.array_equal(np.asarray(drawn.convert("RGB")), sent)


def _id(orthanc: Orthanc, ds: pydicom.Dataset) -> str:
    return next(one for one in orthanc.instances() if orthanc.dataset(one).SOPInstanceUID == ds.SOPInstanceUID)
