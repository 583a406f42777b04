"""For QA on Monday: positives over time and by group, drift, turnaround, volume and silence, agreement with the truth.

All of it is read from daily tallies that `tend` keeps (store.tallies): a page costs the same for a million films.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from starlette.responses import Response

from cxrnode.core.findings import folded
from cxrnode.core.quality import Share, share
from cxrnode.errors import Rejected
from cxrnode.store import agreement, alerts, series, sources
from cxrnode.store.series import Known, Point, Span
from cxrnode.store.tallies import DAY
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.view import View

SPANS = (30, 90, 365)
PARTS = {"aet": "sender", "device": "device", "view": "view", "sex": "sex", "age": "age band"}
#: Days of the window that is held against the reference before it.
WINDOW = 7
#: Points that a line over time has, at most.
_POINTS = 60
#: Seconds for which figures that are made of thousands of rows stand.
_KEPT = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wished:
    """What the page is to show."""

    model: str
    days: int
    finding: str
    by: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One finding, or one group, over the span: the share that is present in each step, and of all."""

    name: str
    steps: tuple[float | None, ...]
    whole: Share


def wished(asked: Asked, known: Sequence[Known]) -> Wished:
    """What the query asks for. Raises Rejected for what there is not."""
    names = [one.model for one in known]
    first = next((one.model for one in known if "active" in one.modes), names[0] if names else "")
    model = asked.query.get("model") or first
    days = asked.query.get("days") or "90"
    by = asked.query.get("by") or "aet"
    labels = next((one.labels for one in known if one.model == model), ())
    written = asked.query.get("finding", "")
    finding = next((one for one in labels if folded(one) == folded(written)), written)
    if names and model not in names:
        raise Rejected(f"no model {model[:64]!r} has tallies; there are {', '.join(names)}")
    if not days.isdigit() or int(days) not in SPANS:
        raise Rejected(f"days is one of {', '.join(map(str, SPANS))}")
    if by not in PARTS or (finding and finding not in labels):
        raise Rejected(f"by is one of {', '.join(PARTS)}, and finding one of the model's")
    return Wished(model=model, days=int(days), finding=finding, by=by)


