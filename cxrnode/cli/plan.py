"""`cxrnode plan`: how many machines, how much disk and what latency so many films a day need."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option
from cxrnode.errors import ConfigError

if TYPE_CHECKING:
    from cxrnode.core.capacity import Figures, Plan


@click.command("plan")
@click.option("--films-per-day", "films", type=click.FloatRange(min=0, min_open=True), required=True, metavar="N")
@click.option("--peak-factor", "factor", type=click.FloatRange(min=1), default=3.0, show_default=True, metavar="F",
              help="The busiest hour's films beside those of an hour in the mean.")  # fmt: skip
@click.option("--gpu", "gpu", default="none", show_default=True, metavar="KIND", help="The device of each node.")
@click.option("--p95", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="SECONDS",
              help="From receipt to the results in the archive, for 95 films of 100.")  # fmt: skip
@click.option("--figures", "figures_path", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="What a film costs, in place of the shipped config/capacity.json.")  # fmt: skip
@click.option("--bench", "bench_path", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE",
              help="What `cxrnode bench --json` printed: costs and sizes are taken from it.")  # fmt: skip
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw it, too.")
@json_option
@config_option
def plan_command(
    films: float,
    factor: float,
    gpu: str,
    p95: float,
    figures_path: Path | None,
    bench_path: Path | None,
    png: Path | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Reckon how large a fleet must be for so many films a day, and what gives way first.

    A queueing model of the peak hour (docs/scale.md), not a measurement: it is as good as the figures that it is fed.
    """
    from cxrnode.core.capacity import plan

    del config_path  # every command takes one; nothing of a site is asked here
    figures = _figures(figures_path, bench_path)
    try:
        made = plan(figures, films_per_day=films, peak_factor=factor, gpu=gpu, p95=p95)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if png is not None:
        png.write_bytes(_drawn(figures, made, p95))
        tables.aside(f"drawn: {png}")
    if as_json:
        parts = [{**dataclasses.asdict(part), "load": part.load} for part in made.parts]
        tables.emit({**dataclasses.asdict(made), "parts": parts, "first": made.first.name})
        return
    tables.pairs(
        [
            ("films", f"{films:,.0f} a day, {made.peak_per_second:.3g} a second at the peak"),
            ("nodes", f"{made.nodes}, of which one may be lost; one infer process each, GPU: {gpu}"),
            ("workers busy at the peak", f"{made.busy:.0%}"),
            ("latency, P50", tables.span(made.p50)),
            ("latency, P95", f"{tables.span(made.p95)}; with a node lost {tables.span(made.p95_less_one)}"),
            ("after an hour's outage at the peak", f"caught up in {tables.span(made.catch_up)}"),
            ("database", f"{made.database_gb:,.0f} GB a year"),
            ("spool", f"{made.spool_gb:,.0f} GB for {figures.retention_days:g} days"),
            ("gives way first", made.first.name),
        ],
        title="A fleet",
    )
    tables.table(
        ("part", "asked", "bears", "unit", "load"),
        ((one.name, f"{one.asked:,.3g}", f"{one.bears:,.3g}", one.unit, f"{one.load:.1%}") for one in made.parts),
        numbers="asked bears load",
    )


def _figures(path: Path | None, bench: Path | None) -> Figures:
    from cxrnode.config import template
    from cxrnode.core.capacity import Figures

    where = path.name if path else "capacity.json"
    try:
        raw = json.loads(path.read_text() if path else template("capacity.json"))
        if not isinstance(raw, dict):
            raise ValueError("no table")
        if bench is not None:
            where = bench.name
            _take_bench(raw, json.loads(bench.read_text()))
        return Figures.from_json(raw)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{where}: the figures cannot be used ({error}); see config/capacity.json") from None


def _take_bench(raw: dict[str, Any], said: dict[str, Any]) -> None:
    """Lay what a bench of the whole node measured over the figures; of several sizes the largest counts, the last."""
    found = {(one["group"], one["name"]): float(one["value"]) for one in said["figures"]}
    groups = [group for group, name in found if group.startswith("whole node") and name == "cost in all roles"]
    if not groups:
        raise ValueError("it has no figures of the whole node: run `cxrnode bench --json` with it")
    group = groups[-1]
    forward = min(value for (one, _), value in found.items() if one == "ceilings: bare forward pass")
    raw["core_ms"] = {
        "receive": found[group, "receive: cost"],
        "read": max(1.0, found[group, "infer: cost"] - forward),
        "send": found[group, "send: cost"],
    }
    raw["forward_ms"] = {**raw["forward_ms"], "none": forward}
    raw["outputs_mb"] = found[group, "outputs"]


def _drawn(figures: Figures, made: Plan, p95: float) -> bytes:
    """A PNG: the 95th percentile by films a day for fleets of several sizes. Draws with matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("a PNG needs the package matplotlib: pip install 'cxrnode[export]'") from None
    from cxrnode.core.capacity import DAY, slow_service, wait

    drawing = Figure(figsize=(9, 5), layout="constrained")
    axes = drawing.subplots()
    service, bare = figures.service(made.gpu), figures.bare(made.gpu)
    own = slow_service(service, figures.service_scv)
    scv = {"arrival_scv": figures.arrival_scv, "service_scv": figures.service_scv}
    days = [made.films_per_day * step / 50 for step in range(1, 126)]
    for size in sorted({max(1, made.nodes // 2), made.workers, made.nodes, made.nodes * 2}):
        rates = [day / DAY * made.peak_factor for day in days]
        waits = [wait(rate=rate, service=service, workers=size, **scv).p95 for rate in rates]
        name, width = f"{size} node{'s' if size > 1 else ''}", 2.5 if size == made.nodes else 1.2
        axes.plot(days, [bare + math.hypot(one, own) for one in waits], label=name, linewidth=width)
    axes.axhline(p95, color="grey", linestyle=":", label=f"wanted: {p95:g} s")
    axes.axvline(made.films_per_day, color="grey", linestyle="--", linewidth=1)
    axes.set(
        xlabel="films a day",
        ylabel="P95 in the peak hour, seconds",
        yscale="log",
        ylim=(bare / 2, max(4 * p95, 10)),
        title=f"Peak factor {made.peak_factor:g}, GPU: {made.gpu}; the fleet of the plan has {made.nodes} nodes",
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    drawing.savefig(image, format="png", dpi=110)
    return image.getvalue()
