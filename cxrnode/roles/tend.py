"""The tend role: what must happen from time to time, each duty guarded by a lease row so that one node does it.

What is about a node itself, its disk, each node does for itself. Every duty is idempotent. Nothing here reads a film or
sends one, and no audit row is ever removed.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import structlog
from apscheduler.schedulers.background import BackgroundScheduler

from cxrnode.errors import Transient
from cxrnode.roles.alerts import tell_alerts, watch_alerts, watch_days, watch_disk
from cxrnode.roles.context import Context, rouse
from cxrnode.roles.leases import LeaseKeeper
from cxrnode.roles.notices import say_not_analysed
from cxrnode.roles.repository import tell_activity, tell_repository
from cxrnode.roles.room import RoomWatch, disk_of, queue_of
from cxrnode.roles.rules import configured_words
from cxrnode.roles.sealing import DailySeal
from cxrnode.roles.studies import StudySummaries
from cxrnode.roles.upkeep import Upkeep
from cxrnode.roles.withdraw import make_withdrawals
from cxrnode.store import (
    associations,
    clock,
    commitments,
    deliveries,
    duties,
    erasure,
    fleet,
    jobs,
    retention,
    tallies,
)
from cxrnode.store.audit import note
from cxrnode.store.jobs import Limits

log = structlog.get_logger()

#: A file that no row knows is an orphan after a day: until then its row may still be on its way (design, rule 12).
ORPHAN_SECONDS = 86400.0
#: What a lost association left in `incoming`.
INCOMING_SECONDS = 900.0
#: Between two batches that are counted: whoever waits for the writer's lock gets it.
_BREATH = 0.02
#: How long a lost process stays in the list.
FORGET_SECONDS = 86400.0


def expire_leases(context: Context) -> None:
    """Return what lost workers and senders held to the queues."""
    reading = context.config.reading
    limits = Limits(attempts=reading.max_attempts, losses=2 * reading.max_attempts)
    with context.database.write() as transaction:
        lost_jobs, lost_deliveries = jobs.expire(transaction, limits), deliveries.expire(transaction)
    if lost_jobs:
        rouse(context, "infer")
    if lost_deliveries:
        rouse(context, "send")


def retire(context: Context) -> None:
    """Remove the bytes whose time is over; their rows stay, and each removal is an event."""
    kept = context.config.retention
    periods = retention.Periods(accepted=kept.accepted, ignored=kept.ignored, failed=kept.failed)
    total = 0
    for pass_ in (retention.retire, retention.retire_notes):
        while keys := pass_(context.database, periods, limit=200):
            for key in keys:
                context.spool.remove(key)
            total += len(keys)
    if total:
        log.info("retired", files=total)


def sweep(context: Context) -> None:
    """Remove files that no row knows, a day old or more, after a fresh look-up."""
    batch: list[str] = []
    orphans = 0
    for key in context.spool.keys_older_than(ORPHAN_SECONDS):
        batch.append(key)
        if len(batch) == 500:
            orphans += _remove_orphans(context, batch)
            batch = []
    orphans += _remove_orphans(context, batch)
    _say_swept(context, incoming=0, orphans=orphans)


def sweep_incoming(context: Context) -> None:
    """Remove what lost associations left; beside an object store that lies where no other node sees it."""
    _say_swept(context, incoming=context.spool.sweep_incoming(INCOMING_SECONDS), orphans=0)


def _say_swept(context: Context, *, incoming: int, orphans: int) -> None:
    if incoming or orphans:
        log.warning("swept", incoming=incoming, orphans=orphans)
        with context.database.write() as transaction:
            note(transaction, "orphans_removed", incoming=incoming, orphans=orphans)


def _remove_orphans(context: Context, keys: list[str]) -> int:
    orphans = retention.unknown_keys(context.database, keys)
    for key in orphans:
        context.spool.remove(key)
    return len(orphans)


def mend_clock(context: Context) -> None:
    """Let nothing wait for a database clock that was ahead and went back."""
    reading, sending = context.config.reading, context.config.send
    pause = max(sending.backoff_cap, sending.probe_every, sending.lease)
    rows = clock.mend(
        context.database,
        reading_lease=reading.lease,
        sending_lease=sending.lease,
        longest_pause=pause,
        longest_wait=max(sending.commitment_wait, pause),
    )
    if rows:
        log.warning("clock_went_back", rows=rows, remedy="keep the database's clock in step (NTP)")


def watch_queues(context: Context) -> None:
    """Say what waits for somebody who never comes: a model or node that is configured no more, a person's decision."""
    loaded = fleet.loaded(context.database)
    for model, count in sorted(jobs.waiting(context.database).items()):
        if model not in context.config.models:
            log.error("jobs_stranded", model=model, jobs=count, remedy=f"configure [models.{model}] again")
        elif model not in loaded:
            remedy = "no living node has loaded it: `cxrnode fleet ls`, and `cxrnode check` where it should be"
            log.error("jobs_stranded", model=model, jobs=count, remedy=remedy)
    asked = {name for name, node in context.config.peers.items() if node.commitment}
    unasked = sorted(set(commitments.awaited(context.database)) - asked)
    if unasked and commitments.waive(context.database, unasked, limit=1000):
        log.warning("commitment_waived", destinations=unasked)
    for destination, (count, held) in sorted(deliveries.unsent(context.database).items()):
        if destination not in context.config.nodes:
            remedy = f"configure [nodes.{destination}] again"
            log.error("deliveries_stranded", destination=destination, deliveries=count, remedy=remedy)
        if held:
            remedy = "the same film came under two identities: `cxrnode jobs decide` says which is right"
            log.warning("deliveries_held", destination=destination, deliveries=held, remedy=remedy)


