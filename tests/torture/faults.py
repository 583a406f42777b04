"""The faults: each strikes once, at a moment of its own choosing, and is over when it returns.

`STRIKES` are those of processes, database and clock, one at a time; `MOODS` are those of the peers, which last a
while and go on beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from cxrnode.core.lifecycle import JobState
from cxrnode.errors import Rejected, Transient
from cxrnode.store import jobs, resend, withdrawals
from cxrnode.store.jobs import Reader
from cxrnode.store.schema import job
from cxrnode.store.withdrawals import Cause
from tests.peers import Answer, Orthanc, Postgres, RecordingScp
from tests.torture.line import Line, Mood
from tests.torture.node import DIMSE, LEASE, TorturedSite, is_ours, stopped

#: What a role has in its hands where a kill hurts most.
BUSY = {"receive": "receiving", "infer": "job reading", "send": "delivery sending"}


@dataclasses.dataclass(slots=True, kw_only=True)
class World:
    """All that can be hurt, and the tally of what was."""

    site: TorturedSite
    pacs: RecordingScp
    #: In front of the PACS, and in front of the node.
    pacs_line: Line
    door: Line
    archive: Orthanc
    cluster: Postgres | None
    #: Faults that wait for something to strike: the senders need not keep to the pace meanwhile.
    hungry: set[int] = dataclasses.field(default_factory=set)
    #: Makes a sender send again what was acknowledged already; set once there are senders.
    send_again: Callable[[random.Random], None] = lambda chance: None
    #: How often each fault struck.
    struck: Counter[str] = dataclasses.field(default_factory=Counter)
    #: (fault, state) -> how often a fault struck while something was in that state.
    hits: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    def note(self, fault: str, moment: Counter[str]) -> None:
        """Count a fault and what it struck."""
        self.struck[fault] += 1
        self.hits.update({(fault, state): 1 for state in moment})


#: Lets a fault happen; True if it struck something.
Strike = Callable[[World, random.Random], bool]


def _stir(world: World, wanted: str, chance: random.Random) -> None:
    """Make something to strike, where no film is left: one is sent, read or its result sent once more."""
    with contextlib.suppress(Transient, Rejected):
        if wanted == "receiving":
            world.send_again(chance)
            return
        done = sa.select(job.c.id).where(job.c.state == JobState.DELIVERED, job.c.mode == "active")
        ids = [row.id for row in world.site.rows(done.order_by(job.c.id))]
        if ids and wanted == "job reading":
            _retry(world, chance.choice(ids))
        elif ids:
            resend.resend(world.site.database, chance.choice(ids), reason="torture", by="torture")


def _busy(world: World, role: str, chance: random.Random, seconds: float = 90.0) -> Counter[str]:
    """The moment at which the role has something in hand, or the one after `seconds`."""
    wanted = BUSY.get(role)
    began = stirred = time.monotonic()
    try:
        while True:
            moment = world.site.moment()
            now = time.monotonic()
            if wanted is None or moment[wanted] or now - began > seconds:
                return moment
            world.hungry.add(threading.get_ident())
            if now - stirred > 5.0:
                _stir(world, wanted, chance)
                stirred = time.monotonic()
    finally:
        world.hungry.discard(threading.get_ident())


def _kill(role: str) -> Strike:
    def strike(world: World, chance: random.Random) -> bool:
        pid = world.site.running(role)
        moment = _busy(world, role, chance)
        if pid is None or not is_ours(pid):
            return False
        os.kill(pid, signal.SIGKILL)
        world.note(f"kill {role}", moment)
        return True

    return strike


def _stop(role: str) -> Strike:
    """SIGSTOP for longer than a lease: it is woken when another may have taken over."""

    def strike(world: World, chance: random.Random) -> bool:
        pid = world.site.running(role)
        moment = _busy(world, role, chance)
        if pid is None or not is_ours(pid):
            return False
        world.note(f"stop {role}", moment)
        seconds, over = chance.uniform(1.2, 2.5) * LEASE, threading.Event()
        watching = threading.Thread(target=_watch, args=(world, role, random.Random(chance.random()), moment, over))
        watching.start()
        stopped(pid, seconds)
        over.set()
        watching.join()
        return True

    return strike


def _watch(world: World, role: str, chance: random.Random, moment: Counter[str], over: threading.Event) -> None:
    """Count what comes to stand while nobody reads: a node that reads at once has nothing queued at most moments."""
    if role != "infer":
        return
    world.hungry.add(threading.get_ident())
    seen: set[str] = set()
    try:
        _stir(world, BUSY[role], chance)
        while not over.wait(0.2):
            seen |= set(world.site.moment())
    except Exception:  # noqa: BLE001 - another fault may strike the database meanwhile: what was seen was seen
        pass
    finally:
        world.hungry.discard(threading.get_ident())
    world.hits.update({(f"stop {role}", state): 1 for state in seen - set(moment)})


def _kill_supervisor(world: World, chance: random.Random) -> bool:
    world.note("kill supervisor", world.site.moment())
    world.site.restart()
    return True


def _crash_database(how: signal.Signals, name: str) -> Strike:
    def strike(world: World, chance: random.Random) -> bool:
        if world.cluster is None:
            return False
        world.note(name, world.site.moment())
        world.cluster.crash(how)
        time.sleep(chance.uniform(0.2, 4.0))
        world.cluster.run()
        return True

    return strike


def _move_clock(name: str, least: float, most: float) -> Strike:
    """The database's clock jumps, stays so for a while, and jumps back."""

    def strike(world: World, chance: random.Random) -> bool:
        world.note(name, world.site.moment())
        world.site.clock.set(chance.uniform(least, most))
        time.sleep(chance.uniform(1.0, 6.0))
        world.site.clock.set(0.0)
        return True

    return strike


