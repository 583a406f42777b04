"""A database as after years of work: `python -m benchmarks.history --jobs 1000000 --events 10000000 --url URL`.

It fills an empty database with a plausible history. Listings, audit queries and claims can then be timed on it; the
files of the spool that its rows name do not exist, so that nothing can be sent of it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import sqlalchemy as sa

from benchmarks import records as film_records
from benchmarks import tallied, told
from benchmarks.bulk import Bulk, bulk
from benchmarks.form import Form
from benchmarks.population import SENDERS, Change, Fate, draw, score, second
from benchmarks.records import Model, Records
from benchmarks.tallied import Tallied
from cxrnode.core.findings import Reader
from cxrnode.errors import CxrnodeError
from cxrnode.reading.bundle import SHIPPED, WEIGHTS, read_manifest
from cxrnode.reading.manifest import Manifest
from cxrnode.store.database import Database
from cxrnode.store.schema import alert, association, feedback, hourly, instance, metadata, reader
from cxrnode.store.upgrade import upgrade

_COLUMNS = film_records.COLUMNS | tallied.COLUMNS | told.COLUMNS
#: Films between two writes.
_BATCH = 10_000
#: In this part of the history the node ran the bundle before.
_OLDER = 0.55
#: What a person does of a film only later.
_LATER = (Fate.WITHDRAWN, Fate.READ_AGAIN)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much history: `events` in all, `waiting` jobs at its end that nobody claimed yet, `days` that it covers."""

    jobs: int = 1_000_000
    events: int = 10_000_000
    waiting: int = 1_000
    days: float = 730.0
    seed: int = 1
    reports: bool = True
    change: Change = dataclasses.field(default_factory=Change)


def build(database: Database, size: Size, said: Callable[[str], None] = lambda _: None) -> tuple[int, int]:
    """Fill an empty database; return how many jobs and events it has now. Raises CxrnodeError where it is not empty.

    The history ends at the database's present time. The same seed draws the same films; digests are random.
    """
    upgrade(database)
    with database.read() as transaction:
        until = transaction.now
        if transaction.scalar(sa.select(sa.func.count()).select_from(instance)):
            raise CxrnodeError("the database has films already; name an empty one")
    random = np.random.default_rng(size.seed)
    card, digest = read_manifest(SHIPPED / "demo")
    films = draw(random, jobs=size.jobs, until=until, days=size.days)
    counted = Tallied([label.name for label in card.labels])
    records = Records(until=until, events=size.events / size.jobs, reports=size.reports, tallied=counted)
    followed = told.Followed(random, until)
    older, newer, candidate = _models(card, digest)
    senders = list(SENDERS)
    with bulk(database) as into:
        for first in range(0, len(films.at), _BATCH):
            count = min(_BATCH, len(films.at) - first)
            drawn = score(random, films, first, count, card, until, size.change)
            scores, decided = (part.tolist() for part in drawn)
            other, others = (part.tolist() for part in second(random, drawn[0], card))
            truths: list[tuple[Any, ...]] = []
            for i in range(count):
                at, fate = float(films.at[first + i]), Fate(int(films.fate[first + i]))
                film = records.film(at, senders[films.sender[first + i]], fate)
                if fate is Fate.IGNORED:
                    continue
                model = older if (first + i) / len(films.at) < _OLDER else newer
                waits = records.jobs >= size.jobs - size.waiting
                if fate in _LATER and (at > until - 7200 or records.jobs + 2 >= size.jobs - size.waiting):
                    fate = Fate.DELIVERED
                one = records.read(film, at, model, fate, scores[i], decided[i], waits=waits)
                if fate is Fate.DELIVERED and not waits:
                    truths += followed.of(film[0], one, at, model.form.labels, scores[i])
                if fate is Fate.READ_AGAIN:
                    later: dict[str, Any] = {"waits": waits, "predecessor": one, "revision": 2}
                    records.read(film, at + 600, newer, fate, scores[i], decided[i], **later)
                if films.shadowed[first + i]:
                    records.read(film, at, candidate, Fate.DELIVERED, other[i], others[i], waits=waits)
            last = first + count == len(films.at)
            _write(into, records.take() | counted.take(last=last) | {feedback: truths})
            said(f"{records.jobs} jobs, {records.events} events")
        beside = {hourly: told.hours(films, until), association: told.associations(until), alert: told.alerts(until)}
        in_use = [(one.name, one.reader) for one in (newer, candidate)]
        _write(into, {**beside, reader: told.readers(in_use, until)})
        said("indexes")
    return records.jobs, records.events


def _models(card: Manifest, digest: str) -> tuple[Model, Model, Model]:
    reader = Reader(
        name=card.name,
        version=card.version,
        bundle_digest=digest,
        weights_digest=card.sha256_of(WEIGHTS),
        calibration=card.calibration.data_set,
        demonstration=card.demonstration,
        engine="torch 2 cpu float32",
    )
    before = dataclasses.replace(reader, version="1.0", bundle_digest="a" * 64)
    labels = {label.name: label.assessed for label in card.labels}
    older, newer = (Form(one, labels, card.plausibility.limit) for one in (before, reader))
    return (
        Model(name="chest", mode="active", reader=before, form=older),
        Model(name="chest", mode="active", reader=reader, form=newer),
        Model(name="candidate", mode="shadow", reader=reader, form=newer),
    )


def _write(into: Bulk, rows: Mapping[sa.Table, Sequence[tuple[Any, ...]]]) -> None:
    for table in metadata.sorted_tables:
        if rows.get(table):
            into.write(table, rows[table], _COLUMNS[table])


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", help="The database; a file of SQLite by its path will do.", required=True)
@click.option("--jobs", default=Size().jobs, show_default=True)
@click.option("--events", default=Size().events, show_default=True, help="In all, about so many.")
@click.option("--waiting", default=Size().waiting, show_default=True, help="Of the jobs, the last, not yet claimed.")
@click.option("--days", default=Size().days, show_default=True, help="That the history covers, until now.")
@click.option("--seed", default=Size().seed, show_default=True)
@click.option("--reports/--no-reports", default=True, help="Keep each report's JSON: 4 kB a job.", show_default=True)
def main(url: str, jobs: int, events: int, waiting: int, days: float, seed: int, reports: bool) -> None:
    """Fill an empty database with a plausible history."""
    began = time.monotonic()
    if "://" not in url:
        url = f"sqlite+pysqlite:///{Path(url).resolve()}"
    database = Database(url)
    try:
        size = Size(jobs=jobs, events=events, waiting=waiting, days=days, seed=seed, reports=reports)
        made = build(database, size, lambda text: click.echo(f"{time.monotonic() - began:7.1f} s  {text}"))
    except CxrnodeError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{made[0]} jobs and {made[1]} events in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
