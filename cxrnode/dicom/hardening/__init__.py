"""What pynetdicom 3.0.4 leaves open towards slow, broken and hostile peers, closed. It speaks no DIMSE.

Each point was seen to fail without it (tests/integration/test_listener.py and test_sender.py):

- a PDU's length is believed up to 4 GiB and buffered: capped here, in both directions;
- a peer that stops in the middle of a PDU, or stops reading, blocks its thread for ever: every read and write of a
  socket has a deadline here;
- the reason why a connection failed is logged and forgotten: kept here as `fault`;
- the TLS handshake runs inside accept(), so one idle peer stops all others: it has a thread and 5 s here;
- timers take the time of day, so that a step of the clock ends all associations: here they take a steady clock;
- a PDU out of turn ends the association, and our answer that was on its way then ends a thread with an exception: here
  what comes too late for the state is dropped;
- an idle association is polled by two threads a thousand times a second: here both wait (see `reactor`);
- every six seconds all associations wait for a full garbage collection: here only after one has ended;
- a TCP health check costs an association with two threads for the ACSE time-out: here it costs one for an instant;
- the port is always bound anew: here a socket bound by the supervisor can be adopted, and is left listening.
"""

from __future__ import annotations

import logging

import pynetdicom.ae
import pynetdicom.association
import pynetdicom.dul
import pynetdicom.transport
from pynetdicom import _config

from cxrnode.dicom.hardening.machine import MALFORMED, TolerantMachine
from cxrnode.dicom.hardening.records import NoIdentifiers, Throttle
from cxrnode.dicom.hardening.server import BACKLOG, HANDSHAKE_S, BoundedServer, tls_reason
from cxrnode.dicom.hardening.sockets import MAX_PDU, PDU_CAP, SLOWEST, BoundedSocket
from cxrnode.dicom.hardening.timer import SteadyTimer
from cxrnode.dicom.reactor import WholeMessages, WokenProvider

__all__ = [
    "BACKLOG",
    "HANDSHAKE_S",
    "MALFORMED",
    "MAX_PDU",
    "PDU_CAP",
    "SLOWEST",
    "BoundedServer",
    "BoundedSocket",
    "Throttle",
    "install",
    "tls_reason",
]


def install() -> None:
    """Put all this in force for the process. Calling it again changes nothing."""
    for module in (pynetdicom.ae, pynetdicom.transport):
        setattr(module, "AssociationSocket", BoundedSocket)  # noqa: B010 - neither module exports the name
    setattr(pynetdicom.dul, "StateMachine", TolerantMachine)  # noqa: B010 - likewise
    setattr(pynetdicom.dul, "Timer", SteadyTimer)  # noqa: B010 - likewise
    setattr(pynetdicom.association, "DULServiceProvider", WokenProvider)  # noqa: B010 - likewise
    setattr(pynetdicom.association, "DIMSEServiceProvider", WholeMessages)  # noqa: B010 - likewise
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)
    for name in [n for n in logging.root.manager.loggerDict if n.split(".")[0] == "pynetdicom"]:
        logger = logging.getLogger(name)
        if not any(isinstance(f, NoIdentifiers) for f in logger.filters):
            logger.addFilter(NoIdentifiers())
