"""The ports that this machine's node listens on: can they be bound, and if not, is it this node that has them?"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cxrnode.config import Config

#: How long our own node may take to answer on its own machine, in seconds.
_PATIENCE = 2.0


def fault(host: str, port: int) -> OSError | None:
    """Why the address cannot be bound; None where it can be."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def node_answers(config: Config) -> bool:
    """Whether this node runs here and answers on our port: it takes C-ECHO, or refuses us as a sender alone.

    Another node takes C-ECHO too, many under any AE title: what tells ours is the supervisor's note in data_dir.
    """
    from cxrnode.dicom.sender import AssociationFault, Destination, FaultKind, Timeouts, echo

    if not _runs(config):
        return False
    here = Destination(
        name="this node", aet=config.node.ae_title, host=_local(config.listen.host), port=config.listen.port
    )
    timeouts = Timeouts(connect=_PATIENCE, acse=_PATIENCE, dimse=_PATIENCE)
    try:
        echo(here, calling_aet=config.node.ae_title, timeouts=timeouts)
    except AssociationFault as error:
        return error.kind is FaultKind.CALLING_AET
    return True


def console_answers(config: Config) -> bool:
    """Whether this node runs here and its console answers on our port, as /healthz does."""
    if not _runs(config):
        return False
    web = config.web
    asked: http.client.HTTPConnection
    if web.tls is None:
        asked = http.client.HTTPConnection(_local(web.host), web.port, timeout=_PATIENCE)
    else:
        # The certificate is for those who come by its name; no secret is sent.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        asked = http.client.HTTPSConnection(_local(web.host), web.port, timeout=_PATIENCE, context=context)
    with contextlib.closing(asked):
        try:
            asked.request("GET", "/healthz")
            return bool(json.loads(asked.getresponse().read(1000)) == {"ok": True})
        except (OSError, http.client.HTTPException, ValueError):
            return False


def _runs(config: Config) -> bool:
    from cxrnode import health

    return not health.faults(config.node.data_dir, live=True)


def _local(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
