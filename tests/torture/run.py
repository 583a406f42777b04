"""One seed: a node, its peers and its senders; the faults; then the accounting."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from cxrnode.config import load_config
from cxrnode.core.lifecycle import JobState
from cxrnode.errors import Rejected, Transient
from cxrnode.roles import tend
from cxrnode.roles.context import Context
from cxrnode.spool import FolderSpool
from cxrnode.store import resend
from cxrnode.store.schema import job
from tests.peers import Orthanc, Postgres, RecordingScp
from tests.torture import accounting
from tests.torture.accounting import Ledger
from tests.torture.faults import LONG, MOODS, OF_A_SERVER, STRIKES, Strike, World, plan
from tests.torture.films import Film, Kind
from tests.torture.line import Line
from tests.torture.node import TorturedSite, make_bundle
from tests.torture.senders import Dcmsend, Forwarding, Sender, Storescu


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one seed. `violations` are by clause; `left` are orphan files that kills left, `orphans` those after
    `tend` swept.
    """

    seed: int
    database: str
    seconds: float
    films: int
    acknowledged: int
    tries: int
    instances: Mapping[str, int]
    jobs: Mapping[str, int]
    stores: int
    objects: int
    repeats: int
    struck: Mapping[str, int]
    hits: Mapping[str, Mapping[str, int]]
    cuts: int
    answers: Mapping[str, int]
    left: int
    orphans: int
    violations: Mapping[str, Sequence[str]]

    @property
    def good(self) -> bool:
        """Whether every clause holds."""
        return not any(self.violations.values())


class Faults(threading.Thread):
    """Lets one kind of faults strike after the other. `share` is how far it is, from 0 to 1."""

    def __init__(
        self, world: World, kinds: Mapping[str, Strike], names: Sequence[str], *, seed: str, most: float, noted: bool
    ) -> None:
        """Pause up to `most` seconds between two. `noted`: they say themselves when they struck."""
        super().__init__(daemon=True, name="faults")
        self.share = 0.0
        self.failed: list[str] = []
        self._world = world
        self._kinds = kinds
        self._names = names
        self._chance = random.Random(seed)
        self._most = most
        self._noted = noted

    def run(self) -> None:
        for number, name in enumerate(self._names):
            time.sleep(self._chance.uniform(0.1, self._most))
            try:
                moment = self._world.site.moment()
                if self._kinds[name](self._world, self._chance) and not self._noted:
                    self._world.note(name, moment)
            except BaseException as fault:  # noqa: BLE001 - pytest's failures are no Exception; all are told at the end
                self.failed.append(f"{name}: {type(fault).__name__}: {fault}")
            self.share = (number + 1) / len(self._names)


