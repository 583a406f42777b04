"""The outputs before the validators of others: dciodvfy (dicom3tools) and DCMTK find nothing in them that is ours.

What a copied attribute of the film causes by itself is found by running the validator over the film too, and listed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrnode.core.findings import Outcome, Report, Scale
from cxrnode.dicom.outputs import KINDS, OPTIONAL, Output, OutputSettings, SentObject, build_outputs
from cxrnode.dicom.outputs.study import FilmRead, build_study_summary
from cxrnode.dicom.outputs.withdrawal import Rejection, Withdrawal, build_withdrawal
from tests.unit.outputs.sources import READ_AT, code, make_film, make_report, make_saliency, make_source, sent_object
from tests.validators import complaints, ours, unread, written

pytestmark = pytest.mark.peers


def outputs(source: Dataset, report: Report | None = None, **settings: Any) -> tuple[Output, ...]:
    film = make_film(int(source.get("Rows", 300) or 300), int(source.get("Columns", 300) or 300))
    kinds = (KINDS | OPTIONAL) - {"hl7"}
    flagged = {"urgent": ("Cardiomegaly",), **settings}
    return build_outputs(source, report or make_report(), film, make_saliency(), OutputSettings(**flagged), kinds)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # changes to the film, to the report, settings
    "as it is": ({}, {}, {}),
    "comprehensive 3D": ({}, {}, {"sr_class": "comprehensive3d"}),
    "our own title": ({}, {}, {"sr_title": "ai-reading"}),
    "own codes": ({}, {}, {"scheme": "99CXRNODE"}),
    "probabilities": ({}, {"scale": Scale.PROBABILITY}, {}),
    "demonstration": ({}, {"reader": dataclasses.replace(make_report().reader, demonstration=True)}, {}),
    "not analysed": ({}, {"outcome": Outcome.NOT_ANALYSED, "reason": "the pixels cannot be decoded"}, {}),
    "contour alone": ({}, {}, {"style": "contour"}),
    "jpeg": ({}, {}, {"encoding": "jpeg"}),
    "all findings": ({}, {}, {"min_findings": 6}),
    "odd header": (
        {
            "PatientSex": b"U",
            "PatientBirthDate": b"1970-13-01",
            "StudyTime": b"10:15:00",
            "PatientAge": b"56",
            "TimezoneOffsetFromUTC": b"JST",
        },
        {},
        {},
    ),
    "lossy film": (
        {
            "LossyImageCompression": "01",
            "LossyImageCompressionRatio": [7.5],
            "LossyImageCompressionMethod": "ISO_15444_1",
        },
        {},
        {},
    ),
    "lossy film that tells no ratio": ({"LossyImageCompression": "01"}, {}, {}),
    "no orientation, no request": (
        {"PatientOrientation": None, "RequestAttributesSequence": None, "TimezoneOffsetFromUTC": None},
        {},
        {},
    ),
    "procedure of its own": (
        {"ProcedureCodeSequence": Sequence([code("XCHEST", "99LOCAL", "Thorax")])},
        {},
        {"timezone": "Europe/Berlin"},
    ),
}


@pytest.mark.parametrize("which", CASES)
def test_dciodvfy_finds_nothing_in_any_output(which: str, tmp_path: Path) -> None:
    film, report, settings = CASES[which]
    made = outputs(make_source(320, 280, **film), make_report(**report), **settings)
    found = {path.name: complaints(path) for path in written(made, tmp_path)}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("which", CASES)
def test_dcmtk_reads_every_report_and_draws_every_picture(which: str, tmp_path: Path) -> None:
    film, report, settings = CASES[which]
    paths = written(outputs(make_source(320, 280, **film), make_report(**report), **settings), tmp_path)
    assert [fault for path in paths for fault in unread(path)] == []


def sent() -> tuple[SentObject, ...]:
    return tuple(sent_object(one.kind, one.label, one.data) for one in outputs(make_source(320, 280)))


@pytest.mark.parametrize("rejection", Rejection)
def test_a_withdrawal_passes_the_validators(rejection: Rejection, tmp_path: Path) -> None:
    order = Withdrawal(rejection=rejection, reason="another patient's film", at=READ_AT + 3600, objects=sent())
    made = build_withdrawal(make_source(320, 280), make_report(), order, OutputSettings())
    assert sorted(one.kind for one in made) == ["rejection", "withdrawn", "withdrawn_sr"]
    assert [fault for path in written(made, tmp_path) for fault in ours(path, ())] == []


def test_a_revision_that_names_its_predecessors_passes_the_validators(tmp_path: Path) -> None:
    report, settings = make_report(revision=2), OutputSettings()
    made = build_outputs(
        make_source(320, 280), report, None, None, settings, frozenset({"sr", "text"}), predecessors=sent()
    )
    assert all("PredecessorDocumentsSequence" in pydicom.dcmread(path) for path in written(made, tmp_path))
    assert [fault for path in written(made, tmp_path) for fault in ours(path, ())] == []


def test_the_summary_of_a_study_passes_the_validators(tmp_path: Path) -> None:
    films = [
        FilmRead(
            source=make_source(320, 280, SOPInstanceUID=f"1.2.{n}"), report=make_report(), preview=make_film(320, 280)
        )
        for n in range(4)
    ]
    made = build_study_summary(films, OutputSettings(), at=READ_AT + 60)
    assert [one.kind for one in made] == ["study_sr", "study", "study"]
    assert [fault for path in written(made, tmp_path) for fault in ours(path, ())] == []


def test_the_validators_can_fail(tmp_path: Path) -> None:
    summary = next(one for one in outputs(make_source(320, 280)) if one.kind == "summary")
    broken = pydicom.dcmread(written((summary,), tmp_path)[0])
    del broken.ConversionType
    broken.save_as(tmp_path / "broken.dcm")
    assert any("ConversionType" in line.replace(" ", "") for line in complaints(tmp_path / "broken.dcm"))


def test_the_check_of_a_presentation_state_can_fail(tmp_path: Path) -> None:
    state = next(one for one in outputs(make_source(320, 280)) if one.kind == "gsps")
    (path,) = written((state,), tmp_path)
    broken = pydicom.dcmread(path)
    del broken.PresentationLUTShape
    broken.DisplayedAreaSelectionSequence = Sequence()
    broken.save_as(path)
    assert unread(path) != []
    assert complaints(path) != []
