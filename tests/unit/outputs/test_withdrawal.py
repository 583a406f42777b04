"""A result taken back: the rejection note names every object sent, the notice says it to people and repeats nothing."""

from __future__ import annotations

import functools
import io
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrnode.core.findings import NIH14, Report
from cxrnode.dicom.outputs import Output, OutputSettings, SentObject, build_outputs
from cxrnode.dicom.outputs.common import Subject
from cxrnode.dicom.outputs.drawing import SMALL, contrast
from cxrnode.dicom.outputs.withdrawal import (
    DO_NOT_USE,
    WITHDRAWN,
    Rejection,
    Withdrawal,
    build_withdrawal,
    draw_withdrawal,
)
from tests.unit.outputs.sources import READ_AT, make_film, make_report, make_saliency, make_source, sent_object

ALL = frozenset({"sr", "heatmap", "text", "pdf", "key_object"})
REASON = "read with a model that was withdrawn by its maker"


FILM = make_film(200, 170)


@functools.cache
def sent() -> tuple[SentObject, ...]:
    settings = OutputSettings(urgent=("Effusion",))
    made = build_outputs(make_source(), make_report(), FILM, make_saliency(), settings, ALL)
    return tuple(sent_object(one.kind, one.label, one.data) for one in made)


def withdrawal(**changes: Any) -> Withdrawal:
    values: dict[str, Any] = {
        "rejection": Rejection.QUALITY,
        "reason": REASON,
        "at": READ_AT + 9000,
        "objects": sent(),
        **changes,
    }
    return Withdrawal(**values)


def made(report: Report | None = None, source: Dataset | None = None, **changes: Any) -> dict[str, Output]:
    outputs = build_withdrawal(
        source or make_source(), report or make_report(), withdrawal(**changes), OutputSettings()
    )
    return {one.kind: one for one in outputs}


def read(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def test_an_object_is_known_again_from_its_bytes() -> None:
    made = build_outputs(make_source(), make_report(), FILM, make_saliency(), OutputSettings(), ALL)
    assert [sent_object(o.kind, o.label, o.data).series_instance_uid for o in made] == [
        o.series_instance_uid for o in made
    ]
    assert [sent_object(o.kind, o.label, o.data).sop_instance_uid for o in made] == [o.sop_instance_uid for o in made]


@pytest.mark.parametrize(
    ("rejection", "code"), [(Rejection.QUALITY, "113001"), (Rejection.SAFETY, "113037"), (Rejection.WORKLIST, "113038")]
)
def test_the_title_of_a_rejection_note_is_its_reason(rejection: Rejection, code: str) -> None:
    ds = read(made(rejection=rejection)["rejection"])
    (title,) = ds.ConceptNameCodeSequence
    assert (ds.SOPClassUID, ds.Modality) == ("1.2.840.10008.5.1.4.1.1.88.59", "KO")
    assert (title.CodeValue, title.CodingSchemeDesignator) == (code, "DCM")


def test_a_rejection_note_refers_to_every_object_sent_in_its_tree_and_as_evidence() -> None:
    ds = read(made()["rejection"])
    wanted = {(one.sop_class_uid, one.sop_instance_uid) for one in sent()}
    tree = {
        (ref.ReferencedSOPClassUID, ref.ReferencedSOPInstanceUID)
        for item in ds.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
        for ref in item.ReferencedSOPSequence
    }
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        (ref.ReferencedSOPClassUID, ref.ReferencedSOPInstanceUID, series.SeriesInstanceUID)
        for series in study.ReferencedSeriesSequence
        for ref in series.ReferencedSOPSequence
    }
    assert tree == wanted
    assert evidence == {(one.sop_class_uid, one.sop_instance_uid, one.series_instance_uid) for one in sent()}
    assert study.StudyInstanceUID == ds.StudyInstanceUID == make_source().StudyInstanceUID


def test_the_notice_says_what_is_withdrawn_and_why_and_repeats_no_finding() -> None:
    said = " ".join(str(e.value) for e in read(made()["withdrawn_sr"]).iterall() if e.keyword == "TextValue")
    page = draw_withdrawal(Subject(make_source(), make_report(), OutputSettings(), at=READ_AT + 9000), withdrawal())
    drawn = " ".join(t.text for t in page.placed)
    for words in (said, drawn):
        expected = (WITHDRAWN, REASON, DO_NOT_USE, "2026-09-01 10:20:00 +09:00", "chest-densenet121 1.4.0", "PA, taken")
        assert [one for one in expected if one not in words] == []
        assert [label for label in NIH14 if label in words] == []
    assert "Withdrawn 2026-09-01 12:50:00 +09:00" in drawn
    assert "Objects: report, text report, summary page, 2 maps, page as PDF, urgent flag." in drawn


