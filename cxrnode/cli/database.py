"""`cxrnode db`: the database's schema."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli.options import config_option, connect, load, told


@click.group("db")
def db() -> None:
    """The database."""


@db.command("upgrade")
@config_option
def upgrade_command(config_path: Path | None) -> None:
    """Make the database, or bring it to this version's schema. `serve` does the same at its start."""
    import sqlalchemy as sa

    from cxrnode.errors import ConfigError
    from cxrnode.node import open_database
    from cxrnode.store import upgrade

    config = load(config_path)
    try:
        database = open_database(config)
    except (sa.exc.ArgumentError, ImportError):
        connect(config)  # says what is wrong with the URL
        raise ConfigError("database.url cannot be used; see config/cxrnode.toml for how it is written") from None
    with told(database):
        done = upgrade.upgrade(database)
    click.echo(f"{database.url}: schema {upgrade.HEAD}, {'now up to date' if done else 'nothing to do'}")
    database.close()
