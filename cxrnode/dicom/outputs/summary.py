"""The first picture of every series: all that was found on one film, and what was not looked at, on one page.

It is sent even when nothing is shown, and when the film was not analysed, because silence reads as negative. It is
drawn from the report alone; without a film it is the same page with a gap.
"""

from __future__ import annotations

import dataclasses

from cxrnode.core.findings import Decision, Finding, Outcome, Scale, reach
from cxrnode.dicom.outputs.common import DEMONSTRATION, NOT_FOR_DIAGNOSIS, NOTHING_FOUND, Subject, figures
from cxrnode.dicom.outputs.drawing import (
    AMBER,
    BLACK,
    BLUE,
    BODY,
    GREY,
    LARGE,
    MUTED,
    SMALL,
    TRACK,
    WHITE,
    Colour,
    Page,
    line_height,
    shortened,
    text_width,
    wrapped,
)
from cxrnode.dicom.outputs.frame import badge_width
from cxrnode.dicom.outputs.heatmap import NOT_AN_OUTLINE, open_findings
from cxrnode.dicom.outputs.influence import Influence, put_map
from cxrnode.dicom.raster import Grey, fitted, put_grey, scaled

_MARGIN = 24
_ROW = 37
#: The height of a thumbnail in pixels: at most, and where findings leave no room on a page as high as wide.
_THUMBNAIL, _LOWEST = 300, 120
_CAPTION = 212
_NOTE = 1000
#: How each decision is written, here and on the summary of a study.
INKS: dict[Decision, Colour] = {
    Decision.PRESENT: AMBER,
    Decision.UNDETERMINED: BLUE,
    Decision.ABSENT: WHITE,
    Decision.NOT_ASSESSED: MUTED,
}
_FILLS: dict[Decision, Colour] = {Decision.PRESENT: AMBER, Decision.UNDETERMINED: BLUE, Decision.ABSENT: GREY}
WORDS: dict[Decision, str] = {
    Decision.PRESENT: "present",
    Decision.UNDETERMINED: "undetermined",
    Decision.ABSENT: "absent",
    Decision.NOT_ASSESSED: "not assessed",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Thumbnail:
    """What is shown once more, small, on the film: the map of a finding."""

    finding: Finding
    shown: Influence


def draw_summary(subject: Subject, film: Grey | None, thumbnails: tuple[Thumbnail, ...]) -> Page:
    """The summary page; `film` is uint8 (H, W) of any size or None where it could not be read."""
    side = subject.settings.max_px
    # As wide as high at most, but where a bundle has so many findings that they would not stand on it.
    page = Page(side, side + (_ROW + 2) * len(subject.report.findings))
    y = _draw_head(page, subject)
    if subject.report.outcome is Outcome.ANALYSED:
        y = _draw_result(page, subject, y)
        rows = (max(len(subject.report.findings), 10)) * _ROW + line_height(SMALL)
        _draw_film(page, film, (_MARGIN, y, side * 43 // 100, y + rows))
        _draw_bars(page, subject, side * 45 // 100, y)
        y += rows + 14
        notes = _notes(subject, bool(thumbnails))
        below = sum(len(wrapped(n, SMALL, side - 2 * _MARGIN)) for n in notes) * line_height(SMALL) + 70
        if film is not None and thumbnails:
            y = _draw_thumbnails(page, subject, film, thumbnails, y, side - below)
        for note in notes:
            y = page.paragraph(_MARGIN, y, side - 2 * _MARGIN, note, SMALL)
    else:
        y = _draw_reason(page, subject, y)
    page.cut(_draw_foot(page, subject, y + 16))
    return page


def _draw_head(page: Page, subject: Subject) -> int:
    width = page.width - 2 * _MARGIN
    y = page.paragraph(_MARGIN, 14, width, "AI reading of one chest film", LARGE)
    y = page.paragraph(_MARGIN, y + 2, width, f"Film: {subject.film}", SMALL, MUTED)
    when = f"Read {subject.moment.spoken} by {subject.model}, {subject.bundle}"
    return page.paragraph(_MARGIN, y, width, when, SMALL, MUTED) + 8


def _draw_reason(page: Page, subject: Subject, y: int) -> int:
    width = page.width - 2 * _MARGIN
    y = page.paragraph(_MARGIN, y + 16, width, "AI: not analysed", LARGE, AMBER)
    reason = shortened(subject.report.reason or "no reason recorded", BODY, 4 * width)
    y = page.paragraph(_MARGIN, y + 6, width, f"Reason: {reason}", BODY)
    silence = "Nothing is said about any finding: this is neither positive nor negative."
    return page.paragraph(_MARGIN, y + 6, width, silence, BODY)


def _draw_result(page: Page, subject: Subject, y: int) -> int:
    """The one sentence that must be right when nothing else is read."""
    present = subject.report.having(Decision.PRESENT)
    result = f"Present: {', '.join(f.title for f in present)}" if present else NOTHING_FOUND
    return page.paragraph(_MARGIN, y, page.width - 2 * _MARGIN, result, LARGE, AMBER) + 12


def _draw_film(page: Page, film: Grey | None, box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    if film is None:
        page.text(left, top, "no picture of the film", SMALL, MUTED)
        return
    width, height = fitted(film.shape, right - left, bottom - top)
    left += (right - left - width) // 2
    put_grey(page.area(left, top, left + width, top + height), scaled(film, (width, height)))


def _draw_bars(page: Page, subject: Subject, x: int, y: int) -> None:
    """The findings by decision, then by score, each on a track of three parts: absent, undetermined, present."""
    report = subject.report
    number = x + 216
    decided = page.width - _MARGIN - text_width("undetermined", SMALL)
    track = (number + 86, decided - 16)
    page.text(number, y, "prob. %" if report.scale is Scale.PROBABILITY else "score", SMALL, MUTED)
    page.text(decided, y, "decision", SMALL, MUTED)
    y += line_height(SMALL) + 4
    for decision, ink in INKS.items():
        for finding in report.having(decision):
            page.text(x, y, shortened(finding.title, SMALL, 206), SMALL, ink)
            page.text(decided, y, WORDS[decision], SMALL, ink)
            if decision is Decision.NOT_ASSESSED:
                page.text(number, y, "no score given", SMALL, ink)
            else:
                page.text(number, y, figures(finding, report.scale)[0][:6], SMALL, ink)
                _draw_track(page, finding, track, y + 4)
            y += _ROW


def _draw_track(page: Page, finding: Finding, ends: tuple[int, int], y: int) -> None:
    """The bar ends where the score lies between its thresholds (`core.findings.reach`), not at its number."""
    left, right = ends
    low = y + 20
    limits = finding.thresholds
    assert limits is not None, "what has no thresholds is not assessed, and has no bar"
    page.fill(left, y, right + 1, low + 1, TRACK)
    end = left + round((right - left) * reach(finding.score, limits))
    page.fill(left, y, end + 1, low + 1, _FILLS[finding.decision])
    if finding.decision is Decision.UNDETERMINED:  # told apart on a grey-scale monitor too
        for stripe in range(left + 6, end, 12):
            page.fill(stripe - 1, y, stripe + 2, low + 1, BLACK)
    for value in (limits.rule_out, limits.rule_in):
        at = left + round((right - left) * reach(value, limits))
        page.fill(at - 3, y - 6, at + 4, low + 7, BLACK)
        page.fill(at - 1, y - 6, at + 2, low + 7, WHITE)


def _draw_thumbnails(
    page: Page, subject: Subject, film: Grey, thumbnails: tuple[Thumbnail, ...], top: int, bottom: int
) -> int:
    """The maps in one row, drawn at their size so that their lines stay lines; returns the y below it."""
    cell = (page.width - 2 * _MARGIN) // max(3, len(thumbnails))
    caption = 2 * line_height(SMALL) + 8
    height = max(_LOWEST, min(_THUMBNAIL, bottom - top - 12))
    size = fitted(film.shape, cell - _CAPTION, height)
    beside = size[1] > height - caption  # else the pictures are larger over their captions
    if not beside:
        size = fitted(film.shape, cell - 14, height - caption)
    small = scaled(film, size)
    lowest = top + size[1]
    for place, thumbnail in enumerate(thumbnails):
        x = _MARGIN + place * cell
        picture = page.area(x, top, x + size[0], lowest)
        put_grey(picture, small)
        put_map(picture, small, thumbnail.shown, colour=subject.settings.style == "colour")
        left, y = (x + size[0] + 12, top) if beside else (x, lowest + 4)
        width = x + cell - 10 - left
        page.text(left, y, shortened(thumbnail.finding.title, SMALL, width), SMALL)
        page.text(left, y + line_height(SMALL), f"image {place + 2}", SMALL, MUTED)
    return lowest + 16 + (0 if beside else caption)


def _notes(subject: Subject, thumbnails: bool) -> list[str]:
    probability = subject.report.scale is Scale.PROBABILITY
    score = "A score is not a probability: compare the bars, not the numbers."
    kind = "Probability in percent." if probability else score
    ticks = "White marks on a bar: its thresholds; present from the right one on, absent below the left one."
    notes = [f"{open_findings(subject)} Check on the film itself.", f"{kind} {ticks}"]
    if subject.report.notes:
        notes.insert(1, shortened(f"Note: {'; '.join(subject.report.notes)}.", SMALL, 2 * _NOTE))
    if thumbnails:
        notes.append(f"Colour and line: {NOT_AN_OUTLINE[0].lower()}{NOT_AN_OUTLINE[1:]}")
    return notes


def _draw_foot(page: Page, subject: Subject, y: int) -> int:
    page.text(_MARGIN, y, NOT_FOR_DIAGNOSIS, BODY, AMBER)
    if subject.report.reader.demonstration:
        left = page.width - _MARGIN - badge_width(DEMONSTRATION)
        page.badge(left, y - 2, DEMONSTRATION, BODY, ink=BLACK, ground=AMBER)
    return y + line_height(BODY) + 12
