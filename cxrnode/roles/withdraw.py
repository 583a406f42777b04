"""Withdrawals: the rejection notes for what was sent and is valid no more, and what says so to people.

A duty of `tend`: a result that may harm is not to wait for a worker. Nothing here decides what is withdrawn, and no
film is opened: the header that receipt kept is enough.
"""

from __future__ import annotations

import dataclasses

import structlog

from cxrnode.config import Hl7Node
from cxrnode.dicom.header import PARSE_FAULTS
from cxrnode.dicom.kept_header import read_kept_header
from cxrnode.dicom.outputs import Output, SentObject
from cxrnode.dicom.outputs.common import Subject
from cxrnode.dicom.outputs.message import build_withdrawn_message
from cxrnode.dicom.outputs.withdrawal import Rejection, Withdrawal, build_withdrawal
from cxrnode.errors import Rejected
from cxrnode.roles.context import Context, rouse
from cxrnode.roles.notices import spooled
from cxrnode.roles.publish import output_settings
from cxrnode.store import rejections
from cxrnode.store.rejections import Order

log = structlog.get_logger()

#: Withdrawals made in one go, at most; what is left over comes in the next.
_BATCH = 50
#: The pause before one that could not be made is tried again, in seconds.
_PAUSE = 300.0
_REJECTIONS = {
    "quality": Rejection.QUALITY,
    "patient-safety": Rejection.SAFETY,
    "worklist": Rejection.WORKLIST,
}


def make_withdrawals(context: Context) -> None:
    """Make what withdraws results, where it is known what was sent. Raises Transient where spool or database are away.

    One that cannot be made waits, and stops no other.
    """
    made = 0
    for order in rejections.due(context.database, sorted(context.config.nodes), limit=_BATCH):
        context.beat()
        try:
            made += _make(context, order)
        except (Rejected, *PARSE_FAULTS) as fault:
            reason = (
                str(fault) if isinstance(fault, Rejected) else f"its header cannot be read ({type(fault).__name__})"
            )
            rejections.postpone(context.database, order, reason, pause=_PAUSE)
            log.error("withdrawal_not_made", job=order.job_id, destination=order.destination, reason=reason)
    if made:
        rouse(context, "send")


def _make(context: Context, order: Order) -> bool:
    outputs = _outputs(context, order)
    with spooled(context, outputs) as files:
        spare = rejections.record(context.database, order, files.stored)
        files.wanted = True
    for key in spare:
        context.spool.remove(key)
    if outputs:
        log.warning(
            "withdrawal_made",
            job=order.job_id,
            destination=order.destination,
            rejection=order.rejection,
            objects=len(order.objects),
        )
    return bool(outputs)


def _outputs(context: Context, order: Order) -> tuple[Output, ...]:
    """What goes to the order's destination: nothing where it has none of the objects. Raises Rejected."""
    if not order.objects:
        return ()
    if not order.header:
        raise Rejected("the identity was erased: tell the archive's administrator which job it is")
    source = read_kept_header(order.header, transfer_syntax_uid=order.transfer_syntax_uid)
    settings = output_settings(context.config)
    node = context.config.nodes[order.destination]
    if isinstance(node, Hl7Node):
        taken = tuple(one.sop_instance_uid for one in order.objects)
        subject = Subject(source, order.report, settings, at=order.at, act=("withdrawal", repr(order.at), *taken))
        return (build_withdrawn_message(subject, order.note),)
    kinds = {"rejection"}
    # Of a study's summary the next one says itself that it takes its place; a second page beside it, with the word
    # "withdrawn", would be taken for the report of a film that stands.
    if not node.iocm and not order.summary:
        kinds.add("notice")
    withdrawal = Withdrawal(
        rejection=_REJECTIONS[order.rejection],
        reason=order.note,
        at=order.at,
        objects=tuple(SentObject(**dataclasses.asdict(one)) for one in order.objects),
        replaced=order.replaced,
        summary=order.summary,
    )
    return build_withdrawal(source, order.report, withdrawal, settings, frozenset(kinds))
