"""The whole node, as `cxrnode serve` runs it: throughput of a burst, latency of single films, memory of each role.

The archive stands on the same machine and takes its share of it, as do the senders; the figures include both.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa

from cxrnode.bench.archive import Storescp, archive_in
from cxrnode.bench.figures import Figure, cpu_seconds, memory_mib
from cxrnode.bench.films import write_films
from cxrnode.demo.served import SENDER_AET, ServedNode
from cxrnode.dicom.sender import Destination, Sent, send_files
from cxrnode.errors import Transient
from cxrnode.rousing import rouse
from cxrnode.store import changes
from cxrnode.store.database import Database
from cxrnode.store.schema import event, job, output

ASSOCIATIONS = 4
#: Seconds of rest after a single film.
PAUSE = 0.1
ROLES = ("receive", "infer", "send", "tend")
#: Films between two looks at the memory, and the share of all that only warms it.
_ROUND, _WARM = 25, 0.25


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """What a burst took: seconds from the last Success to the last SR in the archive, and of the whole; core
    milliseconds a film in each role; memory in MiB of each role at its peak.
    """

    films: int
    seconds: float
    whole: float
    cpu: dict[str, float]
    memory: dict[str, float]

    @property
    def core_ms(self) -> float:
        """Processor time of a film in all roles together."""
        return sum(self.cpu.values())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of each role over many films: MiB at its peak, and what a thousand films add once it is warm."""

    films: int
    peak: dict[str, float]
    slope: dict[str, float]


