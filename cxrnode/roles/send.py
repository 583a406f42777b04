"""The send role: a thread for each destination that sends, and one more where it is asked to commit. Never torch.

A dead destination delays nobody else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from cxrnode.config import RemoteNode
from cxrnode.dicom.destination import AnyDestination, Destination
from cxrnode.errors import Transient
from cxrnode.roles.commit import Committer
from cxrnode.roles.context import Context, places
from cxrnode.roles.destinations import await_destination
from cxrnode.roles.sender import Sender
from cxrnode.store import commitments, deliveries

log = structlog.get_logger()

#: How often to look for deliveries to a node that nobody sends to yet.
_LOOK_SECONDS = 15.0


def run(context: Context) -> None:
    """Send to every node until the role stops: one that no rule names any more may still have deliveries."""
    rules = {name for rule in context.config.rules for name in rule.send_to}
    failed = threading.Event()
    threads: list[threading.Thread] = []

    def start(name: str, work: Callable[[AnyDestination], None]) -> None:
        def body() -> None:
            try:
                destination = await_destination(context, name)
                if destination is not None:
                    work(destination)
            except Exception as bug:  # noqa: BLE001 - the thread's end must end the process, not pass unseen
                log.error("sender_failed", destination=name, error=type(bug).__name__, where=places(bug))
                failed.set()

        threads.append(threading.Thread(target=body, name=f"send-{name}", daemon=True))
        threads[-1].start()

    def commit(destination: AnyDestination) -> None:
        if isinstance(destination, Destination):
            Committer(context, destination).run()

    begun: set[str] = set()

    def begin(names: set[str]) -> None:
        for name in sorted(names - begun):
            begun.add(name)
            start(name, lambda destination: Sender(context, destination).run())
            node = context.config.nodes[name]
            if isinstance(node, RemoteNode) and node.commitment:
                start(name, commit)

    begin(rules | _asked_for(context))
    context.ready()
    looked = time.monotonic()
    while not context.stopping.wait(0.5):
        context.beat()
        if failed.is_set():
            raise Transient("a sender failed; the role starts anew")
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            begin(_asked_for(context))
    until = time.monotonic() + 15.0
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _asked_for(context: Context) -> set[str]:
    """The configured nodes that have something to come: of an older rule, resent by a person, or to be committed to."""
    try:
        wanted = {*deliveries.unsent(context.database), *commitments.awaited(context.database)}
    except Transient:  # the senders say so themselves
        return set()
    return wanted & set(context.config.nodes)
