"""The picture of one finding: the film with its map, and beside it a legend that lets it be read on its own.

Nothing is written on the anatomy, and no patient is named. All pictures of a report share one frame, so that the film
stands still while a reader scrolls through them.
"""

from __future__ import annotations

import numpy as np

from cxrnode.core.findings import Decision, Finding, Scale
from cxrnode.dicom.outputs.common import DEMONSTRATION, NOT_FOR_DIAGNOSIS, Subject, limits_in_words, quantity
from cxrnode.dicom.outputs.drawing import AMBER, BLACK, BLUE, BODY, MUTED, SMALL, TRACK, WHITE, Page
from cxrnode.dicom.outputs.frame import BAR, Badge, Bar, Frame, Legend, Line, draw_legend
from cxrnode.dicom.outputs.influence import CONTOUR_LEVEL, Influence, colour_bar, put_map
from cxrnode.dicom.raster import Grey, Picture, put_grey

NOT_AN_OUTLINE = "Region of influence, not an outline of a lesion nor its side; not the diagnostic image."
NO_LOCALISATION = "No localisation: nothing on this film reaches the floor of the scale."

BADGES: dict[Decision, Badge] = {
    Decision.PRESENT: Badge("PRESENT", BLACK, AMBER),
    Decision.UNDETERMINED: Badge("UNDETERMINED", BLACK, BLUE),
    Decision.ABSENT: Badge("ABSENT", WHITE, TRACK),
}


def legend_of(subject: Subject, finding: Finding, shown: Influence) -> Legend:
    """What stands beside the film, from the most to the least urgent."""
    scale, settings = subject.report.scale, subject.settings
    word = "" if scale is Scale.PROBABILITY else " (not a probability)"
    colour = settings.style == "colour" and not shown.empty
    demonstration = subject.report.reader.demonstration
    return Legend(
        title=finding.title,
        badge=BADGES[finding.decision],
        bar=Bar(colour_bar(*BAR), CONTOUR_LEVEL) if colour else None,
        lines=(
            Line(f"AI {quantity(finding, scale)}{word}: {limits_in_words(finding, scale)}.", BODY),
            Line(NO_LOCALISATION, SMALL, AMBER) if shown.empty else Line(_scale_in_words(shown, colour=colour)),
            Line(NOT_AN_OUTLINE, SMALL, AMBER),
            Line(f"Film: {subject.film}."),
            Line(f"Read {subject.moment.spoken} by {subject.model}, {subject.bundle}."),
            Line(f"{open_findings(subject)} All findings: image 1. Check on the film itself.", SMALL, MUTED),
        ),
        last=Line(NOT_FOR_DIAGNOSIS, BODY, AMBER),
        warning=Badge(DEMONSTRATION, BLACK, AMBER) if demonstration else None,
    )


def ground_of(film: Grey, frame: Frame) -> Picture:
    """What all pictures of a report have in common: the film, uint8 of the frame's film size, in its place."""
    ground = np.zeros((frame.height, frame.width, 3), np.uint8)
    left, top, right, bottom = frame.film
    put_grey(ground[top:bottom, left:right], film)
    return ground


def draw_heatmap(
    subject: Subject, finding: Finding, shown: Influence, film: Grey, frame: Frame, ground: Picture
) -> Page:
    """The picture; `film` is uint8 of the frame's film size, and `ground` is `ground_of` it."""
    page = Page(frame.width, frame.height, ground)
    put_map(page.area(*frame.film), film, shown, colour=subject.settings.style == "colour")
    draw_legend(page, legend_of(subject, finding, shown), frame)
    return page


def open_findings(subject: Subject) -> str:
    """What is undetermined and what was not assessed."""
    parts = []
    for word, decision in (("Undetermined", Decision.UNDETERMINED), ("Not assessed", Decision.NOT_ASSESSED)):
        titles = [f.title for f in subject.report.having(decision)]
        parts.append(f"{word}: {', '.join(titles) if titles else 'none'}.")
    return " ".join(parts)


def _scale_in_words(shown: Influence, *, colour: bool) -> str:
    peak = f"peak here {shown.peak:.2f}" if shown.peak <= 1 else "peak here above 1"
    strong = shown.peak >= CONTOUR_LEVEL
    line = f"White line: {CONTOUR_LEVEL}" if strong else f"Too weak for the white line, which stands at {CONTOUR_LEVEL}"
    if colour:
        return f"Colour: influence on the score, fixed scale, nothing drawn at 0. {line}; {peak}."
    return f"{line} of a fixed scale of influence on the score; {peak}."
