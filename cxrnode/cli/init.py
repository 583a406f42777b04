"""`cxrnode init`: a commented configuration to start from. Never overwrites one unasked."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from cxrnode.cli.options import config_option
from cxrnode.errors import ConfigError


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@config_option
def init(path: Path | None, force: bool, config_path: Path | None) -> None:
    """Write a commented configuration to PATH (default: ./cxrnode.toml)."""
    from cxrnode.config import template

    target = path or config_path or Path("cxrnode.toml")
    if target.is_dir():
        target = target / "cxrnode.toml"
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        if target.exists() and not force:
            raise ConfigError(f"{target} is there already; --force overwrites it, another PATH leaves it alone")
        # It may come to hold the database's password: not for everyone to read.
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640), "w", encoding="utf-8") as file:
            file.write(template())
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {target}: {error.strerror}. Check the folder and its permissions") from None
    click.echo(
        f"Wrote {target}. Next:\n"
        f"  1. edit it: [node] ae_title and data_dir, [nodes.PACS] as the PACS administrator gave them\n"
        f"  2. cxrnode db upgrade --config {target}    makes the database\n"
        f"  3. cxrnode check --config {target}         says what is still wrong, and what to do\n"
        f"  4. cxrnode serve --config {target}         runs the node"
    )
