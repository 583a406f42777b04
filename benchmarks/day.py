"""A day of films through a fleet, simulated: what `cxrnode plan` reckons, held against events one after the other.

    python -m benchmarks.day [--films-per-day N] [--peak-factor F] [--gpu KIND] [--seed N] [--json FILE] [--png FILE]

Modalities send examinations in bursts, most in the morning; some are cut off for a time and then send all at once; a
worker is lost and comes back. No clock runs: a day takes seconds, thousands of times faster than the hospital.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cxrnode.config import template
from cxrnode.core.capacity import DAY, Figures, Plan, plan

#: Films by the hour, beside each other: a hospital that does most of its work in the morning.
HOURS = (1, 1, 1, 1, 1, 2, 4, 8, 11, 12, 12, 11, 9, 9, 10, 9, 8, 6, 4, 3, 3, 2, 2, 1)
PEAK = 10


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Between two moments of the day, in seconds, so many workers are lost, or a share of the senders cut off."""

    begins: float
    ends: float
    workers: int = 0
    senders: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What a simulated day gave: seconds that films took, by the hour in which they came; `busy` in the peak hour."""

    films: int
    taken: tuple[tuple[float, ...], ...]
    busy: float
    longest_queue: int
    seconds: float

    def quantile(self, share: float, hour: int | None = None) -> float:
        """Of all films, or of those of an hour."""
        chosen = sorted(self.taken[hour] if hour is not None else [one for row in self.taken for one in row])
        return chosen[min(len(chosen) - 1, math.ceil(share * len(chosen)) - 1)] if chosen else 0.0


def shape(peak_factor: float) -> tuple[float, ...]:
    """Films of each hour beside an hour in the mean: powers of `HOURS`, so steep that the busiest is `peak_factor`."""
    low, high = 0.0, 20.0
    for _ in range(60):
        power = (low + high) / 2
        raw = [hour**power for hour in HOURS]
        low, high = (low, power) if max(raw) * 24 / sum(raw) > peak_factor else (power, high)
    return tuple(one * 24 / sum(raw) for one in raw)


def arrivals(
    figures: Figures, films_per_day: float, peak_factor: float, outages: Sequence[Outage], rng: random.Random
) -> Iterator[float]:
    """The moments at which films come, not in order: bursts of geometric size at random moments of each hour."""
    going_on = 1 - 1 / figures.burst_films
    for hour, share in enumerate(shape(peak_factor)):
        rate = films_per_day / DAY * share / figures.burst_films
        at = hour * 3600.0
        while rate and (at := at + rng.expovariate(rate)) < (hour + 1) * 3600:
            came = at
            for outage in outages:
                if outage.begins <= at < outage.ends and rng.random() < outage.senders:
                    came = outage.ends + rng.random()  # what was kept is let go at once
            yield came
            while rng.random() < going_on:
                yield came


def simulate(
    figures: Figures,
    *,
    films_per_day: float,
    peak_factor: float,
    gpu: str,
    workers: int,
    outages: Sequence[Outage] = (),
    seed: int = 1,
) -> Day:
    """Replay a day: first come, first read, by the workers that are there."""
    began = time.monotonic()
    rng = random.Random(seed)
    came = sorted(arrivals(figures, films_per_day, peak_factor, outages, rng))
    spread = math.log(1 + figures.service_scv)
    centre = math.log(figures.service(gpu)) - spread / 2
    apart = figures.bare(gpu) - figures.service(gpu)
    free = [0.0] * workers
    taken: list[list[float]] = [[] for _ in range(24)]
    peak_busy, waiting, longest = 0.0, [], 0
    lost: list[tuple[float, float, int]] = sorted((one.begins, one.ends, one.workers) for one in outages if one.workers)
    for at in came:
        while lost and lost[0][0] <= at:
            _, ends, count = lost.pop(0)
            # What they held is read again by others: it costs them nothing here but the workers' time.
            for _ in range(min(count, workers)):
                heapq.heapreplace(free, max(free[0], ends))
        starts = max(at, free[0])
        service = rng.lognormvariate(centre, math.sqrt(spread))
        heapq.heapreplace(free, starts + service)
        waiting.append(starts)
        hour = min(23, int(at // 3600))
        taken[hour].append(starts + service + max(0.0, apart) - at)
        if hour == PEAK:
            peak_busy += service
    heapq.heapify(waiting)
    queue: list[float] = []
    for at, starts in zip(came, sorted(waiting), strict=True):
        while queue and queue[0] <= at:
            heapq.heappop(queue)
        if starts > at:
            heapq.heappush(queue, starts)
        longest = max(longest, len(queue))
    return Day(
        films=len(came),
        taken=tuple(tuple(row) for row in taken),
        busy=peak_busy / 3600 / workers,
        longest_queue=longest,
        seconds=time.monotonic() - began,
    )


def outages_of(made: Plan) -> tuple[Outage, ...]:
    """A bad day: a node is lost in the peak's first half hour, a third of the senders in the afternoon."""
    return (
        Outage(begins=PEAK * 3600, ends=PEAK * 3600 + 1800, workers=1),
        Outage(begins=14 * 3600, ends=15 * 3600, senders=1 / 3),
    )


