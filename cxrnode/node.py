"""The composition root: here the parts are wired, and a role's process begins.

`python -m cxrnode.node ROLE ...` is how the supervisor starts a role; people use `cxrnode serve`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import signal
import socket
import sys
import threading
import time
import typing
from collections.abc import Iterator
from pathlib import Path

import structlog

from cxrnode import __version__, telemetry
from cxrnode.config import Config, load_config
from cxrnode.core.digests import Kind
from cxrnode.errors import ConfigError, CxrnodeError
from cxrnode.sections import RoleName
from cxrnode.spool import FolderSpool, Spool
from cxrnode.store import upgrade
from cxrnode.store.database import Database
from cxrnode.store.fleet import Process


def open_database(config: Config) -> Database:
    """The store of a configuration.

    Raises ConfigError where it has no usable URL, or no folder can be made, or as `require_nothing_left` does.
    """
    require_nothing_left(config)
    database = Database(config.database_url)
    if database.is_sqlite:
        try:
            config.node.data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise ConfigError(
                f"node.data_dir: {config.node.data_dir} cannot be made ({error.strerror}); "
                "name a folder that the service may write to"
            ) from None
    return database


def require_nothing_left(config: Config) -> None:
    """Begin no empty database or spool where one lies in the working folder, at which relative URLs used to start.

    Raises ConfigError.
    """
    for key, path in config.relative_places.items():
        former = Path.cwd() / path
        if former.exists() and not (config.folder / path).exists():
            raise ConfigError(
                f"{key}: a relative path starts at the configuration's folder, {config.folder}, where there is no "
                f"{path}; {former} is there: stop the node and move it, with what lies beside it (-wal, -shm, "
                f"-journal), or write its whole path in {key}"
            )


def open_spool(config: Config, digests: Kind = Kind.BLAKE3) -> Spool:
    """The spool of a configuration; new files get this kind of digest, for rows that of `upgrade.digests`.

    Raises Transient where its folder cannot be made, ConfigError as BucketSpool.
    """
    if config.spool.is_bucket:
        from cxrnode.spool.bucket import BucketSpool

        settings = config.spool
        return BucketSpool(
            settings.url, scratch=config.spool_dir, endpoint=settings.endpoint, ca=settings.ca, digests=digests
        )
    return FolderSpool(config.spool_dir, digests)


@contextlib.contextmanager
def closed_to_others() -> Iterator[None]:
    """What is made within, by child processes too, is for this user alone: it holds patient data.

    An umask that shuts others out already is somebody's choice, as 0027 of our systemd unit, and stays.
    """
    before = os.umask(0o077)
    if before & 0o007 == 0o007:
        os.umask(before)
    try:
        yield
    finally:
        os.umask(before)


def serve(config: Config, *, announce: bool = True) -> None:
    """Run the node until SIGTERM; what it writes is closed to others.

    Raises ConfigError, DatabaseDamaged, SchemaMismatch or Transient where it cannot start.
    """
    with closed_to_others():
        _serve(config, announce=announce)


def _serve(config: Config, *, announce: bool) -> None:
    from cxrnode.roles.rules import configured_rules
    from cxrnode.supervisor import Supervisor, addresses, modality_lines

    configured_rules(config)  # else `receive` alone would end at them, again and again, below a node that looks alive
    database = open_database(config)
    telemetry.configure(level=config.log.level, format=config.log.format, role="supervisor")
    _require_whole(database)
    upgrade.upgrade(database)
    open_spool(config)

    def ready() -> None:
        if announce:
            print("\n".join(modality_lines(config, addresses(config.listen.host))), file=sys.stderr, flush=True)

    Supervisor(config, database, config_path=str(config.source) if config.source else None, on_ready=ready).run()


def _require_whole(database: Database) -> None:
    """Look at an SQLite file before it is used, for a bounded time. Raises DatabaseDamaged."""
    from cxrnode.store import integrity

    if database.file is None or not database.file.is_file():
        return
    looked = integrity.require_whole(database.file)
    if looked.left:
        remedy = "nothing is known against it; `cxrnode db backup` looks at the whole, in its copy"
        took = round(looked.seconds, 1)
        structlog.get_logger().warning("database_not_looked_through", left=looked.left, seconds=took, remedy=remedy)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cxrnode.node")
    parser.add_argument("role", choices=typing.get_args(RoleName))
    parser.add_argument("--owner", required=True)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--listening", type=int)
    parser.add_argument("--config", type=Path)
    return parser.parse_args()


def _follow_supervisor(channel: socket.socket, stopping: threading.Event) -> None:
    """End in good order when the supervisor is gone: its end of the channel closes with it."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while channel.recv(64):
                pass
        stopping.set()

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()


def _process(config: Config, arguments: argparse.Namespace) -> Process:
    return Process(
        owner=arguments.owner,
        node=config.node_name,
        role=arguments.role,
        version=__version__,
        revision=upgrade.HEAD,
        config_digest=config.shared_digest,
    )


def run_role() -> int:
    """The entry of a role's process; the exit status is 0 after a drain, 1 after a fault that is told in the log."""
    arguments = _arguments()
    config = load_config(arguments.config)
    telemetry.configure(level=config.log.level, format=config.log.format, role=arguments.role)
    channel = socket.socket(fileno=arguments.channel)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    _follow_supervisor(channel, stopping)
    last_beat = 0.0

    def tell(word: bytes) -> None:
        with contextlib.suppress(OSError):
            channel.send(word, socket.MSG_DONTWAIT)

    # What is loaded stays, and is not looked for garbage: half a second of the five in which `infer` gets ready, and
    # from then on 28 ms of each full collection in the console, 77 where torch is.
    gc.disable()

    def ready() -> None:
        gc.collect()
        gc.freeze()
        gc.enable()
        tell(b"R")

    def beat() -> None:
        nonlocal last_beat
        if time.monotonic() - last_beat > 1.0:
            last_beat = time.monotonic()
            tell(b".")

    from cxrnode.roles.context import Context, log
    from cxrnode.roles.heartbeat import Heartbeat

    entered = contextlib.ExitStack()
    try:
        database = open_database(config)
        upgrade.require(database)
        heartbeat = entered.enter_context(Heartbeat(database, _process(config, arguments)))
        context = Context(
            config=config,
            database=database,
            spool=open_spool(config, upgrade.digests(database)),
            owner=arguments.owner,
            stopping=stopping,
            beat=beat,
            ready=ready,
            say=heartbeat.say,
        )
        # Each process loads its own role alone: receive, send, tend and web never import torch.
        match arguments.role:
            case "receive":
                from cxrnode.roles import receive

                receive.run(context, socket.socket(fileno=arguments.listening))
            case "infer":
                from cxrnode.roles import infer

                infer.run(context)
            case "send":
                from cxrnode.roles import send

                send.run(context)
            case "worklist":
                from cxrnode.roles import worklist

                worklist.run(context)
            case "web":
                from cxrnode.web import server

                server.run(
                    config,
                    database,
                    context.spool,
                    stopping=stopping,
                    beat=beat,
                    ready=context.ready,
                )
            case _:
                from cxrnode.roles import tend

                tend.run(context)
    except CxrnodeError as error:
        log.error("role_failed", reason=str(error))
        return 1
    finally:
        entered.close()
    return 0


if __name__ == "__main__":
    status = run_role()
    # Threads of libraries may still hang in a dead peer's socket: what had to be finished is finished.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
