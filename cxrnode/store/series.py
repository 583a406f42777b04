"""What the tallies say, for the QA page and the command line: series by day, drift, times, volumes, comparison.

How to call it (`web` does so for its pages; every function is one short read of few rows, whatever the number of jobs):

    span = series.last_days(database, 90)                        # a Span of days in UTC; Span(first=, last=) by hand
    series.models(database)                                      # which models, bundles and labels have tallies
    series.positives(database, "chest", span)                    # a Point a day and finding
    series.positives(database, "chest", span, label="Effusion", by="aet")     # ... and sender; by: series.PARTS
    series.distribution(database, "chest", "Effusion", span)     # counts over core.quality.score_edges()
    series.drift(database, "chest", reference=span, window=series.last_days(database, 7))
    series.turnaround(database, span, model="chest")             # percentiles a stage, of the whole span
    series.turnaround_by_day(database, span, model="chest", stage="total")
    series.volume(database, since=t0, until=t1)                  # an Hour a sender and hour
    series.comparison(database, "chest", "candidate", span)      # active against shadow, a Comparison a finding

Silence of a source is `store.sources`; agreement with the truth is `store.agreement`. Days are counted from
1970-01-01 in UTC (`day_of`, `date_of`). A finding's label "" means the film as a whole.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.quality import (
    DRIFT_FILMS,
    PSI_LIMIT,
    SCORE_BINS,
    Share,
    kappa,
    ks,
    ks_limit,
    percentile,
    psi,
    share,
)
from cxrnode.store.database import Database
from cxrnode.store.schema import daily, daily_pair, daily_time, hourly
from cxrnode.store.tallies import DAY, FILM, HOUR, PARTS

STAGES = ("queue", "reading", "report", "delivery", "total")
_BINS = tuple(daily.c[f"b{number:02}"] for number in range(SCORE_BINS))
#: The column of a part with one.
_GROUPED: Mapping[str, sa.Column[Any]] = {
    part: daily.c[columns[0]] for part, columns in PARTS.items() if len(columns) == 1
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Days from `first` to `last`, both included, counted from 1970-01-01 in UTC."""

    first: int
    last: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A model that has tallies, with its labels and the bundles (12 letters of the digest) that read under its name."""

    model: str
    labels: tuple[str, ...]
    bundles: tuple[str, ...]
    modes: tuple[str, ...]
    first: int
    last: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was said of one finding on one day, of all films or of one group. For label "" `refused` were not analysed.

    `positives`: the share that is present of those assessed, with its interval.
    """

    day: int
    group: str
    label: str
    films: int
    refused: int
    present: int
    undetermined: int
    absent: int
    not_assessed: int

    @property
    def positives(self) -> Share:
        """How many of the assessed films are present."""
        return share(self.present, self.present + self.undetermined + self.absent)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the scores of a finding moved from a reference period; label "": the plausibility distance did.

    `psi` and `ks` are None below `core.quality.DRIFT_FILMS` films on either side. `shifted`: PSI is past `psi_limit`.
    """

    label: str
    reference_films: int
    window_films: int
    psi: float | None
    psi_limit: float
    ks: float | None
    ks_limit: float | None
    shifted: bool
    reference: tuple[int, ...]
    window: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Percentiles of a stage in seconds, None without jobs; `day` is None for a whole span."""

    stage: str
    day: int | None
    jobs: int
    p50: float | None
    p90: float | None
    p95: float | None
    p99: float | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hour:
    """What one sender sent in one hour; `at` is its start, seconds since 1970."""

    calling_aet: str
    at: float
    received: int
    accepted: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """An active and a shadow model on one finding of the films that both read.

    `shift`: the mean of shadow's score less active's; `distance`: the mean of its size.
    """

    label: str
    films: int
    both: int
    only_active: int
    only_shadow: int
    neither: int
    agreement: Share
    kappa: float | None
    shift: float
    distance: float


