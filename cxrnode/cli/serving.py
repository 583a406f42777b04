"""`cxrnode model export`: a bundle as an inference server wants it. The one who reads with it stays the node."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.models import folder_of
from cxrnode.cli.options import config_option, json_option, load_if_there


@click.command("export")
@click.argument("name")
@click.option("--format", "kind", type=click.Choice(["triton"]), default="triton", show_default=True)
@click.option(
    "--out",
    "repository",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="The server's model repository.",
)
@click.option("--as", "served", metavar="MODEL", help="The model's name there; that of the bundle by default.")
@click.option("--batch", type=click.IntRange(1, 256), default=16, show_default=True, help="Films at once, at most.")
@json_option
@config_option
def export_model_command(
    name: str, kind: str, repository: Path, served: str | None, batch: int, as_json: bool, config_path: Path | None
) -> None:
    """Write a bundle into the model repository of an inference server, as ONNX with a config.pbtxt.

    NAME is a model of the configuration, a bundle's name, or a path. The graph takes squashed films and gives logits,
    maps, features and the bundle's digest, which the node checks with every answer.
    """
    from cxrnode.reading.bundle import load_bundle
    from cxrnode.reading.triton import write_repository

    bundle = load_bundle(folder_of(load_if_there(config_path), name))
    folder = write_repository(bundle, repository, name=served or bundle.manifest.name, largest=batch)
    if as_json:
        tables.emit({"folder": str(folder), "model": folder.name, "format": kind, "digest": bundle.digest})
        return
    tables.say(f"{folder} holds {bundle.manifest.name} {bundle.manifest.version}, digest {bundle.digest[:12]}.")
    tables.say(f'[models.X] engine = "kserve", server = {{ url = "http://HOST:8000", model = "{folder.name}" }}')