class Bench:
    """A node that reads with a bundle, and its archive."""

    def __init__(self, folder: Path, bundle: Path, data_dir: Path | None = None) -> None:
        """Use a folder that is thrown away. `data_dir`: whose admissions are copied into the node's."""
        folder.mkdir(parents=True, exist_ok=True)
        self.archive = archive_in(folder / "archive")
        self._folder = folder
        self._bundle = bundle
        self._engines = data_dir / "engines" if data_dir else None
        self._node: ServedNode | None = None

    def __enter__(self) -> Bench:
        # The archive lives in this process, which has an engine, too: a full collection held it up for half a second.
        gc.collect()
        gc.freeze()
        self.archive.__enter__()
        self._node = node = ServedNode(self._folder, archive_port=self.archive.port, bundle=self._bundle)
        if self._engines is not None and self._engines.is_dir():
            (node.data_dir / "engines").mkdir(parents=True)
            for file in self._engines.iterdir():
                (node.data_dir / "engines" / file.name).write_bytes(file.read_bytes())
        node.__enter__()
        for role in ("receive", "infer", "send"):
            node.wait_ready(role, 240)
        self._database = Database(f"sqlite+pysqlite:///{node.data_dir / 'cxrnode.sqlite'}")
        return self

    def __exit__(self, *fault: object) -> None:
        assert self._node is not None
        self._database.close()
        self._node.__exit__(None, None, None)
        self.archive.__exit__(None, None, None)

    @property
    def _destination(self) -> Destination:
        assert self._node is not None
        return Destination(name="node", aet="CXRNODE", host="127.0.0.1", port=self._node.port)

    def pids(self) -> dict[str, list[int]]:
        """The processes of each role."""
        assert self._node is not None
        found: dict[str, list[int]] = {}
        for line in self._node.log_path.read_text(errors="replace").splitlines():
            if line.startswith("{") and '"role_started"' in line:
                said = json.loads(line)
                found.setdefault(said["role"], []).append(said["pid"])
        return found

    def delivered(self) -> int:
        """How many jobs rest as delivered."""
        with self._database.read() as transaction:
            return int(transaction.scalar(sa.select(sa.func.count()).where(job.c.state == "delivered")) or 0)

    def _wait_delivered(self, count: int, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.delivered() < count:
            if time.monotonic() > until:
                raise Transient(f"only {self.delivered()} of {count} films came back within {seconds:.0f} s")
            time.sleep(0.05)

    def send(self, films: Sequence[Path], associations: int = ASSOCIATIONS) -> None:
        """C-STORE films in so many associations at a time. Raises Transient where one is refused."""
        refused: list[str] = []

        def work(some: Sequence[Path]) -> None:
            for path, answer in send_files(some, self._destination, calling_aet=SENDER_AET):
                if not isinstance(answer, Sent) or answer.status != 0:
                    refused.append(path.name)

        threads = [threading.Thread(target=work, args=(films[i::associations],)) for i in range(associations)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if refused:
            raise Transient(f"{len(refused)} films were refused, the first is {refused[0]}")

    def burst(self, films: Sequence[Path]) -> Burst:
        """Send films in a few associations and wait until the last SR is in the archive."""
        pids, before = self.pids(), self.delivered()
        cpu = {role: sum(map(cpu_seconds, its)) for role, its in pids.items()}
        began = time.monotonic()
        self.send(films)
        sent = time.monotonic()
        self._wait_delivered(before + len(films), 120 + 5 * len(films))
        ended = time.monotonic()
        self._forget()
        return Burst(
            films=len(films),
            seconds=ended - sent,
            whole=ended - began,
            cpu={role: 1000 * (sum(map(cpu_seconds, its)) - cpu[role]) / len(films) for role, its in pids.items()},
            memory={role: _largest(its, "VmHWM") for role, its in pids.items()},
        )

    def backlog(self, films: Sequence[Path]) -> float:
        """Send films while reading is stopped, then let it go on; the seconds until the last SR is in the archive."""
        assert self._node is not None
        before = self.delivered()
        self._switch("paused")
        self.send(films)
        began = time.monotonic()
        self._switch("running")
        rouse(self._node.data_dir, self._database, "infer")
        self._wait_delivered(before + len(films), 120 + 5 * len(films))
        ended = time.monotonic()
        self._forget()
        return ended - began

    def _switch(self, value: str) -> None:
        """Stop reading, or let it go on, as people do on the console."""
        changes.ask(
            self._database, {changes.READING: value}, configured={}, reason="the bench", by="bench", consent=False
        )

    def memory(self, count: int, size: str, *, first: int) -> Memory:
        """Send many films, of numbers from `first` on, and follow the memory of each role; what was delivered goes."""
        pids, films = self.pids(), self._folder / "many"
        taken: list[tuple[int, dict[str, float]]] = []
        for start in range(0, count, _ROUND):
            before, many = self.delivered(), min(_ROUND, count - start)
            paths = write_films(films, many, size, first=first + start)
            self.send(paths)
            self._wait_delivered(before + many, 120 + 5 * many)
            taken.append((start + many, {role: _largest(its) for role, its in pids.items()}))
            for path in (*paths, *self._kept()):
                path.unlink(missing_ok=True)
            self._forget()
        late = [one for one in taken if one[0] > count * _WARM] or taken
        peak = {role: _largest(its, "VmHWM") for role, its in pids.items()}
        return Memory(films=count, peak=peak, slope={role: _slope([(n, m[role]) for n, m in late]) for role in pids})

    def _kept(self) -> list[Path]:
        """The files of objects in the spool: 10 MB a film, of which none is needed any more."""
        assert self._node is not None
        return list((self._node.data_dir / "spool" / "objects").glob("*/*"))

    def latencies(self, films: Sequence[Path]) -> list[float]:
        """Seconds from Success to SR and SC in the archive, of one film at a time on an idle node."""
        taken = []
        for film in films:
            before = self.delivered()
            self.send([film], associations=1)
            at = time.time()
            self._wait_delivered(before + 1, 60)
            taken.append(self._last_sent() - at)
            self._forget()
            time.sleep(PAUSE)
        return taken

    def _last_sent(self) -> float:
        """When the archive had answered the last object of the newest delivery, in seconds of the wall clock."""
        with self._database.read() as transaction:
            sent = sa.select(sa.func.max(event.c.at)).where(event.c.name == "delivery_sent")
            return float(transaction.scalar(sent))

    def _forget(self) -> None:
        """What an archive keeps is not the node's: a cache that grows by 10 MB a film may cost more than it."""
        if isinstance(self.archive, Storescp):
            self.archive.forget()

    def steps(self) -> dict[str, float]:
        """Median milliseconds between the events of a film's way, of all films so far."""
        marks = ("accepted", "claimed", "reported", "delivery_claimed", "delivery_sent")
        with self._database.read() as transaction:
            rows = transaction.rows(sa.select(event.c.job_id, event.c.instance_id, event.c.name, event.c.at))
            of = {r.id: r.instance_id for r in transaction.rows(sa.select(job.c.id, job.c.instance_id))}
        at = {(of[r.job_id] if r.job_id else r.instance_id, r.name): r.at for r in rows if r.job_id or r.instance_id}
        found = {}
        for first, last in itertools.pairwise(marks):
            both = [at[i, last] - at[i, first] for i in of.values() if (i, first) in at and (i, last) in at]
            if both:
                found[f"{first} to {last}"] = 1000 * statistics.median(both)
        return found

    def started(self, count: int) -> list[float]:
        """Seconds from the rows' commit, just before Success, to the claim, of the newest `count` jobs."""
        with self._database.read() as transaction:
            newest = transaction.rows(sa.select(job.c.id, job.c.created_at).order_by(job.c.id.desc()).limit(count))
            claimed = {
                row.job_id: row.at
                for row in transaction.rows(
                    sa.select(event.c.job_id, event.c.at).where(
                        event.c.name == "claimed", event.c.job_id.in_([one.id for one in newest])
                    )
                )
            }
        return [claimed[one.id] - one.created_at for one in newest if one.id in claimed]

    def bytes_out(self) -> float:
        """Megabytes of outputs a film."""
        with self._database.read() as transaction:
            total = transaction.scalar(sa.select(sa.func.sum(output.c.size))) or 0
            count = transaction.scalar(sa.select(sa.func.count()).select_from(job)) or 1
        return float(total) / count / 1e6


def _largest(pids: Sequence[int], what: str = "VmRSS") -> float:
    """Memory in MiB of the largest of some processes."""
    return max(memory_mib(pid, what) for pid in pids)


def _slope(seen: Sequence[tuple[int, float]]) -> float:
    """MiB that a thousand films add, by least squares over (films, MiB); 0 of a single one."""
    return 1000 * statistics.linear_regression(*zip(*seen, strict=True)).slope if len(seen) > 1 else 0.0


def quantiles(taken: Sequence[float]) -> tuple[float, float, float]:
    """P50, P95 and P99 in milliseconds; of few films the last two are the slowest."""
    ordered = sorted(taken)
    at = [ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))] for share in (0.5, 0.95, 0.99)]
    return 1000 * at[0], 1000 * at[1], 1000 * at[2]