def run_seed(seed: int, films: Sequence[Film], folder: Path, *, bundle: Path, cluster: Postgres | None) -> Outcome:
    """Torture a node of its own in `folder`, which is removed at the end unless something was wrong."""
    began = time.monotonic()
    folder.mkdir(parents=True)
    with _world(seed, folder, bundle, cluster) as world:
        site = world.site
        without = frozenset() if cluster is not None else OF_A_SERVER
        names = plan(STRIKES, len(films) // 12, f"{seed}/strikes", without=without)
        strikes = Faults(world, STRIKES, names, seed=f"{seed}/when", most=1.5, noted=True)
        names = plan(MOODS, len(films) // 15, f"{seed}/moods", without=frozenset() if len(films) >= 200 else LONG)
        moods = Faults(world, MOODS, names, seed=f"{seed}/mood", most=2.0, noted=False)

        def pace(done: float) -> bool:
            return done <= min(strikes.share, moods.share) + (0.3 if world.hungry else 0.08)

        senders = _senders(world, films, seed, pace)
        world.send_again = _again(senders)
        for thread in (*senders, strikes, moods):
            thread.start()
        for thread in (strikes, moods, *senders):
            thread.join()
        rested = site.settled(300.0)
        _resend_half_of_the_parked(site)
        rested = site.settled(300.0) and rested
        site.stop()
        left, orphans = _sweep(site)
        acknowledged = frozenset(path for one in senders for path in one.acknowledged)
        ledger = Ledger.of(site, films, acknowledged, world.pacs.stored, world.archive)
        wrong = accounting.violations(ledger)
        wrong["the faults could be made"] = [*strikes.failed, *moods.failed]
        wrong["every state was struck"] = list(_not_struck(world))
        answers = dict(Counter(f"0x{one.status:04X}" if one.status >= 0 else "abort" for one in ledger.received))
        wrong["every answer was given"] = [
            f"the PACS never answered {one}"
            for one in ("0x0000", "0xA700", "0xB000", "0xC000", "abort")
            if one not in answers
        ]
        wrong["it came to rest"] = [] if rested else [f"after the faults: {dict(site.moment())}"]
        wrong["no file without a row, no row without a file"] = [f"{orphans} orphan files"] if orphans else []
        kept = ledger.accepted_by_pacs
        outcome = Outcome(
            seed=seed,
            database="postgresql" if cluster is not None else "sqlite",
            seconds=round(time.monotonic() - began, 1),
            films=len(films),
            acknowledged=len(acknowledged),
            tries=sum(one.tries for one in senders),
            instances=dict(Counter(row.verdict for row in ledger.instances)),
            jobs=dict(accounting.at_rest(ledger)),
            stores=len(ledger.received),
            objects=len(kept),
            repeats=sum(len(copies) - 1 for copies in kept.values()),
            struck=dict(world.struck),
            hits=_by_state(world),
            cuts=world.pacs_line.cuts + world.door.cuts,
            answers=answers,
            left=left,
            orphans=orphans,
            violations=wrong,
        )
    if outcome.good:
        shutil.rmtree(folder)
    return outcome


@contextlib.contextmanager
def _world(seed: int, folder: Path, bundle: Path, cluster: Postgres | None) -> Iterator[World]:
    pacs = RecordingScp()
    pacs.start()
    archive = Orthanc(folder / "orthanc", settings={"DicomScuTimeout": 8})
    archive.start()
    line = Line(pacs.port, seed=f"{seed}/pacs")
    url = cluster.new_database() if cluster is not None else ""
    site = TorturedSite(folder, bundle=bundle, pacs=line.port, archive=archive.dicom_port, url=url)
    door = Line(site.port, seed=f"{seed}/door")
    try:
        site.start(wait_for="infer")
        yield World(site=site, pacs=pacs, pacs_line=line, door=door, archive=archive, cluster=cluster)
    finally:
        if site.process_id is not None:
            site.stop()
        site.database.close()
        door.close()
        line.close()
        archive.kill()
        pacs.stop()


#: Which senders can send a film: dcmsend gets native ones, and Orthanc keeps one of two with the same UID.
_TO_WHOM = {Kind.COMPRESSED: (0, 2, 3), Kind.UNREADABLE: (0, 2, 3), Kind.COERCED: (0, 1, 2)}


def _senders(world: World, films: Sequence[Film], seed: int, pace: Callable[[float], bool]) -> list[Sender]:
    """Four senders, each with its share of the films: what dcmsend gets is native."""
    chance = random.Random(f"{seed}/shares")
    shares: list[list[Film]] = [[], [], [], []]
    for film in films:
        shares[chance.choice(_TO_WHOM.get(film.kind, (0, 1, 2, 3)))].append(film)
    made: list[Sender] = []

    def may_go(number: int) -> bool:
        done = len(made[number].acknowledged) / max(1, len(shares[number]))
        return pace(done)

    give_up = 300.0 + 6.0 * len(films)
    kinds: tuple[tuple[str, type[Storescu]], ...] = (("ROOM1", Storescu), ("ROOM2", Dcmsend), ("ROOM3", Storescu))
    for number, (aet, kind) in enumerate(kinds):
        made.append(
            kind(
                shares[number],
                aet=aet,
                port=world.door.port,
                seed=f"{seed}/{aet}",
                may_go=lambda number=number: may_go(number),  # type: ignore[misc]
                give_up=give_up,
            )
        )
    made.append(
        Forwarding(
            world.archive,
            shares[3],
            port=world.door.port,
            seed=f"{seed}/ORTHANC",
            may_go=lambda: may_go(3),
            give_up=give_up,
        )
    )
    return made


def _again(senders: Sequence[Sender]) -> Callable[[random.Random], None]:
    """Lets the first sender send one film more that it has Success for: nothing but a note comes of it."""

    def again(chance: random.Random) -> None:
        known = [film for film in senders[0].films if film.path in senders[0].acknowledged]
        if known:
            threading.Thread(target=senders[0].send, args=([chance.choice(known)],), daemon=True).start()

    return again


def _resend_half_of_the_parked(site: TorturedSite) -> None:
    """Somebody looks at what the PACS refused for good and has half of it sent again."""
    failed = [row.id for row in site.rows(sa.select(job.c.id).where(job.c.state == JobState.FAILED).order_by(job.c.id))]
    for job_id in failed[::2]:
        with contextlib.suppress(Rejected, Transient):
            resend.resend(site.database, job_id, reason="torture", by="torture")


def _sweep(site: TorturedSite) -> tuple[int, int]:
    """Do what `tend` does a day later; return how many files without a row there were before, and after."""
    config = load_config(site.config)
    spool = FolderSpool(config.spool_dir)
    context = Context(
        config=config,
        database=site.database,
        spool=spool,
        owner="torture",
        stopping=threading.Event(),
        beat=lambda: None,
        ready=lambda: None,
    )
    before = _files(spool)
    was = tend.ORPHAN_SECONDS, tend.INCOMING_SECONDS
    try:
        tend.ORPHAN_SECONDS = tend.INCOMING_SECONDS = -1.0
        tend.sweep(context)
        tend.sweep_incoming(context)
    finally:
        tend.ORPHAN_SECONDS, tend.INCOMING_SECONDS = was
    known = _known(site)
    after = {path.name for path in _files(spool)}
    return len([path for path in before if path.name not in known]), len(after - known) + len(known - after)


def _files(spool: FolderSpool) -> list[Path]:
    return [path for path in spool.root.rglob("*") if path.is_file()]


def _known(site: TorturedSite) -> set[str]:
    found: set[str] = set()
    for text in (
        "SELECT spool_key FROM instance",
        "SELECT spool_key FROM output",
        "SELECT saliency_key FROM job",
        "SELECT preview_key FROM job",
    ):
        found |= {row[0] for row in site.rows(sa.text(text)) if row[0] is not None}
    return found


#: What must have been under way or standing at the moment of at least one fault.
_TO_STRIKE = {
    "kill receive": {"receiving"},
    "kill infer": {"job reading"},
    "kill send": {"delivery sending"},
    "": {
        "job queued",
        "job reading",
        "job reported",
        "job delivered",
        "delivery pending",
        "delivery sending",
        "delivery sent",
        "receiving",
    },
}


def _not_struck(world: World) -> Iterator[str]:
    for fault, states in _TO_STRIKE.items():
        for state in sorted(states):
            if not any(count for (name, hit), count in world.hits.items() if hit == state and fault in ("", name)):
                yield f"{fault or 'no fault'} struck {state}" if not fault else f"no {fault} struck {state}"


def _by_state(world: World) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (fault, state), count in sorted(world.hits.items()):
        found.setdefault(state, {})[fault] = count
    return found


__all__ = ["Faults", "Outcome", "make_bundle", "run_seed"]
