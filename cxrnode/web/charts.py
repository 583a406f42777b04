"""Charts as inline SVG, drawn on the server: no script, no style of their own; the style sheet gives the colours.

Every chart has a title that says in words what it shows, for those who do not see it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

#: Paths of a 24 x 24 grid, drawn as strokes.
_ICONS = {
    "overview": "M3 13h4l3-9 4 16 3-7h4",
    "jobs": "M4 6h16M4 12h16M4 18h10",
    "qa": "M4 20V10M10 20V4M16 20v-7M21 20H3",
    "associations": "M7 8l-4 4 4 4M3 12h12M17 16l4-4-4-4M21 12H9",
    "models": "M12 3l8 4.5v9L12 21l-8-4.5v-9zM12 12l8-4.5M12 12v9M12 12L4 7.5",
    "nodes": "M4 4h16v6H4zM4 14h16v6H4zM8 7v.5M8 17v.5",
    "alerts": "M12 4a5 5 0 015 5v4l2 3H5l2-3V9a5 5 0 015-5zM10 19a2 2 0 004 0",
    "out": "M9 4H5v16h4M14 8l4 4-4 4M18 12H9",
    "stop": "M8 3h8l5 5v8l-5 5H8l-5-5V8z",
    "play": "M7 4l13 8-13 8z",
    "warn": "M12 3l10 18H2zM12 10v5M12 18v.5",
    "check": "M4 12l5 5L20 6",
    "films": "M4 4h16v16H4zM8 4v16M16 4v16M4 9h4M4 15h4M16 9h4M16 15h4",
    "film": "M5 3h14v18H5zM9 8a3 4 0 006 0M8 17c0-4 1-6 4-6s4 2 4 6",
    "search": "M10.5 4a6.5 6.5 0 110 13 6.5 6.5 0 010-13zM15.5 15.5L21 21",
    "down": "M12 4v12M6 11l6 6 6-6M4 21h16",
    "clock": "M12 3a9 9 0 110 18 9 9 0 010-18zM12 7v5l3 3",
    "theme": "M12 3a9 9 0 100 18zM12 3a9 9 0 010 18",
    "user": "M12 4a4 4 0 110 8 4 4 0 010-8zM4 21c0-4 3-7 8-7s8 3 8 7",
    "lock": "M6 11h12v9H6zM8 11V8a4 4 0 018 0v3",
    "copy": "M9 9h11v11H9zM15 9V4H4v11h5",
}


def icon(name: str, size: int = 18) -> Markup:
    """A small picture beside a word, which says the same."""
    return Markup(
        '<svg class="icon" width="{0}" height="{0}" viewBox="0 0 24 24" aria-hidden="true" focusable="false">'
        '<path d="{1}"/></svg>'
    ).format(size, _ICONS[name])


def _svg(width: float, height: float, title: str, body: str, *, kind: str) -> Markup:
    return Markup(
        f'<svg class="chart {kind}" viewBox="0 0 {width:g} {height:g}" role="img" preserveAspectRatio="none">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def nice(most: float) -> float:
    """The end of an axis: 1, 2 or 5 times a power of ten, at least `most`."""
    if most <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(most))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= most * 0.9999)


def bars(
    stacks: Sequence[Sequence[float]],
    *,
    kinds: Sequence[str],
    labels: Sequence[str],
    tips: Sequence[str],
    title: str,
    width: float = 720,
    height: float = 150,
    marks: int = 6,
) -> Markup:
    """Stacked bars, the first kind below; `labels` under the axis, about `marks` of them; `tips` for the pointer."""
    left, bottom, top = 34.0, 20.0, 8.0
    most = nice(max((sum(stack) for stack in stacks), default=1.0) or 1.0)
    room, tall = (width - left) / max(1, len(stacks)), height - bottom - top
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = top + tall * (1 - share)
        value = most * share
        parts.append(f'<line class="grid" x1="{left:g}" y1="{y:.1f}" x2="{width:g}" y2="{y:.1f}"/>')
        if value == int(value):
            parts.append(f'<text class="axis" x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{int(value)}</text>')
    every = max(1, round(len(stacks) / marks))
    for number, stack in enumerate(stacks):
        x, y = left + room * number, top + tall
        parts.append(f'<g class="bar"><title>{escape(tips[number])}</title>')
        parts.append(f'<rect class="hit" x="{x:.1f}" y="{top:g}" width="{room:.1f}" height="{tall:.1f}"/>')
        for kind, value in zip(kinds, stack, strict=True):
            high = tall * value / most
            if value:
                y -= high
                parts.append(
                    f'<rect class="{kind}" x="{x + room * 0.16:.1f}" y="{y:.1f}" width="{room * 0.68:.1f}" '
                    f'height="{max(high, 1.0):.1f}" rx="1.5"/>'
                )
        parts.append("</g>")
        # From the right: the last hour is the one that people look for.
        if (len(stacks) - 1 - number) % every == 0:
            middle = x + room / 2
            parts.append(
                f'<text class="axis" x="{middle:.1f}" y="{height - 5:g}" text-anchor="middle">'
                f"{escape(labels[number])}</text>"
            )
    return _svg(width, height, title, "".join(parts), kind="bars")


def line(
    series: Sequence[Sequence[float | None]],
    *,
    kinds: Sequence[str],
    labels: Sequence[str],
    title: str,
    width: float = 720,
    height: float = 150,
    low: float = 0.0,
    high: float | None = None,
    limit: float | None = None,
    marks: int = 6,
) -> Markup:
    """Lines over the same places; None leaves a gap. `limit` is drawn across, for what must not be passed."""
    left, bottom, top = 44.0, 20.0, 8.0
    known = [value for one in series for value in one if value is not None]
    most = high if high is not None else nice(max([*known, limit or 0.0], default=1.0) or 1.0)
    tall, count = height - bottom - top, max(1, max((len(one) for one in series), default=1))
    step = (width - left - 8) / max(1, count - 1)

    def place(number: int, value: float) -> tuple[float, float]:
        share = 0.0 if most == low else (value - low) / (most - low)
        return left + step * number, top + tall * (1 - min(max(share, 0.0), 1.0))

    parts = []
    for share in (0.0, 0.5, 1.0):
        y, value = top + tall * (1 - share), low + (most - low) * share
        parts.append(f'<line class="grid" x1="{left:g}" y1="{y:.1f}" x2="{width:g}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{left - 6:g}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    if limit is not None:
        _, y = place(0, limit)
        parts.append(f'<line class="limit" x1="{left:g}" y1="{y:.1f}" x2="{width:g}" y2="{y:.1f}"/>')
    for kind, one in zip(kinds, series, strict=True):
        path, before = "", False
        for number, known_or_not in enumerate(one):
            if known_or_not is None:
                before = False
                continue
            x, y = place(number, known_or_not)
            path += f"{'L' if before else 'M'}{x:.1f} {y:.1f}"
            alone = not before and (number + 1 == len(one) or one[number + 1] is None)
            if alone:
                parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
            before = True
        parts.append(f'<path class="line {kind}" d="{path}"/>')
    every = max(1, round(count / marks))
    for number, label in enumerate(labels):
        if (len(labels) - 1 - number) % every == 0:
            x, _ = place(number, low)
            anchor = "end" if number == len(labels) - 1 else "middle"
            parts.append(
                f'<text class="axis" x="{x:.1f}" y="{height - 5:g}" text-anchor="{anchor}">{escape(label)}</text>'
            )
    return _svg(width, height, title, "".join(parts), kind="lines")


def track(value: float, *, decision: str, one_threshold: bool, title: str) -> Markup:
    """Where a score lies (core.findings.reach, 0 to 1) on a track of thirds: absent, undetermined, present."""
    x = 4 + 192 * min(max(value, 0.0), 1.0)
    borders = (100.0,) if one_threshold else (68.0, 132.0)
    body = '<rect class="ground" x="4" y="7" width="192" height="6" rx="3"/>'
    body += f'<rect class="reach {decision}" x="4" y="7" width="{max(x - 4, 1):.1f}" height="6" rx="3"/>'
    body += "".join(f'<line class="border" x1="{at:g}" y1="2" x2="{at:g}" y2="18"/>' for at in borders)
    body += f'<circle class="at {decision}" cx="{x:.1f}" cy="10" r="5"/>'
    return Markup(
        f'<svg class="chart track" viewBox="0 0 200 20" role="img"><title>{escape(title)}</title>{body}</svg>'
    )


def share(value: float, *, kind: str, title: str) -> Markup:
    """A part of a whole, 0 to 1, as a thin bar."""
    wide = 100 * min(max(value, 0.0), 1.0)
    return Markup(
        f'<svg class="chart share" viewBox="0 0 100 6" role="img" preserveAspectRatio="none">'
        f'<title>{escape(title)}</title><rect class="ground" width="100" height="6" rx="3"/>'
        f'<rect class="{kind}" width="{wide:.1f}" height="6" rx="3"/></svg>'
    )


def spark(values: Sequence[float | None], *, title: str, kind: str = "one", width: float = 160) -> Markup:
    """A small line without axes, from 0 to the largest value."""
    height, known = 28.0, [value for value in values if value is not None]
    most, step = max(known, default=0.0) or 1.0, width / max(1, len(values) - 1)
    path, before, dots = "", False, ""
    for number, value in enumerate(values):
        if value is None:
            before = False
            continue
        x, y = step * number, 2 + (height - 4) * (1 - value / most)
        path += f"{'L' if before else 'M'}{x:.1f} {y:.1f}"
        if not before and (number + 1 == len(values) or values[number + 1] is None):
            dots += f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>'
        before = True
    size = "spark" if width <= 160 else "spark long"
    return _svg(width, height, title, f'<path class="line {kind}" d="{path}"/>{dots}', kind=size)


def columns(values: Sequence[float], *, title: str, width: float = 336, height: float = 28) -> Markup:
    """Small columns without axes."""
    most, room = max(values, default=0.0) or 1.0, width / max(1, len(values))
    body = "".join(
        f'<rect class="one" x="{room * number:.1f}" y="{height - height * value / most:.1f}" '
        f'width="{max(room * 0.8, 0.6):.2f}" height="{height * value / most:.1f}"/>'
        for number, value in enumerate(values)
        if value
    )
    return _svg(width, height, title, body, kind="spark long")


def against(before: Sequence[int], after: Sequence[int], *, title: str, width: float = 160) -> Markup:
    """Two distributions over the same bins, as shares: the reference as columns, the window as a line of steps."""
    height, old, new = 34.0, sum(before) or 1, sum(after) or 1
    most = max([*(one / old for one in before), *(one / new for one in after)], default=1.0) or 1.0
    room = width / max(1, len(before))
    body = "".join(
        f'<rect class="ignored" x="{room * number:.1f}" y="{height - height * one / old / most:.1f}" '
        f'width="{room * 0.9:.1f}" height="{height * one / old / most:.1f}"/>'
        for number, one in enumerate(before)
        if one
    )
    path = "".join(
        f"{'L' if number else 'M'}{room * number:.1f} {height - height * one / new / most:.1f}"
        f"L{room * (number + 1):.1f} {height - height * one / new / most:.1f}"
        for number, one in enumerate(after)
    )
    return _svg(width, height, title, f'{body}<path class="line two" d="{path}"/>', kind="spark")


def interval(
    value: float | None,
    low: float | None,
    high: float | None,
    *,
    title: str,
    least: float = 0.0,
    mark: float | None = None,
) -> Markup:
    """A value with its interval on a track from `least` to 1; `mark` is drawn across."""

    def place(number: float) -> float:
        return 4 + 152 * min(max((number - least) / (1 - least), 0.0), 1.0)

    body = '<rect class="ground" x="4" y="7" width="152" height="4" rx="2"/>'
    if mark is not None:
        body += f'<line class="border" x1="{place(mark):.1f}" y1="2" x2="{place(mark):.1f}" y2="16"/>'
    if value is not None and low is not None and high is not None:
        wide = max(place(high) - place(low), 1.0)
        body += f'<rect class="one" opacity="0.55" x="{place(low):.1f}" y="7" width="{wide:.1f}" height="4" rx="2"/>'
    if value is not None:
        body += f'<circle class="one" cx="{place(value):.1f}" cy="9" r="4"/>'
    return Markup(
        f'<svg class="chart range" viewBox="0 0 160 18" role="img"><title>{escape(title)}</title>{body}</svg>'
    )
