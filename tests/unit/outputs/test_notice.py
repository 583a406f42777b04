"""The notice of a film without a result: what it says, what it never says, and that it is the same every time."""

from __future__ import annotations

import dataclasses
import io

import pydicom
import pytest
from pydicom.dataset import Dataset

from cxrnode.core.findings import Outcome, Report
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.common import Subject
from cxrnode.dicom.outputs.notice import build_notice, draw_notice
from tests.unit.outputs.sources import READ_AT, make_reader, make_source

KINDS = frozenset({"sr", "heatmap", "text", "pdf"})
SETTINGS = OutputSettings(timezone="Europe/Berlin")


def notice_of(reason: str = "no result within 30 minutes", *, demonstration: bool = False) -> Report:
    return Report(
        outcome=Outcome.NOT_ANALYSED,
        reason=reason,
        read_at=READ_AT,
        revision=1,
        reader=make_reader(demonstration=demonstration),
    )


def parsed(output: Output) -> Dataset:
    return pydicom.dcmread(io.BytesIO(output.data))


def words(ds: Dataset) -> str:
    return " | ".join(str(e.value) for e in ds.iterall() if e.keyword in ("TextValue", "CodeMeaning"))


def test_it_is_made_in_the_kinds_of_object_that_the_rule_sends() -> None:
    def kinds(*asked: str) -> list[str]:
        return [one.kind for one in build_notice(make_source(), notice_of(), SETTINGS, frozenset(asked))]

    assert kinds("sr", "heatmap") == ["sr", "notice"]
    assert kinds("text", "pdf") == ["text", "pdf"]
    assert kinds("key_object") == []


@pytest.mark.parametrize("kind", ["sr", "text"])
def test_a_report_says_why_and_nothing_about_any_finding(kind: str) -> None:
    (ds,) = [parsed(one) for one in build_notice(make_source(), notice_of(), SETTINGS, KINDS) if one.kind == kind]
    said = words(ds)
    assert "AI: not analysed. Reason: no result within 30 minutes. Nothing is said about any finding." in said
    assert "A result that still comes takes the place of this notice." in said
    assert not {"Absent", "Present", "Undetermined", "Finding"} & set(said.split(" | "))
    assert "NOT ANALYSED" in ds.SeriesDescription


def test_its_objects_are_no_result_s_and_the_same_every_time() -> None:
    report = notice_of()
    made = build_notice(make_source(), report, SETTINGS, KINDS)
    result = build_outputs(make_source(), report, None, None, SETTINGS, KINDS)
    assert not {one.sop_instance_uid for one in made} & {one.sop_instance_uid for one in result}
    assert not {one.series_instance_uid for one in made} & {one.series_instance_uid for one in result}
    assert [one.data for one in made] == [one.data for one in build_notice(make_source(), report, SETTINGS, KINDS)]
    other = build_notice(make_source(), notice_of("an internal fault"), SETTINGS, KINDS)
    assert not {one.sop_instance_uid for one in made} & {one.sop_instance_uid for one in other}


def test_of_a_model_that_was_never_loaded_only_the_name_is_said() -> None:
    reader = dataclasses.replace(make_reader(), name="chest", version="", bundle_digest="", weights_digest="")
    made = build_notice(make_source(), dataclasses.replace(notice_of(), reader=reader), SETTINGS, KINDS)
    assert {parsed(one).ManufacturerModelName for one in made} == {"chest"}


@pytest.mark.parametrize("demonstration", [False, True])
def test_the_page_is_small_and_keeps_what_it_says_within_its_edges(demonstration: bool) -> None:
    reason = "nobody knows why " * 60
    page = draw_notice(Subject(make_source(), notice_of(reason, demonstration=demonstration), SETTINGS)).image
    assert page.width == 1200
    assert page.height < 500
    edges = [page.getpixel((x, y)) for x in (0, 1199) for y in range(page.height)]
    assert set(edges) == {(0, 0, 0)}
