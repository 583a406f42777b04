"""`cxrnode model activate|shadow|disable`, `queue pause|resume`, `changes`: what is in force, without a restart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load, open_store, who

if TYPE_CHECKING:
    from cxrnode.store.changes import Change

_reason_option = click.option(
    "--reason", required=True, metavar="TEXT", help="Why; it stands in the audit trail. No patient's name."
)


def _ask(config_path: Path | None, wanted: Mapping[str, str], reason: str) -> None:
    from cxrnode.store.changes import ask

    config = load(config_path)
    with open_store(config) as database:
        consent = config.changes.consent
        made = ask(database, wanted, configured=config.modes, reason=reason, by=who(), consent=consent)
    for one in made:
        _say(one)


def _say(one: Change) -> None:
    waits = "; it waits for a second person: cxrnode changes consent" if one.state == "asked" else ""
    click.echo(f"change {one.id}: {one.subject} {one.value}, {one.state}{waits}")


@click.command("activate")
@click.argument("name")
@click.option("--instead-of", metavar="NAME", help="Make this model a shadow in the same step.")
@_reason_option
@config_option
def activate_command(name: str, instead_of: str | None, reason: str, config_path: Path | None) -> None:
    """Let a model's results be sent, from the next film on."""
    from cxrnode.store.changes import model

    wanted = {model(instead_of): "shadow"} if instead_of else {}
    _ask(config_path, {**wanted, model(name): "active"}, reason)


@click.command("shadow")
@click.argument("name")
@_reason_option
@config_option
def shadow_command(name: str, reason: str, config_path: Path | None) -> None:
    """Let a model read and be recorded, and send nothing, from the next film on."""
    from cxrnode.store.changes import model

    _ask(config_path, {model(name): "shadow"}, reason)


@click.command("disable")
@click.argument("name")
@_reason_option
@config_option
def disable_command(name: str, reason: str, config_path: Path | None) -> None:
    """Let a model read no film. Those of an active one wait, and are said to be not analysed once they are late."""
    from cxrnode.store.changes import model

    _ask(config_path, {model(name): "disabled"}, reason)


@click.group()
def queue() -> None:
    """The queues of films to be read and of results to be sent."""


_of_option = click.option(
    "--of", "which", type=click.Choice(["reading", "sending", "both"]), default="both", show_default=True
)


def _queues(which: str) -> tuple[str, ...]:
    from cxrnode.store.changes import QUEUES

    return tuple(one for one in QUEUES if which in ("both", one.partition(":")[2]))


@queue.command("pause")
@_of_option
@_reason_option
@config_option
def pause_command(which: str, reason: str, config_path: Path | None) -> None:
    """Read or send nothing until it is resumed; films that come are kept."""
    _ask(config_path, dict.fromkeys(_queues(which), "paused"), reason)


@queue.command("resume")
@_of_option
@_reason_option
@config_option
def resume_command(which: str, reason: str, config_path: Path | None) -> None:
    """Read and send again."""
    _ask(config_path, dict.fromkeys(_queues(which), "running"), reason)


@click.group()
def changes() -> None:
    """What was changed while the node runs, and what waits for consent."""


@changes.command("ls")
@json_option
@config_option
def ls_command(as_json: bool, config_path: Path | None) -> None:
    """List the newest changes."""
    from cxrnode.store.changes import list_changes

    with open_store(load(config_path)) as database:
        found = list_changes(database)
    if as_json:
        tables.emit(found)
        return
    tables.table(
        ("id", "time", "subject", "value", "state", "asked by", "decided by", "reason"),
        (
            (
                one.id,
                tables.local(one.asked_at),
                one.subject,
                one.value,
                one.state,
                one.asked_by,
                one.decided_by,
                one.reason,
            )
            for one in found
        ),
        numbers="id",
    )


def _decide(config_path: Path | None, change_id: int, reason: str, *, agree: bool) -> None:
    from cxrnode.store.changes import decide

    config = load(config_path)
    with open_store(config) as database:
        _say(decide(database, change_id, agree=agree, configured=config.modes, reason=reason, by=who()))


@changes.command("consent")
@click.argument("change_id", metavar="ID", type=int)
@config_option
def consent_command(change_id: int, config_path: Path | None) -> None:
    """Consent to a change that another person asked for."""
    _decide(config_path, change_id, "", agree=True)


@changes.command("refuse")
@click.argument("change_id", metavar="ID", type=int)
@_reason_option
@config_option
def refuse_command(change_id: int, reason: str, config_path: Path | None) -> None:
    """Refuse a change that was asked for."""
    _decide(config_path, change_id, reason, agree=False)