def count_readings(context: Context) -> None:
    """Count what was read, sent and received since the last time, for the series of the QA page."""
    words = configured_words(context.config)
    tallies.count_hours(context.database)
    while tallies.count(context.database, words) and not context.stopping.is_set():
        context.stopping.wait(_BREATH)


def forget_associations(context: Context) -> None:
    """Keep the newest associations alone."""
    associations.prune(context.database)


def watch_fleet(context: Context) -> None:
    """Say which machines were lost, and strike out processes that were lost a day ago."""
    fleet.forget(context.database, after=FORGET_SECONDS)
    for member in fleet.members(context.database):
        if not member.alive:
            remedy = "start it again, or wait a day: others do its work meanwhile"
            log.error("node_silent", node=member.node, silent_s=round(member.silent_for), remedy=remedy)


def erase_identities(context: Context) -> None:
    """Forget whose films they were, once their time is over; each is an event."""
    total = 0
    while not context.stopping.is_set():
        done = erasure.retire(context.database, older=context.config.retention.identity, limit=100)
        for key in done.keys:
            context.spool.remove(key)
        total += len(done.instances)
        if not done.instances:
            break
    if total:
        log.info("identities_erased", films=total)


#: Every duty, and how often it is due, in seconds.
DUTIES: tuple[tuple[str, Callable[[Context], None], float], ...] = (
    ("expire_leases", expire_leases, 10.0),
    ("make_withdrawals", make_withdrawals, 5.0),
    ("say_not_analysed", say_not_analysed, 10.0),
    ("summarise_studies", StudySummaries(), 10.0),
    ("retire", retire, 600.0),
    ("sweep", sweep, 900.0),
    ("watch_room", RoomWatch(queue_of), 10.0),
    ("mend_clock", mend_clock, 60.0),
    ("upkeep", Upkeep(), 120.0),
    ("watch_queues", watch_queues, 300.0),
    ("count_readings", count_readings, 20.0),
    ("forget_associations", forget_associations, 900.0),
    ("watch_fleet", watch_fleet, 60.0),
    ("seal_day", DailySeal(), 600.0),
    ("erase_identities", erase_identities, 3600.0),
    ("watch_alerts", watch_alerts, 15.0),
    ("watch_days", watch_days, 3600.0),
    ("tell_alerts", tell_alerts, 10.0),
    ("tell_repository", tell_repository, 10.0),
)


#: Those of a node alone, which no lease guards.
OWN_DUTIES: tuple[tuple[str, Callable[[Context], None], float], ...] = (
    ("watch_own_room", RoomWatch(disk_of), 10.0),
    ("watch_disk", watch_disk, 15.0),
    ("sweep_incoming", sweep_incoming, 900.0),
)


def perform(context: Context, name: str, duty: Callable[[Context], None], every: float) -> None:
    """Do a duty if no other node does it at the moment; a passing fault waits for the next time.

    It is ours for as long as it takes: a server that is slow to answer must not be told by another node too.
    """
    lease, asked = every * 0.9, time.monotonic()
    take = functools.partial(duties.take, context.database, name, owner=context.owner, seconds=lease)
    try:
        if take():
            with LeaseKeeper[str](lambda _: int(take()), lease=lease) as keeper:
                keeper.hold([name], asked=asked)
                duty(context)
    except Transient as fault:
        log.warning("duty_waits", duty=name, reason=str(fault))


def perform_own(context: Context, name: str, duty: Callable[[Context], None]) -> None:
    """Do what each node does for itself; a passing fault waits for the next time."""
    try:
        duty(context)
    except Transient as fault:
        log.warning("duty_waits", duty=name, reason=str(fault))


def run(context: Context) -> None:
    """Schedule the duties until the role stops."""
    scheduler = BackgroundScheduler(job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": 60})
    for name, duty, every in DUTIES:
        scheduler.add_job(functools.partial(perform, context, name, duty, every), "interval", seconds=every, id=name)
    for name, duty, every in OWN_DUTIES:
        scheduler.add_job(functools.partial(perform_own, context, name, duty), "interval", seconds=every, id=name)
    scheduler.start()
    context.ready()
    tell_activity(context, started=True)
    while not context.stopping.wait(1.0):
        context.beat()
    scheduler.shutdown(wait=True)
    tell_activity(context, started=False)
