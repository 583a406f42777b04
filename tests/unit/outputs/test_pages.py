"""The pictures: every text inside the page, none over another, legible in colour and in grey; the film untouched."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from cxrnode.core.findings import NIH14, Decision, Finding, Outcome, Report, Scale, Thresholds
from cxrnode.dicom.outputs import OutputSettings
from cxrnode.dicom.outputs.common import DEMONSTRATION, NOT_FOR_DIAGNOSIS, NOTHING_FOUND, Subject
from cxrnode.dicom.outputs.drawing import SMALL, Page, contrast, luma
from cxrnode.dicom.outputs.frame import frame_for
from cxrnode.dicom.outputs.heatmap import NOT_AN_OUTLINE, draw_heatmap, ground_of, legend_of
from cxrnode.dicom.outputs.influence import CONTOUR_LEVEL, Influence, influence, overlay
from cxrnode.dicom.outputs.summary import Thumbnail, draw_summary
from cxrnode.dicom.raster import scaled
from tests.unit.outputs.sources import SCORES, make_film, make_report, make_saliency, make_source

SHAPES = [(512, 512), (1024, 1024), (3000, 2500), (2500, 3000), (4500, 512), (512, 4500), (2048, 1700), (600, 1100)]


def heatmap_page(
    shape: tuple[int, int], *, report: Report | None = None, settings: OutputSettings | None = None, index: int = 1
) -> tuple[Page, tuple[int, int, int, int]]:
    report = report or make_report()
    subject = Subject(make_source(*shape), report, settings or OutputSettings())
    finding = report.findings[index]
    shown = influence(make_saliency(), finding)
    frame = frame_for(shape, [legend_of(subject, finding, shown)], subject.settings.max_px)
    film = scaled(make_film(*shape), frame.film_size)
    return draw_heatmap(subject, finding, shown, film, frame, ground_of(film, frame)), frame.film


def summary_page(report: Report, *, shape: tuple[int, int] = (1024, 848), shown: int = 2) -> Page:
    subject = Subject(make_source(*shape), report, OutputSettings())
    film = make_film(*shape)
    thumbnails = tuple(Thumbnail(f, influence(make_saliency(), f)) for f in report.findings[:shown])
    return draw_summary(subject, film, thumbnails)


def everything(decision: Decision, score: float) -> Report:
    """A report in which all findings have one decision."""
    limits = None if decision is Decision.NOT_ASSESSED else Thresholds(rule_out=0.2, rule_in=0.5)
    return make_report(
        findings=tuple(
            Finding(label=label, index=i, score=score, decision=decision, thresholds=limits)
            for i, label in enumerate(NIH14)
        )
    )


LONG = "a model with a rather long name for a summary page"
LONG_REASON = "too far from the films it was trained on; " * 15
HALVED = tuple(0.3 * s for s in SCORES)


def _long() -> Report:
    demo = make_report(demonstration=True)
    reader = dataclasses.replace(demo.reader, name=LONG, version="12.34.56-rc1")
    return make_report(reader=reader, notes=("the age is not known " * 9,))


def _styled(style: str, index: int) -> Page:
    report = everything(Decision.ABSENT, 0.1) if index == 12 else make_report()
    return heatmap_page((1000, 900), report=report, settings=OutputSettings(style=style), index=index)[0]


#: Every kind of page there is, the extremes included.
MAKERS: dict[str, Callable[[], Page]] = {
    **{f"heatmap {h}x{w}": partial(lambda s: heatmap_page(s)[0], (h, w)) for h, w in SHAPES},
    **{
        f"demonstration {h}x{w}": partial(lambda s: heatmap_page(s, report=make_report(demonstration=True))[0], (h, w))
        for h, w in SHAPES
    },
    **{f"{s} {i}": partial(_styled, s, i) for s, i in itertools.product(("colour", "contour"), (1, 2, 3, 12))},
    "summary": lambda: summary_page(make_report()),
    "summary, nothing": lambda: summary_page(make_report(HALVED), shown=0),
    "summary, demonstration": lambda: summary_page(make_report(demonstration=True)),
    "summary, all present": lambda: summary_page(everything(Decision.PRESENT, 0.9), shown=6),
    "summary, all undetermined": lambda: summary_page(
        everything(Decision.UNDETERMINED, 0.4), shown=6, shape=(512, 4000)
    ),
    "summary, none assessed": lambda: summary_page(everything(Decision.NOT_ASSESSED, 0.4), shown=0),
    "summary, probability": lambda: summary_page(make_report(scale=Scale.PROBABILITY)),
    "summary, long names": lambda: summary_page(_long(), shown=6),
    "not analysed": lambda: summary_page(
        make_report(outcome=Outcome.NOT_ANALYSED, reason=LONG_REASON, findings=()), shown=0
    ),
}


@functools.cache
def made(name: str) -> Page:
    return MAKERS[name]()


every_page = pytest.mark.parametrize("name", MAKERS)


@every_page
def test_every_text_is_inside_its_page_and_over_no_other(name: str) -> None:
    page = made(name)
    width, height = page.image.size
    outside = [t.text for t in page.placed if t.box[0] < 0 or t.box[1] < -8 or t.box[2] > width or t.box[3] > height]
    over = [
        (a.text, b.text)
        for a, b in itertools.combinations(page.placed, 2)
        if a.box[0] < b.box[2] and b.box[0] < a.box[2] and a.box[1] + 3 < b.box[3] and b.box[1] + 3 < a.box[3]
    ]
    assert (outside, over) == ([], [])


@every_page
def test_every_text_is_large_enough_for_half_zoom_and_has_contrast_in_colour_and_in_grey(name: str) -> None:
    page = made(name)
    faint = []
    for text in page.placed:
        grey = tuple((luma(c),) * 3 for c in (text.ink, text.ground))
        if contrast(text.ink, text.ground) < 4.5 or contrast(grey[0], grey[1]) < 4.5:
            faint.append(text.text)
    assert (faint, min(t.size for t in page.placed) >= SMALL) == ([], True)


@every_page
def test_the_declared_ground_is_what_lies_under_the_text(name: str) -> None:
    page = made(name)
    pixels = np.asarray(page.image)
    for text in page.placed:
        left, top, right, bottom = text.box
        found = pixels[max(0, top) : bottom, left:right].reshape(-1, 3)
        commonest = np.unique(found, axis=0, return_counts=True)
        assert tuple(commonest[0][commonest[1].argmax()]) == text.ground, text.text


@every_page
def test_no_page_is_larger_than_its_limit_and_all_say_what_they_are_not_for(name: str) -> None:
    page = made(name)
    said = " ".join(t.text for t in page.placed)
    assert (max(page.image.size) <= 1200, NOT_FOR_DIAGNOSIS in said) == (True, True)


def said_by(page: Page) -> str:
    return " ".join(t.text for t in page.placed)


def test_a_heatmap_names_all_that_a_reader_of_it_alone_must_know() -> None:
    page, _ = heatmap_page((3000, 2500), report=make_report(demonstration=True))
    said = said_by(page)
    expected = [
        "Cardiomegaly", "PRESENT", "score 0.910", "not a probability", "present at or above 0.500",
        "absent below 0.200",
        NOT_AN_OUTLINE, "White line: 0.5", "peak here", "PA, taken 2026-09-01 10:15:00", "2026-09-01 10:20:00 +09:00",
        "chest-densenet121 1.4.0", "bundle abababababab", "Not assessed: Pleural Thickening, Hernia",
        "Undetermined: Consolidation, Infiltration, Mass", "image 1", DEMONSTRATION, NOT_FOR_DIAGNOSIS,
    ]  # fmt: skip
    assert [e for e in expected if e not in said] == []


@pytest.mark.parametrize("shape", SHAPES)
def test_a_score_is_never_called_a_probability_nor_given_in_percent(shape: tuple[int, int]) -> None:
    for page in (heatmap_page(shape)[0], summary_page(make_report(), shape=shape)):
        said = said_by(page)
        assert ("%" in said, said.replace("not a probability", "").count("robability")) == (False, 0)


def test_a_probability_is_given_in_percent() -> None:
    page, _ = heatmap_page((1000, 900), report=make_report(scale=Scale.PROBABILITY))
    assert "probability 91.0 %: present at or above 50.0 %, absent below 20.0 %" in said_by(page)


def test_an_empty_map_says_that_there_is_no_localisation_and_draws_nothing() -> None:
    report = everything(Decision.PRESENT, 0.9)
    page, box = heatmap_page((1000, 900), report=report, index=13)
    film = scaled(make_film(1000, 900), (box[2] - box[0], box[3] - box[1]))
    shown = np.asarray(page.image.crop(box))
    assert "No localisation" in said_by(page)
    assert np.array_equal(shown, np.repeat(film[..., None], 3, axis=2))


def test_no_text_stands_on_the_anatomy() -> None:
    for shape in SHAPES:
        page, (left, top, right, bottom) = heatmap_page(shape)
        on_film = [
            t.text
            for t in page.placed
            if t.box[0] < right and t.box[2] > left and t.box[1] < bottom - 8 and t.box[3] > top
        ]
        assert on_film == []


@pytest.mark.parametrize("shape", SHAPES)
def test_the_film_keeps_its_proportions(shape: tuple[int, int]) -> None:
    _, (left, top, right, bottom) = heatmap_page(shape)
    assert abs((right - left) - (bottom - top) * shape[1] / shape[0]) <= max(1.0, shape[1] / shape[0])


def test_the_map_keeps_the_luma_of_the_film_everywhere_off_the_line() -> None:
    film = np.tile(np.arange(256, dtype=np.uint8), (300, 2))
    shown = influence(make_saliency(), dataclasses.replace(make_report().findings[2], map_ceiling=3.9))
    assert shown.peak < CONTOUR_LEVEL
    rgb = overlay(film, shown, colour=True).astype(np.float64)
    assert np.abs(rgb @ [0.299, 0.587, 0.114] - film).max() <= 0.6
    assert np.ptp(rgb, axis=2).max() > 20  # it is coloured


def test_nothing_is_drawn_below_the_floor() -> None:
    finding = dataclasses.replace(make_report().findings[2], map_floor=1.0)
    shown = influence(make_saliency(size=64), finding)
    film = make_film(640, 640)
    rgb = np.asarray(overlay(film, shown, colour=True), np.int16)
    outside = np.asarray(Image.fromarray(shown.cells).resize((640, 640), Image.Resampling.BICUBIC)) <= 0
    assert np.ptp(rgb, axis=2)[outside].max() <= 3
    assert outside.mean() > 0.5


def test_the_scale_is_fixed_so_that_half_the_saliency_looks_weaker() -> None:
    finding = make_report().findings[2]
    strong, weak = (influence(make_saliency() * np.float16(k), finding) for k in (1.0, 0.5))
    film = np.full((400, 400), 110, np.uint8)
    vivid = [np.ptp(np.asarray(overlay(film, s, colour=True), np.int16), axis=2).mean() for s in (strong, weak)]
    assert vivid[1] < 0.6 * vivid[0]


def closed(line: npt.NDArray[np.bool_]) -> bool:
    """Whether the line parts the picture: a flood from the corner does not reach the middle of the region."""
    picture = Image.fromarray(np.where(line, 255, 0).astype(np.uint8))
    padded = Image.new("L", (picture.width + 2, picture.height + 2), 0)
    padded.paste(picture, (1, 1))
    ImageDraw.floodfill(padded, (0, 0), 128)
    return bool((np.asarray(padded) == 0).sum() > 500)


@pytest.mark.parametrize(("row", "column"), [(3, 3), (0, 0), (6, 3), (3, 6)])
def test_the_contour_is_closed_even_where_the_region_runs_out_of_the_film(row: int, column: int) -> None:
    cells = np.zeros((7, 7), np.float32)
    cells[row, column] = 1.0
    film = np.full((600, 500), 90, np.uint8)
    rgb = np.asarray(overlay(film, Influence(cells, 1.0), colour=False), np.int16)
    white = rgb.min(axis=2) > 200
    assert closed(white)


def test_the_contour_stands_at_its_level() -> None:
    cells = np.zeros((7, 7), np.float32)
    cells[2:5, 2:5] = 1.0
    film = np.full((700, 700), 90, np.uint8)
    white = np.asarray(overlay(film, Influence(cells, 1.0), colour=False), np.int16).min(axis=2) > 235
    value = np.asarray(Image.fromarray(cells).resize((700, 700), Image.Resampling.BICUBIC))
    assert np.abs(value[white] - CONTOUR_LEVEL).max() < 0.06


def test_a_map_lies_where_its_cell_lies_at_any_aspect_ratio() -> None:
    cells = np.zeros((7, 7), np.float32)
    cells[1, 5] = 1.0
    for height, width in ((700, 700), (350, 1000), (1000, 350)):
        film = np.full((height, width), 100, np.uint8)
        rgb = np.asarray(overlay(film, Influence(cells, 0.4), colour=True), np.int16)
        weight = np.ptp(rgb, axis=2).astype(float)
        y, x = np.mgrid[0:height, 0:width]
        centre = ((y * weight).sum() / weight.sum() / height, (x * weight).sum() / weight.sum() / width)
        assert centre == pytest.approx((1.5 / 7, 5.5 / 7), abs=0.01)


def test_the_film_stands_in_the_same_place_on_all_heatmaps_of_a_report() -> None:
    report = make_report()
    subject = Subject(make_source(), report, OutputSettings())
    shown = [(f, influence(make_saliency(), f)) for f in report.shown(min_findings=5, max_findings=6)]
    frame = frame_for((1024, 848), [legend_of(subject, f, i) for f, i in shown], 1200)
    film = scaled(make_film(), frame.film_size)
    ground = ground_of(film, frame)
    untouched = ground.copy()
    pictures = [draw_heatmap(subject, f, i, film, frame, ground).image for f, i in shown]
    assert {picture.size for picture in pictures} == {(frame.width, frame.height)}
    assert np.array_equal(ground, untouched), "a map was drawn on what all pictures begin with"
    left, top, right, bottom = frame.film
    np.testing.assert_array_equal(ground[top:bottom, left:right], np.repeat(film[..., None], 3, axis=2))


def test_a_summary_without_a_finding_says_that_disease_is_not_excluded() -> None:
    page = summary_page(make_report(tuple(0.3 * s for s in SCORES)), shown=0)
    assert NOTHING_FOUND in said_by(page)


def test_a_film_that_was_not_analysed_gets_a_page_that_says_why_and_names_no_finding() -> None:
    report = make_report(outcome=Outcome.NOT_ANALYSED, reason="the pixels cannot be decoded")
    subject = Subject(make_source(), report, OutputSettings())
    said = said_by(draw_summary(subject, None, ()))
    assert "AI: not analysed" in said
    assert "Reason: the pixels cannot be decoded" in said
    assert [label for label in NIH14 if label in said] == []


def test_a_finding_that_was_not_assessed_has_no_score_on_the_page() -> None:
    report = make_report(tuple(0.7777 if i == 13 else s for i, s in enumerate(SCORES)))
    assert "0.777" not in said_by(summary_page(report))
    assert "no score given" in said_by(summary_page(report))


@pytest.mark.parametrize("height", [None, 700, 5000])
def test_the_bytes_of_a_page_are_those_of_its_picture_where_it_is_cut(height: int | None) -> None:
    page = Page(320, 900)
    for y in range(0, 880, 40):
        page.text(8, y, f"line at {y}", SMALL)
    if height is not None:
        page.cut(height)
    assert page.size == page.image.size == (320, 700 if height == 700 else 900)
    assert bytes(page.pixels()) == page.image.tobytes()


@pytest.mark.parametrize("shape", [(1024, 1024), (2500, 1000), (1000, 2500), (40, 30), (3, 2)])
@pytest.mark.parametrize(("count", "max_px"), [(16, 1000), (22, 1200), (30, 1200), (40, 1000)])
@pytest.mark.parametrize("shown", [0, 3])
def test_a_bundle_of_many_findings_gets_a_page_on_which_all_of_them_stand(
    shape: tuple[int, int], count: int, max_px: int, shown: int
) -> None:
    report = make_report()
    many = [dataclasses.replace(report.findings[i % 9], index=i, label=f"Finding_{i}") for i in range(count)]
    report = dataclasses.replace(report, findings=tuple(many))
    subject = Subject(make_source(*shape), report, OutputSettings(max_px=max_px))
    thumbnails = tuple(Thumbnail(f, influence(make_saliency(), report.findings[i])) for i, f in enumerate(many[:shown]))
    page = draw_summary(subject, make_film(*shape), thumbnails)
    said = said_by(page)
    assert [f"Finding {i}" for i in range(count) if f"Finding {i}" not in said] == []
    assert NOT_FOR_DIAGNOSIS in said
    assert max(text.box[3] for text in page.placed) < page.height


def test_a_film_of_a_few_pixels_has_no_place_for_a_map_and_is_shown() -> None:
    shown = Influence(np.ones((7, 7), np.float32), 1.0)
    for shape in ((1, 1), (3, 200), (200, 4)):
        assert overlay(np.full(shape, 90, np.uint8), shown, colour=True).shape == (*shape, 3)
