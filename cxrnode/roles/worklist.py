"""The worklist role: the films that a worklist says are to be read are claimed, fetched, and taken in. Never torch.

It stands beside `receive`: what it fetches goes the same way, rules and gate included, and its result to where the rule
says. The worklist is told what is under way, and at the end what was made, or why nothing was (IHE AIW-I, Task
Performer). A request to cancel is heard over the event channel, and honoured as long as something can be left undone.
Of many nodes one works off a worklist at a time.
"""

from __future__ import annotations

import dataclasses
import secrets

import structlog

from cxrnode.config import Config, RemoteNode, StowNode
from cxrnode.core.findings import Concept
from cxrnode.core.routing import Association
from cxrnode.dicom import ups, wado
from cxrnode.dicom.destination import Place
from cxrnode.dicom.header import dataset_digest, dataset_offset
from cxrnode.dicom.incoming import PREFIX, SUFFIX
from cxrnode.dicom.listener import Received
from cxrnode.dicom.part10 import Part10
from cxrnode.dicom.ups import Made, NotOurs, StepState, Workitem, Worklist
from cxrnode.dicom.ups_events import Channel, EventType, Heard
from cxrnode.errors import Rejected, Transient
from cxrnode.https import HttpClient
from cxrnode.roles.context import Context, work_until_stopped
from cxrnode.roles.receive import Receiver
from cxrnode.store import duties, withdrawals, workitems
from cxrnode.store.withdrawals import Cause
from cxrnode.store.workitems import Stage, Step
from cxrnode.wakeup import Waiter

log = structlog.get_logger()

#: How often to look whether something that was fetched is at rest, in seconds.
POLL_SECONDS = 1.0
#: For how long one process works off a worklist before another may, in seconds.
_DUTY_SECONDS = 60.0
#: The pause after a passing fault of one step, in seconds.
_PAUSE = 10.0
#: Steps of a worklist under way at the same time, at most: what is claimed here no other performer can take.
_MOST = 50
#: Said of a step, and of its jobs, that somebody wanted cancelled.
_NOT_WANTED = "the worklist was asked to cancel the step"
#: Of a Part 10 file, where its meta information is looked for, in bytes.
_META = 64 * 1024


@dataclasses.dataclass(slots=True, kw_only=True)
class Source:
    """One configured worklist, where it is asked and where its films are fetched."""

    name: str
    where: str
    aet: str
    worklist: Worklist
    films: HttpClient
    #: What the worklist says by itself; None where it is not to be asked for that.
    channel: Channel | None
    poll_every: float
    #: When it is to be asked next for what is new, on the database's clock.
    next_at: float = 0.0
    #: The last fault of asking, and of listening, so that each is told once.
    trouble: str = ""
    deaf: str = ""


