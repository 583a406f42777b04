"""Who sends films, and who fell silent by its own habit. Reads alone.

    for one in sources.sources(database):        # a Source each, by AE title
        one.silent, one.silent_for, one.usual    # seconds; `usual` is None while there is no habit yet

A source's usual interval is learnt from its own last 500 films: four fifths of its time it spends between films that
are no further apart. (Of a regular sender that is its interval, of one at random three times the mean; films of a study
that come all at once count for little.) Only the hours of the week in which it sends count, as its films of the last
four weeks say, so that nights and Sundays are no silence of a room that works on weekdays. It is silent when such time
since its last film is more than `factor` usual intervals. With fewer than 20 films, or films of less than a day, it has
no habit: the films of a first day are somebody's trial. One that was not heard of for eight weeks is forgotten.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Sequence

import sqlalchemy as sa

from cxrnode.store.database import Database
from cxrnode.store.schema import hourly, instance
from cxrnode.store.tallies import DAY, HOUR

#: How much usual time without a film is silence, in times of the habit.
FACTOR = 3.0
_FILMS, _LEAST_FILMS = 500, 20
#: Seconds from the first hour with a film to the last film, before there is a habit.
_LEAST_SPAN = DAY
#: Seconds: all films of a source may have come in one go, which is no habit.
_LEAST_INTERVAL = 1.0
_WEEKS = 4
_FORGOTTEN = 56 * DAY
_WEEK = 168


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One sender. `usual` and `silent_for` are seconds of its own working hours, None while it has no habit."""

    calling_aet: str
    films: int  # of the last four weeks
    last_at: float
    usual: float | None
    silent_for: float | None
    silent: bool


def sources(database: Database, *, factor: float = FACTOR) -> tuple[Source, ...]:
    """Every sender of the last eight weeks, by AE title."""
    with database.read() as transaction:
        now = transaction.now
        since = int(now // HOUR) - int(_FORGOTTEN // HOUR)
        rows = transaction.rows(
            sa.select(hourly.c.calling_aet, hourly.c.hour, hourly.c.received).where(
                hourly.c.hour >= since, hourly.c.calling_aet != "", hourly.c.received > 0
            )
        )
    hours: dict[str, dict[int, int]] = {}
    for row in rows:
        hours.setdefault(row.calling_aet, {})[row.hour] = row.received
    return tuple(_source(database, name, hours[name], now, factor) for name in sorted(hours))


def _source(database: Database, name: str, hours: dict[int, int], now: float, factor: float) -> Source:
    with database.read() as transaction:
        found = transaction.rows(
            sa.select(instance.c.received_at)
            .where(instance.c.calling_aet == name)
            .order_by(instance.c.received_at.desc())
            .limit(_FILMS)
        )
    times = [row.received_at for row in reversed(found)]
    recent = {hour for hour in hours if hour > now / HOUR - _WEEKS * _WEEK}
    films = sum(hours[hour] for hour in recent)
    usual = None
    works = _working(min(hours), recent, now)
    if len(times) >= _LEAST_FILMS and times[-1] - min(hours) * HOUR >= _LEAST_SPAN:
        usual = _habit([_worked(a, b, works) for a, b in itertools.pairwise(times)])
    quiet = _worked(times[-1], now, works) if usual is not None else None
    return Source(
        calling_aet=name,
        films=films,
        last_at=times[-1],
        usual=usual,
        silent_for=quiet,
        silent=quiet is not None and usual is not None and quiet > factor * max(usual, _LEAST_INTERVAL),
    )


def _working(first: int, hours: Collection[int], now: float) -> Callable[[int], bool]:
    """Whether an hour is one in which the source sends.

    With two weeks or more: in at least half of the weeks seen, in that hour of the week; with two days or more: on any
    day, in that hour of the day; before that every hour is.
    """
    seen = now / HOUR - first
    if seen >= 2 * _WEEK:
        weeks = min(_WEEKS, math.ceil(seen / _WEEK))
        counts: dict[int, int] = {}
        for hour in hours:
            counts[hour % _WEEK] = counts.get(hour % _WEEK, 0) + 1
        usual = {hour for hour, number in counts.items() if number * 2 >= weeks}
        return lambda hour: hour % _WEEK in usual
    if seen >= 48:
        of_day = {hour % 24 for hour in hours}
        return lambda hour: hour % 24 in of_day
    return lambda _hour: True


def _worked(start: float, end: float, works: Callable[[int], bool]) -> float:
    """The seconds between two moments that lie in working hours."""
    first, last = int(start // HOUR), int(end // HOUR)
    if first == last:
        return end - start if works(first) else 0.0
    inner = sum(HOUR for hour in range(first + 1, last) if works(hour))
    head = ((first + 1) * HOUR - start) if works(first) else 0.0
    return head + inner + ((end - last * HOUR) if works(last) else 0.0)


def _habit(gaps: Sequence[float]) -> float:
    """The gap up to which four fifths of all the time lie."""
    passed, whole = 0.0, sum(gaps)
    for gap in sorted(gaps):
        passed += gap
        if passed >= 0.8 * whole:
            return gap
    return 0.0
