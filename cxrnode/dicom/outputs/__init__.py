"""Outputs: the DICOM objects made from a report. A pure function of the film, the report, the saliency and settings.

The same arguments give the same bytes, on every machine and in every time zone; the bytes are stored and resent as
they are. Nothing here reads a clock, a file or the network, and nothing refuses a film for its header.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from cxrnode.core.findings import Finding, Outcome, Report
from cxrnode.dicom.outputs import codes
from cxrnode.dicom.outputs.capture import build_capture
from cxrnode.dicom.outputs.common import Subject
from cxrnode.dicom.outputs.document import build_pdf
from cxrnode.dicom.outputs.frame import Frame, frame_for
from cxrnode.dicom.outputs.heatmap import draw_heatmap, ground_of, legend_of
from cxrnode.dicom.outputs.influence import Influence, influence
from cxrnode.dicom.outputs.key_object import build_key_object, urgent_findings
from cxrnode.dicom.outputs.message import build_message
from cxrnode.dicom.outputs.presentation import build_presentation
from cxrnode.dicom.outputs.report import build_report
from cxrnode.dicom.outputs.settings import Output, OutputSettings, SentObject
from cxrnode.dicom.outputs.summary import Thumbnail, draw_summary
from cxrnode.dicom.outputs.text import build_text
from cxrnode.dicom.raster import Grey, Halves
from cxrnode.dicom.values import number

__all__ = ["Output", "OutputSettings", "SentObject", "build_outputs", "each_output"]

KINDS = frozenset({"sr", "heatmap"})
#: What a site may ask for beside them.
OPTIONAL = frozenset({"text", "pdf", "key_object", "gsps", "hl7"})


def build_outputs(
    source: Dataset,
    report: Report,
    film: npt.NDArray[np.uint8] | None,
    saliency: npt.NDArray[np.float16] | None,
    settings: OutputSettings,
    kinds: frozenset[str] = KINDS,
    *,
    predecessors: tuple[SentObject, ...] = (),
) -> tuple[Output, ...]:
    """Make the outputs of one report: the structured report, then the summary and the heatmaps.

    source: the film's data set without pixels, freshly read: once pydicom has decoded a name that does not fit its
    declared character set, its bytes are gone; undecoded, they are copied as they are.
    film: uint8 (H, W), 0 = black, row 0 = top, as the radiologist sees it; None where it could not be decoded.
    saliency: float16 (C, h, w), the channel of a finding is its `index`; None where the model gives none.
    kinds: of "sr", "heatmap", "text", "pdf", "key_object" and "gsps". The summary belongs to "heatmap" and is made even
    when no finding is shown. "pdf" is the summary too; without "heatmap" it has no thumbnails, since it could not say
    of what. "key_object" is made only where a finding of `settings.urgent` is present, and never for a demonstration;
    "gsps" only where the size of the film is known.
    predecessors: what the reading before this revision has sent, of any kind; the reports name the reports among them.
    A duplicate has no outputs. Raises ValueError for a kind that does not exist.
    """
    subject = Subject(source, report, settings, predecessors=predecessors)
    return tuple(each_output(subject, None if film is None else Halves(film), saliency, kinds))


def each_output(
    subject: Subject,
    film: Halves | None,
    saliency: npt.NDArray[np.float16] | None,
    kinds: frozenset[str] = KINDS,
) -> Iterator[Output]:
    """The outputs of `build_outputs` in its order, each as soon as it is made."""
    unknown = kinds - KINDS - OPTIONAL
    if unknown:
        raise ValueError(f"there is no output of kind {', '.join(sorted(unknown))}")
    if subject.report.outcome is Outcome.DUPLICATE:
        return
    if "sr" in kinds:
        yield build_report(subject)
    if "text" in kinds:
        yield build_text(subject)
    if kinds & {"heatmap", "pdf"}:
        shown = _shown(subject, film, saliency if "heatmap" in kinds else None)
        summary = draw_summary(subject, shown.film, tuple(Thumbnail(*one) for one in shown.maps))
        if "heatmap" in kinds:
            derivation = f"Summary of the AI reading, {subject.model}"
            yield build_capture(subject, summary, kind="summary", derivation=derivation)
            yield from _heatmaps(subject, shown)
        if "pdf" in kinds:
            yield build_pdf(subject, summary.image)
    shape = film.shape if film is not None else _stated_shape(subject.source)
    if "gsps" in kinds and shape is not None:
        yield build_presentation(subject, shape, saliency)
    flagging = urgent_findings(subject) if "key_object" in kinds else ()
    if flagging:
        yield build_key_object(subject, flagging)
    if "hl7" in kinds:
        yield build_message(subject)


def _stated_shape(source: Dataset) -> tuple[int, int] | None:
    """Rows and columns as the header has them; None where it does not say."""
    rows, columns = number(source, "Rows"), number(source, "Columns")
    return (int(rows), int(columns)) if rows and columns else None


@dataclasses.dataclass(frozen=True, slots=True)
class _Shown:
    """The film, at the size of the frame where there is one; and the maps that are shown on it, which need a frame."""

    film: Grey | None
    maps: tuple[tuple[Finding, Influence], ...] = ()
    frame: Frame | None = None


def _shown(subject: Subject, film: Halves | None, saliency: npt.NDArray[np.float16] | None) -> _Shown:
    report, settings = subject.report, subject.settings
    if report.outcome is not Outcome.ANALYSED or film is None or saliency is None:
        return _Shown(film.film if film is not None else None)
    findings = report.shown(min_findings=settings.min_findings, max_findings=settings.max_findings)
    maps = tuple((finding, influence(saliency, finding)) for finding in findings)
    if not maps:
        return _Shown(film.film)
    frame = frame_for(film.shape, [legend_of(subject, finding, map_) for finding, map_ in maps], settings.max_px)
    return _Shown(film.scaled(frame.film_size), maps, frame)


def _heatmaps(subject: Subject, shown: _Shown) -> Iterator[Output]:
    """One capture for each map; without maps there is none."""
    if shown.film is None or shown.frame is None:
        return
    ground = ground_of(shown.film, shown.frame)
    for place, (finding, map_) in enumerate(shown.maps, start=2):
        yield build_capture(
            subject,
            draw_heatmap(subject, finding, map_, shown.film, shown.frame, ground),
            kind="heatmap",
            label=finding.label,
            number=place,
            derivation=f"Map of influence (Grad-CAM) for {finding.title}, {subject.model}",
            explanation=codes.GRAD_CAM,
        )
