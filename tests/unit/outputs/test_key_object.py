"""The urgent flag: only for what the site lists and the model found, never by a demonstration; it says its limits."""

from __future__ import annotations

import io

import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrnode.core.findings import Decision, Outcome, Report
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.common import Subject
from cxrnode.dicom.outputs.key_object import build_key_object
from tests.unit.outputs.sources import SCORES, make_report, make_source

#: Present in the report of the tests, undetermined, absent, not assessed.
PRESENT, UNDETERMINED, ABSENT, NOT_ASSESSED = "Effusion", "Consolidation", "Pneumothorax", "Hernia"


def made(urgent: tuple[str, ...], report: Report | None = None, source: Dataset | None = None) -> tuple[Output, ...]:
    settings = OutputSettings(urgent=urgent)
    return build_outputs(
        source or make_source(), report or make_report(), None, None, settings, frozenset({"key_object"})
    )


def read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def text(ds: Dataset) -> str:
    (found,) = [str(item.TextValue) for item in ds.ContentSequence if item.ValueType == "TEXT" and _described(item)]
    return found


def _described(item: Dataset) -> bool:
    return bool(item.ConceptNameCodeSequence[0].CodeValue == "113012")


def test_a_finding_that_is_present_and_listed_flags_the_film() -> None:
    (output,) = made((PRESENT,))
    ds = read(output)
    assert (output.kind, ds.SOPClassUID, ds.Modality) == ("key_object", "1.2.840.10008.5.1.4.1.1.88.59", "KO")
    assert (ds.SeriesNumber, ds.ConceptNameCodeSequence[0].CodeValue) == (9005, "113000")
    (image,) = [item for item in ds.ContentSequence if item.ValueType == "IMAGE"]
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == make_source().SOPInstanceUID
    study = ds.CurrentRequestedProcedureEvidenceSequence[0]
    assert study.StudyInstanceUID == make_source().StudyInstanceUID == ds.StudyInstanceUID
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == make_source().SeriesInstanceUID


def test_it_says_what_was_found_by_whom_and_what_it_does_not_mean() -> None:
    assert text(read(made((PRESENT,))[0])) == (
        "AI, urgent by this site's list: Effusion (score 0.620, present at or above 0.500, absent below 0.200). "
        "Research use - not for diagnosis. A study without such a flag is not thereby less urgent. "
        "Read by chest-densenet121 1.4.0."
    )


def test_all_listed_findings_that_are_present_stand_in_it_the_highest_score_first() -> None:
    told = text(read(made(("Effusion", "Cardiomegaly", ABSENT))[0]))
    assert told.index("Cardiomegaly") < told.index("Effusion")
    assert ABSENT not in told


@pytest.mark.parametrize("label", [UNDETERMINED, ABSENT, NOT_ASSESSED, "No such label"])
def test_a_finding_that_is_not_present_flags_nothing(label: str) -> None:
    decisions = {f.label: f.decision for f in make_report().findings}
    assert decisions.get(label) is not Decision.PRESENT
    assert made((label,)) == ()


def test_a_finding_that_is_not_listed_flags_nothing() -> None:
    assert made(()) == ()
    assert made(("Pneumonia",)) == ()


def test_a_model_for_demonstration_never_flags() -> None:
    assert made((PRESENT,), make_report(demonstration=True)) == ()


def test_a_film_that_was_not_analysed_is_never_flagged() -> None:
    assert made((PRESENT,), make_report(outcome=Outcome.NOT_ANALYSED, reason="unreadable")) == ()


def test_a_flag_for_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        build_key_object(Subject(make_source(), make_report(), OutputSettings()), ())


def test_the_requests_of_the_film_are_named_and_a_film_without_any_is_flagged_all_the_same() -> None:
    asked = read(made((PRESENT,))[0])
    assert asked.ReferencedRequestSequence[0].AccessionNumber == "ACC0001"
    without = read(made((PRESENT,), source=make_source(RequestAttributesSequence=None))[0])
    assert "ReferencedRequestSequence" not in without


def test_the_same_arguments_give_the_same_bytes_and_another_list_another_uid() -> None:
    assert made((PRESENT,)) == made((PRESENT,))
    assert made((PRESENT,))[0].sop_instance_uid != made((PRESENT, "Mass"))[0].sop_instance_uid
    assert made((PRESENT,), make_report(tuple(0.9 * s for s in SCORES)))[0].data != made((PRESENT,))[0].data
