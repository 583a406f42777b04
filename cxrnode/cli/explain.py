"""`cxrnode explain`: where a model looks on one film, by several methods. Reads one file; sends and stores nothing."""

from __future__ import annotations

import re
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.evaluate import METHODS
from cxrnode.cli.models import folder_of
from cxrnode.cli.options import config_option, json_option, load_if_there
from cxrnode.errors import CxrnodeError


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--model", default="demo", show_default=True, metavar="NAME", help="A model, a bundle's name, or a path.")
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(METHODS),
    default=("gradcam",),
    show_default=True,
    help="May be given again.",
)
@click.option("--finding", "findings", multiple=True, metavar="FINDING", help="May be given again; else the top three.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("explained"),
    show_default=True,
    help="Folder of the pictures.",
)
@json_option
@config_option
def explain(
    file: Path,
    model: str,
    methods: tuple[str, ...],
    findings: tuple[str, ...],
    out: Path,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Draw what speaks for a finding on FILE (DICOM, PNG or JPEG): a PNG for each, and a sheet to compare methods."""
    folder = folder_of(load_if_there(config_path), model)
    from cxrnode.reading.bundle import load_bundle
    from cxrnode.reading.explain import Method
    from cxrnode.training.explanation import explain_film, picture, regions, sheet
    from cxrnode.training.readers.picture import open_film

    film = open_film(file)
    ways = [Method(name) for name in dict.fromkeys(methods)]
    found = explain_film(load_bundle(folder), film, ways, tuple(dict.fromkeys(findings)))
    rows = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for one in found.findings:
            for way, map_ in one.maps.items():
                # Named after the finding, never after the file: its name may be a patient's.
                name = re.sub(r"[^a-z0-9_]+", "-", one.finding.lower())
                path = out / f"{name}-{way.replace('+', 'p')}.png"
                picture(film, found, one, way).save(path)
                rows.append(
                    {
                        "finding": one.finding,
                        "score": one.score,
                        "method": way.value,
                        "file": str(path),
                        "regions": regions(map_),
                    }
                )
        sheet(film, found).save(out / "sheet.png")
    except OSError as error:
        raise CxrnodeError(f"--out {out}: cannot be written ({error.strerror})") from None
    if as_json:
        tables.emit(
            {
                "model": found.model,
                "demonstration": found.demonstration,
                "plausible": found.plausibility.plausible,
                "sheet": str(out / "sheet.png"),
                "explanations": rows,
            }
        )
        return
    if found.demonstration:
        tables.say("DEMONSTRATION MODEL: not for patients", style="bold red")
    if not found.plausibility.plausible:
        tables.say("implausible: the node would not analyse this film", style="yellow")
    tables.table(
        ("finding", found.scale, "method", "picture"),
        ((row["finding"], f"{row['score']:.3f}", row["method"], row["file"]) for row in rows),
        numbers=found.scale,
    )
    tables.say(f"{out / 'sheet.png'}: all of them side by side")
