"""Notices and summaries of studies with the real roles: received, read or not, told to an archive, told anew.

The films are phantoms; the archive keeps every object that it is sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset

from cxrnode.config import Config, parse_config
from cxrnode.core.findings import Outcome, Report
from cxrnode.dicom.outputs import OutputSettings
from cxrnode.dicom.outputs.notice import build_notice
from cxrnode.errors import Transient
from cxrnode.phantom.dicom import write_phantoms
from cxrnode.reading.engine import Reading
from cxrnode.roles.infer import FilmReader
from cxrnode.roles.models import Loaded
from cxrnode.roles.notices import say_not_analysed
from cxrnode.roles.studies import StudySummaries
from cxrnode.roles.withdraw import make_withdrawals
from cxrnode.store import jobs, notices
from cxrnode.store.database import CommitUnknown
from cxrnode.store.listing import JobFilter, list_jobs
from cxrnode.store.schema import delivery, instance, job, notice, output
from tests.integration.test_faults import Site, reading
from tests.peers import RecordingScp, wait_until
from tests.unit.outputs.sources import READ_AT, make_reader, make_source
from tests.validators import complaints, unread, written

NAME = "Sch\xf6n^J\xfcrgen".encode("latin-1")
REPORT = Report(
    outcome=Outcome.NOT_ANALYSED,
    reason="no result within 30 minutes of the film's receipt",
    read_at=READ_AT,
    revision=1,
    reader=make_reader(demonstration=True),
)


class NotANumber:
    """The engine of a model whose scores are no numbers."""

    name = "not a number"

    def read(self, films: Sequence[npt.NDArray[np.uint8]]) -> list[Reading]:
        return [Reading(scores=np.full(14, np.nan, np.float32), saliency=None, distance=0.1) for _ in films]


def configured(folder: Path, archive: RecordingScp, **sections: dict[str, Any]) -> Config:
    """What the site is configured with."""
    return parse_config(
        {
            "node": {"data_dir": str(folder), "purpose": "demo"},
            "nodes": {"PACS": {"aet": archive.aet, "host": archive.host, "port": archive.port}},
            "models": {"chest": {"bundle": "demo"}},
            "rules": [{"name": "all", "unsure": "read", "models": ["chest"], "send_to": ["PACS"]}],
            "reading": {"implausible": "read"},
            "spool": {"min_free": "1 MiB"},
            **sections,
        }
    )


@pytest.fixture
def site(tmp_path: Path, recording_scp: RecordingScp) -> Iterator[Site]:
    made = Site(tmp_path, {"PACS": (recording_scp.aet, recording_scp.port)}, send_to=["PACS"])
    made.config = configured(tmp_path, recording_scp)
    yield made
    made.close()


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four films, the first two of one study; the names have umlauts in ISO_IR 100."""
    paths = list(write_phantoms(tmp_path_factory.mktemp("films"), range(4)))
    study: dict[str, Any] = {}
    for number, path in enumerate(paths):
        film = pydicom.dcmread(path)
        if number < 2:
            kept = {name: film[name].value for name in ("StudyInstanceUID", "PatientID", "AccessionNumber")}
            study = study or kept
            for name, value in study.items():
                setattr(film, name, value)
        film.SpecificCharacterSet = "ISO_IR 100"
        film.PatientName = NAME.decode("latin-1")
        film.save_as(path)
    return paths


def test_validators_find_nothing_in_a_notice(tmp_path: Path) -> None:
    kinds = frozenset({"sr", "heatmap", "text", "pdf"})
    paths = written(build_notice(make_source(320, 280), REPORT, OutputSettings(), kinds), tmp_path)
    assert {path.name: complaints(path) for path in paths} == {path.name: [] for path in paths}
    assert [fault for path in paths for fault in unread(path)] == []


def turn(site: Site, reader: FilmReader, keeper: Any) -> None:
    """Let the worker take what waits, whatever pause it has."""
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(job).values(not_before=0.0))
    reader.turn(keeper)


def objects(archive: RecordingScp) -> dict[tuple[str, str], list[Dataset]]:
    """What the archive has, by film (the source's or the evidence's UID) and modality."""
    found: dict[tuple[str, str], list[Dataset]] = {}
    for uid in archive.by_uid():
        ds = next(s for s in archive.stored if s.sop_instance_uid == uid).dataset()
        if ds.Modality == "SR":
            about = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        else:
            about = ds.SourceImageSequence[0]
        found.setdefault((str(about.ReferencedSOPInstanceUID), ds.Modality), []).append(ds)
    return found


