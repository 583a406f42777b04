"""`cxrnode alerts`: what is wrong, and whether people would hear of it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.options import Fault, config_option, json_option, limit_option, load, open_store
from cxrnode.errors import CxrnodeError


@click.group()
def alerts() -> None:
    """What is wrong."""


@alerts.command("ls")
@click.option("--all", "everything", is_flag=True, help="What is over, too.")
@limit_option(50)
@json_option
@config_option
def ls_command(everything: bool, limit: int, as_json: bool, config_path: Path | None) -> None:
    """Show what is wrong now."""
    from cxrnode.store.alerts import open_alerts, recent

    with open_store(load(config_path)) as database:
        found = recent(database, limit=limit) if everything else open_alerts(database)[:limit]
    if as_json:
        tables.emit(found)
        return
    tables.table(
        ("id", "rule", "of", "severity", "since", "over", "what", "what to do"),
        (
            (
                *(one.id, one.rule, one.subject, one.severity, tables.local(one.raised_at), tables.local(one.ended_at)),
                *(one.text, one.remedy),
            )
            for one in found
        ),
        numbers="id",
    )


@alerts.command("test")
@json_option
@config_option
def test_command(as_json: bool, config_path: Path | None) -> None:
    """Send a test on each way that is configured."""
    from cxrnode.roles import channels

    config = load(config_path)
    ways = channels.configured(config)
    if not ways:
        raise Fault("no way is configured: see [alerts] in config/cxrnode.toml")
    said: dict[str, str] = {}
    for name, tell in ways.items():
        try:
            tell([channels.trial(config, time.time())])
            said[name] = "sent"
        except CxrnodeError as error:
            said[name] = str(error)
    if as_json:
        tables.emit(said)
    else:
        tables.pairs(list(said.items()))
    if failed := [name for name, text in said.items() if text != "sent"]:
        raise Fault(f"not taken: {', '.join(failed)}")
