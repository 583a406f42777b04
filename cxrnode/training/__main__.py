"""`python -m cxrnode.training --data DIR --out RUN`: train, export RUN/bundle, verify it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cxrnode.reading.oracle import verify_bundle
from cxrnode.training.export import Aims, export_bundle
from cxrnode.training.films import read_rows
from cxrnode.training.trainer import Recipe, Trainer


def main(arguments: list[str] | None = None) -> int:
    """Run one training and return the exit status: 0 good, 1 the bundle does not verify."""
    parser = argparse.ArgumentParser(description="Train a demonstration model and export it as a bundle.")
    parser.add_argument("--data", type=Path, required=True, help="folder with train_nih.csv and its films")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; a stopped run goes on there")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--version", default="1")
    parser.add_argument("--seed", type=int, default=Recipe().seed)
    parser.add_argument("--threads", type=int, default=Recipe().threads)
    parser.add_argument("--stage", type=int, nargs=2, action="append", metavar=("SIDE", "EPOCHS"))
    parser.add_argument("--export-only", action="store_true", help="export the last checkpoint as it is")
    given = parser.parse_args(arguments)
    stages = tuple((side, epochs) for side, epochs in given.stage) if given.stage else Recipe().stages
    recipe = Recipe(seed=given.seed, threads=given.threads, stages=stages)
    rows = read_rows(given.data)
    trainer = Trainer(rows, given.out, recipe)
    network = trainer.last() if given.export_only else trainer.run()
    bundle = given.out / "bundle"
    export_bundle(bundle, network, rows, recipe, name=given.name, version=given.version, aims=Aims())
    checks = verify_bundle(bundle)
    for check in checks:
        print(f"{'good' if check.ok else 'BAD '} {check.name}: {check.detail}")
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
