"""The findings as a presentation state (GSPS, PS3.3 A.33.1): words and contours laid over the film itself.

A viewer that knows presentation states shows the film as it is, in its own window, with each finding in a layer of its
own that can be switched off: what was decided, and the border of its region of influence. The words stand in a corner
of the display and never move with the anatomy. It holds no pixels, and changes none.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cxrnode.core.findings import Decision, Finding, Outcome, Scale
from cxrnode.dicom.outputs.common import (
    DEMONSTRATION,
    NOT_FOR_DIAGNOSIS,
    NOTHING_FOUND,
    Subject,
    figures,
    finished,
    put_common,
    quantity,
)
from cxrnode.dicom.outputs.content import Image, reference
from cxrnode.dicom.outputs.contour import Point, Polygon, contours
from cxrnode.dicom.outputs.encoding import Attributes, ascii_text
from cxrnode.dicom.outputs.influence import CONTOUR_LEVEL, influence
from cxrnode.dicom.outputs.settings import GSPS, PRESENTATION_SERIES_NUMBER, Output
from cxrnode.dicom.outputs.softcopy import put_floats, put_softcopy
from cxrnode.dicom.outputs.source import plain, raw_value

#: Where words may stand in the display, what a line takes of its height, and how many letters stand in one.
_LEFT, _HIGHEST, _LOWEST, _LINE, _WIDTH, _LETTERS = 0.02, 0.08, 0.97, 0.024, 0.96, 84
LINES = f"Lines: {CONTOUR_LEVEL} of a fixed scale of influence; not an outline of a lesion nor its side."
_WORDS_LAYER = "AI"
#: CIELab of the layers, in turn: amber, blue, pink, green, violet, orange; white for the words that are of no finding.
_COLOURS = ((83, 10, 68), (79, -20, -32), (72, 58, -27), (83, -52, 44), (71, 28, -46), (73, 37, 38))
_WHITE = (95, 0, 0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One graphic layer: its name (CS), what it is of, its colour in CIELab, its lines of text and its contours."""

    name: str
    description: str
    colour: tuple[int, int, int]
    lines: tuple[str, ...]
    contours: tuple[Polygon, ...] = ()


def build_presentation(subject: Subject, shape: tuple[int, int], saliency: npt.NDArray[np.float16] | None) -> Output:
    """The presentation state as a file, in a series of its own. `shape`: rows and columns of the film."""
    uid = subject.uid("gsps")
    target = Attributes()
    moment = put_common(subject, target, sop_class_uid=GSPS, sop_instance_uid=uid)
    target.put("Modality", "PR").put("SeriesNumber", PRESENTATION_SERIES_NUMBER)
    target.put("SeriesDescription", subject.description("annotations"))
    target.put("BodyPartExamined", "CHEST")  # only chest films get here; it also says that there is no paired side
    target.put("ContentLabel", "AI_CXR").put("ContentDescription", f"AI reading. {NOT_FOR_DIAGNOSIS}")
    target.put("PresentationCreationDate", moment.date).put("PresentationCreationTime", moment.time)
    target.put("ContentCreatorName", "CXRNODE^AI")
    series = Attributes().put_items("ReferencedImageSequence", [reference(_film(subject.source))])
    target.put_items(
        "ReferencedSeriesSequence", [series.put("SeriesInstanceUID", raw_value(subject.source, "SeriesInstanceUID"))]
    )
    put_softcopy(subject.source, target, shape)
    drawn = layers(subject, shape, saliency)
    target.put_items("GraphicLayerSequence", [_layer(number, one) for number, one in enumerate(drawn, start=1)])
    target.put_items("GraphicAnnotationSequence", _annotations(subject.source, drawn))
    return finished(
        target, kind="gsps", sop_class_uid=GSPS, sop_instance_uid=uid, series_instance_uid=subject.uid("gsps-series")
    )


def layers(subject: Subject, shape: tuple[int, int], saliency: npt.NDArray[np.float16] | None) -> tuple[Layer, ...]:
    """What is laid over the film: the findings shown, then the words that are of no finding."""
    report, settings = subject.report, subject.settings
    if report.outcome is not Outcome.ANALYSED:
        reason = ascii_text(report.reason).rstrip(". ") or "no reason recorded"
        return (_general(subject, f"AI: not analysed. Reason: {reason}. Nothing is said about any finding."),)
    shown = report.shown(min_findings=settings.min_findings, max_findings=settings.max_findings)
    found = [_finding(subject, number, f, shape, saliency) for number, f in enumerate(shown)]
    present = report.having(Decision.PRESENT)
    said = [] if present else [f"AI: {NOTHING_FOUND}"]
    if any(one.contours for one in found):
        said.append(LINES)
    left_out = [f.title for f in present if f not in shown]
    if left_out:
        said.append(f"Present too: {', '.join(left_out)}.")
    counts = [len(report.having(d)) for d in (Decision.UNDETERMINED, Decision.NOT_ASSESSED)]
    said.append(f"Undetermined: {counts[0]}; not assessed: {counts[1]}; which, the report says.")
    return (*found, _general(subject, *said))


