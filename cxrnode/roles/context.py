"""What every role is given, and the loop that all of them share: claim, do, settle."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

import structlog

from cxrnode import rousing
from cxrnode.config import Config
from cxrnode.errors import Transient
from cxrnode.spool import Spool
from cxrnode.store.database import Database
from cxrnode.store.hints import Ear
from cxrnode.wakeup import Waiter

log = structlog.get_logger()


class Say(Protocol):
    """Where a role says what it works on: roles.heartbeat."""

    def __call__(self, *, device: str, models: Mapping[str, str]) -> None:
        """`device` as people read it; `models` are those that are loaded, name -> bundle digest."""


def _to_nobody(*, device: str, models: Mapping[str, str]) -> None:
    """A role outside of a node is in no list."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The wired parts of one role process.

    `owner` names this process in leases, `stopping` is set when it is to end in good order, `beat` tells the
    supervisor that the role lives, and `ready` that it does its work now; `say` is for the list of all processes.
    """

    config: Config
    database: Database
    spool: Spool
    owner: str
    stopping: threading.Event
    beat: Callable[[], None]
    ready: Callable[[], None]
    say: Say = _to_nobody


def rouse(context: Context, role: str) -> None:
    """Hint to every process of a role that there is something to claim: here, and on other machines of the store."""
    rousing.rouse(context.config.node.data_dir, context.database, role)


@contextlib.contextmanager
def roused(context: Context, role: str) -> Iterator[Waiter]:
    """Where a role waits for hints, from this machine and from others."""
    with Waiter(context.config.node.data_dir, role) as waiter, Ear(context.database, role, waiter.poke):
        yield waiter


def work_until_stopped(context: Context, waiter: Waiter, turn: Callable[[], bool], *, poll: float) -> None:
    """Call `turn` until the role stops; when it found nothing to do, wait for a hint or the poll interval.

    A passing fault (the database restarts, the spool is away) is logged and tried again; anything else is a bug
    and ends the process, which the supervisor starts anew.
    """
    pause = poll
    while not context.stopping.is_set():
        context.beat()
        try:
            busy = turn()
            pause = poll
        except Transient as fault:
            log.warning("role_waits", reason=str(fault), seconds=round(pause, 2))
            context.stopping.wait(pause)
            pause = min(pause * 2, 30.0)
            continue
        if not busy and not context.stopping.is_set():
            waiter.wait(poll)


def places(bug: BaseException) -> list[str]:
    """Where a bug came from, as file and line, the innermost last; without its text, which may name a patient."""
    trace, found = bug.__traceback__, []
    while trace is not None:
        found.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}")
        trace = trace.tb_next
    return found
