"""The evaluation as one HTML file that needs nothing else: tables and SVG drawings, no script, no address."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from cxrnode.core.quality import Interval, Share
from cxrnode.training.evaluation import Evaluation, Judged
from cxrnode.training.statistics import Reliability

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b2733;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #d5dde5}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.2rem .7rem .2rem 0;text-align:right}
th:first-child,td:first-child{text-align:left}th{font-weight:600;border-bottom:1px solid #9fb0c0}
.warning{background:#8f1d1d;color:#fff;padding:.5rem .8rem;font-weight:600}.note{color:#51616f}
.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-size:13px;text-align:center}
svg{display:block}svg text{font:11px system-ui,sans-serif;fill:#51616f}.wide{overflow-x:auto}
"""
_BLUE, _GREY, _RED = "#1f5fa8", "#b6c2cd", "#b3451f"
_PLOT = 170


def page(found: Evaluation) -> str:
    """Return the whole page. All that comes from files is escaped."""
    title = f"{found.bundle} {found.version} on {found.data}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        '<p class="warning">DEMONSTRATION MODEL: not for patients</p>' if found.demonstration else "",
        _about(found),
        "<h2>AUROC</h2>",
        _forest(found),
        "<h2>Findings</h2>",
        _findings(found),
        "<h2>ROC curves</h2>",
        _figures((one.finding, _curve(one)) for one in found.findings),
        "<h2>Calibration</h2>",
        _calibrated(found),
        _figures(
            (f"{one.finding}: ECE {_here(one).ece:.3f}, axes to {_end(one):g}", _calibration(one))
            for one in found.findings
        ),
        *_operating(found),
        "<h2>Subgroups</h2>",
        _subgroups(found),
        *_refusal(found),
        *_localisation(found),
        *_bad_rows(found),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def shown(value: Interval | Share | None, digits: int = 3) -> str:
    """A value with its interval, as 0.812 (0.731 to 0.875); - where there is none."""
    if value is None or value.value is None:
        return "-"
    interval = "" if value.low is None else f" ({value.low:.{digits}f} to {value.high:.{digits}f})"
    return f"{value.value:.{digits}f}{interval}"


def _about(found: Evaluation) -> str:
    lines = [
        f"{found.films} films of {found.patients} patients; {len(found.bad_rows)} rows left out",
        *(
            [f"each film read by a network that never saw its fold ({', '.join(map(str, found.apart))})"]
            if found.apart
            else []
        ),
        f"mean AUROC {shown(found.mean)} (95 % interval, by drawing patients)"
        + ("" if found.mean_within is None else f"; over pairs of films of one origin {found.mean_within:.3f}")
        + ("" if found.mean_ill is None else f"; among films with a finding {found.mean_ill:.3f}"),
        f"{found.implausible.count} films are past the plausibility limit ({shown(found.implausible)}): the node would "
        "not analyse them; they count here",
        f"weights {found.weights_digest}",
        f"bundle {found.bundle_digest}",
        f"engine {found.engine}",
    ]
    return "<p>" + "<br>".join(map(escape, lines)) + "</p>"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>\n{body}</table></div>'


def _findings(found: Evaluation) -> str:
    return _table(
        ("finding", "positives", "AUROC", "average precision", "prevalence", "ECE here", "ECE", "Brier", "assessed"),
        (
            (
                one.finding.replace("_", " "),
                one.positives,
                shown(one.auroc),
                shown(one.average_precision),
                f"{one.positives / one.films:.3f}",
                "-" if one.reliability_here is None else f"{one.reliability_here.ece:.3f}",
                f"{one.reliability.ece:.3f}",
                f"{one.reliability.brier:.3f}",
                "yes" if one.assessed else "no",
            )
            for one in found.findings
        ),
    )


def _operating(found: Evaluation) -> list[str]:
    rows = []
    for one in found.findings:
        for name, point in (("rule-out", one.rule_out), ("rule-in", one.rule_in)):
            if point is not None:
                measures = (point.sensitivity, point.specificity, point.ppv, point.npv)
                title = one.finding.replace("_", " ")
                rows.append((title, name, f"{point.threshold:.4f}", *(shown(share, 2) for share in measures)))
    if not rows:
        return ["<h2>Operating points</h2>", '<p class="note">The bundle has no thresholds.</p>']
    head = ("finding", "point", "threshold", "sensitivity", "specificity", "PPV", "NPV")
    return ["<h2>Operating points</h2>", _table(head, rows)]


def _subgroups(found: Evaluation) -> str:
    if not found.subgroups:
        return '<p class="note">The list does not say sex, age or view.</p>'
    names = [one.finding for one in found.findings]
    return _table(
        ("group", "films", "mean AUROC", "of findings", *(name.replace("_", " ") for name in names)),
        (
            (
                f"{group.by} {group.group}",
                group.films,
                "-" if group.mean_auroc is None else f"{group.mean_auroc:.3f}",
                len(group.auroc),
                *(shown(group.auroc.get(name), 2) for name in names),
            )
            for group in found.subgroups
        ),
    )


