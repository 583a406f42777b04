"""The bundle that ratios are taken of: the shipped weights, read at 224 pixels whatever the shipped bundle reads at.

A pass at another side is another share of what a film costs, so no ratio could be compared with one of before. Its
scores mean nothing: thresholds and plausibility are those of the side that was trained. `python -m benchmarks.yardstick
FOLDER` writes it, for `cxrnode bench --bundle FOLDER`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from cxrnode.reading.bundle import SHIPPED, load_bundle, write_bundle

#: Pixels along the side that the published networks read, and what all baselines were measured with.
SIDE = 224


def yardstick(folder: Path) -> Path:
    """Write the bundle into a folder and return the folder."""
    shipped = load_bundle(SHIPPED / "demo")
    manifest = dataclasses.replace(
        shipped.manifest, name="yardstick", input=dataclasses.replace(shipped.manifest.input, size=SIDE)
    )
    write_bundle(folder, manifest, shipped.weights, shipped.plausibility)
    return folder


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def main(folder: Path) -> None:
    """Write the bundle into FOLDER."""
    click.echo(yardstick(folder))


if __name__ == "__main__":
    main()
