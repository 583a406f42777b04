"""How large a fleet must be: a queueing model of one day's peak hour, and what gives way first. Pure arithmetic.

Films come in bursts (an examination, a router that lets go), each burst at a random moment: a batch Poisson process,
whose index of dispersion stands for the squared coefficient of variation of arrivals. `workers` infer processes read
them: G/G/c by Allen and Cunneen (Probability, Statistics and Queueing Theory, 1990), which is Erlang's C times the mean
of both squared coefficients of variation. The wait of those who wait is taken to be exponential. Hours of the peak are
taken to be stationary, which errs to the safe side while workers suffice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

DAY = 86_400.0
#: The busiest that workers may be in the peak hour; above it the wait grows out of hand, and none may fail.
MOST_BUSY = 0.7
#: A worker that takes its share of a fleet that lost a node may be so busy, no more.
MOST_BUSY_ALONE = 0.95


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a film costs, and what the shared parts bear. Megabytes are 10^6 bytes.

    core_ms: of a film in each role, `read` without the forward pass; forward_ms: of a film by kind of device.
    """

    film_mb: float
    outputs_mb: float
    retention_days: float
    core_ms: Mapping[str, float]
    forward_ms: Mapping[str, float]
    service_scv: float
    burst_films: float
    database_jobs_per_second: float
    database_kb_per_film: float
    database_tb: float
    spool_mb_per_second: float
    spool_files: float

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Read the file's table. Raises ValueError that names a key which is missing, unknown or no number above 0."""
        known = {field.name for field in dataclasses.fields(cls)}
        given = {key: value for key, value in raw.items() if key != "about"}
        if wrong := sorted(known ^ set(given)):
            raise ValueError(f"missing or unknown: {', '.join(wrong)}")
        for key, value in given.items():
            numbers = value if isinstance(value, dict) else {"": value}
            for name, one in numbers.items():
                if isinstance(one, bool) or not isinstance(one, int | float) or not 0 < one < math.inf:
                    raise ValueError(f"{key}{'.' if name else ''}{name} is no number above 0")
        for key, least in (("core_ms", {"receive", "read", "send"}), ("forward_ms", {"none"})):
            if not isinstance(given[key], dict) or not least <= set(given[key]):
                raise ValueError(f"{key} names {', '.join(sorted(least))}")
        if given["burst_films"] < 1:
            raise ValueError("burst_films is 1 or more")
        return cls(**given)

    def service(self, gpu: str) -> float:
        """Seconds that one worker is busy with a film: with a GPU the forward pass goes on beside the rest."""
        read, forward = self.core_ms["read"], self.forward_ms[gpu]
        return (read + forward if gpu == "none" else max(read, forward)) / 1000

    def bare(self, gpu: str) -> float:
        """Seconds of a film's way through a node where nothing waits."""
        return (sum(self.core_ms[role] for role in ("receive", "read", "send")) + self.forward_ms[gpu]) / 1000

    @property
    def arrival_scv(self) -> float:
        """The index of dispersion of arrivals in bursts whose sizes are geometric with this mean: E[b^2] / E[b]."""
        return 2 * self.burst_films - 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What films wait for a worker, in seconds, and how busy workers are (from 0 to below 1)."""

    busy: float
    mean: float
    p95: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One shared part at the peak: what is asked of it, what it bears, in its unit; `load` is their ratio."""

    name: str
    asked: float
    bears: float
    unit: str

    @property
    def load(self) -> float:
        """Above 1 it gives way."""
        return self.asked / self.bears


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A fleet for a day's films. Seconds; sizes in gigabytes (10^9 bytes); `database_gb` grows by so much a year.

    `workers` suffice at the peak, `nodes` are those and a spare. `p95` is from a film's receipt to its results in the
    archive, `p95_less_one` the same with a node lost; `catch_up` is what an hour's backlog of the peak takes to clear.
    """

    films_per_day: float
    peak_factor: float
    gpu: str
    peak_per_second: float
    workers: int
    nodes: int
    busy: float
    p50: float
    p95: float
    p95_less_one: float
    catch_up: float
    database_gb: float
    spool_gb: float
    parts: tuple[Part, ...]

    @property
    def first(self) -> Part:
        """What gives way first as the films become more."""
        return max(self.parts, key=lambda part: part.load)


def erlang_c(workers: int, load: float) -> float:
    """The share of arrivals that wait in M/M/c at `load` erlangs, below `workers`: by Erlang's B, which stays small."""
    blocked = 1.0
    for number in range(1, workers + 1):
        blocked = load * blocked / (number + load * blocked)
    busy = load / workers
    return blocked / (1 - busy * (1 - blocked))


