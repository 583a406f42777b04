"""The web role: the console's server, until the role stops. Never imports torch, never decodes a film."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import structlog
import uvicorn

from cxrnode.config import Config
from cxrnode.errors import ConfigError, Transient
from cxrnode.spool import Spool
from cxrnode.store import accounts
from cxrnode.store.database import Database
from cxrnode.web.app import application
from cxrnode.web.console import Console

log = structlog.get_logger()

_AGAIN_SECONDS = 5.0
_DRAIN_SECONDS = 5


def run(
    config: Config,
    database: Database,
    spool: Spool,
    *,
    stopping: threading.Event,
    beat: Callable[[], None],
    ready: Callable[[], None],
) -> None:
    """Serve until `stopping`. Raises ConfigError where the certificate cannot be used.

    A port that is taken is waited for: the films do not depend on the console.
    """
    web = config.web
    listening = _bind(config, stopping, beat)
    if listening is None:
        return
    key = _shared_key(database, stopping, beat)
    if key is None:
        listening.close()
        return
    console = Console(config=config, database=database, spool=spool, key=key)
    settings = uvicorn.Config(
        application(console),
        log_config=None,
        access_log=False,  # an address and a path for each request: the audit trail has what counts
        server_header=False,
        proxy_headers=False,  # web.gate believes whom the configuration names
        http="h11",
        ws="none",
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        ssl_certfile=web.tls.cert if web.tls else None,
        ssl_keyfile=web.tls.key if web.tls else None,
    )
    try:
        settings.load()
    except OSError as error:
        raise ConfigError(
            f"web.tls: {error.strerror or type(error).__name__}; give a certificate and its key (PEM)"
        ) from None
    server = uvicorn.Server(settings)
    # In a thread of its own, where uvicorn leaves the signals to us.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="console", daemon=True)
    thread.start()
    while not server.started and thread.is_alive() and not stopping.wait(0.02):
        beat()
    if server.started:
        log.info("console_ready", host=web.host, port=web.port, tls=web.tls is not None)
        ready()
    while not stopping.wait(1.0) and thread.is_alive():
        beat()
    server.should_exit = True
    thread.join(_DRAIN_SECONDS + 2)


def _shared_key(database: Database, stopping: threading.Event, beat: Callable[[], None]) -> bytes | None:
    """The key of the forms, which the consoles of all machines share; None once it is to stop.

    A database that is away is waited for: without it there is nobody to log in.
    """
    said = False
    while not stopping.is_set():
        beat()
        try:
            return accounts.shared_secret(database, "forms")
        except Transient as fault:
            if not said:
                log.error("console_waits", reason=str(fault), remedy="bring the database back")
                said = True
        stopping.wait(_AGAIN_SECONDS)
    return None


def _bind(config: Config, stopping: threading.Event, beat: Callable[[], None]) -> socket.socket | None:
    web = config.web
    said = False
    while not stopping.is_set():
        beat()
        family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
        # With its protocol told, asyncio sets TCP_NODELAY; else a page's end waits 40 ms for a delayed acknowledgement.
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((web.host, web.port))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            if not said:
                remedy = "choose another web.port, or stop what holds it; films are read meanwhile"
                log.error("console_waits", host=web.host, port=web.port, reason=error.strerror, remedy=remedy)
                said = True
        stopping.wait(_AGAIN_SECONDS)
    return None
