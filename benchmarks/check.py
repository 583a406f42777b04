"""`make bench-check`: the ratios of a small bench against the committed baseline; more than a quarter worse fails.

Ratios of processor time alone: they hold on a machine that does other things too. A baseline is taken by
`python -m benchmarks.check --write`, on a quiet machine, and committed with the change that moved it. There is one for
each engine that a machine may choose (`cxrnode model admit`), since the ratios hang on it; and where that one reads in
bf16, for each kind of instructions: AMX multiplies more than twice as fast as AVX-512 does. The network is always the
same: `benchmarks.yardstick`.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import click

from benchmarks.peers.__main__ import maps_beside_grad_cam
from benchmarks.yardstick import yardstick
from cxrnode.bench import Plan, run
from cxrnode.bench.figures import Figure
from cxrnode.bench.films import SIZES
from cxrnode.reading.admission import bf16_instructions
from cxrnode.reading.engine import Arithmetic

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


def best(one: float, other: float, better: str) -> float:
    """The better of two values of one ratio."""
    return min(one, other) if better == "less" else max(one, other)


def kind(engine: str, instructions: str) -> str:
    """The name of the baseline for an engine's name, on a processor with such instructions for bf16 ("" without)."""
    library, *_, arithmetic = engine.split()
    return f"{library} {instructions}" if arithmetic == Arithmetic.BF16 else library


def measure(films: int, rounds: int) -> tuple[str, dict[str, tuple[float, str]]]:
    """The name of the baseline, and the ratios that are compared with it, with which way they are good."""
    plan = Plan(burst=films, single=6, rounds=rounds, sizes=tuple(SIZES)[:1])
    with tempfile.TemporaryDirectory(prefix="cxrnode-bench-check-") as name:
        bundle = yardstick(Path(name) / "yardstick")
        result = run(bundle, plan, lambda text: click.echo(f"... {text}", err=True))
        ratios: list[Figure] = [*result.ratios, maps_beside_grad_cam(bundle, rounds)]
    return kind(result.engine, bf16_instructions()), {
        one.name: (one.value, one.better) for one in ratios if "processor" in one.name
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--films", default=24, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--tries", default=1, show_default=True, help="Measure so often at most; what was good once is good.")
@click.option("--write", is_flag=True, help="Take these ratios as the baseline of the engine and instructions here.")
@click.pass_context
def main(ctx: click.Context, films: int, rounds: int, tries: int, write: bool) -> None:
    """Compare the ratios of a small bench with benchmarks/baseline.json.

    A busy machine can only make a ratio worse, in one measurement and not in the next; a change for the worse makes it
    worse in all of them.
    """
    baselines: dict[str, dict[str, dict[str, object]]] = json.loads(BASELINE.read_text())
    found: dict[str, tuple[float, str]] = {}
    for number in range(tries):
        engine, ratios = measure(films, rounds)
        for name, (value, better) in ratios.items():
            click.echo(f"{value:8.3f}  {better:4}  {name}")
            found[name] = (best(value, found[name][0], better) if name in found else value, better)
        known = engine in baselines
        faults = judged(found, baselines[engine]) if known else [f"{engine} has no baseline yet: take one by --write"]
        if not faults:
            break
        if number + 1 < tries:
            click.echo("... once more: " + "; ".join(faults), err=True)
    if write:
        kept = {name: {"value": round(value, 4), "better": better} for name, (value, better) in sorted(found.items())}
        BASELINE.write_text(json.dumps(dict(sorted({**baselines, engine: kept}.items())), indent=1) + "\n")
        return
    for fault in faults:
        click.echo(f"WORSE  {fault}")
    ctx.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
