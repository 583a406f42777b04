"""`cxrnode serve`: run the node in the foreground until SIGTERM or Ctrl-C."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli.options import config_option, load


@click.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Run the node: one process for each role, until SIGTERM. Makes the database, and brings it up to date."""
    config = load(config_path)
    from cxrnode import node

    node.serve(config)