def day_of(at: float) -> int:
    """The day of a moment (seconds since 1970)."""
    return int(at // DAY)


def date_of(day: int) -> datetime.date:
    """The date of a day."""
    return datetime.date(1970, 1, 1) + datetime.timedelta(days=day)


def last_days(database: Database, days: int, *, before: int = 0) -> Span:
    """The last `days` days by the database's clock, today included; `before`: so many days earlier."""
    with database.read() as transaction:
        today = day_of(transaction.now) - before
    return Span(first=today - days + 1, last=today)


def models(database: Database) -> tuple[Known, ...]:
    """Which models have tallies, by name."""
    columns = (daily.c.model, daily.c.label, daily.c.bundle, daily.c.mode)
    ends = (sa.func.min(daily.c.day).label("first"), sa.func.max(daily.c.day).label("last"))
    with database.read() as transaction:
        rows = transaction.rows(sa.select(*columns, *ends).where(daily.c.part == "all").group_by(*columns))
    return tuple(
        Known(
            model=name,
            labels=tuple(sorted({row.label for row in rows if row.model == name and row.label})),
            bundles=tuple(sorted({row.bundle for row in rows if row.model == name})),
            modes=tuple(sorted({row.mode for row in rows if row.model == name})),
            first=min(row.first for row in rows if row.model == name),
            last=max(row.last for row in rows if row.model == name),
        )
        for name in sorted({row.model for row in rows})
    )


def positives(
    database: Database, model: str, span: Span, *, label: str | None = None, by: str = "all", step: int = 1
) -> tuple[Point, ...]:
    """What was said each day, by finding or of one, of all films or by a part ("aet", "device", "view", "sex", "age").

    Label "" is the film as a whole: how many were read, and refused. With `step` so many days are put together, and
    `day` is the first of them.
    """
    # Not as parameters: PostgreSQL would not see that what is selected is what is grouped by.
    first: sa.ColumnClause[int] = sa.literal_column(str(int(span.first)), sa.Integer)
    width: sa.ColumnClause[int] = sa.literal_column(str(int(step)), sa.Integer)
    day = (first + (daily.c.day - first) // width * width) if step > 1 else daily.c.day
    group = _GROUPED[by] if by != "all" else sa.literal("")
    counted = ("films", "refused", "present", "undetermined", "absent", "not_assessed")
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(
                day.label("day"),
                group.label("group"),
                daily.c.label,
                *(sa.func.sum(daily.c[name]).label(name) for name in counted),
            )
            .where(*_of(model, span, by, label))
            .group_by(daily.c.label, day, group)
            .order_by(daily.c.label, day, group)
        )
    return tuple(
        Point(day=row.day, group=row.group, label=row.label, **{name: int(getattr(row, name)) for name in counted})
        for row in rows
    )


def distribution(
    database: Database, model: str, label: str, span: Span, *, by: str = "all", group: str = "", bundle: str = ""
) -> tuple[int, ...]:
    """How many scores lie in each bin of `core.quality.score_edges`; for label "" ratios of plausibility, 0 to 2."""
    return _distributions(database, model, span, label=label, by=by, group=group, bundle=bundle).get(
        label, (0,) * SCORE_BINS
    )


def drift(
    database: Database,
    model: str,
    *,
    reference: Span,
    window: Span,
    by: str = "all",
    group: str = "",
    bundle: str = "",
    psi_limit: float = PSI_LIMIT,
) -> tuple[Drift, ...]:
    """How far each finding's scores moved between two spans, the film's plausibility (label "") first.

    `bundle` (12 letters of its digest) leaves out what other bundles read: a new model is no drift of the films.
    """
    before = _distributions(database, model, reference, by=by, group=group, bundle=bundle)
    after = _distributions(database, model, window, by=by, group=group, bundle=bundle)
    return tuple(
        _drift(label, before.get(label, (0,) * SCORE_BINS), after.get(label, (0,) * SCORE_BINS), psi_limit)
        for label in sorted({*before, *after})
    )


def _drift(label: str, before: Sequence[int], after: Sequence[int], limit: float) -> Drift:
    old, new = sum(before), sum(after)
    enough = min(old, new) >= DRIFT_FILMS
    moved = psi(before, after) if enough else None
    return Drift(
        label=label,
        reference_films=old,
        window_films=new,
        psi=moved,
        psi_limit=limit,
        ks=ks(before, after) if enough else None,
        ks_limit=ks_limit(old, new) if enough else None,
        shifted=moved is not None and moved > limit,
        reference=tuple(before),
        window=tuple(after),
    )


def _of(model: str, span: Span, part: str, label: str | None) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = [
        daily.c.part == part,
        daily.c.model == model,
        daily.c.day.between(span.first, span.last),
    ]
    return where if label is None else [*where, daily.c.label == label]


def _distributions(
    database: Database, model: str, span: Span, *, by: str, group: str, bundle: str, label: str | None = None
) -> dict[str, tuple[int, ...]]:
    where = _of(model, span, by, label)
    if by != "all":
        where.append(_GROUPED[by] == group)
    if bundle:
        where.append(daily.c.bundle == bundle)
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(daily.c.label, *(sa.func.sum(one) for one in _BINS)).where(*where).group_by(daily.c.label)
        )
    return {row[0]: tuple(int(number) for number in row[1:]) for row in rows}


