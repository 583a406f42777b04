"""The destination behind a node's name, as soon as it can be used, and the state of the way to it (design, rule 6)."""

from __future__ import annotations

import contextlib

import structlog

from cxrnode.config import Config, Hl7Node, RemoteNode, StowNode
from cxrnode.dicom.destination import (
    AnyDestination,
    AssociationFault,
    Credential,
    Destination,
    FaultKind,
    Hl7Destination,
    Stage,
    StowDestination,
)
from cxrnode.dicom.tls import Tls, client_context, web_context
from cxrnode.errors import ConfigError, Transient
from cxrnode.roles.context import Context
from cxrnode.store import circuits

log = structlog.get_logger()

#: The first pause after a fault that may be over at once, in seconds; it doubles with each that follows.
_FIRST_PAUSE = 1.0


def destination_of(config: Config, name: str) -> AnyDestination:
    """The destination behind a node's name. Raises ConfigError where its TLS files cannot be used."""
    node = config.nodes[name]
    match node:
        case RemoteNode():
            tls = client_context(Tls(ca=node.tls.ca, cert=node.tls.cert, key=node.tls.key)) if node.tls else None
            return Destination(name=name, aet=node.aet, host=node.host, port=node.port, tls=tls)
        case StowNode():
            files = node.tls.model_dump() if node.tls else {"ca": None, "cert": None, "key": None}
            auth = node.auth
            return StowDestination(
                name=name,
                url=node.url,
                tls=web_context(**files) if node.url.startswith("https:") else None,
                credential=Credential(user=auth.user, file=auth.file, variable=auth.variable) if auth else None,
            )
        case Hl7Node():
            tls = web_context(**node.tls.model_dump()) if node.tls else None
            return Hl7Destination(name=name, host=node.host, port=node.port, tls=tls)


def await_destination(context: Context, name: str) -> AnyDestination | None:
    """The destination, as soon as its TLS files can be used; None where the role stops first.

    Until then its circuit is open: a file that is missing on one node's account keeps nothing from the others.
    """
    every = context.config.send.probe_every
    while not context.stopping.is_set():
        try:
            return destination_of(context.config, name)
        except ConfigError as error:
            remedy = f"Check [nodes.{name}] tls: {error}"
            with contextlib.suppress(Transient):
                circuits.open_circuit(context.database, name, remedy, base=every, cap=every)
            log.error("destination_down", destination=name, kind="tls", remedy=remedy, probe_in_s=round(every, 1))
            context.stopping.wait(every)
    return None


def open_circuit(context: Context, name: str, fault: AssociationFault) -> None:
    """The way to a destination is not good: leave it alone for a while, and say what to change.

    One that is away, or does not want us, costs one connection each `send.probe_every`, from the first fault on. One
    that is there and had no room, or broke off with an object under way, is tried again soon at first.
    """
    every = context.config.send.probe_every
    soon = fault.stage is Stage.TRANSFER or fault.kind is FaultKind.BUSY
    pause = circuits.open_circuit(
        context.database,
        name,
        str(fault),
        base=min(_FIRST_PAUSE, every) if soon else every,
        cap=every,
        least=fault.pause,
    )
    log.error(
        "destination_down", destination=name, kind=fault.kind.value, remedy=fault.remedy, probe_in_s=round(pause, 1)
    )
