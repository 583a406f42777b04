"""`cxrnode demo`: the whole main job on this machine, in a throw-away folder. What happens is `cxrnode.demo`'s."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli.options import config_option


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep everything here; else in a new folder under the temporary ones.",
)
@config_option
@click.pass_context
def demo(ctx: click.Context, files: tuple[Path, ...], folder: Path | None, config_path: Path | None) -> None:
    """Send films to a node of their own and show what comes back. DEMONSTRATION MODEL: not for patients.

    FILES are DICOM films; without any, synthetic phantoms are drawn.
    """
    from cxrnode import demo as demonstration

    ctx.exit(0 if demonstration.run(files, folder=folder) else 1)