def turnaround(database: Database, span: Span, *, model: str | None = None) -> tuple[Times, ...]:
    """How long each stage took: receipt to claim, claim to report, receipt to report, report to delivery, in all."""
    counts = _time_counts(database, span, model, by_day=False)
    return tuple(_times(stage, None, counts.get((None, stage), {})) for stage in STAGES)


def turnaround_by_day(
    database: Database, span: Span, *, model: str | None = None, stage: str = "total"
) -> tuple[Times, ...]:
    """As `turnaround`, one stage day by day; days without jobs are left out."""
    counts = _time_counts(database, span, model, by_day=True, stage=stage)
    return tuple(_times(stage, day, found) for (day, _), found in sorted(counts.items()))


def _time_counts(
    database: Database, span: Span, model: str | None, *, by_day: bool, stage: str | None = None
) -> dict[tuple[Any, str], dict[int, int]]:
    day = daily_time.c.day if by_day else sa.null()
    where: list[sa.ColumnElement[bool]] = [daily_time.c.day.between(span.first, span.last)]
    if model is not None:
        where.append(daily_time.c.model == model)
    if stage is not None:
        where.append(daily_time.c.stage == stage)
    group = (daily_time.c.stage, daily_time.c.bin, *((daily_time.c.day,) if by_day else ()))
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(day.label("day"), daily_time.c.stage, daily_time.c.bin, sa.func.sum(daily_time.c.jobs))
            .where(*where)
            .group_by(*group)
        )
    counts: defaultdict[tuple[Any, str], dict[int, int]] = defaultdict(dict)
    for row in rows:
        counts[row[0], row[1]][row[2]] = int(row[3])
    return counts


def _times(stage: str, day: int | None, counts: Mapping[int, int]) -> Times:
    p50, p90, p95, p99 = (percentile(counts, one) for one in (0.5, 0.9, 0.95, 0.99))
    return Times(stage=stage, day=day, jobs=sum(counts.values()), p50=p50, p90=p90, p95=p95, p99=p99)


def volume(database: Database, *, since: float, until: float) -> tuple[Hour, ...]:
    """What each sender sent, an entry a sender and hour, oldest first; hours without films are left out."""
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(hourly)
            .where(hourly.c.hour >= int(since // HOUR), hourly.c.hour < until / HOUR, hourly.c.calling_aet != "")
            .order_by(hourly.c.hour, hourly.c.calling_aet)
        )
    return tuple(
        Hour(calling_aet=row.calling_aet, at=row.hour * HOUR, received=row.received, accepted=row.accepted)
        for row in rows
    )


def comparison(
    database: Database, active: str, shadow: str, span: Span, *, shadow_bundle: str = ""
) -> tuple[Comparison, ...]:
    """How a shadow model agrees with an active one on the films that both read, by finding."""
    counted = ("films", "both", "only_active", "only_shadow", "difference", "distance")
    where: list[sa.ColumnElement[bool]] = [
        daily_pair.c.day.between(span.first, span.last),
        daily_pair.c.active == active,
        daily_pair.c.shadow == shadow,
    ]
    if shadow_bundle:
        where.append(daily_pair.c.shadow_bundle == shadow_bundle)
    sums = [sa.func.sum(daily_pair.c[name]).label(name) for name in counted]
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(daily_pair.c.label, *sums).where(*where).group_by(daily_pair.c.label).order_by(daily_pair.c.label)
        )
    found = []
    for row in rows:
        both, first, second = int(row.both), int(row.only_active), int(row.only_shadow)
        films = int(row.films)
        neither = films - both - first - second
        found.append(
            Comparison(
                label=row.label,
                films=films,
                both=both,
                only_active=first,
                only_shadow=second,
                neither=neither,
                agreement=share(both + neither, films),
                kappa=kappa(both, first, second, neither),
                shift=row.difference / films,
                distance=row.distance / films,
            )
        )
    return tuple(found)


__all__ = [
    "FILM",
    "PARTS",
    "STAGES",
    "Comparison",
    "Drift",
    "Hour",
    "Known",
    "Point",
    "Span",
    "Times",
    "comparison",
    "date_of",
    "day_of",
    "distribution",
    "drift",
    "last_days",
    "models",
    "positives",
    "turnaround",
    "turnaround_by_day",
    "volume",
]
