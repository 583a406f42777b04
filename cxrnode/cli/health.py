"""`cxrnode health`: do the roles of this machine work? For the health checks of container engines."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load


@click.command()
@click.option("--live", is_flag=True, help="Only whether the node runs, not whether each role is ready.")
@json_option
@config_option
@click.pass_context
def health(ctx: click.Context, live: bool, as_json: bool, config_path: Path | None) -> None:
    """Say whether each role of the node on this machine does its work; exit status 1 where one does not."""
    from cxrnode.health import faults

    wrong = faults(load(config_path).node.data_dir, live=live)
    if as_json:
        tables.emit({"ok": not wrong, "faults": wrong})
    else:
        for line in wrong or ["ok"]:
            tables.say(line)
    ctx.exit(1 if wrong else 0)
