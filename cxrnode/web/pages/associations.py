"""The last associations: who asked, what was proposed, and where one was refused, what would admit it."""

from __future__ import annotations

import dataclasses

from starlette.responses import Response

from cxrnode.core.associations import Cause, admitting
from cxrnode.errors import Rejected
from cxrnode.store.associations import AssociationRow, list_associations
from cxrnode.web.asked import Asked
from cxrnode.web.console import Console
from cxrnode.web.view import View

OUTCOMES = ("accepted", "rejected", "failed")
_PAGE = 50
#: What to do about it, beside the lines to copy.
_ADVICE = {
    Cause.CALLED_AET: "The sender calls another AE title than this node's. Change it there; or, if the node is to be "
    "called so, change it here:",
    Cause.UNKNOWN: "No node has this AE title. To admit it, add this to the end of the configuration, restart, send "
    "again:",
    Cause.MAY_NOT_SEND: "The node is known, and may not send. In its table of the configuration, say:",
    Cause.ADDRESS: "The node is known, and comes from another address than it may. Is it the same machine? Then in its "
    "table of the configuration, say:",
    Cause.LIMIT: "All associations were in use. The sender may come again; if it happens often:",
    Cause.BUSY: "The node could not decide at that moment; the sender may come again.",
    Cause.TLS: "The connection could not be secured. A peer that has no TLS must be given it, with a certificate; the "
    "authority of a certificate that is not accepted belongs into the file of listen.tls.ca.",
    Cause.SPEAKS_TLS: "The peer speaks TLS, and this port does not. Switch it off there, or on here; then everybody "
    "must speak it, with certificates of that authority:",
    Cause.CONNECTIONS: "Too many connections at once: is somebody scanning ports? If they are modalities:",
    Cause.PDU: "It sent a PDU larger than any that DICOM needs. We announce 262144 bytes for data; no line of the "
    "configuration admits more. Its maximum PDU length must follow what we announce, and it must speak DICOM.",
    Cause.SILENT: "It stopped in the middle of a message: look at the network between. Slow lines get more time by "
    "listen.network_timeout.",
    Cause.BROKEN: "What came was no DICOM, or was cut off: a port scan, a health check that sends something, or a "
    "broken network. If it is a modality, look at its log.",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One row with its advice and the lines to copy."""

    row: AssociationRow
    advice: str
    lines: str


def shown(console: Console, row: AssociationRow) -> Shown:
    """The row with what would admit the peer."""
    asked, peers = row.asked, console.config.peers
    node = next((name for name, one in peers.items() if one.aet == asked.calling_aet), "")
    cause = asked.cause
    known = cause == Cause.UNKNOWN and bool(node)
    lines = admitting(
        Cause.MAY_NOT_SEND if known and not peers[node].can_send else cause,
        calling_aet=asked.calling_aet,
        called_aet=asked.called_aet,
        address=asked.address,
        node=node,
        addresses=peers[node].addresses if node else (),
        limit=console.config.listen.max_associations,
        authority=str(tls.ca) if (tls := console.config.listen.tls) is not None and tls.ca else "",
    )
    if known and peers[node].can_send:
        return Shown(row=row, advice="The configuration admits it by now.", lines="")
    return Shown(row=row, advice=_ADVICE[Cause(cause)] if cause in set(Cause) else "", lines=lines)


def page(console: Console, asked: Asked) -> Response:
    """The newest associations, of one outcome or of any."""
    outcome = asked.query.get("outcome", "") or None
    if outcome is not None and outcome not in OUTCOMES:
        raise Rejected(f"outcome is one of {', '.join(OUTCOMES)}")
    before = int(asked.query["before"]) if asked.query.get("before", "").isdigit() else None
    rows = list_associations(console.database, outcome=outcome, before=before, limit=_PAGE + 1)
    return console.page(
        "associations.html",
        asked,
        here="associations",
        rows=[shown(console, row) for row in rows[:_PAGE]],
        before=rows[_PAGE - 1].id if len(rows) > _PAGE else None,
        outcome=outcome or "",
        outcomes=OUTCOMES,
        source=console.config.source,
    )


VIEWS = (View(path="/associations", page=page),)