def main() -> None:
    """Plan, replay a good and a bad day, and say both."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.day", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--films-per-day", type=float, default=20_000)
    parser.add_argument("--peak-factor", type=float, default=3.0)
    parser.add_argument("--gpu", default="none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--png", type=Path)
    asked = parser.parse_args()
    figures = Figures.from_json(json.loads(template("capacity.json")))
    demand = {"films_per_day": asked.films_per_day, "peak_factor": asked.peak_factor, "gpu": asked.gpu}
    made = plan(figures, **demand)
    days = {
        name: simulate(figures, **demand, workers=made.nodes, outages=outages, seed=asked.seed)
        for name, outages in (("a good day", ()), ("a bad day", outages_of(made)))
    }
    rows = [("the plan, peak hour", made.busy, made.p50, made.p95, "", "")]
    for name, day in days.items():
        rows.append((f"{name}, peak hour", day.busy, day.quantile(0.5, PEAK), day.quantile(0.95, PEAK), "", ""))
        faster = f"{DAY / day.seconds:,.0f}"
        rows.append(
            (f"{name}, all of it", math.nan, day.quantile(0.5), day.quantile(0.95), str(day.longest_queue), faster)
        )
    told = f"peak factor {asked.peak_factor:g}, GPU {asked.gpu}"
    print(f"{made.nodes} nodes for {asked.films_per_day:,.0f} films a day, {told}")
    print(f"{'':26}{'busy':>8}{'P50 s':>9}{'P95 s':>9}{'longest queue':>15}{'times faster':>14}")
    for name, busy, p50, p95, queue, faster in rows:
        said = "" if math.isnan(busy) else f"{busy:.0%}"
        print(f"{name:26}{said:>8}{p50:>9.2f}{p95:>9.2f}{queue!s:>15}{faster:>14}")
    if asked.json:
        keys = ("what", "busy", "p50", "p95", "longest_queue", "times_faster")
        asked.json.write_text(json.dumps([dict(zip(keys, row, strict=True)) for row in rows], indent=1))
    if asked.png:
        asked.png.write_bytes(_drawn(made, days))
        print(f"drawn: {asked.png}", file=sys.stderr)


def _drawn(made: Plan, days: dict[str, Day]) -> bytes:
    import io

    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 5), layout="constrained")
    axes = drawing.subplots()
    for name, day in days.items():
        axes.step(range(24), [day.quantile(0.95, hour) for hour in range(24)], where="post", label=f"P95, {name}")
    axes.axhline(made.p95, color="grey", linestyle="--", label="P95 of the plan, peak hour")
    axes.set(xlabel="hour of the day in which the film came", ylabel="seconds from receipt to results", yscale="log",
             title=f"{made.films_per_day:,.0f} films a day on {made.nodes} nodes, simulated")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    drawing.savefig(image, format="png", dpi=110)
    return image.getvalue()


if __name__ == "__main__":
    main()