class Performer:
    """Works off the configured worklists."""

    def __init__(self, context: Context) -> None:
        """Connect lazily. Raises ConfigError where TLS files or a secret cannot be used."""
        self._context = context
        self._receiver = Receiver(context)
        self._sources = [_source(context.config, name) for name in context.config.worklists]

    def turn(self) -> bool:
        """Look at each worklist once; whether one moved on. Raises Transient where database or spool are away."""
        moved = False
        for source in self._sources:
            self._context.beat()
            if self._context.stopping.is_set():
                return False
            if duties.take(
                self._context.database, f"worklist {source.name}"[:64], owner=self._context.owner, seconds=_DUTY_SECONDS
            ):
                moved |= self._work_off(source)
            elif source.channel is not None:
                source.channel.close()  # another process has the worklist now, and hears what it says
        return moved

    def _work_off(self, source: Source) -> bool:
        moved = self._listen(source)
        for step in workitems.under_way(self._context.database, source.name, limit=_MOST):
            self._context.beat()
            if self._context.stopping.is_set():
                return moved
            moved |= self._step(source, step)
        return moved | self._look_for_more(source)

    def _listen(self, source: Source) -> bool:
        """Take in what the worklist says by itself; whether something is to be stopped."""
        if source.channel is None:
            return False
        stopped = False
        try:
            for heard in source.channel.heard():
                stopped |= self._hear(source, heard)
        except Transient as fault:
            if source.deaf != str(fault):
                log.warning("worklist_not_heard", worklist=source.name, reason=str(fault))
            source.deaf = str(fault)
        else:
            source.deaf = "" if source.channel.is_open else source.deaf
        return stopped

    def _follow(self, source: Source, step: Step) -> None:
        """Hear of a step that was claimed. Where that cannot be it is worked off all the same."""
        try:
            if source.channel is not None:
                source.channel.follow(step.uid)
        except Transient as fault:
            log.warning("worklist_not_heard", worklist=source.name, workitem=step.id, reason=str(fault))

    def _hear(self, source: Source, heard: Heard) -> bool:
        """Act on one event report. What the requester says in words stays unheard: it may name a person."""
        match heard:
            case Heard(type=EventType.CANCEL_REQUESTED) | Heard(type=EventType.STATE, state=StepState.CANCELED):
                step = workitems.stop(self._context.database, source.name, heard.uid)
                if step is not None:
                    log.warning("workitem_moved", worklist=source.name, workitem=step.id, stage=str(Stage.STOPPING))
                return step is not None
            case Heard(type=EventType.STATE, state=StepState.SCHEDULED) | Heard(type=EventType.ASSIGNED):
                source.next_at = 0.0  # there may be more to do
        return False

    def _look_for_more(self, source: Source) -> bool:
        """Claim what nobody has claimed: as many steps as may be under way, and none while no film could come."""
        with self._context.database.read() as transaction:
            now = transaction.now
        if now < source.next_at or self._receiver.shortage():
            return False
        source.next_at = now + source.poll_every
        room = _MOST - workitems.count_under_way(self._context.database, source.name)
        if room <= 0:
            return False
        try:
            found = source.worklist.scheduled(limit=room)
        except Transient as fault:
            if source.trouble != str(fault):
                log.warning("worklist_away", worklist=source.name, reason=str(fault))
            source.trouble = str(fault)
            return False
        source.trouble = ""
        moved = False
        for one in found:
            step = workitems.ask_for(self._context.database, source.name, one.uid)
            if step is not None:
                moved |= self._step(source, step)
        return moved

    def _step(self, source: Source, step: Step) -> bool:
        """Bring a step on by one stage. A fault of its own costs no other step anything."""
        try:
            match step.stage:
                case Stage.ASKED:
                    source.worklist.claim(step.uid, step.transaction_uid)
                    self._follow(source, step)
                    self._move(source, step, Stage.OURS)
                    return True
                case Stage.OURS:
                    return self._fetch(source, step)
                case Stage.STOPPING:
                    return self._stop(source, step)
                case _:
                    return self._tell(source, step)
        except NotOurs:
            self._move(source, step, Stage.LOST, reason="somebody else claimed it, or it is over")
            return True
        except Transient as fault:
            workitems.postpone(self._context.database, step, str(fault), pause=_PAUSE)
            log.warning("workitem_waits", worklist=source.name, workitem=step.id, reason=str(fault))
            return False

    def _fetch(self, source: Source, step: Step) -> bool:
        """Take in the films of a claimed step. One that cannot be had ends the step: half of it would mislead."""
        workitem = source.worklist.look(step.uid)
        if not workitem.inputs:
            self._cancel(source, step, ups.OBJECTS_MISSING, "the workitem names no instance by its UIDs")
            return True
        for place in workitem.inputs:
            self._context.beat()
            try:
                self._take_in(source, step, place)
            except Rejected as fault:
                self._cancel(source, step, ups.OBJECTS_MISSING, str(fault))
                return True
        source.worklist.tell(step.uid, step.transaction_uid, "films received", percent=25)
        self._move(source, step, Stage.FETCHED)
        return True

    def _take_in(self, source: Source, step: Step, place: Place) -> None:
        """Fetch one film and receive it. Raises Rejected, Transient."""
        context = self._context
        path = context.spool.incoming / f"{PREFIX}{secrets.token_hex(12)}{SUFFIX}"
        try:
            with path.open("xb") as file:
                wado.fetch(source.films, place, file.write, largest=context.config.listen.max_instance)
            with path.open("rb") as file:
                meta = Part10.of(file.read(_META))
            if meta.sop_instance_uid != place.sop_instance_uid:
                raise Rejected("the server gave another instance than the one that was asked for")
            digest = dataset_digest(path, context.spool.digests)
            self._receiver.receive(
                Received(
                    path=path,
                    sop_class_uid=meta.sop_class_uid,
                    sop_instance_uid=meta.sop_instance_uid,
                    transfer_syntax_uid=meta.transfer_syntax_uid,
                    association=Association(
                        calling_aet=source.aet, called_aet=context.config.node.ae_title, host=source.films.host
                    ),
                    size=path.stat().st_size,
                    dataset_offset=dataset_offset(path),
                    digest=digest,
                )
            )
        except OSError as error:
            raise Transient(f"the spool cannot keep a file: {error.strerror}") from error
        finally:
            path.unlink(missing_ok=True)
        workitems.add_film(context.database, step, sop_instance_uid=place.sop_instance_uid, dataset_digest=digest)

    def _tell(self, source: Source, step: Step) -> bool:
        """Say what was made once all of it rests."""
        found = workitems.progress(self._context.database, step)
        if not found.at_rest:
            return False
        if not found.read:
            why = ups.OBJECTS_NOT_SUPPORTED if found.refused and not found.failed else ups.UNSPECIFIED
            self._cancel(source, step, why, "; ".join(found.reasons) or "no model reads these films")
            return True
        with self._context.database.read() as transaction:
            now = transaction.now
        workitem: Workitem = source.worklist.look(step.uid)
        made = [self._made(one) for one in found.sent]
        source.worklist.complete(workitem, step.transaction_uid, made, began=step.created_at, ended=now)
        self._move(source, step, Stage.COMPLETED)
        return True

    def _stop(self, source: Source, step: Step) -> bool:
        """Leave a step undone that is not wanted any more. One of which all was read and sent is told as done."""
        found = workitems.progress(self._context.database, step)
        if found.at_rest and found.read:
            return self._tell(source, step)
        for job in workitems.undone(self._context.database, step, came_from=source.aet):
            cause = Cause(rejection="quality", note=_NOT_WANTED, by=f"worklist {source.name}")
            try:
                withdrawals.withdraw(self._context.database, job, cause)
            except Rejected as fault:  # somebody was quicker, or it turned out to be a duplicate
                log.info("workitem_job_stays", worklist=source.name, workitem=step.id, job=job, reason=str(fault))
        self._cancel(source, step, ups.UNSPECIFIED, _NOT_WANTED)
        return True

    def _made(self, one: workitems.Sent) -> Made:
        nodes = [self._context.config.nodes.get(name) for name in one.destinations]
        return Made(
            place=Place(
                study_instance_uid=one.study_instance_uid,
                series_instance_uid=one.series_instance_uid,
                sop_instance_uid=one.sop_instance_uid,
            ),
            sop_class_uid=one.sop_class_uid,
            ae_titles=tuple(node.aet for node in nodes if isinstance(node, RemoteNode)),
            urls=tuple(node.url.rstrip("/") for node in nodes if isinstance(node, StowNode)),
        )

    def _cancel(self, source: Source, step: Step, why: Concept, words: str) -> None:
        with self._context.database.read() as transaction:
            now = transaction.now
        source.worklist.cancel(step.uid, step.transaction_uid, why, words, at=now)
        self._move(source, step, Stage.CANCELED, reason=words)

    def _move(self, source: Source, step: Step, stage: Stage, *, reason: str = "") -> None:
        workitems.move(self._context.database, step, stage, reason=reason)
        say = log.warning if stage in (Stage.CANCELED, Stage.LOST) else log.info
        say("workitem_moved", worklist=source.name, workitem=step.id, stage=str(stage), reason=reason)

    def close(self) -> None:
        """End the connections."""
        for source in self._sources:
            source.films.close()
            if source.channel is not None:
                source.channel.close()


