"""The infer role: films become reports and outputs. The one role that loads torch, unless a server reads for it.

A film is decoded in a child that may die; everything that stands after a reading is durable in the spool before the
one transaction that makes the job `reported`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import traceback
from collections.abc import Callable, Sequence

import structlog

from cxrnode.core.findings import Outcome
from cxrnode.dicom.decoder import Decoder, DecoderDied
from cxrnode.errors import LeaseLost, Rejected, Transient
from cxrnode.reading.readings import Engine, Reading
from cxrnode.reading.remote import RemoteEngine
from cxrnode.roles.context import Context, rouse, roused, work_until_stopped
from cxrnode.roles.film import Seen, look_at, report_of
from cxrnode.roles.leases import LeaseKeeper
from cxrnode.roles.line import Line
from cxrnode.roles.models import EngineBroken, Loaded, load_models, out_of_memory, require_engine
from cxrnode.roles.publish import Publisher, Ready
from cxrnode.roles.rules import configured_words
from cxrnode.store import changes, jobs, reports
from cxrnode.store.database import CommitUnknown
from cxrnode.store.jobs import Claim, Limits
from cxrnode.store.reports import Settled

log = structlog.get_logger()

POLL_SECONDS = 1.0
#: The pause before a film is tried again after a fault, in seconds.
_PAUSE = 2.0
#: Below so much room, in bytes, no film is claimed: its outputs would not fit. `receive` stops long before.
_LEAST_ROOM = 64 << 20
#: What the outputs of one film take at most, in bytes: three pictures of 1,200 px, a summary and a report.
_FILM_ROOM = 12 << 20
#: A batch is one part in so many of what waits, up to `reading.batch`: then one is read while others are looked at.
_SPREAD = 3
#: So many films at most are taken where none is under way, then as many as are: the later steps have work the sooner.
_FIRST = 2
#: So many films at most are settled in one transaction: the first of them waits for the outputs of the last.
_TOGETHER = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Looked:
    """The films of one model in a batch, as far as they were looked at, and who keeps their leases."""

    model: Loaded
    seen: Sequence[Seen]
    keeper: LeaseKeeper[Claim]


class FilmReader:
    """Reads claimed films and settles their jobs."""

    def __init__(self, context: Context) -> None:
        """Load every configured model. Raises BundleError where none can be used."""
        self._context = context
        reading = context.config.reading
        self._limits = Limits(attempts=reading.max_attempts, losses=2 * reading.max_attempts)
        self._decoder = Decoder(timeout=reading.decode_timeout, memory=reading.decode_memory)
        self._publisher = Publisher(context)
        self._words = configured_words(context.config)
        self._line = Line(self._read_batch, self._settle_batch)
        self._models = load_models(context, warm=self._line.run)
        #: How many films are read together: fewer than configured once the device's memory did not do for them.
        self._most = reading.batch
        #: The last passing fault of this turn, "" without one.
        self._waits = ""
        #: Models whose server cannot read for them now: their films wait in the queue.
        self._away: set[str] = set()

    def turn(self, keeper: LeaseKeeper[Claim]) -> bool:
        """Claim batch after batch until nothing waits, and settle each of their jobs; False where nothing waited.

        A batch is read while the one before it is settled and the next is decoded. Raises Transient where a passing
        fault met a film: the cause is around the films, and they can wait for it to pass; EngineBroken, with every job
        back in the queue, where no film can be read.
        """
        asked = time.monotonic()
        claims = self._claim(len(keeper.held))
        if not claims:
            return False
        self._waits = ""
        try:
            while claims:
                keeper.hold(claims, asked=asked)
                suspect = any(claim.suspect for claim in claims)
                if suspect:  # what breaks now is its doing and costs nobody else an attempt (design, rule 7)
                    self._line.drain()
                models = dict.fromkeys(claim.model for claim in claims)
                self._line.put([self._look_at([c for c in claims if c.model == m], m, keeper) for m in models])
                if suspect:
                    self._line.drain()
                if self._waits or self._context.stopping.is_set():
                    break
                asked = time.monotonic()
                try:
                    claims = self._claim(len(keeper.held))
                except Transient:
                    self._line.drain()  # a fault in the line is the graver one, whichever came first
                    raise
            self._line.drain()
        except EngineBroken:
            self._end_line()
            for claim in keeper.held:
                self._give_back(claim, keeper)
            raise
        except BaseException:  # an interrupt too: the threads of the line end before the role does; it goes on
            self._end_line()
            raise
        finally:
            for claim in keeper.held:
                keeper.drop(claim)
        if self._waits:
            raise Transient(self._waits)
        return True

    def _end_line(self) -> None:
        """Wait for what is under way; its fault is known already, or is the same again."""
        with contextlib.suppress(Exception):
            self._line.drain()

    def _claim(self, held: int) -> list[Claim]:
        """The next batch. One film alone is taken at once; of many, so few that the steps of the line overlap.

        `held` films are in the line: where the disk is short, no more are taken than have room for their outputs.
        """
        reading = self._context.config.reading
        found = changes.in_force(self._context.database)  # looked up each time: who stopped the queue sees it stand
        if found.paused(changes.READING):
            return []
        modes = {name: found.mode(name, mode) for name, mode in self._context.config.modes.items()}
        room = self._context.spool.free() - min(_LEAST_ROOM, self._context.config.spool.min_free)
        if room < 0:
            raise Transient("no room in the spool for outputs; free space")
        most = min(self._most, 1 + room // _FILM_ROOM - held, max(_FIRST, held))
        if most < 1:
            return []
        return jobs.claim(
            self._context.database,
            owner=self._context.owner,
            models={
                name: one.bundle.digest
                for name, one in self._models.items()
                if modes[name] != "disabled" and self._can_read(name, one.engine)
            },
            engine={name: one.engine.name for name, one in self._models.items()},
            limit=most,
            lease=reading.lease,
            limits=self._limits,
            spread=_SPREAD,
            modes=modes,
        )

    def _can_read(self, name: str, engine: Engine) -> bool:
        """Whether films may be claimed for a model; a server that is away keeps no other model's films waiting."""
        if not isinstance(engine, RemoteEngine):
            return True
        good = engine.ready()
        if not good and name not in self._away:
            self._away.add(name)
            log.error("engine_away", model=name, engine=engine.name, reason=engine.trouble)
        elif good and name in self._away:
            self._away.remove(name)
            log.info("engine_back", model=name, engine=engine.name)
        return good

    def _look_at(self, claims: Sequence[Claim], name: str, keeper: LeaseKeeper[Claim]) -> Looked:
        seen: list[Seen] = []
        model = self._models[name]
        for claim in claims:
            if self._context.stopping.is_set():
                self._give_back(claim, keeper)
                continue
            self._context.beat()
            self._guard(claim, keeper, functools.partial(self._look, claim, model, seen, keeper))
        return Looked(model=model, seen=seen, keeper=keeper)

    def _read_batch(self, batch: Sequence[Looked]) -> list[tuple[Looked, dict[int, Reading | None]]]:
        """The forward pass, a model after the other. Raises EngineBroken."""
        return [(one, self._read(one)) for one in batch]

    def _read(self, looked: Looked) -> dict[int, Reading | None]:
        clear = [one for one in looked.seen if one.film is not None and not one.reason]
        try:
            read = self._forward(clear, looked.model, looked.keeper)
        except Transient as away:  # the server is away, or has another model: no film's fault
            for one in clear:
                self._fault(one.claim, str(away), counts=False)
                looked.keeper.drop(one.claim)
            return {}
        except EngineBroken as broken:
            for one in clear:
                # One of these may have broken it: each comes again alone, and counts where it was alone already.
                self._fault(one.claim, str(broken), counts=one.claim.alone, alone=True)
                looked.keeper.drop(one.claim)
            raise
        return dict(zip((one.claim.job_id for one in clear), read, strict=True))

    def _settle_batch(self, batch: Sequence[tuple[Looked, dict[int, Reading | None]]]) -> None:
        for looked, readings in batch:
            for start in range(0, len(looked.seen), _TOGETHER):
                self._settle_some(looked.seen[start : start + _TOGETHER], readings, looked)

    def _settle_some(self, seen: Sequence[Seen], readings: dict[int, Reading | None], looked: Looked) -> None:
        """Make what some films give, then settle their jobs in one transaction where they are plain."""
        keeper, ready = looked.keeper, list[tuple[Ready, float]]()
        # Without a reading or a reason the forward pass failed, and the job is settled.
        read = [one for one in seen if one.reason or readings.get(one.claim.job_id) is not None]
        places = self._taking_a_place(read)
        for one in read:
            self._context.beat()
            if self._context.stopping.is_set():  # to read it again costs less than a kill in the middle of a settle
                self._give_back(one.claim, keeper)
                continue
            reading, takes = readings.get(one.claim.job_id), places is None or one.claim.job_id in places
            step = functools.partial(self._prepare, one, reading, looked.model, ready, takes_a_place=takes)
            self._guard(one.claim, keeper, step)
        try:
            done = self._publisher.settle_together([one for one, _ in ready])
        except CommitUnknown as lost:
            self._waits = str(lost)
            for made, _ in ready:
                self._fault(made.finished.held, str(lost), counts=False)
                keeper.drop(made.finished.held)
            return
        to_send: list[int] = []
        for made, started in ready:
            held = made.finished.held
            self._guard(held, keeper, functools.partial(self._settle, made, done.get(held.job_id), started, to_send))
            keeper.drop(held)
        if to_send:
            rouse(self._context, "send")

    def _taking_a_place(self, seen: Sequence[Seen]) -> frozenset[int] | None:
        """Which jobs take the place of something that was sent; None where the database does not say now."""
        try:
            ids = [one.claim.job_id for one in seen]
            return reports.taking_a_place(self._context.database, ids) if ids else frozenset()
        except Transient:
            return None

    def _forward(self, seen: Sequence[Seen], model: Loaded, keeper: LeaseKeeper[Claim]) -> list[Reading | None]:
        """Read the films together; where that fails, each alone, so that one film's fault stays its own.

        Where the device's memory does not do for them, half of them at a time, from now on.
        """
        displays = [one.film.display for one in seen if one.film is not None]
        if not displays:
            return []
        try:
            return list(model.engine.read(displays))
        except (Rejected, RuntimeError) as fault:
            crowded = out_of_memory(fault)
            if len(seen) > 1:
                piece = (len(seen) + 1) // 2 if crowded else 1
                self._most = min(self._most, piece) if crowded else self._most
                log.warning("batch_split", films=len(seen), into=piece, error=type(fault).__name__)
                parts = (seen[start : start + piece] for start in range(0, len(seen), piece))
                return [reading for part in parts for reading in self._forward(part, model, keeper)]
            require_engine(model)
            if crowded:  # all films are read at one size: somebody else had the device's memory
                self._waits = "the device has no memory for a single film"
                self._fault(seen[0].claim, self._waits, counts=False)
                keeper.drop(seen[0].claim)
                return [None]
            reason = str(fault) if isinstance(fault, Rejected) else f"the forward pass failed ({type(fault).__name__})"
            log.error("model_fault", job=seen[0].claim.job_id, reason=reason)
            self._park(seen[0].claim, reason)
            keeper.drop(seen[0].claim)
            return [None]

    def _give_back(self, claim: Claim, keeper: LeaseKeeper[Claim]) -> None:
        self._guard(claim, keeper, functools.partial(jobs.give_back, self._context.database, claim))
        keeper.drop(claim)

    def _look(self, claim: Claim, model: Loaded, seen: list[Seen], keeper: LeaseKeeper[Claim]) -> None:
        """Decode one film, end it here if it is a duplicate, and say why it is not to be read if so."""
        if claim.spool_key is None:
            raise Rejected("retention removed the film before it was read; send it again")
        with self._context.spool.borrow(claim.spool_key) as path:
            film = look_at(self._context, path, claim, model.bundle, self._decoder, self._words, self._limits)
        if film is None:
            keeper.drop(claim)
        else:
            seen.append(film)

    def _prepare(
        self,
        one: Seen,
        reading: Reading | None,
        model: Loaded,
        ready: list[tuple[Ready, float]],
        *,
        takes_a_place: bool,
    ) -> None:
        started = time.monotonic()
        report = report_of(self._context, one, reading, model)
        saliency = reading.saliency if reading is not None and report.outcome is Outcome.ANALYSED else None
        made = self._publisher.prepare(one.claim, report, one.source, one.film, saliency, takes_a_place=takes_a_place)
        ready.append((made, started))

    def _settle(self, ready: Ready, settled: Settled | None, started: float, to_send: list[int]) -> None:
        """Settle one job unless it is settled, and tell what became of it; one that may be sent is put to `to_send`."""
        settled = settled or self._publisher.settle(ready)
        held, report = ready.finished.held, ready.finished.report
        if settled.dispute.others:
            policy = self._context.config.corrections.on_identity_change
            remedy = (
                "say which is right: `cxrnode jobs decide`" if policy == "hold" else "the one received last is right"
            )
            others = list(settled.dispute.others)
            log.error("identity_changed", job=held.job_id, others=others, policy=policy, remedy=remedy)
        if settled.stands and held.mode == "active":
            to_send.append(held.job_id)
        log.info(
            "reported" if settled.stands else "duplicate",
            job=held.job_id,
            outcome=str(report.outcome),
            reason=report.reason,
            settle_ms=round(1000 * (time.monotonic() - started)),
        )

    def _guard(self, claim: Claim, keeper: LeaseKeeper[Claim], step: Callable[[], None]) -> None:
        """Run one step of one film; whatever goes wrong settles that film's job and nobody else's."""
        try:
            step()
            return
        except LeaseLost as lost:
            log.warning("lease_lost", job=claim.job_id, reason=str(lost))
        except DecoderDied as died:
            self._fault(claim, str(died), counts=True)
        except Transient as fault:
            self._waits = str(fault)
            self._fault(claim, str(fault), counts=False)
        except Rejected as fault:
            self._park(claim, str(fault))
        except Exception as bug:  # noqa: BLE001 - a bug parks the one film it met, and is told with its place
            where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(bug.__traceback__)]
            log.error("bug", job=claim.job_id, error=type(bug).__name__, where=where)
            self._park(claim, f"an internal fault ({type(bug).__name__}); the log says where")
        keeper.drop(claim)

    def _fault(self, claim: Claim, reason: str, *, counts: bool, alone: bool = False) -> None:
        try:
            parked = jobs.fault(
                self._context.database,
                claim,
                reason,
                pause=_PAUSE,
                limits=self._limits,
                counts=counts,
                alone=alone or counts or claim.alone,
            )
            log.error("parked" if parked else "faulted", job=claim.job_id, reason=reason)
        except (LeaseLost, Transient) as lost:
            log.warning("lease_lost", job=claim.job_id, reason=str(lost))

    def _park(self, claim: Claim, reason: str) -> None:
        try:
            jobs.park(self._context.database, claim, reason)
            log.error("parked", job=claim.job_id, reason=reason)
        except (LeaseLost, Transient) as lost:
            log.warning("lease_lost", job=claim.job_id, reason=str(lost))

    def close(self) -> None:
        """End the decode child and the threads."""
        self._line.close()
        self._decoder.close()


def run(context: Context) -> None:
    """Read films until the role stops."""
    lease = context.config.reading.lease
    reader = FilmReader(context)
    try:
        with (
            roused(context, "infer") as waiter,
            LeaseKeeper[Claim](lambda held: jobs.renew(context.database, held, lease=lease), lease=lease) as keeper,
        ):
            context.ready()
            work_until_stopped(context, waiter, lambda: reader.turn(keeper), poll=POLL_SECONDS)
    finally:
        reader.close()
