"""Who may associate with this node and store on it: AE titles, and the addresses that they may come from."""

from __future__ import annotations

import ipaddress

from cxrnode.config import Config
from cxrnode.core.associations import Cause, admitting_line
from cxrnode.dicom.admission import Objection
from cxrnode.sections import RemoteNode


class Senders:
    """What the configuration says of its DICOM nodes, as peers."""

    def __init__(self, config: Config) -> None:
        """Read the nodes; they do not change while the node runs."""
        self._peers = config.peers
        self._accept_unknown = config.listen.accept_unknown
        peers = config.peers.values()
        #: May come to report on storage commitment, whether or not they may store.
        self.reporters = {node.aet for node in peers if any(one.commitment and one.host == node.host for one in peers)}

    def may_store(self, calling_aet: str, address: str) -> bool:
        """Whether this peer may store films here."""
        its = [node for node in self._peers.values() if node.aet == calling_aet]
        if any(node.can_send and comes_from(node, address) for node in its):
            return True
        # A title that is bound to addresses is nobody's else, whoever may come.
        return self._accept_unknown and not any(node.addresses for node in its)

    def objection(self, calling_aet: str, address: str) -> Objection | None:
        """Why this peer may not associate, with the line that would admit it, or None."""
        its = {name: node for name, node in self._peers.items() if node.aet == calling_aet}
        here = {name: node for name, node in its.items() if comes_from(node, address)}
        if self.may_store(calling_aet, address) or (calling_aet in self.reporters and here):
            return None
        cause, reason = Cause.UNKNOWN, "no node has this AE title"
        name = next(iter(here or its), "")
        if here:
            cause, reason = Cause.MAY_NOT_SEND, "may not send: can_send is false"
        elif its:
            cause, reason = Cause.ADDRESS, "this AE does not come from this address"
        addresses = its[name].addresses if its else ()
        remedy = admitting_line(cause, calling_aet=calling_aet, address=address, node=name, addresses=addresses)
        return Objection(reason=reason, remedy=remedy, cause=cause)


def comes_from(node: RemoteNode, address: str) -> bool:
    """Whether a node may come from an address; one without addresses may come from anywhere."""
    if not node.addresses:
        return True
    try:
        its = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(its, ipaddress.IPv6Address) and its.ipv4_mapped is not None:  # on a socket of both families
        its = its.ipv4_mapped
    return any(its in ipaddress.ip_network(one) for one in node.addresses)