def reach(config: Config, name: str) -> str:
    """Ask a worklist once; return in words how it answered. Raises ConfigError, Transient."""
    source = _source(config, name)
    found = source.worklist.scheduled(limit=100)
    return f"{source.where} answers; scheduled for this node: {len(found)}{'' if len(found) < 100 else ' or more'}"


def _source(config: Config, name: str) -> Source:
    given = config.worklists[name]

    def client(url: str) -> HttpClient:
        return HttpClient(
            url,
            what=f"the worklist {name}",
            auth=given.auth,
            tls=given.tls,
            connect_timeout=given.connect_timeout,
            timeout=given.timeout,
        )

    asked = client(given.url)
    return Source(
        name=name,
        where=asked.where,
        aet=given.aet,
        worklist=Worklist(asked, ae_title=config.node.ae_title, match=given.match),
        films=client(given.films_url or given.url),
        channel=Channel(
            client(given.url),
            ae_title=config.node.ae_title,
            match=given.match,
            connect_timeout=given.connect_timeout,
        )
        if given.subscribe
        else None,
        poll_every=given.poll_every,
    )


def run(context: Context) -> None:
    """Work off the worklists until the role stops."""
    performer = Performer(context)
    try:
        with Waiter(context.config.node.data_dir, "worklist") as waiter:
            context.ready()
            work_until_stopped(context, waiter, performer.turn, poll=POLL_SECONDS)
    finally:
        performer.close()
