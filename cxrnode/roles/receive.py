"""The receive role: an instance becomes durable bytes and rows, then its sender gets Success. Never imports torch.

The order is the promise (design, rule 1): fsync of the file, rename, fsync of the folder, commit of the rows, answer.
"""

from __future__ import annotations

import datetime
import socket
import zoneinfo

import structlog

from cxrnode.core.header import Header, Identity
from cxrnode.core.kept import Kept
from cxrnode.core.routing import Association, Rule, Verdict, route
from cxrnode.core.words import WordList
from cxrnode.dicom.admission import Objection
from cxrnode.dicom.commitment import report_context, report_handler
from cxrnode.dicom.header import PARSE_FAULTS, identity_of, read_header, to_header
from cxrnode.dicom.kept_header import keep_header
from cxrnode.dicom.listener import Answer, Listener, Received, Timeouts
from cxrnode.dicom.seats import Seats
from cxrnode.dicom.statuses import NOT_AUTHORISED, SUCCESS
from cxrnode.dicom.tls import Tls, server_context
from cxrnode.errors import Rejected
from cxrnode.roles.associations import AssociationLog
from cxrnode.roles.commit import hear
from cxrnode.roles.context import Context, rouse
from cxrnode.roles.room import Room
from cxrnode.roles.rules import configured_rules, configured_words
from cxrnode.roles.senders import Senders
from cxrnode.store import changes, receipt
from cxrnode.store.database import CommitUnknown
from cxrnode.store.receipt import Arrival, Order

log = structlog.get_logger()

#: One step of priority is worth so many seconds of waiting (design, rule 10): a STAT stream cannot starve the rest.
AGEING_SECONDS = 600.0
_SWEEP_AFTER = 900.0
_DRAIN_SECONDS = 10.0


class Receiver:
    """What happens to one received object, and to one request for an association."""

    def __init__(self, context: Context) -> None:
        """Read rules, words and peers from the configuration."""
        self._context = context
        self._config = context.config
        self._rules: tuple[Rule, ...] = configured_rules(context.config)
        self._words: WordList = configured_words(context.config)
        self._zone = zoneinfo.ZoneInfo(context.config.node.timezone)
        self._digest = context.config.digest
        self._switches = changes.Switchboard(context.database)
        self._senders = Senders(context.config)
        #: The digest of the rules under modes; both at once, since many threads ask.
        self._rules_hash: tuple[tuple[tuple[str, str], ...], str] | None = None
        self._room = Room(context)

    def shortage(self) -> str:
        """Why no object may come now, asked before its bytes are taken; "" where one may."""
        return self._room.shortage()

    def admit(self, calling_aet: str, called_aet: str, address: str) -> Objection | None:
        """Return why this peer may not associate, or None. The called AE title is the listener's to check."""
        return self._senders.objection(calling_aet, address)

    def receive(self, received: Received) -> Answer:
        """Keep one object and answer. Raises Transient and Rejected, which the listener turns into statuses."""
        who = received.association
        if who.calling_aet in self._senders.reporters and not self._senders.may_store(who.calling_aet, who.host):
            return Answer(status=NOT_AUTHORISED, comment="this AE may report here, not store: can_send is false")
        dataset = read_header(received.path)
        try:
            kept_header = keep_header(dataset)  # before anything decodes it
            header, identity = to_header(dataset), identity_of(dataset)
        except PARSE_FAULTS as fault:  # a value of a kind that there is not, say: it will be the same next time
            raise Rejected(f"an attribute of the data set cannot be read ({type(fault).__name__})") from None
        if identity.sop_uid and identity.sop_uid != received.sop_instance_uid:
            raise Rejected("SOP Instance UID differs between request and data set")
        if not received.sop_instance_uid or len(received.sop_instance_uid) > 64:
            raise Rejected("SOP Instance UID is missing or longer than 64 characters")
        verdict = self._route(header, received.association)
        found = self._switches.now()
        modes = dict(changes.modes(found, self._config.modes))
        kept = self._context.spool.adopt(received.path, digest=received.digest)
        try:
            made = receipt.record(
                self._context.database,
                _arrival(received, header, identity, verdict, kept.key, kept_header if verdict.accepted else b""),
                self._orders(verdict, found),
                ageing=AGEING_SECONDS,
                config_digest=self._digest,
                rules_digest=self._rules_digest(modes),
            )
        except CommitUnknown:
            # The row may stand: the file stays too, and `tend` takes it if no row has it.
            log.warning("receipt_failed", spool_key=kept.key)
            raise
        except Exception:  # whatever it was, no row stands; it goes on to the listener, which answers it
            # At once, not as an orphan in a day: senders repeat their films while a database is away.
            log.warning("receipt_failed")
            self._context.spool.remove(kept.key)
            raise
        if not made.new and made.spool_key != kept.key and not self._restored(made, kept):
            self._context.spool.remove(kept.key)
        log.info(
            "received" if made.new else "received_again",
            instance=made.instance_id,
            calling_aet=received.association.calling_aet,
            verdict="accepted" if verdict.accepted else "ignored",
            reason=verdict.reason,
            jobs=list(made.job_ids),
        )
        if made.job_ids:
            rouse(self._context, "infer")
        return Answer(status=SUCCESS)

    def _restored(self, made: receipt.Receipt, kept: Kept) -> bool:
        """Give a film whose bytes are gone those that came again; False where it has them."""
        if made.spool_key is not None and self._context.spool.has(made.spool_key):
            return False
        return receipt.restore(self._context.database, made.instance_id, kept.key, instead_of=made.spool_key)

    def _route(self, header: Header, association: Association) -> Verdict:
        today = datetime.datetime.now(self._zone).date()
        return route(header, association, self._rules, self._words, today)

    def _rules_digest(self, modes: dict[str, str]) -> str:
        key = tuple(modes.items())
        known = self._rules_hash
        if known is None or known[0] != key:
            self._rules_hash = known = (key, self._config.rules_digest(modes))
        return known[1]

    def _orders(self, verdict: Verdict, found: changes.InForce) -> list[Order]:
        if not verdict.accepted or verdict.rule is None:
            return []
        rule, receivers = verdict.rule, self._config.message_receivers
        modes = {name: found.mode_of_jobs(name, self._config.models[name].mode) for name in rule.models}
        return [
            Order(
                model=name,
                mode=mode,
                outputs=rule.outputs,
                send_to=[name for name in rule.send_to if name not in receivers],
                messages_to=[name for name in rule.send_to if name in receivers],
                priority=rule.priority,
            )
            for name, mode in modes.items()
            if mode is not None
        ]