def _general(subject: Subject, *said: str) -> Layer:
    warning = f" {DEMONSTRATION}." if subject.report.reader.demonstration else ""
    reader = subject.report.reader
    read = f"Read {subject.moment.spoken} by {ascii_text(f'{reader.name} {reader.version}')}, {subject.bundle}."
    texts = (*said, read, f"{NOT_FOR_DIAGNOSIS}. Check on the film itself.{warning}")
    lines = tuple(line for text in texts for line in _wrapped(text))
    return Layer(name=_WORDS_LAYER, description="AI reading, in words", colour=_WHITE, lines=lines)


def _finding(
    subject: Subject, number: int, finding: Finding, shape: tuple[int, int], saliency: npt.NDArray[np.float16] | None
) -> Layer:
    scale = subject.report.scale
    decision = finding.decision.replace("_", " ").upper()
    said = f"AI: {finding.title} {decision}, {quantity(finding, scale)}, {_threshold(finding, scale)}"
    borders: tuple[Polygon, ...] = ()
    if saliency is not None:
        shown = influence(saliency, finding)
        borders = contours(shown, shape[1], shape[0])
        if not borders:
            said += "; no localisation" if shown.empty else "; weak, no line"
    return Layer(
        name=f"AI_{number + 1}",
        description=f"AI: {finding.title}",
        colour=_COLOURS[number % len(_COLOURS)],
        lines=_wrapped(f"{said}."),
        contours=borders,
    )


def _threshold(finding: Finding, scale: Scale) -> str:
    """The one threshold, or both where there is room for doubt between them."""
    _, low, high = figures(finding, scale)
    unit = " %" if scale is Scale.PROBABILITY else ""
    return f"threshold {high}{unit}" if low == high else f"thresholds {low} and {high}{unit}"


def _wrapped(text: str) -> tuple[str, ...]:
    return tuple(textwrap.wrap(ascii_text(text), _LETTERS, subsequent_indent="   "))


def _annotations(source: Dataset, drawn: Sequence[Layer]) -> Iterator[Attributes]:
    """One item for each layer, its lines one below the other over all layers (PS3.3 C.10.5)."""
    # At the foot: below the diaphragm on most films, and clear of the corners where viewers write.
    top = max(_HIGHEST, _LOWEST - _LINE * sum(len(one.lines) for one in drawn))
    several = sum(bool(one.contours) for one in drawn) > 1
    for one in drawn:
        texts = []
        for row, line in enumerate(one.lines):
            # Where there are several, a line leads from a finding's words to its region.
            anchor = _lowest(one.contours[0]) if row == 0 and several and one.contours else None
            texts.append(_text(line, top, anchor))
            top += _LINE
        item = Attributes().put_items("ReferencedImageSequence", [reference(_film(source))])
        item.put("GraphicLayer", one.name).put_items("TextObjectSequence", texts)
        if one.contours:
            item.put_items("GraphicObjectSequence", [_polyline(border) for border in one.contours])
        yield item


def _lowest(border: Polygon) -> Point:
    """The point nearest to the words: the lowest, of these the leftmost."""
    return max(border, key=lambda point: (point[1], -point[0]))


def _text(line: str, top: float, anchor: Point | None) -> Attributes:
    target = Attributes().put("UnformattedTextValue", line).put("BoundingBoxAnnotationUnits", "DISPLAY")
    put_floats(target, "BoundingBoxTopLeftHandCorner", _LEFT, top)
    put_floats(target, "BoundingBoxBottomRightHandCorner", _LEFT + _WIDTH, top + _LINE)
    target.put("BoundingBoxTextHorizontalJustification", "LEFT")
    if anchor is not None:
        target.put("AnchorPointAnnotationUnits", "PIXEL").put("AnchorPointVisibility", "Y")
        put_floats(target, "AnchorPoint", *_counted(anchor))
    return target


def _polyline(border: Polygon) -> Attributes:
    """A closed polyline in pixels of the film: the last point is the first again (PS3.3 C.10.5.1.2)."""
    target = Attributes().put("GraphicAnnotationUnits", "PIXEL").put("GraphicDimensions", 2)
    target.put("NumberOfGraphicPoints", len(border)).put("GraphicType", "POLYLINE").put("GraphicFilled", "N")
    put_floats(target, "GraphicData", *(value for point in border for value in _counted(point)))
    return target


def _counted(point: Point) -> tuple[float, float]:
    """A point as PS3.3 C.10.5.1.1 counts it: the middle of the first pixel is 1, its left edge 0.5."""
    return point[0] + 0.5, point[1] + 0.5


def _layer(number: int, layer: Layer) -> Attributes:
    lightness, red, blue = layer.colour
    lab = (round(lightness * 655.35), round((red + 128) * 257), round((blue + 128) * 257))
    target = Attributes().put("GraphicLayer", layer.name).put("GraphicLayerOrder", number)
    target.put("GraphicLayerDescription", layer.description)
    return target.put("GraphicLayerRecommendedDisplayCIELabValue", *lab)


def _film(source: Dataset) -> Image:
    return Image(plain(source, "SOPClassUID"), plain(source, "SOPInstanceUID"))