def wait(*, rate: float, service: float, workers: int, arrival_scv: float, service_scv: float) -> Wait:
    """What films wait at `rate` a second with `service` seconds each. Infinite where workers do not suffice."""
    busy = rate * service / workers
    if busy >= 1:
        return Wait(busy=busy, mean=math.inf, p95=math.inf)
    delayed = erlang_c(workers, rate * service)
    queue = delayed * service / (workers * (1 - busy)) * (arrival_scv + service_scv) / 2
    # A burst's films wait for each other even where nothing else is there; one worker makes this sum exact (Chaudhry
    # and Templeton, A First Course in Bulk Queues, 1983). Of bursts of geometric size so many stand ahead, at most:
    ahead = (arrival_scv - 1) / 2
    burst = ahead * service / workers
    queue_p95 = queue / delayed * math.log(delayed / 0.05) if delayed > 0.05 else 0.0
    burst_p95 = burst / ahead * math.log(0.05) / math.log(ahead / (1 + ahead)) if ahead else 0.0
    return Wait(busy=busy, mean=queue + burst, p95=math.hypot(queue_p95, burst_p95))


def slow_service(service: float, service_scv: float) -> float:
    """By how much a slow film's own time lies above the mean, in seconds: 95th percentile of a lognormal time."""
    spread = math.log(1 + service_scv)
    return service * (math.exp(1.645 * math.sqrt(spread) - spread / 2) - 1)


def plan(figures: Figures, *, films_per_day: float, peak_factor: float, gpu: str, p95: float = 60.0) -> Plan:
    """The smallest fleet whose workers are not too busy at the peak and whose 95th percentile stays within `p95`.

    Raises ValueError for demands that are none, an unknown kind of device, or a `p95` that no fleet meets.
    """
    if not (0 < films_per_day < math.inf and 1 <= peak_factor < math.inf):
        raise ValueError("films a day are more than 0, and the peak factor is 1 or more")
    if gpu not in figures.forward_ms:
        raise ValueError(f"{gpu} is not known; known: {', '.join(figures.forward_ms)}")
    service, bare = figures.service(gpu), figures.bare(gpu)
    rate = films_per_day / DAY * peak_factor

    def waits(workers: int) -> Wait:
        scv = {"arrival_scv": figures.arrival_scv, "service_scv": figures.service_scv}
        return wait(rate=rate, service=service, workers=workers, **scv)

    own = slow_service(service, figures.service_scv)

    def slow(waited: Wait) -> float:
        """The 95th percentile of the whole: parts that hardly know of each other."""
        return bare + math.hypot(waited.p95, own)

    if p95 <= bare + own:
        raise ValueError(f"a slow film takes {bare + own:.2f} s where nothing waits: no fleet answers within {p95:g} s")
    workers = max(1, math.ceil(rate * service / MOST_BUSY))
    while slow(waits(workers)) > p95:
        workers += 1
    # One more, so that a node may be lost or upgraded; two at least.
    nodes = workers + 1
    full, less = waits(nodes), waits(workers)
    spare = nodes / service - rate
    traffic = rate * (2 * figures.film_mb + 2 * figures.outputs_mb)
    files = films_per_day * figures.retention_days * 5
    database_gb = films_per_day * 365 * figures.database_kb_per_film / 1e6
    return Plan(
        films_per_day=films_per_day,
        peak_factor=peak_factor,
        gpu=gpu,
        peak_per_second=rate,
        workers=workers,
        nodes=nodes,
        busy=full.busy,
        p50=bare + full.mean / 2,
        p95=slow(full),
        p95_less_one=slow(less),
        catch_up=3600 * rate / spare,
        database_gb=database_gb,
        spool_gb=films_per_day * figures.retention_days * (figures.film_mb + figures.outputs_mb) / 1000,
        parts=(
            Part(name="workers", asked=rate * service, bears=nodes * MOST_BUSY_ALONE, unit="busy workers"),
            Part(name="database, claims", asked=rate, bears=figures.database_jobs_per_second, unit="jobs/s"),
            Part(name="database, a year's rows", asked=database_gb / 1000, bears=figures.database_tb, unit="TB"),
            Part(name="spool, traffic", asked=traffic, bears=figures.spool_mb_per_second, unit="MB/s"),
            Part(name="spool, files", asked=files, bears=figures.spool_files, unit="files"),
        ),
    )