def texts(ds: Dataset) -> str:
    """Every text of a document, as one string."""
    return " ".join(str(e.value) for e in ds.iterall() if e.keyword in ("TextValue", "CodeMeaning"))


def sent(site: Site, archive: RecordingScp, count: int) -> None:
    """Wait until the archive has so many objects and nothing is under way."""
    archive.wait_for(count)
    states = sa.select(delivery.c.state)
    wait_until(lambda: {r[0] for r in site.all(states)} <= {"sent", "cancelled"}, seconds=60, what="all at rest")


def test_films_without_a_result_are_told_once_and_the_result_that_comes_takes_the_notices_place(
    site: Site, films: list[Path], recording_scp: RecordingScp
) -> None:
    uids = [str(pydicom.dcmread(film).SOPInstanceUID) for film in films[1:]]
    lost = site.receive(films[1])
    key = site.one(sa.select(instance.c.spool_key).where(instance.c.id == lost))[0]
    site.spool.path(key).unlink()
    with reading(site) as (reader, keeper):
        turn(site, reader, keeper)
        site.receive(films[2])
        whole = reader._models["chest"]
        reader._models["chest"] = Loaded(bundle=whole.bundle, engine=NotANumber())
        turn(site, reader, keeper)
        late = site.receive(films[3])
        assert site.states() == ["failed", "failed", "queued"]

        context = site.context()
        with site.database.write() as transaction:
            transaction.connection.execute(
                sa.update(instance).where(instance.c.id == late).values(received_at=transaction.now - 3600.0)
            )
        say_not_analysed(context)
        say_not_analysed(context)
        assert [row[0] for row in site.all(sa.select(notice.c.cause).order_by(notice.c.job_id))] == [
            *("parked", "parked", "late")
        ]
        site.send()
        sent(site, recording_scp, 6)
        told = objects(recording_scp)
        reasons = ("the spool has no file: restore", "ValueError", "no result within 30 minutes")
        for uid, reason in zip(uids, reasons, strict=True):
            (report,), (page,) = told[uid, "SR"], told[uid, "OT"]
            said = texts(report)
            assert ("AI: not analysed" in said, reason in said) == (True, True)
            assert ("Absent" in said, "Present" in said) == (False, False)
            assert "NOT ANALYSED" in page.SeriesDescription
            assert page.Rows < 500

        assert all(NAME in one.data for one in recording_scp.stored)
        # The film comes again, the model is mended, and a person has the film read again.
        site.receive(films[1])
        reader._models["chest"] = whole
        jobs.retry(site.database, 1, reason="the film came again")
        for _ in range(2):
            turn(site, reader, keeper)
    assert set(site.states()) <= {"reported", "delivered", "failed"}
    made = len(site.all(sa.select(output.c.id)))
    sent(site, recording_scp, made)
    wait_until(lambda: site.states() == ["delivered", "failed", "delivered"], seconds=60, what="all delivered")
    for uid in (uids[0], uids[2]):
        before, after = objects(recording_scp)[uid, "SR"]
        (named,) = after.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
        assert named.ReferencedSOPInstanceUID == before.SOPInstanceUID
        assert 'takes the place of the notice "AI: not analysed"' in texts(after)
    say_not_analysed(context)
    assert len(site.all(sa.select(output.c.id))) == made


def test_a_notice_whose_record_fails_leaves_nothing_and_is_made_again_as_the_same_objects(
    site: Site, films: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.receive(films[2])
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(instance).values(received_at=transaction.now - 3600.0))
    files, seen = site.files(), []
    record = notices.record

    def away(*given: Any, **named: Any) -> bool:
        seen.append([one.sop_instance_uid for one in given[3]])
        raise Transient("the database does not answer")

    def lost(*given: Any, **named: Any) -> bool:
        raise CommitUnknown("the database was lost at the commit")

    monkeypatch.setattr(notices, "record", away)
    with pytest.raises(Transient):
        say_not_analysed(site.context())
    assert site.files() == files
    monkeypatch.setattr(notices, "record", lost)
    with pytest.raises(CommitUnknown):
        say_not_analysed(site.context())
    assert site.files() == files + 2  # the rows may stand: `sweep` takes what no row has
    monkeypatch.setattr(notices, "record", record)
    say_not_analysed(site.context())
    assert site.files() == files + 4
    assert [row[0] for row in site.all(sa.select(output.c.sop_instance_uid).order_by(output.c.id))] == seen[0]


