"""The structured report: three states, nothing about what was not assessed, and the same content as highdicom's."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import highdicom as hd
import pydicom
import pytest
from highdicom.sr.coding import CodedConcept
from highdicom.sr.sop import srread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrnode.core.findings import NIH14, Concept, Decision, Finding, Outcome, Plausibility, Report, Scale
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs, codes
from tests.unit.outputs.sources import code, make_report, make_source

SR = frozenset({"sr"})


def built(report: Report | None = None, source: Dataset | None = None, **settings: Any) -> Dataset:
    return pydicom.dcmread(io.BytesIO(file_of(report, source, **settings).data))


def file_of(report: Report | None = None, source: Dataset | None = None, **settings: Any) -> Output:
    made = build_outputs(source or make_source(), report or make_report(), None, None, OutputSettings(**settings), SR)
    assert [o.kind for o in made] == ["sr"]
    return made[0]


def named(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)


def items(parent: Dataset, name: str) -> list[Dataset]:
    return [item for item in parent.ContentSequence if named(item) == name]


def groups(ds: Dataset) -> list[Dataset]:
    (measurements,) = items(ds, "Imaging Measurements")
    return list(measurements.get("ContentSequence", []))


def group_of(ds: Dataset, title: str) -> Dataset:
    (found,) = [g for g in groups(ds) if items(g, "Tracking Identifier")[0].TextValue == f"CXR {title}"]
    return found


def texts(ds: Dataset, name: str) -> list[str]:
    (evaluations,) = items(ds, "Qualitative Evaluations")
    return [str(item.TextValue) for item in items(evaluations, name)]


def presence(group: Dataset) -> tuple[str, str] | None:
    """The finding asked about, and the answer of CID 240."""
    answers = {c.value: d for d, c in codes.PRESENCE.items()}
    for item in group.ContentSequence:
        if item.ValueType == "CODE" and item.ConceptCodeSequence[0].CodeValue in answers:
            return named(item), answers[item.ConceptCodeSequence[0].CodeValue]
    return None


def test_each_decided_finding_has_a_group_with_its_state_and_the_others_have_none() -> None:
    report = make_report()
    expected = {f.title: f.decision for f in report.findings if f.decision is not Decision.NOT_ASSESSED}
    found = {}
    for group in groups(built(report)):
        answer = presence(group)
        assert answer is not None
        found[items(group, "Tracking Identifier")[0].TextValue.removeprefix("CXR ")] = answer[1]
    assert found == expected


def test_the_concept_finding_stands_only_where_a_finding_is_present() -> None:
    ds = built()
    with_finding = [g for g in groups(ds) if items(g, "Finding")]
    assert [presence(g) for g in with_finding] == [
        ("Cardiomegaly", Decision.PRESENT),
        ("Pleural effusion", Decision.PRESENT),
    ]


def test_a_finding_that_was_not_assessed_is_named_in_the_summary_alone() -> None:
    ds = built()
    (summary,) = texts(ds, "Summary")
    assert "Not assessed: Pleural Thickening, Hernia." in summary
    assert "Hernia" not in str(items(ds, "Imaging Measurements")[0]).replace("Diaphragmatic hernia", "Hernia")


def test_a_score_is_not_a_probability_and_has_no_unit() -> None:
    ds = built()
    (number,) = [i for i in group_of(ds, "Cardiomegaly").ContentSequence if i.ValueType == "NUM"]
    measured = number.MeasuredValueSequence[0]
    assert (number.ConceptNameCodeSequence[0].CodeValue, number.ConceptNameCodeSequence[0].CodingSchemeDesignator) == (
        "AI_SCORE",
        "99CXRNODE",
    )
    assert (str(measured.NumericValue), measured.MeasurementUnitsCodeSequence[0].CodeValue) == ("0.910", "1")
    assert "%" not in "".join(texts(ds, "Summary"))


def test_a_probability_is_in_percent_under_the_concept_of_dicom() -> None:
    ds = built(make_report(scale=Scale.PROBABILITY))
    (number,) = [i for i in group_of(ds, "Cardiomegaly").ContentSequence if i.ValueType == "NUM"]
    measured = number.MeasuredValueSequence[0]
    assert (
        number.ConceptNameCodeSequence[0].CodeValue,
        str(measured.NumericValue),
        measured.MeasurementUnitsCodeSequence[0].CodeValue,
    ) == ("122157", "91.0", "%")


def test_the_algorithm_is_named_with_weights_calibration_and_thresholds() -> None:
    group = group_of(built(make_report(demonstration=True)), "Mass")
    said = [
        str(i.TextValue) for i in group.ContentSequence if named(i).startswith("Algorithm") and i.ValueType == "TEXT"
    ]
    assert said == [
        "chest-densenet121 (DEMONSTRATION MODEL)",
        "1.4.0",
        "cxrnode",
        f"weights=sha256:{'cd' * 32}",
        f"bundle=sha256:{'ab' * 32}",
        "calibration=temperature:v3",
        "engine=torch-cpu-float32",
        "output_label=Mass",
        "rule_out_below=0.2",
        "rule_in_at_or_above=0.5",
    ]
    (family,) = items(group, "Algorithm Family")
    assert family.ConceptCodeSequence[0].CodeValue == "123110"


@pytest.mark.parametrize("outcome_reason", ["the pixels cannot be decoded", ""])
def test_a_film_that_was_not_analysed_is_said_so_and_no_finding_is_called_absent(outcome_reason: str) -> None:
    ds = built(make_report(outcome=Outcome.NOT_ANALYSED, reason=outcome_reason))
    assert groups(ds) == []
    assert texts(ds, "Summary")[0].startswith(f"AI: not analysed. Reason: {outcome_reason or 'no reason recorded'}.")
    assert codes.PRESENCE[Decision.ABSENT].value not in {e.value for e in ds.iterall() if e.keyword == "CodeValue"}


def test_no_finding_present_does_not_exclude_disease() -> None:
    ds = built(make_report((0.01,) * 14))
    assert "No finding at or above threshold; this does not exclude disease." in texts(ds, "Summary")[0]


def test_the_plausibility_the_notes_and_the_disclaimer_are_in_the_report() -> None:
    report = make_report(plausibility=Plausibility(distance=25.0, limit=20.0), notes=("the age is not known",))
    ds = built(report)
    assert texts(ds, "Plausibility of the film for the model") == [
        "The film is not plausible for the model: distance 25, limit 20."
    ]
    assert texts(ds, "Comment")[0] == "the age is not known"
    assert texts(ds, "Comment")[1].startswith("Research use - not for diagnosis.")


def test_the_procedure_is_the_films_own() -> None:
    stated = built(
        source=make_source(ProcedureCodeSequence=Sequence([code("XCHEST", "99LOCAL", "Thorax in 2 Ebenen")]))
    )
    request = Dataset()
    request.RequestedProcedureCodeSequence = Sequence([code("36643-5", "LN", "XR Chest 2 Views")])
    requested = built(source=make_source(RequestAttributesSequence=Sequence([request])))
    found = [items(ds, "Procedure reported")[0].ConceptCodeSequence[0].CodeValue for ds in (stated, requested, built())]
    assert found == ["XCHEST", "36643-5", "399208008"]


def test_a_code_without_a_meaning_is_no_procedure() -> None:
    ds = built(source=make_source(ProcedureCodeSequence=Sequence([code("XCHEST", "99LOCAL", "")])))
    assert items(ds, "Procedure reported")[0].ConceptCodeSequence[0].CodeValue == "399208008"


def test_the_request_and_the_film_are_referenced() -> None:
    source = make_source()
    ds = built(source=source)
    (request,) = ds.ReferencedRequestSequence
    (evidence,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert (request.AccessionNumber, request.PlacerOrderNumberImagingServiceRequest, request.RequestedProcedureID) == (
        "ACC0001",
        "PL1",
        "RP1",
    )
    assert (
        evidence.StudyInstanceUID,
        series.SeriesInstanceUID,
        series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID,
    ) == (
        source.StudyInstanceUID,
        source.SeriesInstanceUID,
        source.SOPInstanceUID,
    )


def test_viewers_that_look_unasked_find_what_they_look_for() -> None:
    """OHIF dereferences these without a guard: the library, the measurements, a UID per group, a child per number."""
    for report in (make_report(), make_report(outcome=Outcome.NOT_ANALYSED)):
        ds = built(report)
        names = [named(i) for i in ds.ContentSequence]
        assert names.index("Image Library") < names.index("Imaging Measurements")
        assert items(ds, "Image Library")[0].ContentSequence[0].ContentSequence[0].ValueType == "IMAGE"
        for group in groups(ds):
            assert items(group, "Tracking Unique Identifier")[0].UID
            assert all(i.ContentSequence for i in group.ContentSequence if i.ValueType == "NUM")


def test_the_tracking_uid_of_a_finding_stays_when_the_film_is_read_again() -> None:
    one, two = built(make_report()), built(make_report(revision=2))
    uids = [[items(g, "Tracking Unique Identifier")[0].UID for g in groups(ds)] for ds in (one, two)]
    assert uids[0] == uids[1]
    assert one.SOPInstanceUID != two.SOPInstanceUID


@pytest.mark.parametrize(
    ("name", "uid"),
    [("comprehensive", "1.2.840.10008.5.1.4.1.1.88.33"), ("comprehensive3d", "1.2.840.10008.5.1.4.1.1.88.34")],
)
def test_the_class_of_the_report_is_a_choice(name: str, uid: str) -> None:
    ds = built(sr_class=name)
    assert (ds.SOPClassUID, ds.file_meta.MediaStorageSOPClassUID) == (uid, uid)


def test_all_codes_are_pinned_in_both_schemes() -> None:
    table = {
        label: [
            f"{c.value} {c.scheme}"
            for c in (
                codes.finding_concept(label, "SCT"),
                codes.finding_concept(label, "99CXRNODE"),
                codes.finding_site(label),
            )
        ]
        for label in NIH14
    }
    assert table == {
        "Atelectasis": ["46621007 SCT", "ATELECTASIS 99CXRNODE", "39607008 SCT"],
        "Cardiomegaly": ["8186001 SCT", "CARDIOMEGALY 99CXRNODE", "80891009 SCT"],
        "Effusion": ["60046008 SCT", "EFFUSION 99CXRNODE", "3120008 SCT"],
        "Infiltration": ["112121 DCM", "INFILTRATION 99CXRNODE", "39607008 SCT"],
        "Mass": ["309529002 SCT", "MASS 99CXRNODE", "39607008 SCT"],
        "Nodule": ["786838002 SCT", "NODULE 99CXRNODE", "39607008 SCT"],
        "Pneumonia": ["233604007 SCT", "PNEUMONIA 99CXRNODE", "39607008 SCT"],
        "Pneumothorax": ["36118008 SCT", "PNEUMOTHORAX 99CXRNODE", "3120008 SCT"],
        "Consolidation": ["95436008 SCT", "CONSOLIDATION 99CXRNODE", "39607008 SCT"],
        "Edema": ["19242006 SCT", "EDEMA 99CXRNODE", "39607008 SCT"],
        "Emphysema": ["87433001 SCT", "EMPHYSEMA 99CXRNODE", "39607008 SCT"],
        "Fibrosis": ["51615001 SCT", "FIBROSIS 99CXRNODE", "39607008 SCT"],
        "Pleural_Thickening": ["PLEURAL_THICK 99CXRNODE", "PLEURAL_THICK 99CXRNODE", "3120008 SCT"],
        "Hernia": ["39839004 SCT", "HERNIA 99CXRNODE", "5798000 SCT"],
    }


def test_every_code_fits_its_attributes() -> None:
    concepts = [c for c in vars(codes).values() if isinstance(c, Concept)]
    for entry in codes.FINDINGS.values():
        concepts += [entry.standard, entry.private, entry.site]
    concepts += [codes.finding_concept("A label that nobody has ever heard of", "SCT"), *codes.PRESENCE.values()]
    assert [c for c in concepts if len(c.value) > 16 or len(c.scheme) > 16 or len(c.meaning) > 64] == []


def test_a_site_may_replace_a_code() -> None:
    own = Concept(value="R-12345", scheme="99SITE", meaning="Big heart")
    group = group_of(built(concepts=(("Cardiomegaly", own),)), "Cardiomegaly")
    assert items(group, "Finding")[0].ConceptCodeSequence[0].CodeValue == "R-12345"


# ------------------------------------------------------------------------------------ against highdicom


def shape_of(item: Dataset) -> tuple[Any, ...]:
    """A content item as a value: relation, kind, name, value, and the items in it in any order."""
    kind = item.ValueType
    name = item.ConceptNameCodeSequence[0]
    values: dict[str, Callable[[], Any]] = {
        "TEXT": lambda: str(item.TextValue),
        "UIDREF": lambda: str(item.UID),
        "CODE": lambda: (item.ConceptCodeSequence[0].CodeValue, item.ConceptCodeSequence[0].CodingSchemeDesignator),
        "IMAGE": lambda: str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID),
        "NUM": lambda: (
            float(item.MeasuredValueSequence[0].NumericValue),
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        ),
        "CONTAINER": lambda: "",
    }
    children: Counter[Any] = Counter(shape_of(child) for child in item.get("ContentSequence", []))
    return (
        item.RelationshipType,
        kind,
        name.CodeValue,
        name.CodingSchemeDesignator,
        values[kind](),
        frozenset(children.items()),
    )


def as_highdicom(concept: Concept) -> CodedConcept:
    return CodedConcept(concept.value, concept.scheme, concept.meaning)


def highdicom_group(ds: Dataset, source: Dataset, report: Report, finding: Finding) -> Dataset:
    """The same group made by highdicom's own templates."""
    reader, limits = report.reader, finding.thresholds
    assert limits is not None
    ours = group_of(ds, finding.title)
    concept = as_highdicom(codes.finding_concept(finding.label, "SCT"))
    made = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=items(ours, "Tracking Unique Identifier")[0].UID, identifier=f"CXR {finding.title}"
        ),
        finding_type=concept if finding.decision is Decision.PRESENT else None,
        finding_sites=[hd.sr.FindingSite(anatomic_location=as_highdicom(codes.finding_site(finding.label)))],
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=reader.name,
            version=reader.version,
            family=as_highdicom(codes.ARTIFICIAL_INTELLIGENCE),
            manufacturer="cxrnode",
            parameters=[
                f"weights=sha256:{reader.weights_digest}",
                f"bundle=sha256:{reader.bundle_digest}",
                f"calibration={reader.calibration}",
                f"engine={reader.engine}",
                f"output_label={finding.label}",
                f"rule_out_below={limits.rule_out!r}",
                f"rule_in_at_or_above={limits.rule_in!r}",
            ],
        ),
        measurements=[
            hd.sr.Measurement(
                name=as_highdicom(codes.AI_SCORE),
                value=finding.score,
                unit=as_highdicom(codes.NO_UNITS),
                referenced_images=[hd.sr.SourceImageForMeasurement.from_source_image(source)],
            )
        ],
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(name=concept, value=as_highdicom(codes.PRESENCE[finding.decision]))
        ],
        source_images=[hd.sr.SourceImageForMeasurementGroup.from_source_image(source)],
    )
    return made[0]