def _arrival(
    received: Received, header: Header, identity: Identity, verdict: Verdict, key: str, kept_header: bytes
) -> Arrival:
    return Arrival(
        sop_instance_uid=received.sop_instance_uid,
        dataset_digest=received.digest,
        sop_class_uid=received.sop_class_uid[:128],
        transfer_syntax_uid=received.transfer_syntax_uid,
        calling_aet=received.association.calling_aet,
        called_aet=received.association.called_aet,
        accepted=verdict.accepted,
        reason=verdict.reason,
        rule=verdict.rule_name,
        header=header.as_json(),
        identity={
            "patient_id": identity.patient_id,
            "issuer": identity.issuer,
            "patient_name": identity.patient_name,
            "birth_date": identity.birth_date,
            "sex": identity.sex,
            "accession": identity.accession,
            "study_instance_uid": identity.study_uid,
            "series_instance_uid": identity.series_uid,
        },
        spool_key=key,
        size=received.size,
        kept_header=kept_header,
    )


def run(context: Context, listening: socket.socket) -> None:
    """Accept associations on the supervisor's socket until the role stops."""
    listen = context.config.listen
    receiver = Receiver(context)
    context.config.node.data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    context.spool.sweep_incoming(_SWEEP_AFTER)
    associations = AssociationLog(context)
    # Reports come at any time, also to a node that was just told not to ask any more.
    reports = [report_handler(lambda report, who: hear(context, report, who))]
    listener = Listener(
        ae_title=context.config.node.ae_title,
        folder=context.spool.incoming,
        admit=receiver.admit,
        receive=receiver.receive,
        shortage=receiver.shortage,
        digests=context.spool.digests,
        adopted=listening,
        max_associations=listen.max_associations,
        seats=Seats(context.config.node.data_dir / "listener.seats", listen.max_associations),
        timeouts=Timeouts(acse=listen.acse_timeout, network=listen.network_timeout, dimse=listen.dimse_timeout),
        max_object=listen.max_instance,
        extra_contexts=[report_context()],
        extra_handlers=reports,
        tls=server_context(Tls(ca=listen.tls.ca, cert=listen.tls.cert, key=listen.tls.key)) if listen.tls else None,
        observe=associations.observe,
    )
    listener.start()
    context.ready()
    while not context.stopping.wait(1.0):
        context.beat()
        associations.write()
    aborted = listener.drain(_DRAIN_SECONDS)
    associations.write()
    log.info("listener_drained", aborted=aborted)
