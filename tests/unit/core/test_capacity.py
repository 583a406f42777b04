"""The queueing model: against what is known exactly, and against days that are simulated film by film."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
import time

import pytest

from benchmarks.day import PEAK, Outage, outages_of, shape, simulate
from cxrnode.config import template
from cxrnode.core.capacity import DAY, Figures, erlang_c, plan, slow_service, wait

FIGURES = Figures.from_json(json.loads(template("capacity.json")))


@pytest.mark.parametrize(
    ("workers", "load", "share"), [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (5, 4.0, 0.5541), (10, 8, 0.4092)]
)
def test_erlangs_c_is_that_of_the_tables(workers: int, load: float, share: float) -> None:
    assert erlang_c(workers, load) == pytest.approx(share, abs=1e-4)


def test_one_worker_with_deterministic_or_exponential_service_waits_as_is_known_exactly() -> None:
    """M/M/1: rho s / (1 - rho); M/D/1: half of it (Pollaczek and Khinchine)."""
    exponential = wait(rate=0.8, service=1.0, workers=1, arrival_scv=1.0, service_scv=1.0)
    assert exponential.mean == pytest.approx(4.0)
    assert exponential.p95 == pytest.approx(math.log(0.8 / 0.05) / 0.2)
    assert wait(rate=0.8, service=1.0, workers=1, arrival_scv=1.0, service_scv=0.0).mean == pytest.approx(2.0)
    # Bursts of geometric size with mean 2: M^[X]/M/1, Wq = s (rho + (K - 1) / 2) / (1 - rho), K = 3.
    assert wait(rate=0.5, service=1.0, workers=1, arrival_scv=3.0, service_scv=1.0).mean == pytest.approx(3.0)


def test_more_workers_never_wait_longer_and_too_few_wait_for_ever() -> None:
    def p95(workers: int) -> float:
        return wait(rate=10.0, service=0.3, workers=workers, arrival_scv=3.0, service_scv=0.25).p95

    found = [p95(workers) for workers in range(1, 20)]
    assert found[:3] == [math.inf] * 3
    assert all(more <= less for less, more in itertools.pairwise(found[3:]))


@pytest.mark.slow
@pytest.mark.parametrize("burst", [1.0, 2.0, 4.0])
def test_the_peak_hour_of_simulated_days_is_as_the_model_says(burst: float) -> None:
    """Mean within a fifth, P95 within a third of days played film by film, at loads that are planned for."""
    figures = dataclasses.replace(FIGURES, burst_films=burst)
    service, bare = figures.service("none"), figures.bare("none")
    own = slow_service(service, figures.service_scv)
    for workers, busy in ((2, 0.2), (2, 0.7), (5, 0.7)):
        rate = busy * workers / service
        said = wait(
            rate=rate,
            service=service,
            workers=workers,
            arrival_scv=figures.arrival_scv,
            service_scv=figures.service_scv,
        )
        demand = {"films_per_day": rate * DAY / 3, "peak_factor": 3.0, "gpu": "none", "workers": workers}
        peaks = [one for seed in range(3) for one in simulate(figures, **demand, seed=seed).taken[PEAK]]  # type: ignore[arg-type]
        played = statistics.quantiles(peaks, n=20)[-1]
        assert bare + said.mean == pytest.approx(statistics.mean(peaks), rel=0.2), (workers, busy)
        assert bare + math.hypot(said.p95, own) == pytest.approx(played, rel=1 / 3), (workers, busy)


@pytest.mark.slow
def test_a_planned_fleet_keeps_its_word_on_a_good_day_and_bears_a_bad_one() -> None:
    demand = {"films_per_day": 60_000.0, "peak_factor": 4.0, "gpu": "none"}
    made = plan(FIGURES, **demand, p95=3.0)  # type: ignore[arg-type]
    began = time.process_time()
    good = simulate(FIGURES, **demand, workers=made.nodes)  # type: ignore[arg-type]
    assert DAY / (time.process_time() - began) > 1000  # faster than real time
    bad = simulate(FIGURES, **demand, workers=made.nodes, outages=outages_of(made))  # type: ignore[arg-type]
    assert abs(good.films - 60_000) < 2500
    assert good.quantile(0.95, PEAK) <= 3.0
    assert good.busy == pytest.approx(made.busy, rel=0.1)
    # With a node lost for half of the peak hour.
    assert bad.quantile(0.95, PEAK) <= 1.5 * made.p95_less_one
    # What was kept for an hour comes at once, and is through before the day ends.
    assert bad.longest_queue > 500
    assert bad.quantile(0.95, 22) <= 1.5 * good.quantile(0.95, 22)


def test_a_backlog_clears_in_the_time_that_the_plan_says() -> None:
    demand = {"films_per_day": 100_000.0, "peak_factor": 2.0, "gpu": "none"}
    made = plan(FIGURES, **demand)  # type: ignore[arg-type]
    dark = Outage(begins=PEAK * 3600, ends=(PEAK + 1) * 3600, workers=made.nodes)
    day = simulate(FIGURES, **demand, workers=made.nodes, outages=(dark,))  # type: ignore[arg-type]
    # The first hour after it whose films wait no longer; the peak's films came in while nobody read.
    ended = next(hour for hour in range(PEAK + 1, 24) if day.quantile(0.5, hour) < 5)
    assert (ended - PEAK - 1) * 3600 <= made.catch_up + 3600
    assert day.quantile(0.5, PEAK) > 1800


def test_the_day_has_its_peak_and_its_films() -> None:
    for factor in (1.0, 2.0, 3.0, 5.0):
        assert max(shape(factor)) == pytest.approx(factor)
        assert sum(shape(factor)) == pytest.approx(24)


def test_what_gives_way_first_is_the_part_with_the_highest_load() -> None:
    made = plan(FIGURES, films_per_day=274_000, peak_factor=4, gpu="none")
    assert made.first.load == max(part.load for part in made.parts)
    assert made.first.name == "spool, traffic"
    slow = dataclasses.replace(FIGURES, database_jobs_per_second=10.0)
    assert plan(slow, films_per_day=274_000, peak_factor=4, gpu="none").first.name == "database, claims"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ({"film_mb": -1}, "film_mb is no number above 0"),
        ({"core_ms": {"receive": 1, "read": 1}}, "core_ms names"),
        ({"core_ms": {"receive": 1, "read": True, "send": 1}}, "core_ms.read is no number"),
        ({"burst_films": 0.5}, "burst_films is 1 or more"),
        ({"more": 1}, "missing or unknown: more"),
    ],
)
def test_figures_that_are_none_are_refused_by_name(harm: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Figures.from_json({**json.loads(template("capacity.json")), **harm})


def test_a_demand_that_no_fleet_meets_is_refused() -> None:
    with pytest.raises(ValueError, match="no fleet answers within"):
        plan(FIGURES, films_per_day=100, peak_factor=3, gpu="none", p95=0.2)
    with pytest.raises(ValueError, match="known: none, t4"):
        plan(FIGURES, films_per_day=100, peak_factor=3, gpu="abacus")
