"""Audit messages to a repository (DICOM PS3.15 A.5, IHE ATNA), made of the events as they happen. Off by default.

Application activity; instances transferred in and out, and when that begins; instances and results accessed; logins;
security alerts, of peers that were refused, too. A server that does not answer is tried again, and nothing is left out
over TLS; UDP tells nobody of what it loses.
"""

from __future__ import annotations

import os
import socket
import time
from collections import Counter
from collections.abc import Sequence

import sqlalchemy as sa
import structlog

from cxrnode import syslog
from cxrnode.core import atna
from cxrnode.core.atna import Participant, Patient
from cxrnode.core.header import Identity
from cxrnode.errors import CxrnodeError
from cxrnode.roles.channels import syslog_server
from cxrnode.roles.context import Context
from cxrnode.sections import Hl7Node, RemoteNode
from cxrnode.store import followers
from cxrnode.store.audit import Event
from cxrnode.store.database import Transaction
from cxrnode.store.schema import delivery, delivery_output, identity, instance, job, output

log = structlog.get_logger()

FOLLOWER = "atna"
_LIMIT = 200
_RECEIVED, _SENT = ("received",), ("delivery_sent", "delivery_parked")
_BEGUN, _REFUSED = ("delivery_claimed",), ("association_refused",)
_SEEN = ("identity_viewed", "result_viewed")
_ACCOUNTS = ("account_added", "account_changed")
_LOGINS = ("logged_in", "logged_out", "login_refused")
#: Events that become messages.
NAMES = (*_RECEIVED, *_BEGUN, *_SENT, *_SEEN, *_LOGINS, *_ACCOUNTS, *_REFUSED)


def tell_repository(context: Context) -> None:
    """Send what happened since the last time. A passing fault waits for the next time, and loses nothing."""
    server = context.config.atna.server
    if server is None:
        return
    while not context.stopping.is_set():
        events, last = followers.follow(context.database, FOLLOWER, NAMES, limit=_LIMIT)
        records = [record for one in events if (record := _record(context, one)) is not None]
        try:
            _send(context, records)
        except CxrnodeError as fault:
            log.error("repository_not_told", messages=len(records), reason=str(fault), remedy="look at atna.server")
            return
        followers.advance(context.database, FOLLOWER, last)
        if len(events) < _LIMIT:
            return


def tell_activity(context: Context, *, started: bool) -> None:
    """Say that this node starts or stops. Nobody waits for it."""
    if context.config.atna.server is None:
        return
    if started:  # what happens from now on is told, though the first look comes later
        followers.begin(context.database, FOLLOWER)
    try:
        _send(context, [atna.application(_node(context), started=started, at=time.time(), source=_source(context))])
    except CxrnodeError as fault:
        log.error("repository_not_told", messages=1, reason=str(fault), remedy="look at atna.server")


def _send(context: Context, records: Sequence[atna.Record]) -> None:
    server = context.config.atna.server
    assert server is not None
    messages = [
        syslog.Message(
            at=one.at,
            severity=syslog.NOTICE if one.outcome is atna.Outcome.SUCCESS else syslog.WARNING,
            kind=atna.MESSAGE_ID,
            text=atna.to_xml(one),
            facility=syslog.SECURITY,
        )
        for one in records
    ]
    syslog.send(syslog_server(server), messages)


def _source(context: Context) -> str:
    return context.config.atna.source or context.config.node.ae_title


def _node(context: Context) -> Participant:
    """This process."""
    return Participant(user=str(os.getpid()), aets=(context.config.node.ae_title,), address=socket.gethostname())


