"""The supervisor: a child process for each role, started again when it dies, drained on SIGTERM.

It binds the DICOM port itself, so that senders are queued by the kernel rather than refused while a listener starts
or is replaced. It never touches an image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from cxrnode import health
from cxrnode.config import Config
from cxrnode.cores import cores
from cxrnode.errors import ConfigError, Transient
from cxrnode.store import deliveries, fleet, jobs
from cxrnode.store.database import Database

log = structlog.get_logger()

#: A child that says nothing for so long hangs, and is replaced; longer where a time-out of a role is.
HANG_SECONDS = 300.0
#: How long a child may take to finish or give back what it holds, before it is killed.
DRAIN_SECONDS = 20.0
_BACKOFF_FIRST, _BACKOFF_MOST, _GOOD_RUN = 0.2, 30.0, 60.0
#: How glibc keeps what a role frees. `receive` makes threads and buffers of all sizes for each association: by default
#: the gaps between them grew by 7 MiB in 2250 hostile conversations, with no object and no used byte more than before.
#: PDUs stay below the threshold from which memory is mapped: with one of 64 KiB a film cost half as much time again.
#: `tend` has ten threads that take its duties by turns, and each thread's arena grew to what the largest duty needs.
_MALLOC: Mapping[str, Mapping[str, str]] = {
    "receive": {
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": str(1 << 20),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 22),
    },
    "tend": {"MALLOC_ARENA_MAX": "2"},
}
#: How long the other roles wait at most for the listener to be ready, once, at the start.
_LISTENER_FIRST = 3.0


@dataclasses.dataclass(slots=True, kw_only=True)
class Child:
    """One role's process, and when it may be started again."""

    role: str
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    owner: str = ""
    started: float = 0.0
    heard: float = 0.0
    ready: bool = False
    backoff: float = _BACKOFF_FIRST
    not_before: float = 0.0