def _calibrated(found: Evaluation) -> str:
    where = f", which is shown at the prevalence of {found.population}" if found.population else ""
    return (
        f'<p class="note">Beside the share of films that have the finding, with 95 % intervals, in ten bins of as many '
        f"films: in blue the {found.scale}{escape(where)}, moved to the prevalence of these films where it is "
        "calibrated, and in grey as it is shown. ECE is the mean distance from the diagonal.</p>"
    )


def _refusal(found: Evaluation) -> list[str]:
    if not found.refusal:
        return []
    rows = ((one.kind, one.films, shown(one.auroc), shown(one.refused)) for one in found.refusal)
    head = ("no film for the model", "pictures", "AUROC of the distance", "refused")
    said = f"Refused of the films above, falsely: {shown(found.implausible)}."
    return ["<h2>Plausibility</h2>", _table(head, rows), f'<p class="note">{said}</p>']


def _localisation(found: Evaluation) -> list[str]:
    if not found.localisation:
        return []
    rows = (
        (one.finding.replace("_", " "), one.method, one.films, shown(one.pointing, 2), f"{one.iou:.3f}", one.empty)
        for one in found.localisation
    )
    head = ("finding", "method", "films", "pointing game", "mean IoU", "empty maps")
    return ["<h2>Localisation</h2>", _table(head, rows)]


def _bad_rows(found: Evaluation) -> list[str]:
    if not found.bad_rows:
        return []
    rows = ((row.image, row.row, row.reason) for row in found.bad_rows)
    return ["<h2>Rows left out</h2>", _table(("image", "row", "reason"), rows)]


def _forest(found: Evaluation) -> str:
    """A line for each finding: its AUROC with interval, between 0 and 1, chance marked."""
    left, width, step = 140, 460, 22
    height = step * len(found.findings) + 30
    drawn = [_line(left + width / 2, 0, left + width / 2, height - 20, _GREY)]
    for row, one in enumerate(found.findings):
        y = row * step + step / 2
        drawn.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(one.finding)}</text>')
        area = one.auroc
        if area.value is None:
            continue
        if area.low is not None and area.high is not None:
            drawn.append(_line(left + width * area.low, y, left + width * area.high, y, _BLUE))
        drawn.append(f'<circle cx="{left + width * area.value:.1f}" cy="{y:.1f}" r="4" fill="{_BLUE}"/>')
        drawn.append(f'<text x="{left + width + 12}" y="{y + 4:.1f}">{area.value:.3f}</text>')
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawn.append(f'<text x="{left + width * tick:.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    return f'<svg width="{left + width + 60}" height="{height}" role="img">{"".join(drawn)}</svg>'


def _figures(plots: Iterable[tuple[str, str]]) -> str:
    made = (f"<figure>{plot}<figcaption>{escape(name.replace('_', ' '))}</figcaption></figure>" for name, plot in plots)
    return f'<div class="plots">{"".join(made)}</div>'


def _square(inside: str) -> str:
    """A square from (0, 0) at the lower left to (1, 1), with its diagonal."""
    frame = f'<rect x="0" y="0" width="{_PLOT}" height="{_PLOT}" fill="none" stroke="{_GREY}"/>'
    diagonal = _line(0, _PLOT, _PLOT, 0, _GREY)
    side = _PLOT + 8
    return (
        f'<svg width="{side}" height="{side}" viewBox="-4 -4 {side} {side}" role="img">{frame}{diagonal}{inside}</svg>'
    )


def _curve(one: Judged) -> str:
    points = " ".join(f"{x * _PLOT:.1f},{(1 - y) * _PLOT:.1f}" for x, y in one.curve)
    drawn = f'<polyline points="{points}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/>'
    for point in (one.rule_out, one.rule_in):
        if point and point.specificity.value is not None and point.sensitivity.value is not None:
            x, y = (1 - point.specificity.value) * _PLOT, (1 - point.sensitivity.value) * _PLOT
            drawn += f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_RED}"/>'
    return _square(drawn)


def _here(one: Judged) -> Reliability:
    return one.reliability_here or one.reliability


def _end(one: Judged) -> float:
    """Where the axes of a reliability plot end: scores of a rare finding would all lie in one corner of 0 to 1."""
    shown = [(each.mean_score, each.observed.value or 0.0) for each in (*one.reliability.bins, *_here(one).bins)]
    largest = max(max(pair) for pair in shown)
    return next(end for end in (0.1, 0.2, 0.5, 1.0) if largest <= end)


def _calibration(one: Judged) -> str:
    drawn, end = "", _end(one)
    for found, colour in ((one.reliability, _GREY), (_here(one), _BLUE)):
        for each in found.bins:
            seen = each.observed
            if seen.value is None or seen.low is None or seen.high is None:
                continue
            x = each.mean_score / end * _PLOT
            if colour == _BLUE:
                high = min(seen.high / end, 1.0)
                drawn += _line(x, (1 - seen.low / end) * _PLOT, x, (1 - high) * _PLOT, colour)
            drawn += f'<circle cx="{x:.1f}" cy="{(1 - seen.value / end) * _PLOT:.1f}" r="3" fill="{colour}"/>'
    return _square(drawn)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'