def _kill_archive(world: World, chance: random.Random) -> bool:
    world.note("kill archive", world.site.moment())
    world.archive.kill()
    time.sleep(chance.uniform(0.5, 5.0))
    world.archive.start()
    return True


def _person(name: str, act: Callable[[World, int], object]) -> Strike:
    """Somebody corrects a result that was sent."""

    def strike(world: World, chance: random.Random) -> bool:
        done = sa.select(job.c.id).where(job.c.state == JobState.DELIVERED, job.c.mode == "active")
        with contextlib.suppress(Transient, Rejected):
            ids = [row.id for row in world.site.rows(done.order_by(job.c.id))]
            if not ids:
                return False
            moment = world.site.moment()
            act(world, chance.choice(ids))
            world.note(name, moment)
            return True
        return False

    return strike


def _retry(world: World, job_id: int) -> None:
    jobs.retry(world.site.database, job_id, reason="torture", by="torture", reader=Reader(model="chest", mode="active"))


def _withdraw(world: World, job_id: int) -> None:
    withdrawals.withdraw(world.site.database, job_id, Cause(rejection="quality", note="torture", by="torture"))


STRIKES: Mapping[str, Strike] = {
    "kill receive": _kill("receive"),
    "kill infer": _kill("infer"),
    "kill send": _kill("send"),
    "kill tend": _kill("tend"),
    "kill supervisor": _kill_supervisor,
    "stop receive": _stop("receive"),
    "stop infer": _stop("infer"),
    "stop send": _stop("send"),
    "stop tend": _stop("tend"),
    "stop supervisor": _stop("supervisor"),
    "kill database": _crash_database(signal.SIGKILL, "kill database"),
    "restart database": _crash_database(signal.SIGQUIT, "restart database"),
    "clock ahead": _move_clock("clock ahead", 60.0, 7200.0),
    "clock behind": _move_clock("clock behind", -7200.0, -1.0),
    "kill archive": _kill_archive,
    "a person retries": _person("a person retries", _retry),
    "a person withdraws": _person("a person withdraws", _withdraw),
}
#: What a short run leaves out.
LONG = frozenset({"PACS away for minutes"})
#: Those that need PostgreSQL.
OF_A_SERVER = frozenset({"kill database", "restart database"})