class Supervisor:
    """Starts and watches the roles of one node. `run` blocks until SIGTERM or SIGINT."""

    def __init__(
        self, config: Config, database: Database, *, config_path: str | None, on_ready: Callable[[], None] | None = None
    ) -> None:
        """Watch the roles that `config` names; `on_ready` is called once the receive role takes films."""
        self._config = config
        self._database = database
        self._config_path = config_path
        self._on_ready = on_ready
        self._children = [Child(role=role) for role in config.node.roles for _ in range(processes_of(config, role))]
        self._listening: socket.socket | None = None
        longest = max(config.reading.decode_timeout, config.send.dimse_timeout, config.send.acse_timeout)
        self._patience = max(HANG_SECONDS, 2 * longest)
        self._stopping = False
        self._announced = False
        self._began = time.monotonic()

    def stop(self) -> None:
        """Ask `run` to drain and return. Safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Bind, start the roles, keep them running, and drain on `stop`. Raises ConfigError if the port is taken."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        if "receive" in self._config.node.roles:
            self._listening = bind(self._config.listen.host, self._config.listen.port)
        with contextlib.suppress(Transient):  # it is for people: the roles wait for the database themselves
            fleet.begin(self._database, self._config.node_name)
        last_pat, last_note, self._began = 0.0, 0.0, time.monotonic()
        try:
            while not self._stopping:
                for child in self._children:
                    self._watch(child)
                if time.monotonic() - last_pat > 5.0:
                    sd_notify("WATCHDOG=1")
                    last_pat = time.monotonic()
                if time.monotonic() - last_note > health.EVERY:
                    health.write(self._config.node.data_dir, self._well())
                    last_note = time.monotonic()
                time.sleep(0.05)
        finally:
            self._drain()
            health.remove(self._config.node.data_dir)

    def _well(self) -> dict[str, bool]:
        """Which roles do their work now."""
        return {child.role: child.process is not None and child.ready for child in self._children}

    def _watch(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.not_before and not self._waits_for_listener(child, now):
                self._start(child)
            return
        self._listen_to(child)
        if child.process.poll() is None:
            if now - child.heard > self._patience:
                log.error("role_hangs", role=child.role, pid=child.process.pid, silent_s=round(now - child.heard))
                child.process.kill()
            return
        code = child.process.returncode
        if now - child.started > _GOOD_RUN:
            child.backoff = _BACKOFF_FIRST
        log.error("role_ended", role=child.role, pid=child.process.pid, code=code, again_in_s=child.backoff)
        self._forget(child)
        self._pause(child)

    def _pause(self, child: Child) -> None:
        """Start it again later, and later still if it goes on like this."""
        child.not_before = time.monotonic() + child.backoff
        child.backoff = min(child.backoff * 2, _BACKOFF_MOST)

    def _waits_for_listener(self, child: Child, now: float) -> bool:
        """Films can be received at once, whatever a model takes to load: the listener has the processor to itself."""
        if child.role == "receive":
            return False
        listeners = [one for one in self._children if one.role == "receive"]
        starting = [one for one in listeners if not one.ready and now - self._began < _LISTENER_FIRST]
        return bool(starting)

    def _listen_to(self, child: Child) -> None:
        if child.channel is None:
            return
        with contextlib.suppress(BlockingIOError, OSError):
            while said := child.channel.recv(4096):
                child.heard = time.monotonic()
                if b"R" in said and not child.ready:
                    child.ready = True
                    log.info("role_ready", role=child.role, seconds=round(child.heard - child.started, 2))
        receiving = [c for c in self._children if c.role == "receive"]
        if not self._announced and all(c.ready for c in receiving or self._children):
            self._announced = True
            sd_notify("READY=1")
            if self._on_ready is not None:
                self._on_ready()

    def _start(self, child: Child) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        owner = f"{self._config.node_name}/{child.role}/{secrets.token_hex(6)}"
        command = [sys.executable, "-m", "cxrnode.node", child.role, "--owner", owner]
        command += ["--channel", str(theirs.fileno())]
        if self._config_path is not None:
            command += ["--config", self._config_path]
        descriptors = [theirs.fileno()]
        if child.role == "receive" and self._listening is not None:
            descriptors.append(self._listening.fileno())
            command += ["--listening", str(self._listening.fileno())]
        try:
            # A session of its own keeps a terminal's Ctrl-C for the supervisor, which then drains.
            child.process = subprocess.Popen(
                command,
                env={**_MALLOC.get(child.role, {}), **os.environ},
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:  # no memory or no process id left: the other roles go on meanwhile
            ours.close()
            log.error("role_not_started", role=child.role, reason=error.strerror, again_in_s=child.backoff)
            self._pause(child)
            return
        finally:
            theirs.close()
        child.channel, child.owner, child.ready = ours, owner, False
        child.started = child.heard = time.monotonic()
        log.info("role_started", role=child.role, pid=child.process.pid)

    def _forget(self, child: Child) -> None:
        """End the leases of a dead child at once: its jobs need not wait for them to run out."""
        if child.channel is not None:
            child.channel.close()
        child.process = child.channel = None
        with contextlib.suppress(Transient):  # the leases then end by their time
            jobs.release_owner(self._database, child.owner)
            deliveries.release_owner(self._database, child.owner)
            fleet.leave(self._database, child.owner)

    def _drain(self) -> None:
        sd_notify("STOPPING=1")
        if self._listening is not None:
            self._listening.close()
        running = [child for child in self._children if child.process is not None]
        log.info("draining", roles=[child.role for child in running])
        for child in running:
            _signal(child, signal.SIGTERM)
        until = time.monotonic() + DRAIN_SECONDS
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("role_killed", role=child.role, pid=child.process.pid)
                child.process.kill()
                child.process.wait()
            self._forget(child)
        log.info("stopped")

    def pids(self) -> dict[str, int]:
        """The process id of each running role."""
        return {child.role: child.process.pid for child in self._children if child.process is not None}


def processes_of(config: Config, role: str) -> int:
    """How many processes a role has: of listeners as many as the configuration or the machine says."""
    if role != "receive":
        return 1
    return config.listen.processes or max(min(2, cores()), cores() // 4)


def _signal(child: Child, number: int) -> None:
    if child.process is not None:
        with contextlib.suppress(ProcessLookupError):
            child.process.send_signal(number)


def bind(host: str, port: int, *, patience: float = 10.0) -> socket.socket:
    """Return a listening socket. Waits a little for the children of a killed supervisor to let the port go.

    Raises ConfigError where the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    until = time.monotonic() + patience
    while True:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(256)
            return listening
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > until:
                raise ConfigError(
                    f"listen.host and listen.port: {host}:{port} cannot be used ({error.strerror}); "
                    f"{bind_remedy(error)}"
                ) from None
            time.sleep(0.2)


def bind_remedy(error: OSError, section: str = "listen") -> str:
    """What a person changes where the address of `[listen]`, or of `[web]`, cannot be used."""
    if error.errno == errno.EACCES:
        return "a port below 1024 needs CAP_NET_BIND_SERVICE (deploy/systemd/cxrnode.service has it); or choose another"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{section}.host is no address of this machine; 0.0.0.0 stands for all that it has"
    return f"stop what holds it, or choose another {section}.host or {section}.port"


def sd_notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens outside of it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(state.encode(), address)


def modality_lines(config: Config, addresses: Sequence[str]) -> tuple[str, ...]:
    """What to type into the modality, as people read it at the start."""
    said = ", ".join(addresses)
    return (
        "Type this into the modality or the router:",
        f"    AE title  {config.node.ae_title}",
        f"    address   {said}",
        f"    port      {config.listen.port}",
    )


def addresses(host: str) -> tuple[str, ...]:
    """The addresses under which this machine may be reached, for people to choose from."""
    if host not in ("0.0.0.0", "::"):
        return (host,)
    found = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Connecting a datagram socket sends nothing; it only asks the kernel which address it would use.
        probe.connect(("192.0.2.1", 9))
        found.append(probe.getsockname()[0])
    return (*found, socket.gethostname())