def test_every_group_equals_the_one_that_highdicom_makes() -> None:
    source, report = make_source(), make_report()
    ds = built(report, source)
    for finding in report.findings:
        if finding.decision is not Decision.NOT_ASSESSED:
            expected = highdicom_group(ds, source, report, finding)
            assert shape_of(group_of(ds, finding.title)) == shape_of(expected)


@pytest.mark.parametrize("given", [{}, {"sr_class": "comprehensive3d"}, {"sr_title": "ai-reading"}])
def test_highdicom_reads_the_report_as_the_groups_that_were_meant(given: dict[str, Any]) -> None:
    report = make_report()
    document: Any = srread(io.BytesIO(file_of(report, **given).data))
    read = document.content.get_image_measurement_groups()
    expected = [f for f in report.findings if f.decision is not Decision.NOT_ASSESSED]
    assert [
        (
            g.tracking_identifier,
            g.finding_type.meaning if g.finding_type else None,
            float(g.get_measurements()[0].value),
            [q.value.meaning for q in g.get_qualitative_evaluations() if q.name.value != "111000"],
        )
        for g in read
    ] == [
        (
            f"CXR {f.title}",
            codes.FINDINGS[f.label].standard.meaning if f.decision is Decision.PRESENT else None,
            f.score,
            [codes.PRESENCE[f.decision].meaning],
        )
        for f in expected
    ]


def test_a_report_is_built_within_thirty_milliseconds_of_a_core() -> None:
    source, report = make_source(), make_report()
    best = min(_seconds(source, report) for _ in range(5))
    assert best < 0.030


def _seconds(source: Dataset, report: Report) -> float:
    start = time.process_time()
    build_outputs(source, report, None, None, OutputSettings(), SR)
    return time.process_time() - start


@pytest.mark.parametrize("score", [0.4999999, 0.49996, 0.5, 0.500001, 0.2, 0.1999])
def test_the_number_sent_never_contradicts_the_decision(score: float) -> None:
    report = make_report((score, *(0.1,) * 13))
    ds = built(report)
    finding = report.findings[0]
    (number,) = [i for i in group_of(ds, "Atelectasis").ContentSequence if i.ValueType == "NUM"]
    sent = float(number.MeasuredValueSequence[0].NumericValue)
    assert (sent >= 0.5, sent < 0.2) == (finding.decision is Decision.PRESENT, finding.decision is Decision.ABSENT)