def _record(context: Context, one: Event) -> atna.Record | None:
    source = _source(context)
    here = _node(context)
    if one.name in _RECEIVED:
        sender = Participant(
            user=str(one.detail["calling_aet"]), aets=(str(one.detail["calling_aet"]),), requestor=True
        )
        with context.database.read() as transaction:
            film = _film(transaction, one.instance_id)
        return atna.transferred(sender, here, film, at=one.at, source=source)
    if one.name in (*_BEGUN, *_SENT):
        return _sent(context, one, here, source)
    if one.name in _SEEN:
        with context.database.read() as transaction:
            film = _film(transaction, one.instance_id, one.job_id)
        return atna.accessed(_person(one), film, at=one.at, source=source)
    if one.name in _LOGINS:
        return atna.authenticated(
            _person(one),
            here,
            login=one.name != "logged_out",
            good=one.name != "login_refused",
            at=one.at,
            source=source,
        )
    if one.name in _REFUSED:
        said = f"association refused: {one.detail['reason'] or one.detail['cause']}"
        peer = str(one.detail["calling_aet"] or "unknown")
        nodes = (str(one.detail["address"]),)
        who = Participant(user=here.user, aets=here.aets, name=f"refused {peer}", address=here.address)
        return atna.security_alert(atna.NODE_AUTHENTICATION, who, said=said, at=one.at, source=source, nodes=nodes)
    said = f"{one.name.replace('_', ' ')}: {one.detail.get('account', '')}"
    return atna.security_alert(atna.USER_ATTRIBUTES, _person(one), said=said, at=one.at, source=source)


def _person(one: Event) -> Participant:
    who = str(one.detail.get("by") or one.detail.get("account") or "unknown")
    return Participant(user=who, requestor=True, address=str(one.detail.get("address") or ""))


def _film(transaction: Transaction, instance_id: int | None, job_id: int | None = None) -> Patient:
    """Whose film it is, and its SOP class; unknown where that was erased."""
    if instance_id is None and job_id is not None:
        instance_id = transaction.scalar(sa.select(job.c.instance_id).where(job.c.id == job_id))
    row = transaction.row(
        sa.select(identity, instance.c.sop_class_uid)
        .join_from(instance, identity, identity.c.instance_id == instance.c.id, isouter=True)
        .where(instance.c.id == instance_id)
    )
    if row is None or row.patient_id is None:
        return Patient(identity=Identity(), instances=((row.sop_class_uid, 1),) if row else ())
    who = Identity(
        patient_id=row.patient_id,
        patient_name=row.patient_name,
        accession=row.accession,
        study_uid=row.study_instance_uid,
    )
    return Patient(identity=who, instances=((row.sop_class_uid, 1),))


def _sent(context: Context, one: Event, here: Participant, source: str) -> atna.Record | None:
    """Results that begin to go out to a DICOM node or web server, did, or were refused there."""
    with context.database.read() as transaction:
        row = transaction.row(
            sa.select(delivery.c.destination, job.c.instance_id)
            .join_from(delivery, job, job.c.id == delivery.c.job_id)
            .where(delivery.c.id == one.delivery_id)
        )
        if row is None:
            return None
        film = _film(transaction, row.instance_id)
        classes = transaction.rows(
            sa.select(output.c.sop_class_uid)
            .join_from(delivery_output, output, output.c.id == delivery_output.c.output_id)
            .where(delivery_output.c.delivery_id == one.delivery_id, output.c.sop_class_uid != "")
        )
    node = context.config.nodes.get(row.destination)
    if isinstance(node, Hl7Node):  # a message is no instance
        return None
    there = Participant(
        user=row.destination,
        aets=(node.aet,) if isinstance(node, RemoteNode) else (),
        address=node.host if isinstance(node, RemoteNode) else "",
    )
    made = Patient(identity=film.identity, instances=tuple(sorted(Counter(c.sop_class_uid for c in classes).items())))
    if one.name in _BEGUN:
        begins = Participant(user=here.user, aets=here.aets, address=here.address, requestor=True)
        return atna.begun(begins, there, made, at=one.at, source=source)
    outcome = atna.Outcome.SUCCESS if one.name == "delivery_sent" else atna.Outcome.MINOR
    sender = Participant(user=here.user, aets=here.aets, address=here.address, requestor=True)
    return atna.transferred(sender, there, made, at=one.at, source=source, outcome=outcome)
