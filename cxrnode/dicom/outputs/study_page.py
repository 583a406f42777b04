"""The pages of the summary of a study: a table of findings by films, with a mark where the films disagree."""

from __future__ import annotations

from collections.abc import Iterator

from cxrnode.core.findings import Decision, Finding, Outcome, Scale
from cxrnode.dicom.outputs.common import DEMONSTRATION, NOT_FOR_DIAGNOSIS, Subject, figures
from cxrnode.dicom.outputs.drawing import (
    AMBER,
    BLACK,
    BODY,
    LARGE,
    MUTED,
    SMALL,
    TRACK,
    WHITE,
    Page,
    line_height,
    shortened,
    text_width,
)
from cxrnode.dicom.outputs.films import NEVER_AVERAGED, TAKES_THE_PLACE, Row, Study, film_line, headline
from cxrnode.dicom.outputs.frame import badge_width
from cxrnode.dicom.outputs.source import taken_at, view_of
from cxrnode.dicom.outputs.summary import INKS, WORDS
from cxrnode.dicom.raster import fitted, put_grey, scaled

#: Films side by side on one page: a column holds a score and a decision in words.
FILMS_PER_PAGE = 3
_MARGIN = 24
_ROW = 33
_TITLE = 214
_MARK = 106
_PREVIEW = 200
_LINES = 2
_SENTENCES = 4


def draw_study(subject: Subject, study: Study) -> Iterator[Page]:
    """The pages, RGB, as many as it takes to stand all films side by side; what the films differ in is on each."""
    count = len(study.subjects)
    pages = -(-count // FILMS_PER_PAGE)
    for number in range(pages):
        first = number * FILMS_PER_PAGE
        shown = range(first, min(first + FILMS_PER_PAGE, count))
        which = f", page {number + 1} of {pages}" if pages > 1 else ""
        words = _page(subject, study, shown, which, preview=0)
        room = subject.settings.max_px - words.height - 4
        yield _page(subject, study, shown, which, preview=min(_PREVIEW, room)) if room > _PREVIEW // 4 else words


def _page(subject: Subject, study: Study, shown: range, which: str, *, preview: int) -> Page:
    """One page; `preview` is the height of the small films in pixels, 0 for none."""
    page = Page(subject.settings.max_px, 2 * subject.settings.max_px)
    width = page.width - 2 * _MARGIN
    count = len(study.subjects)
    title = f"AI readings of one study: {count} frontal film{'s' if count > 1 else ''}{which}"
    y = page.paragraph(_MARGIN, 14, width, title, LARGE) + 4
    said = headline(study)
    if len(said) > _SENTENCES:
        said = [*said[:_SENTENCES], f"And {len(said) - _SENTENCES} more: see the table and the report."]
    for sentence in said:
        y = page.paragraph(_MARGIN, y, width, shortened(sentence, BODY, _LINES * width), BODY, AMBER) + 2
    y = _draw_table(page, study, shown, y + 14, preview) + 12
    y = page.paragraph(_MARGIN, y, width, NEVER_AVERAGED, SMALL) + 4
    if subject.predecessors:
        y = page.paragraph(_MARGIN, y, width, TAKES_THE_PLACE, SMALL) + 4
    for at in shown:
        y = page.paragraph(_MARGIN, y, width, film_line(at + 1, study.subjects[at]), SMALL, MUTED) + 2
    made = f"Made {subject.moment.spoken}. Thresholds and maps: the pages of each film. Check on the films themselves."
    y = page.paragraph(_MARGIN, y, width, made, SMALL, MUTED) + 12
    page.text(_MARGIN, y, NOT_FOR_DIAGNOSIS, BODY, AMBER)
    if study.demonstration:
        left = page.width - _MARGIN - badge_width(DEMONSTRATION)
        page.badge(left, y - 2, DEMONSTRATION, BODY, ink=BLACK, ground=AMBER)
    page.cut(y + line_height(BODY) + 12)
    return page


def _draw_table(page: Page, study: Study, shown: range, y: int, preview: int) -> int:
    left = _MARGIN + _TITLE
    column = (page.width - _MARGIN - _MARK - left) // FILMS_PER_PAGE
    places = [(at, left + place * column) for place, at in enumerate(shown)]
    y = _draw_films(page, study, places, column, y, preview)
    # Beside the last film: a mark at the far edge would be read with no row.
    mark = places[-1][1] + column + 4
    for row in study.rows:
        page.text(_MARGIN, y, shortened(row.title, SMALL, _TITLE - 8), SMALL, INKS[row.gravest])
        for at, x in places:
            _draw_cell(page, study.subjects[at], row.cells[at], x, y, column - 8)
        if row.differs:
            page.badge(mark, y - 2, "differ", SMALL, ink=BLACK, ground=_ground(row))
        y += _ROW
    return y


def _ground(row: Row) -> tuple[int, int, int]:
    return AMBER if row.gravest is Decision.PRESENT else WHITE


def _draw_films(page: Page, study: Study, places: list[tuple[int, int]], column: int, y: int, height: int) -> int:
    """The head of each column: the film made small, its number, view and time; returns the y below."""
    lowest = y
    for at, x in places:
        film = study.previews[at]
        if film is not None and height:
            wide, high = fitted(film.shape, column - 16, height)
            put_grey(page.area(x, y, x + wide, y + high), scaled(film, (wide, high)))
            lowest = max(lowest, y + high + 4)
    for at, x in places:
        source = study.subjects[at].source
        page.text(x, lowest, shortened(f"Film {at + 1}, {view_of(source)}", SMALL, column - 8), SMALL)
        page.text(x, lowest + line_height(SMALL), taken_at(source)[1] or "no time", SMALL, MUTED)
    below = lowest + 2 * line_height(SMALL) + 4
    page.fill(_MARGIN, below, page.width - _MARGIN, below + 2, TRACK)
    return below + 8


def _draw_cell(page: Page, subject: Subject, finding: Finding | None, x: int, y: int, width: int) -> None:
    if finding is None:
        said = "not analysed" if subject.report.outcome is not Outcome.ANALYSED else "-"
        page.text(x, y, said, SMALL, MUTED)
        return
    ink = INKS[finding.decision]
    if finding.decision is Decision.NOT_ASSESSED:
        page.text(x, y, WORDS[finding.decision], SMALL, ink)
        return
    unit = "%" if subject.report.scale is Scale.PROBABILITY else ""
    number = f"{figures(finding, subject.report.scale)[0][:6]}{unit}"
    page.text(x, y, number, SMALL, ink)
    at = x + text_width("0.0000", SMALL) + 6
    page.text(at, y, shortened(WORDS[finding.decision], SMALL, x + width - at), SMALL, ink)
