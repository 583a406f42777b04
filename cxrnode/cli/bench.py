"""`cxrnode bench`: measure this machine and the node on it. What is measured, and how, is `cxrnode.bench`'s."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.models import folder_of
from cxrnode.cli.options import config_option, json_option, load_if_there


@click.command("bench")
@click.option("--bundle", "name", default="demo", show_default=True, help="A model, a bundle's name, or a path.")
@click.option("--films", type=click.IntRange(4), default=60, show_default=True, help="Films of a burst, of each size.")
@click.option("--single", type=click.IntRange(5), default=40, show_default=True, help="Films sent one at a time.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Rounds of what takes turns.")
@click.option("--size", "sizes", type=click.Choice(["small", "large", "both"]), default="both", show_default=True)
@click.option("--whole/--no-whole", default=True, help="Run the whole node, too.", show_default=True)
@click.option(
    "--memory",
    type=click.IntRange(0),
    default=0,
    metavar="FILMS",
    help="Follow each role's memory over so many films more; 2000 take some 20 minutes.",
)
@click.option("--html", "html_path", type=click.Path(path_type=Path, dir_okay=False), help="Write a page here.")
@json_option
@config_option
def bench_command(
    name: str,
    films: int,
    single: int,
    rounds: int,
    sizes: str,
    whole: bool,
    memory: int,
    html_path: Path | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Measure what this machine can do, what each stage of a film's way costs, and what the node makes of it.

    In a throw-away folder, with phantoms and the engine that `model admit` would choose. It takes the machine for some
    minutes; on a busy one believe the ratios, and of these the processor's.
    """
    from cxrnode.bench import Plan, run
    from cxrnode.bench.films import SIZES
    from cxrnode.bench.page import page

    chosen = tuple(SIZES) if sizes == "both" else (tuple(SIZES)[sizes == "large"],)
    plan = Plan(burst=films, single=single, rounds=rounds, sizes=chosen, whole=whole, memory=memory)
    result = run(folder_of(load_if_there(config_path), name), plan, tables.aside)
    if html_path is not None:
        html_path.write_text(page(result.figures, result.ratios, result.machine), encoding="utf-8")
        tables.aside(f"page: {html_path}")
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(result), indent=1))
        return
    tables.pairs(list(result.machine.items()), title="Machine")
    for group in dict.fromkeys(one.group for one in (*result.ratios, *result.figures)):
        rows = [one for one in (*result.ratios, *result.figures) if one.group == group]
        tables.table(
            (group, "value", "unit", "note"),
            ((one.name, f"{one.value:.3f}" if abs(one.value) < 10 else f"{one.value:.1f}", one.unit, one.note)
             for one in rows),
            numbers="value",
        )  # fmt: skip
