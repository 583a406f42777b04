"""`cxrnode fleet`: the machines that share the work."""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load, open_store


@click.group()
def fleet() -> None:
    """The machines that share the work."""


@fleet.command("ls")
@json_option
@config_option
def ls_command(as_json: bool, config_path: Path | None) -> None:
    """List the machines with their roles, devices and models. Exit status 1 where one of them is silent."""
    from cxrnode.store.fleet import members

    with open_store(load(config_path)) as database:
        found = members(database)
    if as_json:
        tables.emit(found)
    else:
        tables.table(
            ("node", "state", "roles", "version", "device", "models", "since", "last word"),
            (
                (
                    one.node,
                    "ok" if one.alive else "SILENT",
                    " ".join(f"{role}x{count}" if count > 1 else role for role, count in sorted(one.roles.items())),
                    ", ".join(one.versions),
                    ", ".join(one.devices),
                    " ".join(sorted(one.models)),
                    tables.local(one.started_at),
                    f"{tables.span(one.silent_for)} ago",
                )
                for one in found
            ),
        )
        if len({digest for one in found for digest in one.config_digests}) > 1:
            tables.aside("their configurations differ: nodes, models and rules must be the same everywhere")
    if any(not one.alive for one in found):
        raise SystemExit(1)
