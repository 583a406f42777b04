"""`cxrnode db`: the database's schema, the way to another database, and its backup (`cli.backup`)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.backup import backup_command, restore_command
from cxrnode.cli.options import config_option, connect, json_option, load, open_store, told


@click.group("db")
@click.pass_context
def db(ctx: click.Context) -> None:
    """The database."""
    from cxrnode.node import closed_to_others

    ctx.with_resource(closed_to_others())


db.add_command(backup_command)
db.add_command(restore_command)


@db.command("upgrade")
@config_option
def upgrade_command(config_path: Path | None) -> None:
    """Make the database, or bring it to this version's schema. `serve` does the same at its start."""
    from cxrnode.node import open_database
    from cxrnode.store import upgrade

    config = load(config_path)
    database = open_database(config)
    with told(database):
        done = upgrade.upgrade(database)
    click.echo(f"{database.url}: schema {upgrade.HEAD}, {'now up to date' if done else 'nothing to do'}")
    database.close()


@db.command("migrate-to")
@click.argument("url")
@json_option
@config_option
def migrate_command(url: str, as_json: bool, config_path: Path | None) -> None:
    """Move everything from SQLite to the empty PostgreSQL database URL. Refused while a role runs.

    All rows are counted and compared by digest before they stand; the SQLite file is marked as moved.
    """
    from cxrnode.store.move import move

    config = load(config_path)
    target = connect(config.model_copy(update={"database": config.database.model_copy(update={"url": url})}))
    try:
        with open_store(config) as source, told(target):
            done = move(source, target, progress=_progress(quiet=as_json))
    finally:
        target.close()
    if as_json:
        said = {name: {"rows": one.rows, "digest": f"{one.digest:064x}"} for name, one in done.tallies.items()}
        tables.emit({"to": target.url, "copied": done.copied, "tables": said})
        return
    rows = ((name, one.rows, f"{one.digest:064x}"[:16]) for name, one in done.tallies.items() if one.rows)
    tables.table(("table", "rows", "digest"), rows, numbers="rows")
    total = sum(one.rows for one in done.tallies.values())
    how = "moved" if done.copied else "there already, and the same"
    tables.say(f"{total} rows {how}: set database.url to {target.url} on every machine, and start them")


def _progress(*, quiet: bool) -> Callable[[str, int], None]:
    last = 0.0

    def tell(table: str, rows: int) -> None:
        nonlocal last
        if not quiet and time.monotonic() - last > 5.0:
            last = time.monotonic()
            tables.aside(f"{table}: {rows} rows")

    return tell