def memory_figures(size: str, memory: Memory) -> list[Figure]:
    """The figures of many films."""
    group = f"memory over {memory.films} films, {size}"
    figures = []
    for role in ROLES:
        if role in memory.peak:
            figures += [
                Figure(group=group, name=f"{role}: memory at its peak", value=memory.peak[role], unit="MiB"),
                Figure(group=group, name=f"{role}: growth", value=memory.slope[role], unit="MiB in 1000 films",
                       better="less", note="after the first quarter"),
            ]  # fmt: skip
    return figures


def burst_figures(group: str, burst: Burst) -> list[Figure]:
    """The figures of a burst."""
    figures = [
        Figure(group=group, name="films", value=burst.films, unit=""),
        Figure(group=group, name="throughput", value=burst.films / burst.whole, unit="films/s", better="more",
               note="from the first byte sent to the last SR in the archive"),
        Figure(group=group, name="cost in all roles", value=burst.core_ms, unit="core-ms a film", better="less"),
    ]  # fmt: skip
    for role in ROLES:
        if role in burst.cpu:
            figures += [
                Figure(group=group, name=f"{role}: cost", value=burst.cpu[role], unit="core-ms a film", better="less"),
                Figure(group=group, name=f"{role}: memory at its peak", value=burst.memory[role], unit="MiB"),
            ]
    return figures
