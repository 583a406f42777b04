"""`python -m benchmarks.queries --url URL`: claims, listings and audit queries on a large database, in milliseconds.

Made for the databases of `benchmarks.history`; what is claimed is given back. The bars are the design's: a claim under
5 ms, what the console asks under 200 ms.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import click
import sqlalchemy as sa

from cxrnode.store import audit, deliveries, details, jobs, listing
from cxrnode.store.database import Database
from cxrnode.store.jobs import Limits
from cxrnode.store.schema import event, instance, job

_CLAIM_MS, _QUERY_MS = 5.0, 200.0


def timed(step: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The median and the worst, in milliseconds, after one round that finds cold pages."""
    step()
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        step()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken), max(taken)


def queries(database: Database) -> dict[str, Callable[[], object]]:
    """What the command line and the console ask, by its name."""
    with database.read() as transaction:
        last = transaction.scalar(sa.select(sa.func.max(job.c.id))) or 1
        now = transaction.now
        film = transaction.scalar(sa.select(job.c.instance_id).where(job.c.id == last // 2)) or 1
        counted = transaction.scalar(sa.select(sa.func.max(event.c.id)))
    day = now - 86400
    found: dict[str, Callable[[], object]] = {
        "jobs, the newest 50": lambda: list(listing.list_jobs(database, listing.JobFilter(), limit=50)),
        "jobs that failed, the newest 50": lambda: list(
            listing.list_jobs(database, listing.JobFilter(state="failed"), limit=50)
        ),
        "jobs of the last day": lambda: list(listing.list_jobs(database, listing.JobFilter(since=day), limit=200)),
        "instances, the newest 50": lambda: list(listing.list_instances(database, listing.InstanceFilter(), limit=50)),
        "instances ignored, the newest 50": lambda: list(
            listing.list_instances(database, listing.InstanceFilter(verdict="ignored"), limit=50)
        ),
        "one job with all of it": lambda: details.job_detail(database, last // 2),
        "events of one job": lambda: list(audit.query(database, audit.EventFilter(job_id=last // 2), limit=1000)),
        "events of the last hour": lambda: list(audit.query(database, audit.EventFilter(since=now - 3600), limit=100)),
        "one chain of hashes": lambda: audit.broken_link(database, last // 2),
        "waiting for each model": lambda: jobs.waiting(database),
        "unsent for each destination": lambda: deliveries.unsent(database),
        "one instance": lambda: details.instance_row(database, film),
    }
    return found if counted else {}


def claim_and_give_back(database: Database) -> tuple[float, float, float]:
    """A claim of one film among those that wait: median and worst of the claims alone, and the processor's median.

    The last is without the wait for the disk: what a claim takes where an fsync takes nothing.
    """
    taken, busy = [], []
    with database.read() as transaction:
        models = {row[0]: "0" * 64 for row in transaction.rows(sa.select(job.c.model).distinct().limit(20))}
    for _ in range(60):
        began, before = time.perf_counter(), time.process_time()
        claims = jobs.claim(
            database, owner="bench", models=models, engine="bench", limit=1, lease=60.0, limits=Limits()
        )
        taken.append(1000 * (time.perf_counter() - began))
        busy.append(1000 * (time.process_time() - before))
        for one in claims:
            jobs.give_back(database, one)
    return statistics.median(taken[1:]), max(taken[1:]), statistics.median(busy[1:])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", required=True)
@click.option("--rounds", default=7, show_default=True)
def main(url: str, rounds: int) -> None:
    """Time claims, listings and audit queries. Events of the claims stay in the database."""
    if "://" not in url:
        url = f"sqlite+pysqlite:///{Path(url).resolve()}"
    database = Database(url)
    with database.read() as transaction:
        sizes = [transaction.scalar(sa.select(sa.func.max(one.c.id))) for one in (instance, job, event)]
    click.echo("{} instances, {} jobs, {} events".format(*sizes))
    median, worst, busy = claim_and_give_back(database)
    click.echo(f"{median:9.2f} {worst:9.2f} ms  a claim, with its commit and fsync")
    click.echo(f"{busy:19.2f} ms  of it the processor's {'' if busy < _CLAIM_MS else f'OVER {_CLAIM_MS} ms'}")
    for name, step in queries(database).items():
        median, worst = timed(step, rounds)
        click.echo(f"{median:9.2f} {worst:9.2f} ms  {name} {'' if median < _QUERY_MS else f'OVER {_QUERY_MS} ms'}")


if __name__ == "__main__":
    main()
