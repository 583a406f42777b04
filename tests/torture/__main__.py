"""`python -m tests.torture`: some seeds, one table, one JSON file. Exit status 1 where a clause does not hold."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.peers import Postgres
from tests.torture.films import make_films
from tests.torture.node import make_bundle
from tests.torture.run import Outcome, run_seed


def main() -> int:
    """Run the seeds that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--films", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--json", type=Path, help="where the outcomes are written; added to, one a line")
    parser.add_argument("--keep", type=Path, help="where a seed that went wrong leaves its node")
    asked = parser.parse_args()
    cluster = None
    with tempfile.TemporaryDirectory(prefix="cxrnode-torture-") as made:
        folder = asked.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        films = make_films(Path(made) / "films", asked.films)
        bundle = make_bundle(Path(made) / "bundle")
        if asked.database == "postgresql":
            cluster = Postgres(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))[-1].parent)
            cluster.start()
        outcomes = []
        try:
            for seed in range(asked.seed, asked.seed + asked.seeds):
                place = folder / f"{asked.database}-{seed}"
                outcomes.append(run_seed(seed, films, place, bundle=bundle, cluster=cluster))
                tell(outcomes)
                if asked.json is not None:
                    asked.json.parent.mkdir(parents=True, exist_ok=True)
                    with asked.json.open("a") as file:
                        file.write(json.dumps(dataclasses.asdict(outcomes[-1])) + "\n")
        finally:
            if cluster is not None:
                cluster.stop()
    return 0 if all(one.good for one in outcomes) else 1


def tell(outcomes: Sequence[Outcome], console: Console | None = None) -> None:
    """Print one table of all seeds, what the last one's faults struck, and whatever is wrong."""
    console = console or Console(width=200, file=sys.stdout)
    table = Table(title="torture", title_justify="left")
    names = list(dict.fromkeys(name for one in outcomes for name in one.jobs))
    columns = ("database", "seed", "films", "Success", "sends", "ignored", *names, "C-STOREs", "objects", "repeats")
    for column in (*columns, "faults", "orphans, swept", "left", "WRONG", "s"):
        table.add_column(column, justify="left" if column == "database" else "right")
    for one in outcomes:
        cells = [one.database, one.seed, one.films, one.acknowledged, one.tries, one.instances.get("ignored", 0)]
        cells += [one.jobs.get(name, 0) for name in names]
        cells += [one.stores, one.objects, one.repeats, sum(one.struck.values()), one.left, one.orphans]
        cells += [sum(map(len, one.violations.values())), round(one.seconds)]
        table.add_row(*map(str, cells))
    console.print(table)
    last = outcomes[-1]
    console.print(f"seed {last.seed}, faults that struck: " + counts(last.struck))
    console.print("  the PACS answered: " + counts(last.answers))
    struck = (f"{state} {sum(faults.values())}" for state, faults in last.hits.items())
    console.print("  under way or standing when one did: " + ", ".join(struck))
    for name, found in last.violations.items():
        for one_found in found[:10]:
            console.print(f"  WRONG, {name}: {one_found}", style="bold red")


def counts(of: Mapping[str, int]) -> str:
    """Names with their counts, on one line."""
    return ", ".join(f"{name} {count}" for name, count in Counter(of).most_common())


if __name__ == "__main__":
    sys.exit(main())
