"""The presentation state: the film as it is, what was found in words at its foot, each region as a closed line."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from cxrnode.core.findings import Finding, Outcome, Report, Scale
from cxrnode.dicom.outputs import Output, OutputSettings, build_outputs
from cxrnode.dicom.outputs.common import DEMONSTRATION, NOT_FOR_DIAGNOSIS, NOTHING_FOUND
from cxrnode.dicom.outputs.contour import contours
from cxrnode.dicom.outputs.influence import CONTOUR_LEVEL, Influence, influence, overlay
from tests.unit.outputs.overlaid import polygon
from tests.unit.outputs.sources import SCORES, make_film, make_report, make_saliency, make_source

ROWS, COLUMNS = 500, 424
FILM, SALIENCY = make_film(ROWS, COLUMNS), make_saliency()


def built(report: Report | None = None, source: Dataset | None = None, **settings: Any) -> Output:
    (output,) = build_outputs(
        source or make_source(ROWS, COLUMNS),
        report or make_report(),
        FILM,
        SALIENCY,
        OutputSettings(**settings),
        frozenset({"gsps"}),
    )
    return output


def state(report: Report | None = None, source: Dataset | None = None, **settings: Any) -> Dataset:
    return pydicom.dcmread(io.BytesIO(built(report, source, **settings).data))


def texts(ds: Dataset) -> dict[str, list[str]]:
    """The lines of each layer."""
    return {
        note.GraphicLayer: [one.UnformattedTextValue for one in note.TextObjectSequence]
        for note in ds.GraphicAnnotationSequence
    }


def borders(ds: Dataset) -> dict[str, list[Dataset]]:
    return {note.GraphicLayer: list(note.get("GraphicObjectSequence", [])) for note in ds.GraphicAnnotationSequence}


def test_it_is_a_state_of_the_film_in_a_series_of_its_own() -> None:
    ds, source = state(), make_source()
    (series,) = ds.ReferencedSeriesSequence
    (film,) = series.ReferencedImageSequence
    assert (ds.SOPClassUID, ds.Modality, ds.SeriesNumber) == ("1.2.840.10008.5.1.4.1.1.11.1", "PR", 9006)
    assert ds.SeriesDescription == "AI annotations PA 10:15:00 (not for diagnosis)"
    assert (series.SeriesInstanceUID, film.ReferencedSOPClassUID, film.ReferencedSOPInstanceUID) == (
        source.SeriesInstanceUID,
        source.SOPClassUID,
        source.SOPInstanceUID,
    )
    assert ds.StudyInstanceUID == source.StudyInstanceUID
    assert (ds.PatientName, ds.AccessionNumber) == (source.PatientName, source.AccessionNumber)


def test_each_finding_shown_has_a_layer_with_its_words_and_its_line() -> None:
    ds = state()
    described = {layer.GraphicLayer: layer.GraphicLayerDescription for layer in ds.GraphicLayerSequence}
    assert described == {"AI_1": "AI: Cardiomegaly", "AI_2": "AI: Effusion", "AI": "AI reading, in words"}
    assert texts(ds)["AI_1"] == ["AI: Cardiomegaly PRESENT, score 0.910, thresholds 0.200 and 0.500."]
    assert texts(ds)["AI_2"] == ["AI: Effusion PRESENT, score 0.620, thresholds 0.200 and 0.500."]
    assert {name: len(found) for name, found in borders(ds).items()} == {"AI_1": 1, "AI_2": 1, "AI": 0}


def test_the_words_say_what_is_open_by_what_it_was_read_and_what_it_is_not_for() -> None:
    said = " ".join(texts(state(make_report(demonstration=True)))["AI"])
    expected = (
        "not an outline of a lesion nor its side", "Undetermined: 3; not assessed: 2; which, the report says.",
        "Read 2026-09-01 10:20:00 +09:00 by chest-densenet121 1.4.0",
        NOT_FOR_DIAGNOSIS, "Check on the film itself.", DEMONSTRATION,
    )  # fmt: skip
    assert [one for one in expected if one not in said] == []


def test_with_nothing_shown_disease_is_not_excluded() -> None:
    ds = state(make_report(tuple(0.3 * s for s in SCORES)))
    assert f"AI: {NOTHING_FOUND}" in " ".join(texts(ds)["AI"])
    assert list(borders(ds).values()) == [[]]


def test_a_finding_present_beyond_the_maximum_is_named() -> None:
    assert "Present too: Effusion." in texts(state(max_findings=1))["AI"]


def test_a_film_that_was_not_analysed_is_said_to_be_and_no_finding_is_named() -> None:
    ds = state(make_report(outcome=Outcome.NOT_ANALYSED, reason="the pixels cannot be decoded"))
    said = " ".join(line for lines in texts(ds).values() for line in lines)
    assert "AI: not analysed. Reason: the pixels cannot be decoded." in said
    assert [f.title for f in make_report().findings if f.title in said] == []


def test_a_probability_is_given_in_percent_and_a_score_never() -> None:
    assert texts(state(make_report(scale=Scale.PROBABILITY)))["AI_1"] == [
        "AI: Cardiomegaly PRESENT, probability 91.0 %, thresholds 20.0 and 50.0 %."
    ]
    assert "%" not in str(texts(state()))


def test_a_map_that_is_empty_or_weak_is_said_to_be_and_has_no_line() -> None:
    report = make_report((*(0.1,) * 11, 0.9, 0.1, 0.1))
    findings = list(report.findings)
    findings[11] = Finding(**{**_values(findings[11]), "map_floor": 5.0, "map_ceiling": 9.0})
    assert texts(state(make_report(findings=tuple(findings))))["AI_1"][0].endswith("no localisation.")
    findings[11] = Finding(**{**_values(findings[11]), "map_floor": 0.0, "map_ceiling": 9.0})
    assert texts(state(make_report(findings=tuple(findings))))["AI_1"][0].endswith("weak, no line.")


def _values(finding: Finding) -> dict[str, Any]:
    return {name: getattr(finding, name) for name in Finding.__dataclass_fields__}


def test_words_stand_in_the_display_at_its_foot_one_line_below_the_other() -> None:
    placed = []
    for note in state().GraphicAnnotationSequence:
        for one in note.TextObjectSequence:
            assert one.BoundingBoxAnnotationUnits == "DISPLAY"
            placed.append((one.BoundingBoxTopLeftHandCorner[1], one.BoundingBoxBottomRightHandCorner[1]))
            assert 0 <= one.BoundingBoxTopLeftHandCorner[0] < one.BoundingBoxBottomRightHandCorner[0] <= 1
    assert all(0.7 < top < low <= 0.98 for top, low in placed)
    assert all(placed[n][1] <= placed[n + 1][0] + 1e-6 for n in range(len(placed) - 1))


def test_where_there_are_several_lines_each_is_tied_to_its_words() -> None:
    def anchors(ds: Dataset) -> list[list[float]]:
        return [
            list(one.AnchorPoint)
            for note in ds.GraphicAnnotationSequence
            for one in note.TextObjectSequence
            if "AnchorPoint" in one
        ]

    ds = state()
    ends = anchors(ds)
    points = [
        list(map(tuple, np.reshape(b.GraphicData, (-1, 2)))) for b in (borders(ds)[n][0] for n in ("AI_1", "AI_2"))
    ]
    assert [tuple(end) in found for end, found in zip(ends, points, strict=True)] == [True, True]
    assert anchors(state(max_findings=1)) == []


def test_every_line_is_a_closed_polyline_in_pixels_of_the_film() -> None:
    for border in (one for found in borders(state()).values() for one in found):
        points = polygon(border)
        assert (border.GraphicType, border.GraphicAnnotationUnits, border.GraphicFilled) == ("POLYLINE", "PIXEL", "N")
        assert len(points) == border.NumberOfGraphicPoints
        assert points[0] == points[-1]
        assert all(0 <= x <= COLUMNS and 0 <= y <= ROWS for x, y in points)


def filled(found: Any, width: int, height: int) -> npt.NDArray[np.bool_]:
    region = np.zeros((height, width), dtype=bool)
    for border in found:
        picture = Image.new("1", (width, height))
        ImageDraw.Draw(picture).polygon([(x - 0.5, y - 0.5) for x, y in border], fill=1)
        region ^= np.asarray(picture)
    return region


def overlap(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_the_line_closes_the_same_region_as_that_of_the_picture() -> None:
    shown = influence(SALIENCY, make_report().findings[1])
    smooth = np.asarray(Image.fromarray(shown.cells).resize((COLUMNS, ROWS), Image.Resampling.BICUBIC))
    drawn = filled([polygon(one) for one in borders(state())["AI_1"]], COLUMNS, ROWS)
    assert overlap(drawn, smooth >= CONTOUR_LEVEL) > 0.97


@pytest.mark.parametrize("seed", range(4))
def test_a_region_that_lies_at_the_level_itself_is_closed_too(seed: int) -> None:
    """A map with a plateau at 0.5: the border runs through the middles of the cells, where four squares meet."""
    cells = np.random.default_rng(seed).choice(np.array([0.0, 0.5, 1.0], np.float32), (7, 7))
    plateau = np.full((7, 7), CONTOUR_LEVEL, np.float32)
    for one in (plateau, np.kron(cells, np.ones((23, 23), np.float32))[:160, :160]):
        found = contours(Influence(one, float(one.max())), 1600, 1600)
        assert found
        assert all(border[0] == border[-1] for border in found)


@pytest.mark.parametrize("seed", range(12))
def test_any_region_is_closed_also_with_holes_and_along_the_edges(seed: int) -> None:
    random = np.random.default_rng(seed)
    cells = (random.random((7, 7)) * 1.4).astype(np.float32)
    height, width = (int(side) for side in random.integers(512, 1100, size=2))
    found = contours(Influence(cells, float(cells.max())), width, height)
    smooth = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))
    assert all(border[0] == border[-1] for border in found)
    assert overlap(filled(found, width, height), smooth >= CONTOUR_LEVEL) > 0.96


GREY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # what the film says -> what the state says
    "MONOCHROME2": ({}, {"PresentationLUTShape": "IDENTITY"}),
    "MONOCHROME1": (
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
        {"PresentationLUTShape": "INVERSE"},
    ),
    "MONOCHROME1 without a shape": (
        {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": None},
        {"PresentationLUTShape": "INVERSE"},
    ),
    "rescaled": (
        {"RescaleSlope": 2, "RescaleIntercept": -1024, "RescaleType": "US"},
        {"RescaleSlope": 2.0, "RescaleIntercept": -1024.0, "RescaleType": "US"},
    ),
    "not rescaled": ({}, {"RescaleSlope": None, "ModalityLUTSequence": None}),
}


@pytest.mark.parametrize("which", GREY)
def test_the_film_keeps_its_own_way_to_grey_levels(which: str) -> None:
    film, expected = GREY[which]
    ds = state(source=make_source(ROWS, COLUMNS, **film))
    assert {keyword: ds.get(keyword) for keyword in expected} == expected


@pytest.mark.parametrize(
    ("film", "expected"),
    [
        ({"WindowCenter": 1800, "WindowWidth": 3000}, (1800.0, 3000.0, None)),
        ({"WindowCenter": [1800, 2000], "WindowWidth": [3000, 900]}, (1800.0, 3000.0, None)),
        ({"WindowCenter": 1800, "WindowWidth": 3000, "VOILUTFunction": "SIGMOID"}, (1800.0, 3000.0, "SIGMOID")),
    ],
)
def test_the_window_is_the_films_first(film: dict[str, Any], expected: tuple[float, float, str | None]) -> None:
    (voi,) = state(source=make_source(ROWS, COLUMNS, **film)).SoftcopyVOILUTSequence
    assert (voi.WindowCenter, voi.WindowWidth, voi.get("VOILUTFunction")) == expected


@pytest.mark.parametrize("film", [{"WindowWidth": 0}, {"WindowCenter": None, "WindowWidth": None}])
def test_a_film_without_a_usable_window_is_given_none(film: dict[str, Any]) -> None:
    assert "SoftcopyVOILUTSequence" not in state(source=make_source(ROWS, COLUMNS, **film))


def test_a_voi_lut_is_repeated_entry_by_entry() -> None:
    lut = Dataset()
    lut.add_new("LUTDescriptor", "US", [4096, 0, 12])
    entries = np.minimum(np.arange(4096) ** 2 // 4095, 4095).astype("<u2")
    lut.add_new("LUTData", "OW", entries.tobytes())
    (voi,) = state(source=make_source(ROWS, COLUMNS, VOILUTSequence=Sequence([lut]))).SoftcopyVOILUTSequence
    (copied,) = voi.VOILUTSequence
    assert list(copied.LUTDescriptor) == [4096, 0, 12]
    assert np.array_equal(np.frombuffer(copied.LUTData, "<u2"), entries)


@pytest.mark.parametrize("first", ["99999999", "-99999999"])
def test_a_voi_lut_that_no_descriptor_can_state_is_left_out(first: str) -> None:
    table = Dataset()
    table.add_new(0x00283002, "IS", ["16", first, "12"])
    table.add_new(0x00283006, "US", list(range(16)))
    (voi,) = state(source=make_source(ROWS, COLUMNS, VOILUTSequence=Sequence([table]))).SoftcopyVOILUTSequence
    assert "VOILUTSequence" not in voi


def test_the_whole_film_is_displayed_with_the_shape_of_its_pixels() -> None:
    (area,) = state().DisplayedAreaSelectionSequence
    assert (list(area.DisplayedAreaTopLeftHandCorner), list(area.DisplayedAreaBottomRightHandCorner)) == (
        [1, 1],
        [COLUMNS, ROWS],
    )
    assert (area.PresentationSizeMode, list(area.PresentationPixelAspectRatio)) == ("SCALE TO FIT", [1, 1])
    oblong = make_source(ROWS, COLUMNS, ImagerPixelSpacing=[0.2, 0.1])
    (area,) = state(source=oblong).DisplayedAreaSelectionSequence
    assert list(area.PresentationPixelAspectRatio) == [2000, 1000]


def test_a_shutter_of_the_film_is_kept() -> None:
    edges = {"ShutterLeftVerticalEdge": 20, "ShutterRightVerticalEdge": 400}
    edges |= {"ShutterUpperHorizontalEdge": 30, "ShutterLowerHorizontalEdge": 480}
    ds = state(source=make_source(ROWS, COLUMNS, ShutterShape="RECTANGULAR", **edges))
    assert {keyword: int(ds[keyword].value) for keyword in edges} == edges
    assert (ds.ShutterShape, ds.ShutterPresentationValue) == ("RECTANGULAR", 0)


@pytest.mark.parametrize("shape", ["BITMAP", "RECTANGULAR", "CIRCULAR", "STAR"])
def test_a_shutter_without_what_it_needs_is_left_out(shape: str) -> None:
    ds = state(source=make_source(ROWS, COLUMNS, ShutterShape=shape, RadiusOfCircularShutter=40))
    assert not [one.keyword for one in ds if "Shutter" in one.keyword]
    corners = [1, 1, 1, 9, 9, 9]
    both = make_source(ROWS, COLUMNS, ShutterShape=[shape, "POLYGONAL"], VerticesOfThePolygonalShutter=corners)
    assert state(source=both).ShutterShape == "POLYGONAL"


def test_a_film_of_unknown_size_gets_none() -> None:
    source = make_source(Rows=None)
    report = make_report(outcome=Outcome.NOT_ANALYSED, reason="the pixels cannot be decoded")
    assert build_outputs(source, report, None, None, OutputSettings(), frozenset({"gsps"})) == ()


def test_the_same_report_gives_the_same_state_and_another_revision_another() -> None:
    assert built() == built()
    assert built().sop_instance_uid != built(make_report(revision=2)).sop_instance_uid
    assert built().sop_instance_uid != built(source=make_source(ROWS, COLUMNS, SOPInstanceUID="1.2.3")).sop_instance_uid


def test_the_line_lies_where_the_white_line_of_the_picture_lies() -> None:
    shown = influence(SALIENCY, make_report().findings[1])
    white = np.asarray(overlay(np.full((ROWS, COLUMNS), 90, np.uint8), shown, colour=False)).min(axis=2) > 235
    line = Image.new("L", (COLUMNS, ROWS))
    for border in borders(state())["AI_1"]:
        ImageDraw.Draw(line).line([(x - 0.5, y - 0.5) for x, y in polygon(border)], fill=255, width=5, joint="curve")
    assert white.sum() > 500
    assert (white & (np.asarray(line) > 0)).sum() / white.sum() > 0.98
