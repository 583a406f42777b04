"""`cxrnode model calibrate`: thresholds and calibration from a site's own films. The bundle it starts from stays."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.evaluate import progress
from cxrnode.cli.models import folder_of
from cxrnode.cli.options import config_option, json_option, load_if_there
from cxrnode.errors import CxrnodeError


@click.command("calibrate")
@click.argument("name")
@click.option(
    "--data",
    "place",
    required=True,
    metavar="FILE.csv|DIR",
    type=click.Path(path_type=Path),
    help="Films with labels, none of which the model was trained on.",
)
@click.option("--fold", "folds", multiple=True, metavar="N", help="Only rows of this fold; may be given again.")
@click.option("--without", multiple=True, metavar="FINDING", help="Not to be assessed; may be given again.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Pass over a column; may be given again.")
@click.option("--as", "new_name", required=True, metavar="NAME", help="Of the bundle that is written.")
@click.option("--bundle-version", default="1", show_default=True, metavar="TEXT", help="Its version.")
@click.option("--about", metavar="TEXT", help="What the films are, for the card; else the list's name.")
@click.option(
    "--representative",
    is_flag=True,
    help="The films are unselected films of the intended use: scores become probabilities.",
)
@click.option(
    "--population",
    type=click.Choice(["nih", "none"]),
    default="none",
    show_default=True,
    help="Move scores to the published prevalence of ChestX-ray14.",
)
@click.option("--sensitivity", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True)
@click.option("--specificity", type=click.FloatRange(0, 1, min_open=True), default=0.95, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Else data_dir/models.")
@click.option("--force", is_flag=True, help="Replace a bundle of this name.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Cores to use; else all.")
@json_option
@config_option
def calibrate_command(
    name: str,
    place: Path,
    folds: tuple[str, ...],
    without: tuple[str, ...],
    ignore: tuple[str, ...],
    new_name: str,
    bundle_version: str,
    about: str | None,
    representative: bool,
    population: str,
    sensitivity: float,
    specificity: float,
    folder: Path | None,
    force: bool,
    threads: int | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Set thresholds and calibration of a model from films it was not trained on; writes a new bundle."""
    from cxrnode.config import Node

    if Path(new_name).name != new_name or new_name in ("", ".", ".."):
        raise CxrnodeError(f"--as {new_name}: a plain name is needed, which becomes that of a folder")
    if representative and population != "none":
        raise CxrnodeError("--representative films have the prevalence themselves; leave out --population")
    config = load_if_there(config_path)
    target = (folder or (config.node if config else Node()).data_dir / "models") / new_name
    if target.exists() and not force:
        raise CxrnodeError(f"{target}: there already; --force replaces it, --as gives another name")
    import dataclasses

    from cxrnode.reading.bundle import load_bundle
    from cxrnode.reading.engine import TorchEngine
    from cxrnode.training import readers
    from cxrnode.training.held_out import Aims
    from cxrnode.training.prevalence import NIH
    from cxrnode.training.recalibration import recalibrate

    bundle = load_bundle(folder_of(config, name))
    labels = [label.name for label in bundle.manifest.labels]
    if unknown := [label for label in without if label not in labels]:
        raise CxrnodeError(f"--without {unknown[0]}: the model has no such finding, only {', '.join(labels)}")
    wanted = [label for label in labels if label not in without]
    films = readers.read_films(place, wanted, folds=folds, ignored=ignore)
    with progress("films", len(films.rows)) as done:
        made, bad = recalibrate(
            dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, name=new_name)),
            TorchEngine(bundle, threads=threads),
            films,
            target,
            version=bundle_version,
            data_set=about or films.name,
            aims=Aims(sensitivity=sensitivity, specificity=specificity),
            prevalence=NIH if population == "nih" else None,
            representative=representative,
            done=done,
        )
    for row in (*films.bad, *bad)[:20]:
        tables.aside(f"left out: row {row.row}, {row.image}: {row.reason}")
    assessed = [label.name for label in made.manifest.labels if label.report and label.assessed]
    if as_json:
        tables.emit(
            {
                "bundle": new_name,
                "folder": str(target),
                "digest": made.digest,
                "films": made.manifest.calibration.films,
                "scale": made.scale,
                "assessed": assessed,
            }
        )
        return
    tables.say(f"{target}: {made.manifest.calibration.films} films, {made.scale}; {made.manifest.calibration.method}")
    tables.say(f"assessed: {', '.join(assessed) or 'nothing: no finding has 50 positives'}")
    tables.say(f'next: cxrnode model show {new_name}; in cxrnode.toml: bundle = "{new_name}"')