def width_of(span: Span) -> int:
    """Days that are put together, so that a line has at most `_POINTS` steps."""
    return -(-(span.last - span.first + 1) // _POINTS)


def _lines(points: Sequence[Point], span: Span, key: str) -> list[Line]:
    """A line for each label or group, the days put together so that it has at most `_POINTS` steps."""
    width = width_of(span)
    steps = -(-(span.last - span.first + 1) // width)
    groups: defaultdict[str, list[Point]] = defaultdict(list)
    for point in points:
        groups[getattr(point, key)].append(point)
    lines = []
    for name in sorted(groups):
        present, assessed = [0] * steps, [0] * steps
        for point in groups[name]:
            step = (point.day - span.first) // width
            present[step] += point.present
            assessed[step] += point.present + point.undetermined + point.absent
        shares = tuple(p / a if a else None for p, a in zip(present, assessed, strict=True))
        lines.append(Line(name=name, steps=shares, whole=share(sum(present), sum(assessed))))
    return lines


def _labels_of(span: Span) -> tuple[str, ...]:
    width = width_of(span)
    return tuple(series.date_of(day).strftime("%d %b") for day in range(span.first, span.last + 1, width))


def page(console: Console, asked: Asked) -> Response:
    """The page."""
    database = console.database
    known = series.models(database)
    wish = wished(asked, known)
    span = series.last_days(database, wish.days)
    window = series.last_days(database, WINDOW)
    reference = Span(first=span.first, last=window.first - 1)
    step = width_of(span)
    points = series.positives(database, wish.model, span, step=step)
    chosen = wish.finding or next(
        (one.name for one in sorted(_lines(points, span, "label"), key=lambda one: -(one.whole.count)) if one.name), ""
    )
    by_group = series.positives(database, wish.model, span, label=chosen, by=wish.by, step=step) if chosen else ()
    since, until = span.first * DAY, (span.last + 1) * DAY
    hours = series.volume(database, since=until - 7 * DAY, until=until)
    truths = agreed(console, wish, span)
    days = {one.day: one for one in series.turnaround_by_day(database, span, model=wish.model)}
    return console.page(
        "qa.html",
        asked,
        here="qa",
        known=known,
        wish=wish,
        spans=SPANS,
        parts=PARTS,
        labels=next((one.labels for one in known if one.model == wish.model), ()),
        lines=[one for one in _lines(points, span, "label") if one.name],
        films=sum(point.films for point in points if not point.label),
        refused=sum(point.refused for point in points if not point.label),
        chosen=chosen,
        groups=_lines(by_group, span, "group"),
        axis=_labels_of(span),
        drift=series.drift(database, wish.model, reference=reference, window=window),
        window=WINDOW,
        times=series.turnaround(database, span, model=wish.model),
        p50=tuple(days[day].p50 if day in days else None for day in range(span.first, span.last + 1)),
        p95=tuple(days[day].p95 if day in days else None for day in range(span.first, span.last + 1)),
        days_axis=tuple(series.date_of(day).strftime("%d %b") for day in range(span.first, span.last + 1)),
        sources=console.lately("sources", _KEPT, lambda: sources.sources(database)),
        volume=_volume(hours, until),
        agreement=truths.by_finding(since=since),
        months=truths.by_month(chosen) if chosen else (),
        shadows=[one.model for one in known if "shadow" in one.modes and one.model != wish.model],
    )


def agreed(console: Console, wish: Wished, span: Span) -> agreement.Told:
    """The truths of the span and of the year before it, beside what the model said."""
    since, until = (span.first - 365) * DAY, (span.last + 1) * DAY
    name = f"agreement {wish.model} {span.first} {span.last}"
    return console.lately(name, _KEPT, lambda: agreement.told(console.database, wish.model, since=since, until=until))


def _volume(hours: Sequence[series.Hour], until: float) -> dict[str, tuple[int, ...]]:
    """What each sender sent in each hour of the last week."""
    first = int(until // 3600) - 168
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0] * 168)
    for one in hours:
        place = int(one.at // 3600) - first
        if 0 <= place < 168:
            found[one.calling_aet][place] += one.received
    return {name: tuple(counts) for name, counts in found.items()}


def compare(console: Console, asked: Asked) -> Response:
    """A shadow model beside an active one on the films that both read: look before it is activated."""
    modes = {name: console.in_force().mode(name, mode) for name, mode in console.config.modes.items()}
    shadow = asked.query.get("shadow") or next((name for name, mode in modes.items() if mode == "shadow"), "")
    active = asked.query.get("active") or next((name for name, mode in modes.items() if mode == "active"), "")
    if shadow not in modes or active not in modes:
        raise Rejected("name an active and a shadow model of the configuration")
    days = asked.query.get("days") or "90"
    if not days.isdigit() or int(days) not in SPANS:
        raise Rejected(f"days is one of {', '.join(map(str, SPANS))}")
    span = series.last_days(console.database, int(days))
    return console.page(
        "compare.html",
        asked,
        here="models",
        modes=modes,
        shadow=shadow,
        active=active,
        days=int(days),
        spans=SPANS,
        rows=series.comparison(console.database, active, shadow, span),
        consent=console.config.changes.consent,
        drift=series.drift(console.database, shadow, reference=span, window=span),
    )


def alerts_page(console: Console, asked: Asked) -> Response:
    """The alerts that hold, and those that were."""
    before = int(asked.query["before"]) if asked.query.get("before", "").isdigit() else None
    rows = alerts.recent(console.database, limit=51, before=before)
    return console.page(
        "alerts.html",
        asked,
        here="alerts",
        rows=rows[:50],
        before=rows[49].id if len(rows) > 50 else None,
    )


VIEWS = (
    View(path="/qa", page=page),
    View(path="/alerts", page=alerts_page),
    View(path="/models/compare", page=compare),
)
