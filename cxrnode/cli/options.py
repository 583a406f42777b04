"""What the commands share: options, moments of time, the way to configuration and store, and how faults are told.

Loads neither the configuration's libraries nor the database's until a command asks.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import pwd
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from cxrnode.errors import ConfigError, CxrnodeError, Transient

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.store.database import Database

_F = TypeVar("_F", bound=Callable[..., Any] | click.Command)


class Fault(click.ClickException):
    """Something that cxrnode knows to be wrong: a line on stderr for each thing, exit status 1."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the message to stderr, or to `file`."""
        for line in self.message.splitlines() or [type(self).__name__]:
            click.echo(f"cxrnode: {line}", file=file, err=file is None)


class Commands(click.Group):
    """A group whose commands may raise CxrnodeError."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what cxrnode knows to be wrong becomes a line on stderr."""
        try:
            return super().invoke(ctx)
        except CxrnodeError as error:
            raise Fault(str(error)) from None


class Moment(click.ParamType[float]):
    """A time: so long ago (`90s`, `2h`, `7d`) or ISO 8601 (`2026-11-21`, `2026-11-21T08:00+01:00`).

    Without a zone it is this machine's. The value is in seconds since 1970 in UTC.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the moment; fails with usage for anything else."""
        if isinstance(value, float):
            return value
        from cxrnode.quantities import parse_duration

        try:
            return time.time() - parse_duration(str(value))
        except ValueError:
            pass
        try:
            return datetime.datetime.fromisoformat(str(value)).astimezone().timestamp()
        except ValueError:
            self.fail(f"{value!r} is no time; write it like 2h, 7d, 2026-11-21 or 2026-11-21T08:00+01:00", param, ctx)


def _inherited(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    """`cxrnode --config FILE jobs ls` is the same as `cxrnode jobs ls --config FILE`."""
    if value is None and ctx.parent is not None:
        found: Path | None = ctx.find_root().params.get("config_path")
        return found
    return value


def config_option(command: _F) -> _F:
    """Give a command `--config FILE`, as the argument `config_path`."""
    return click.option(
        "--config",
        "config_path",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        callback=_inherited,
        help="Configuration; else CXRNODE_CONFIG, ./cxrnode.toml, /etc/cxrnode/cxrnode.toml.",
    )(command)


def json_option(command: _F) -> _F:
    """Give a command `--json`, as the argument `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON on stdout and nothing else.")(command)


def limit_option(default: int) -> Callable[[_F], _F]:
    """Give a listing `--limit`."""
    return click.option(
        "--limit", type=click.IntRange(min=1), default=default, show_default=True, help="Show so many at most."
    )


def since_option(command: _F) -> _F:
    """Give a listing `--since`."""
    return click.option("--since", type=Moment(), metavar="TIME", help="From this time on: 2h, 7d, or ISO 8601.")(
        command
    )


def until_option(command: _F) -> _F:
    """Give a listing `--until`."""
    return click.option("--until", type=Moment(), metavar="TIME", help="Before this time: 2h, 7d, or ISO 8601.")(
        command
    )


def identity_option(command: _F) -> _F:
    """Give a command `--identity`, as the argument `with_identity`."""
    return click.option(
        "--identity",
        "with_identity",
        is_flag=True,
        help="Show whose film it is, too. The audit trail notes that you looked.",
    )(command)


def load(config_path: Path | None) -> Config:
    """Read the configuration. Raises ConfigError."""
    from cxrnode.config import load_config

    return load_config(config_path)


def load_if_there(config_path: Path | None) -> Config | None:
    """Read the configuration where one is named or found; None where there is none. Raises ConfigError."""
    from cxrnode.config import SEARCH

    if config_path is None and not os.environ.get("CXRNODE_CONFIG") and not any(place.is_file() for place in SEARCH):
        return None
    return load(config_path)


def connect(config: Config, *, patience: int | None = None) -> Database:
    """Return the store's connection without making anything on disk; `patience`: seconds to connect, PostgreSQL.

    Raises ConfigError where the URL cannot be used, or where there is no SQLite file yet or any more.
    """
    from cxrnode.node import require_nothing_left
    from cxrnode.store.database import Database, parse_url

    require_nothing_left(config)
    url = parse_url(config.database_url)
    file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None
    if file is not None and not file.is_file():
        raise ConfigError(
            f"there is no database {file} yet; `cxrnode db upgrade` makes it, and so does `cxrnode serve`"
        )
    if patience is not None and url.get_backend_name() == "postgresql" and "connect_timeout" not in url.query:
        url = url.update_query_dict({"connect_timeout": str(patience)})
    return Database(url.render_as_string(hide_password=False))


@contextlib.contextmanager
def open_store(config: Config) -> Iterator[Database]:
    """The store, with this version's schema. Raises ConfigError, SchemaMismatch, Transient."""
    from cxrnode.store import upgrade

    database = connect(config)
    try:
        with told(database):
            upgrade.require(database)
            yield database
    finally:
        database.close()


@contextlib.contextmanager
def told(database: Database) -> Iterator[None]:
    """Turn what a database says of itself, as that its file is damaged, into Transient with a remedy."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.DBAPIError as error:
        # The statement and its parameters may hold identifiers: only the driver's class is told.
        raise Transient(
            f"the database {database.url} cannot be used ({type(error.orig).__name__}); check its rights, and whether "
            "it is whole, or restore the backup"
        ) from None


def hush() -> None:
    """Keep the network library's own words off the terminal: the commands say what is wrong themselves."""
    logging.getLogger("pynetdicom").addHandler(logging.NullHandler())


def who() -> str:
    """The name of the user who runs the command, for the audit trail."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
