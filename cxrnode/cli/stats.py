"""`cxrnode audit stats`: the series of the QA page as tables, and drawn into a PNG."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load, open_store
from cxrnode.errors import ConfigError, Rejected

if TYPE_CHECKING:
    from cxrnode.core.quality import Interval, Share
    from cxrnode.store.agreement import Agreement
    from cxrnode.store.database import Database
    from cxrnode.store.series import Drift, Point, Times
    from cxrnode.store.sources import Source


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """All that is shown of one model over some days."""

    model: str
    first_day: str
    last_day: str
    positives: Sequence[Point]
    drift: Sequence[Drift]
    turnaround: Sequence[Times]
    agreement: Sequence[Agreement]
    sources: Sequence[Source]


@click.command("stats")
@click.option("--model", metavar="NAME", help="Of this model; else of the one that read most lately.")
@click.option("--days", type=click.IntRange(1, 3660), default=28, show_default=True, help="The last so many days.")
@click.option("--reference", type=click.IntRange(1, 3660), default=90, show_default=True, help="Days before those.")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it, too.")
@json_option
@config_option
def stats_command(
    model: str | None, days: int, reference: int, png: Path | None, as_json: bool, config_path: Path | None
) -> None:
    """Positives, drift against the days before, turnaround, agreement with truth, and each sender's silence."""
    with open_store(load(config_path)) as database:
        found = stats_of(database, model, days, reference)
    if png is not None:
        png.write_bytes(_drawn(found))
    if as_json:
        tables.emit(found)
        return
    _show(found)
    if png is not None:
        tables.aside(f"drawn: {png}")


def stats_of(database: Database, model: str | None, days: int, reference: int) -> Stats:
    """What the tables and the picture show. Raises Rejected where nothing was counted of the model."""
    from cxrnode.store import agreement, series, sources

    known = series.models(database)
    if not known:
        raise Rejected("nothing was counted yet: `tend` does so, or `cxrnode audit rebuild`")
    if model is None:
        model = max(known, key=lambda one: (one.last, "active" in one.modes)).model
    if model not in {one.model for one in known}:
        raise Rejected(f"nothing was counted of {model!r}; there is {', '.join(one.model for one in known)}")
    span = series.last_days(database, days)
    before = series.last_days(database, reference, before=days)
    since, until = span.first * 86400.0, (span.last + 1) * 86400.0
    return Stats(
        model=model,
        first_day=str(series.date_of(span.first)),
        last_day=str(series.date_of(span.last)),
        positives=series.positives(database, model, span),
        drift=series.drift(database, model, reference=before, window=span),
        turnaround=series.turnaround(database, span, model=model),
        agreement=agreement.agreement(database, model, since=since, until=until),
        sources=sources.sources(database),
    )


def _show(found: Stats) -> None:
    tables.say(f"{found.model}, {found.first_day} to {found.last_day} (UTC)", style="bold")
    drift = {one.label: one for one in found.drift}
    tables.table(
        ("finding", "films", "present", "undetermined", "absent", "positives", "PSI", "KS", "KS limit", "drift"),
        (_line(label, found, drift.get(label)) for label in sorted({one.label for one in found.positives})),
        title="what it said, and how far its scores moved from the days before",
        numbers="films present undetermined absent positives PSI KS",
    )
    tables.table(
        ("stage", "jobs", "median", "90 %", "95 %", "99 %"),
        ((one.stage, one.jobs, *map(_span, (one.p50, one.p90, one.p95, one.p99))) for one in found.turnaround),
        title="how long it took",
        numbers="jobs",
    )
    if found.agreement:
        tables.table(
            ("finding", "films", "with it", "AUROC", "sensitivity", "specificity"),
            (
                (
                    one.label,
                    one.films,
                    one.positives,
                    _interval(one.auroc),
                    *map(_share, (one.sensitivity, one.specificity)),
                )
                for one in found.agreement
            ),
            title="beside the truth that was fed back (95 % intervals)",
            numbers="films",
        )
    tables.table(
        ("sender", "films in 4 weeks", "last film", "usual interval", "silent for", ""),
        (
            (
                *(one.calling_aet, one.films, tables.local(one.last_at), _span(one.usual), _span(one.silent_for)),
                "SILENT" if one.silent else "",
            )
            for one in found.sources
        ),
        title="who sends",
        numbers="films",
    )


def _line(label: str, found: Stats, drift: Drift | None) -> tuple[object, ...]:
    points = [one for one in found.positives if one.label == label]
    films, present = sum(one.films for one in points), sum(one.present for one in points)
    doubt, absent = sum(one.undetermined for one in points), sum(one.absent for one in points)
    assessed = present + doubt + absent
    shift = (_number(drift.psi), _number(drift.ks), _number(drift.ks_limit)) if drift else ("", "", "")
    if not label:
        refused = sum(one.refused for one in points)
        return ("(the film)", films, "", "", "", f"{refused} refused", *shift, _drifts(drift))
    share = f"{present / assessed:.1%}" if assessed else ""
    return (label, films, present, doubt, absent, share, *shift, _drifts(drift))


def _drifts(drift: Drift | None) -> str:
    if drift is None or drift.psi is None:
        return "too few films"
    return "SHIFTED" if drift.shifted else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _span(value: float | None) -> str:
    return "" if value is None else tables.span(value)


def _interval(value: Interval) -> str:
    if value.value is None:
        return ""
    return f"{value.value:.3f}" + ("" if value.low is None else f" ({value.low:.3f} to {value.high:.3f})")


def _share(value: Share) -> str:
    return "" if value.value is None else f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def _drawn(found: Stats) -> bytes:
    """A PNG: positives by day of the six commonest findings, and the drift of all. Draws with matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("a PNG needs the package matplotlib: pip install 'cxrnode[export]'") from None
    import io

    del matplotlib
    figure: Any = Figure(figsize=(11, 7.2), layout="constrained")
    above, below = figure.subplots(2, 1)
    labels = sorted({one.label for one in found.positives if one.label})
    totals = {label: sum(one.present for one in found.positives if one.label == label) for label in labels}
    from cxrnode.store.series import date_of

    for label in sorted(labels, key=lambda one: -totals[one])[:6]:
        points = [one for one in found.positives if one.label == label and one.positives.value is not None]
        days = [date_of(one.day) for one in points]
        above.plot(
            days, [100 * (one.positives.value or 0.0) for one in points], "o-", ms=3, label=label.replace("_", " ")
        )
    above.set_ylabel("present, % of the films assessed")
    above.set_title(
        f"{found.model}, {found.first_day} to {found.last_day} (UTC): the six findings most often present", loc="left"
    )
    above.set_ylim(bottom=0)
    if labels:
        above.set_ylim(0, 1.15 * above.get_ylim()[1])  # room for the legend
        above.legend(ncols=6, loc="upper center", frameon=False, fontsize=8)
    moved = [one for one in found.drift if one.psi is not None]
    names = [one.label.replace("_", " ") or "(the film)" for one in moved]
    colours = ["#c4622d" if one.shifted else "#1f5fa8" for one in moved]
    below.bar(range(len(moved)), [one.psi for one in moved], color=colours)
    below.set_xticks(range(len(moved)), names, rotation=30, ha="right", fontsize=8)
    below.set_ylabel("PSI against the days before")
    if moved:
        below.axhline(moved[0].psi_limit, color="#51616f", lw=1, ls="--")
        below.set_title("drift; past the line the scores are not those of the reference", loc="left")
    else:
        below.set_title("drift: too few films in one of the two periods", loc="left")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e4e9ee")
        axes.set_axisbelow(True)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=110)
    return image.getvalue()