def _while(
    world: World, over: Callable[[], bool], least: float, chance: random.Random, wanted: str = "delivery sending"
) -> None:
    """Wait `least` seconds, and then until the mood met somebody, who is let come; not for ever."""
    began = stirred = time.monotonic()
    try:
        while (passed := time.monotonic() - began) < least or (passed < 90.0 and not over()):
            if passed > least:
                world.hungry.add(threading.get_ident())
            if time.monotonic() - stirred > 5.0:
                _stir(world, wanted, chance)
                stirred = time.monotonic()
            time.sleep(0.05)
    finally:
        world.hungry.discard(threading.get_ident())


def _answering(answer: Answer, share: float) -> Strike:
    """The PACS answers some of the objects so."""

    def strike(world: World, chance: random.Random) -> bool:
        given = 0

        def say(number: int, uid: str) -> Answer:
            nonlocal given
            if chance.random() >= share:
                return 0x0000
            given += 1
            return answer

        world.pacs.answer = say
        try:
            _while(world, lambda: given > 0, chance.uniform(1.0, 5.0), chance)
        finally:
            world.pacs.answer = lambda number, uid: 0x0000
        return given > 0

    return strike


def _late(world: World, chance: random.Random) -> bool:
    """The PACS takes objects and answers when nobody waits any more."""
    before = len(world.pacs.stored)
    world.pacs.delay = DIMSE * 1.5
    try:
        _while(world, lambda: len(world.pacs.stored) > before, chance.uniform(2.0, 6.0), chance)
    finally:
        world.pacs.delay = 0.0
    return len(world.pacs.stored) > before


def _rejecting(world: World, chance: random.Random) -> bool:
    before = world.pacs.associations
    world.pacs.refuse = True
    try:
        _while(world, lambda: world.pacs.associations > before, chance.uniform(1.0, 5.0), chance)
    finally:
        world.pacs.refuse = False
    return world.pacs.associations > before


def _line(which: str, mood: Mood, least: float, most: float) -> Strike:
    def strike(world: World, chance: random.Random) -> bool:
        line = world.pacs_line if which == "PACS" else world.door
        before = line.met
        line.turn(mood)
        try:
            # Of a line on which nobody listens it cannot be seen whether anybody called.
            wanted = "delivery sending" if which == "PACS" else "receiving"
            _while(world, lambda: line.met > before or mood is Mood.AWAY, chance.uniform(least, most), chance, wanted)
        finally:
            line.turn(Mood.GOOD)
        return line.met > before or mood is Mood.AWAY

    return strike


MOODS: Mapping[str, Strike] = {
    "PACS away": _line("PACS", Mood.AWAY, 5.0, 15.0),
    "PACS away for minutes": _line("PACS", Mood.AWAY, 60.0, 120.0),
    "PACS closes at once": _line("PACS", Mood.CLOSING, 1.0, 4.0),
    "PACS rejects us": _rejecting,
    "PACS cuts in mid-object": _line("PACS", Mood.CUTTING, 2.0, 6.0),
    "PACS never answers": _line("PACS", Mood.SILENT, 2.0, 6.0),
    "PACS answers too late": _late,
    "PACS at 1 KB/s": _line("PACS", Mood.SLOW, 3.0, 8.0),
    "PACS aborts": _answering("abort", 0.5),
    "PACS answers A700": _answering(0xA700, 0.7),
    "PACS answers B000": _answering(0xB000, 0.7),
    "PACS answers C000": _answering(0xC000, 0.5),
    "sender cut in mid-transfer": _line("door", Mood.CUTTING, 2.0, 8.0),
    "sender at 1 KB/s": _line("door", Mood.SLOW, 2.0, 4.0),
}


def plan(kinds: Mapping[str, Strike], count: int, seed: str, *, without: frozenset[str] = frozenset()) -> list[str]:
    """Which faults strike, in their order: each kind once, then whatever the seed says, `count` of them at least."""
    chance = random.Random(seed)
    names = [name for name in kinds if name not in without]
    chosen = chance.sample(names, len(names))
    # A role that dies again and again is started again later and later: not too many of those that load a model.
    light = [name for name in names if name not in ("kill infer", "kill archive", *LONG)]
    return chosen + [chance.choice(light) for _ in range(count - len(chosen))]
