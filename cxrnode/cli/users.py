"""`cxrnode users`: who may use the console. Passwords are asked for, never given as arguments."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load, open_store, who
from cxrnode.errors import Rejected

ROLES = ("viewer", "operator", "admin")
_stdin_option = click.option("--password-stdin", is_flag=True, help="Read the password from the first line of stdin.")


@click.group()
def users() -> None:
    """Who may use the console: viewer sees, operator acts on jobs, admin changes what is in force."""


def _asked_password(from_stdin: bool) -> str:
    from cxrnode.web.passwords import hashed

    if from_stdin:
        return hashed(sys.stdin.readline().rstrip("\r\n"))
    return hashed(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))


@users.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default="viewer", show_default=True)
@click.option("--no-password", is_flag=True, help="A proxy says who this is, or a token.")
@_stdin_option
@config_option
def add_command(name: str, role: str, no_password: bool, password_stdin: bool, config_path: Path | None) -> None:
    """Add a user."""
    from cxrnode.store.accounts import add

    with open_store(load(config_path)) as database:
        add(database, name, role, "" if no_password else _asked_password(password_stdin), by=who())


@users.command("ls")
@json_option
@config_option
def ls_command(as_json: bool, config_path: Path | None) -> None:
    """List the users."""
    from cxrnode.store.accounts import list_accounts

    with open_store(load(config_path)) as database:
        found = list_accounts(database)
    if as_json:
        names = ("name", "role", "created_at", "seen_at", "disabled")
        tables.emit([{name: getattr(one, name) for name in names} for one in found])
        return
    tables.table(
        ("name", "role", "password", "last login", ""),
        (
            (
                one.name,
                one.role,
                "yes" if one.password else "none",
                tables.local(one.seen_at) if one.seen_at else "never",
                "disabled" if one.disabled else "",
            )
            for one in found
        ),
    )


@users.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(ROLES))
@config_option
def role_command(name: str, role: str, config_path: Path | None) -> None:
    """Give a user another role; they log in anew."""
    _change(config_path, name, role=role)


@users.command("password")
@click.argument("name")
@_stdin_option
@config_option
def password_command(name: str, password_stdin: bool, config_path: Path | None) -> None:
    """Give a user another password; they log in anew."""
    _change(config_path, name, password=_asked_password(password_stdin))


@users.command("disable")
@click.argument("name")
@config_option
def disable_command(name: str, config_path: Path | None) -> None:
    """Let a user in no more; their sessions and tokens end at once."""
    _change(config_path, name, disabled=True)


@users.command("enable")
@click.argument("name")
@config_option
def enable_command(name: str, config_path: Path | None) -> None:
    """Let a user in again."""
    _change(config_path, name, disabled=False)


def _change(config_path: Path | None, name: str, **what: str | bool) -> None:
    from cxrnode.store import attempts
    from cxrnode.store.accounts import change, shared_secret
    from cxrnode.web.throttle import key_of_name

    with open_store(load(config_path)) as database:
        change(database, name, by=who(), **what)  # type: ignore[arg-type]
        attempts.forget(database, [key_of_name(name, shared_secret(database, "forms"))])  # it waits no more


@users.command("token")
@click.argument("name")
@click.option("--days", type=click.IntRange(1, 3650), default=365, show_default=True, help="For so long.")
@click.option("--purpose", required=True, metavar="TEXT", help="What for; it stands in the events of what it looks at.")
@config_option
def token_command(name: str, days: int, purpose: str, config_path: Path | None) -> None:
    """Print a token with which a program asks the API as this user. It is shown this once."""
    from cxrnode.store.accounts import TOKEN, find, open_session
    from cxrnode.web.passwords import new_secret

    with open_store(load(config_path)) as database:
        if find(database, name) is None:
            raise Rejected(f"there is no user {name}, or it is disabled; `cxrnode users ls` shows those that are")
        secret = new_secret()
        open_session(database, name, secret, kind=TOKEN, purpose=purpose[:128], seconds=days * 86400.0)
    click.echo(secret)
