"""The text report: it says what the structured report says, first things first, and nothing that nobody assessed."""

from __future__ import annotations

import io
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from cxrnode.core.findings import Outcome, Report, Scale
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from tests.unit.outputs.sources import SCORES, make_report, make_source


def made(report: Report | None = None, **settings: Any) -> Output:
    (output,) = build_outputs(
        make_source(), report or make_report(), None, None, OutputSettings(**settings), frozenset({"text"})
    )
    return output


def read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def told(item: Dataset) -> list[tuple[str, str]]:
    """All texts below an item in their order, as pairs of concept and text."""
    found = []
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "TEXT" and child.RelationshipType == "CONTAINS":
            found.append((child.ConceptNameCodeSequence[0].CodeMeaning, child.TextValue))
        found += told(child)
    return found


def test_it_is_a_basic_text_report_in_a_series_of_its_own() -> None:
    output = made()
    ds = read(output)
    assert (output.kind, output.sop_class_uid) == ("text", "1.2.840.10008.5.1.4.1.1.88.11")
    assert (ds.SOPClassUID, ds.Modality, ds.SeriesNumber) == (output.sop_class_uid, "SR", 9003)
    assert (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert {child.ValueType for child in ds.ContentSequence} <= {"CONTAINER", "TEXT", "CODE", "UIDREF"}


def test_the_series_is_not_that_of_the_structured_report() -> None:
    kinds = frozenset({"sr", "text"})
    both = build_outputs(make_source(), make_report(), None, None, OutputSettings(), kinds)
    sr, text = (read(one) for one in both)
    assert [one.kind for one in both] == ["sr", "text"]
    assert sr.SeriesInstanceUID != text.SeriesInstanceUID
    assert sr.SOPInstanceUID != text.SOPInstanceUID


def test_its_title_is_none_that_a_radiologists_report_has() -> None:
    title = read(made()).ConceptNameCodeSequence[0]
    assert (title.CodingSchemeDesignator, title.CodeMeaning) == (
        "99CXRNODE",
        "AI reading of one chest film, not a diagnosis",
    )


def test_the_summary_and_the_disclaimer_stand_first() -> None:
    first, second = told(read(made()))[:2]
    assert first[0] == "Summary"
    assert first[1].startswith("AI: present: Cardiomegaly (score 0.910, present at or above 0.500, absent below 0.200)")
    assert second == (
        "Comment",
        "Research use - not for diagnosis. Made automatically by software and reviewed by nobody. "
        "It does not replace reading the film.",
    )


def test_findings_stand_by_decision_and_then_by_score_each_with_its_thresholds() -> None:
    findings = told(read(made()))[2:16]
    limits = "present at or above 0.500, absent below 0.200"
    assert findings == [
        ("Cardiomegaly", f"present: score 0.910; {limits}"),
        ("Pleural effusion", f"present: score 0.620; {limits}"),
        ("Lung consolidation", f"undetermined: score 0.410; {limits}"),
        ("Infiltrate", f"undetermined: score 0.330; {limits}"),
        ("Lung mass", f"undetermined: score 0.310; {limits}"),
        ("Pulmonary emphysema", f"absent: score 0.180; {limits}"),
        ("Atelectasis", f"absent: score 0.120; {limits}"),
        ("Fibrosis of lung", f"absent: score 0.050; {limits}"),
        ("Pneumonia", f"absent: score 0.040; {limits}"),
        ("Pulmonary edema", f"absent: score 0.030; {limits}"),
        ("Nodule of lung", f"absent: score 0.020; {limits}"),
        ("Pneumothorax", f"absent: score 0.010; {limits}"),
        ("Pleural thickening", "not assessed"),
        ("Diaphragmatic hernia", "not assessed"),
    ]


def test_a_probability_is_called_one_only_where_the_report_says_so() -> None:
    scores = " ".join(text for _, text in told(read(made())))
    chances = " ".join(text for _, text in told(read(made(make_report(scale=Scale.PROBABILITY)))))
    assert ("score 0.910" in scores, "probability 91.0 %" in scores) == (True, False)
    assert ("score" in chances, "probability 91.0 %" in chances) == (False, True)


def test_a_film_that_was_not_analysed_is_said_to_be_so_and_no_finding_is_named() -> None:
    ds = read(made(make_report(outcome=Outcome.NOT_ANALYSED, reason="the pixels cannot be decoded")))
    texts = dict(told(ds))
    assert texts["Summary"] == (
        "AI: not analysed. Reason: the pixels cannot be decoded. Nothing is said about any finding."
    )
    assert not [name for name in texts if name in ("Cardiomegaly", "Pleural effusion", "Pneumothorax")]
    assert "absent" not in " ".join(texts.values())


def test_it_says_which_film_was_read_when_and_by_what() -> None:
    texts = dict(told(read(made(make_report(demonstration=True)))))
    assert texts["Film"] == "PA, taken 2026-09-01 10:15:00, series 1, image 1"
    assert texts["Read"] == (
        "2026-09-01 10:20:00 +09:00 by chest-densenet121 1.4.0 (DEMONSTRATION MODEL), bundle abababababab"
    )
    assert texts["Plausibility of the film for the model"].startswith("The film is plausible for the model")


def test_no_text_names_the_patient() -> None:
    ds = read(made())
    names = (str(ds.PatientID), "Yamada", str(ds.AccessionNumber))
    assert not [text for _, text in told(ds) if any(name in text for name in names)]


def test_the_same_arguments_give_the_same_bytes_and_other_settings_or_revisions_other_uids() -> None:
    assert made().data == made().data
    assert made().sop_instance_uid == made().sop_instance_uid
    assert made().sop_instance_uid != made(timezone="Europe/Berlin").sop_instance_uid
    assert made(make_report(revision=2)).sop_instance_uid != made().sop_instance_uid
    assert made(make_report(tuple(0.1 * s for s in SCORES))).data != made().data