@pytest.mark.parametrize("replaced", [False, True])
def test_the_notice_says_whether_a_later_reading_takes_the_place(replaced: bool) -> None:
    page = draw_withdrawal(Subject(make_source(), make_report(), OutputSettings()), withdrawal(replaced=replaced))
    said = " ".join(t.text for t in page.placed)
    assert ("A later AI reading of the same film" in said, "No other AI reading" in said) == (replaced, not replaced)


def test_the_notice_has_no_group_and_names_the_reports_that_it_takes_the_place_of() -> None:
    ds = read(made()["withdrawn_sr"])
    (study,) = ds.PredecessorDocumentsSequence
    named = {ref.ReferencedSOPInstanceUID for s in study.ReferencedSeriesSequence for ref in s.ReferencedSOPSequence}
    assert named == {one.sop_instance_uid for one in sent() if one.kind in ("sr", "text")}
    assert [e for e in ds.iterall() if e.keyword == "CodeValue" and e.value == "125007"] == []


def test_a_withdrawal_stands_in_series_of_its_own_that_say_so() -> None:
    found = {kind: read(one) for kind, one in made().items()}
    assert {kind: (int(ds.SeriesNumber), ds.SeriesDescription) for kind, ds in found.items()} == {
        "rejection": (9013, "AI REJECTION NOTE PA 10:15:00 (not for diagnosis)"),
        "withdrawn_sr": (9012, "AI RESULT WITHDRAWN PA 10:15:00 (not for diagnosis)"),
        "withdrawn": (9011, "AI RESULT WITHDRAWN PA 10:15:00 (not for diagnosis)"),
    }
    assert {ds.SeriesInstanceUID for ds in found.values()} & {one.series_instance_uid for one in sent()} == set()
    demonstrated = made(make_report(demonstration=True))["withdrawn"]
    assert read(demonstrated).SeriesDescription == "AI RESULT WITHDRAWN PA 10:15:00 (DEMONSTRATION MODEL)"


CHANGES: dict[str, dict[str, Any]] = {
    "reason": {"reason": "another"},
    "why": {"rejection": Rejection.SAFETY},
    "time": {"at": READ_AT + 9001},
    "replaced": {"replaced": True},
    "objects": {"objects": sent()[:2]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_a_withdrawal_changes_its_uids(what: str) -> None:
    one, other = made(), made(**CHANGES[what])
    assert {o.sop_instance_uid for o in one.values()} & {o.sop_instance_uid for o in other.values()} == set()


def test_the_same_withdrawal_gives_the_same_bytes() -> None:
    assert made() == made()


def test_only_the_kinds_asked_for_are_made_and_nothing_withdraws_nothing() -> None:
    kinds = {
        kind: [
            o.kind
            for o in build_withdrawal(make_source(), make_report(), withdrawal(), OutputSettings(), frozenset({kind}))
        ]
        for kind in ("rejection", "notice")
    }
    assert kinds == {"rejection": ["rejection"], "notice": ["withdrawn_sr", "withdrawn"]}
    with pytest.raises(ValueError, match="at least one object"):
        made(objects=())
    with pytest.raises(ValueError, match="letter"):
        build_withdrawal(make_source(), make_report(), withdrawal(), OutputSettings(), frozenset({"letter"}))


def test_the_page_of_a_long_reason_stays_legible_and_inside() -> None:
    page = draw_withdrawal(
        Subject(make_source(), make_report(demonstration=True), OutputSettings()),
        withdrawal(reason="a reason that goes on and on " * 60),
    )
    width, height = page.image.size
    assert [t.text for t in page.placed if t.box[2] > width or t.box[3] > height] == []
    assert min(contrast(t.ink, t.ground) for t in page.placed) >= 4.5
    assert min(t.size for t in page.placed) >= SMALL


# --------------------------------------------------------------------------------------------- revisions


def revised(**changes: Any) -> dict[str, Dataset]:
    outputs = build_outputs(
        make_source(), make_report(revision=2), FILM, make_saliency(), OutputSettings(), ALL, **changes
    )
    return {one.kind: read(one) for one in outputs}


def named_by(ds: Dataset) -> list[str]:
    return [
        ref.ReferencedSOPInstanceUID
        for study in ds.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for ref in series.ReferencedSOPSequence
    ]


def test_the_reports_of_a_revision_name_their_predecessors_each_its_own() -> None:
    before = {one.kind: one.sop_instance_uid for one in sent()}
    found = revised(predecessors=sent())
    assert (named_by(found["sr"]), named_by(found["text"])) == ([before["sr"]], [before["text"]])


def test_a_report_names_no_predecessor_that_was_not_sent() -> None:
    found = revised(predecessors=tuple(one for one in sent() if one.kind == "sr"))
    assert named_by(found["text"]) == []
    assert [kind for kind, ds in revised().items() if named_by(ds)] == []


def test_a_predecessor_changes_the_uid_of_the_report_that_names_it() -> None:
    assert revised()["sr"].SOPInstanceUID != revised(predecessors=sent())["sr"].SOPInstanceUID
