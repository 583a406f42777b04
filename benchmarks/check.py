"""`make bench-check`: the ratios of a small bench against the committed baseline; more than a quarter worse fails.

Ratios of processor time alone: they hold on a machine that does other things too. A baseline is taken by
`python -m benchmarks.check --write`, on a quiet machine, and committed with the change that moved it.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.peers.__main__ import maps_beside_grad_cam
from cxrnode.bench import Plan, run
from cxrnode.bench.figures import Figure
from cxrnode.bench.films import SIZES
from cxrnode.reading.bundle import SHIPPED

BASELINE = Path(__file__).with_name("baseline.json")
#: How much worse than the baseline a ratio may be.
WORSE = 0.25


def judged(found: dict[str, tuple[float, str]], baseline: dict[str, dict[str, object]]) -> list[str]:
    """What is worse than the baseline allows, and what is missing; [] is good. found: name -> (value, better)."""
    faults = []
    for name, entry in baseline.items():
        if name not in found:
            faults.append(f"{name}: was not measured")
            continue
        value, better = found[name]
        before = float(str(entry["value"]))
        worse = value > before * (1 + WORSE) if better == "less" else value < before / (1 + WORSE)
        if worse:
            faults.append(f"{name}: {value:.3f}, the baseline is {before:.3f} and {better} is better")
    return faults


def measure(films: int, rounds: int) -> dict[str, tuple[float, str]]:
    """The ratios that are compared, and which way they are good."""
    plan = Plan(burst=films, single=6, rounds=rounds, sizes=tuple(SIZES)[:1])
    result = run(SHIPPED / "demo", plan, lambda text: click.echo(f"... {text}", err=True))
    ratios: list[Figure] = [*result.ratios, maps_beside_grad_cam(rounds)]
    return {one.name: (one.value, one.better) for one in ratios if "processor" in one.name}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--films", default=24, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--write", is_flag=True, help="Take these ratios as the baseline.")
@click.pass_context
def main(ctx: click.Context, films: int, rounds: int, write: bool) -> None:
    """Compare the ratios of a small bench with benchmarks/baseline.json."""
    found = measure(films, rounds)
    for name, (value, better) in found.items():
        click.echo(f"{value:8.3f}  {better:4}  {name}")
    if write:
        kept = {name: {"value": round(value, 4), "better": better} for name, (value, better) in sorted(found.items())}
        BASELINE.write_text(json.dumps(kept, indent=1) + "\n")
        return
    faults = judged(found, json.loads(BASELINE.read_text()))
    for fault in faults:
        click.echo(f"WORSE  {fault}")
    ctx.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