def test_nothing_is_said_where_the_site_switched_it_off(
    site: Site, films: list[Path], recording_scp: RecordingScp
) -> None:
    site.config = configured(site.folder, recording_scp, notices={"not_analysed": False})
    site.receive(films[2])
    with site.database.write() as transaction:
        transaction.connection.execute(sa.update(instance).values(received_at=transaction.now - 3600.0))
    say_not_analysed(site.context())
    assert site.all(sa.select(output.c.id)) == []


def test_a_study_of_two_films_gets_one_summary_and_a_third_film_makes_the_next(
    site: Site, films: list[Path], recording_scp: RecordingScp, tmp_path: Path
) -> None:
    site.config = configured(site.folder, recording_scp, study={"summary": True, "quiet": "500ms"})
    summarise = StudySummaries()
    third = pydicom.dcmread(films[2])
    for name in ("StudyInstanceUID", "PatientID", "AccessionNumber"):
        setattr(third, name, pydicom.dcmread(films[0])[name].value)
    third.save_as(tmp_path / "third.dcm")
    with reading(site) as (reader, keeper):
        for film in films[:2]:
            site.receive(film)
        turn(site, reader, keeper)
        summarise(site.context())  # nothing is delivered yet
        assert site.all(sa.select(output.c.id).where(output.c.kind == "study")) == []
        site.send()
        wait_until(lambda: site.states() == ["delivered"] * 2, seconds=60, what="two results")
        wait_until(lambda: _summaries(site, summarise) == 1, seconds=60, what="a summary")
        sent(site, recording_scp, len(site.all(sa.select(output.c.id))))
        summarise(site.context())
        StudySummaries()(site.context())  # a process that starts anew looks back
        site.receive(tmp_path / "third.dcm")
        turn(site, reader, keeper)
        wait_until(lambda: _summaries(site, summarise) == 2, seconds=60, what="the next summary")
    recording_scp.wait_for(len(site.all(sa.select(output.c.id))))
    archived = {ds.SOPInstanceUID: ds for many in objects(recording_scp).values() for ds in many}
    first, second = (
        [archived[r[0]] for r in site.all(sa.select(output.c.sop_instance_uid).where(output.c.kind == kind))]
        for kind in ("study_sr", "study")
    )
    assert [len(_films(ds)) for ds in first] == [2, 3]
    named = first[1].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [one.ReferencedSOPInstanceUID for one in named] == [first[0].SOPInstanceUID]
    assert all(NAME in one.data for one in recording_scp.stored)
    assert [len(ds.SourceImageSequence) for ds in second] == [2, 3]
    _the_first_is_retracted_alone(site, recording_scp, [first[0], second[0]])


def _the_first_is_retracted_alone(site: Site, archive: RecordingScp, withdrawn: Sequence[Dataset]) -> None:
    """Of a study that has a newer summary one rejection note goes, of the old summary and nothing else."""
    before = len(archive.stored)
    retractions = sa.select(delivery.c.state).where(delivery.c.act == "retract-1")
    assert site.all(retractions) == [("waiting",)]

    def made() -> bool:
        make_withdrawals(site.context())  # waits until the newer summary has gone
        return site.all(retractions) != [("waiting",)]

    wait_until(made, seconds=60, what="the retraction")
    sent(site, archive, before + 1)
    (note,) = [one.dataset() for one in archive.stored[before:]]
    assert note.ConceptNameCodeSequence[0].CodeValue == "113001"  # Rejected for Quality Reasons
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    rejected = {
        one.ReferencedSOPInstanceUID
        for series in study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert rejected == {ds.SOPInstanceUID for ds in withdrawn}
    said = note.ContentSequence[-1].TextValue
    assert "newer summary" in said and "reports of the single films stand" in said and "AI RESULT WITHDRAWN" not in said
    assert site.states() == ["delivered"] * 3
    assert not any(row.withdrawals for row in list_jobs(site.database, JobFilter(), limit=9))


def _summaries(site: Site, summarise: StudySummaries) -> int:
    summarise(site.context())
    return len(site.all(sa.select(output.c.id).where(output.c.kind == "study_sr")))


def _films(ds: Dataset) -> list[Dataset]:
    series = ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    return [film for one in series for film in one.ReferencedSOPSequence]
