"""The tallies: histograms by day of what models said and how long it took, and what each sender sent by the hour.

`tend` calls `count` and `count_hours` from time to time; pages read `store.series`. Every reading counts once, on the
day its job was made, whatever becomes of it later: the flag `job.counted` is set in the transaction that counts it.
All of it can be made anew from `job`, `finding` and `instance` (`rebuild`). It never changes anything else.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from cxrnode.core.findings import Decision, Outcome
from cxrnode.core.header import Header
from cxrnode.core.lifecycle import JobEvent, JobState
from cxrnode.core.quality import SCORE_BINS, ratio_bin, score_bin, time_bin
from cxrnode.core.views import view_of
from cxrnode.core.words import WordList
from cxrnode.errors import Transient
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import (
    UNCOUNTED,
    UNTIMED,
    daily,
    daily_pair,
    daily_time,
    delivery,
    event,
    finding,
    hourly,
    instance,
    job,
)

DAY = 86400.0
HOUR = 3600.0
#: Jobs that one transaction counts. On SQLite it holds the writer's lock for some 20 ms.
BATCH = 50
#: The label of the film as a whole.
FILM = ""
UNKNOWN = "unknown"

#: The columns of `daily` that say what a row is about, and those that are counted.
GROUP = ("calling_aet", "device", "view", "sex", "age_band")
KEY = ("part", "model", "label", "day", "mode", "bundle", *GROUP)
DECISIONS = tuple(Decision)
COUNTED = ("films", "refused", *(str(one) for one in DECISIONS), *(f"b{number:02}" for number in range(SCORE_BINS)))
#: Which columns of the group each part fills.
PARTS: Mapping[str, tuple[str, ...]] = {
    "all": (),
    "aet": ("calling_aet",),
    "device": ("device",),
    "view": ("view",),
    "sex": ("sex",),
    "age": ("age_band",),
    "cell": ("calling_aet", "view", "sex", "age_band"),
}
_AGES = (0, 18, 30, 40, 50, 60, 70, 80, 90)


def age_band(years: float | None) -> str:
    """Return the band of an age: "0-17", "18-29", "30-39" ... "90+", or "unknown"."""
    if years is None:
        return UNKNOWN
    low = max(start for start in _AGES if years >= start)
    return "90+" if low == _AGES[-1] else f"{low}-{_AGES[_AGES.index(low) + 1] - 1}"


def group_of(calling_aet: str, header: Header, words: WordList) -> Mapping[str, str]:
    """Return the columns of the group that a film belongs to."""
    sex = header.sex.strip().upper()
    device = header.station_name or " ".join(filter(None, (header.manufacturer, header.model_name)))
    return {
        "calling_aet": calling_aet,
        "device": device[:64] or UNKNOWN,
        "view": str(view_of(header, words)),
        "sex": sex if sex in ("M", "F", "O") else UNKNOWN,
        "age_band": age_band(header.age_years),
    }


@dataclasses.dataclass(slots=True, kw_only=True)
class _Tally:
    """What a batch of jobs adds to the three tables."""

    daily: defaultdict[tuple[Any, ...], list[int]]
    times: Counter[tuple[Any, ...]]
    pairs: defaultdict[tuple[Any, ...], list[float]]

    @classmethod
    def new(cls) -> _Tally:
        return cls(
            daily=defaultdict(lambda: [0] * len(COUNTED)),
            times=Counter(),
            pairs=defaultdict(lambda: [0.0] * 6),
        )


def count(database: Database, words: WordList, *, limit: int = BATCH) -> int:
    """Count up to `limit` readings that were not counted yet, and deliveries that ended; return how many jobs."""
    return _count_said(database, words, limit) + _count_delivered(database, limit)


def _count_said(database: Database, words: WordList, limit: int) -> int:
    active = job.alias()
    # A shadow reading is compared with the active one of its film: it waits for that.
    waits = sa.exists().where(
        active.c.instance_id == job.c.instance_id,
        active.c.mode == "active",
        active.c.state.in_((JobState.QUEUED, JobState.READING)),
    )
    columns = (
        *(job.c.id, job.c.instance_id, job.c.model, job.c.mode, job.c.state, job.c.revision, job.c.outcome),
        *(job.c.bundle_digest, job.c.created_at, job.c.claimed_at, job.c.report),
        *(instance.c.calling_aet, instance.c.received_at, instance.c.header),
    )
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(*columns)
            .join_from(job, instance, instance.c.id == job.c.instance_id)
            .where(sa.text(UNCOUNTED), (job.c.mode == "active") | ~waits)
            .order_by(job.c.id)
            .limit(limit)
        )
        if not rows:
            return 0
        ids = [row.id for row in rows]
        said: defaultdict[int, list[Row]] = defaultdict(list)
        for one in transaction.rows(sa.select(finding).where(finding.c.job_id.in_(ids))):
            said[one.job_id].append(one)
        reported = _reported_at(transaction, ids)
        twins = _twins(transaction, [row for row in rows if row.mode != "active" and row.revision == 1])
        to_send = {
            one[0]
            for one in transaction.rows(
                sa.select(delivery.c.job_id).where(delivery.c.job_id.in_(ids), delivery.c.act == "report").distinct()
            )
        }
    tally = _Tally.new()
    for row in rows:
        _add_reading(
            tally, row, said[row.id], group_of(row.calling_aet, Header.from_json(json.loads(row.header)), words)
        )
        _add_times(tally, row, reported.get(row.id))
        for twin in twins.get(row.instance_id, ()) if row.mode != "active" and row.revision == 1 else ():
            _add_pair(tally, row, said[row.id], twin)
    with database.write() as transaction:
        _alone(transaction)
        ended = [one for one in ids if one not in to_send]
        changed = transaction.count(sa.update(job).where(job.c.id.in_(ids), job.c.counted == 0).values(counted=1))
        if changed != len(ids):  # another counted some of them meanwhile
            raise Transient("these readings were counted by another process meanwhile")
        transaction.connection.execute(sa.update(job).where(job.c.id.in_(ended)).values(counted=2))
        _add(transaction, tally)
    return len(ids)


def _reported_at(transaction: Transaction, job_ids: Sequence[int]) -> dict[int, float]:
    """When each job was reported: its event says so, its row only what happened last."""
    chosen = (event.c.job_id.in_(job_ids), event.c.name == JobEvent.REPORTED)
    return {row.job_id: row.at for row in transaction.rows(sa.select(event.c.job_id, event.c.at).where(*chosen))}


def _twins(transaction: Transaction, shadows: Sequence[Row]) -> dict[int, list[tuple[Row, dict[str, Row]]]]:
    """The active readings of the films of some shadow readings, each with its findings by label."""
    of = [row.instance_id for row in shadows if row.outcome == Outcome.ANALYSED]
    if not of:
        return {}
    chosen = (job.c.instance_id.in_(of), job.c.mode == "active", job.c.outcome == Outcome.ANALYSED, job.c.revision == 1)
    rows = transaction.rows(sa.select(job.c.id, job.c.instance_id, job.c.model, job.c.bundle_digest).where(*chosen))
    said: defaultdict[int, dict[str, Row]] = defaultdict(dict)
    for one in transaction.rows(sa.select(finding).where(finding.c.job_id.in_([row.id for row in rows]))):
        said[one.job_id][one.label] = one
    found: dict[int, list[tuple[Row, dict[str, Row]]]] = {}
    for row in rows:
        found.setdefault(row.instance_id, []).append((row, said[row.id]))
    return found


def _day(row: Row) -> int:
    return int(row.created_at // DAY)


def _add_reading(tally: _Tally, row: Row, said: Iterable[Row], group: Mapping[str, str]) -> None:
    analysed = row.outcome == Outcome.ANALYSED
    distance = json.loads(row.report)["plausibility"]
    entries: list[tuple[str, list[int]]] = []
    whole = [0] * len(COUNTED)
    whole[COUNTED.index("films")], whole[COUNTED.index("refused")] = 1, int(not analysed)
    if distance is not None and distance["limit"] > 0:
        whole[-SCORE_BINS + ratio_bin(distance["distance"] / distance["limit"])] = 1
    entries.append((FILM, whole))
    for one in said if analysed else ():
        counts = [0] * len(COUNTED)
        counts[COUNTED.index("films")] = 1
        counts[COUNTED.index(one.decision)] = 1
        counts[-SCORE_BINS + score_bin(one.score)] = 1
        entries.append((one.label, counts))
    head = (_day(row), row.mode, row.bundle_digest[:12])
    for part, columns in PARTS.items():
        place = tuple(group[name] if name in columns else "" for name in GROUP)
        for label, counts in entries:
            total = tally.daily[part, row.model, label, *head, *place]
            for index, number in enumerate(counts):
                if number:
                    total[index] += number


def _add_times(tally: _Tally, row: Row, reported: float | None) -> None:
    """How long the film waited, was read, and took until its report; a later revision waited for a person."""
    if row.revision > 1 or reported is None or row.claimed_at is None:
        return
    for stage, seconds in (
        ("queue", row.claimed_at - row.received_at),
        ("reading", reported - row.claimed_at),
        ("report", reported - row.received_at),
    ):
        tally.times[_day(row), row.model, stage, time_bin(seconds)] += 1


def _add_pair(tally: _Tally, shadow: Row, said: Iterable[Row], twin: tuple[Row, Mapping[str, Row]]) -> None:
    active, its = twin
    for one in said if shadow.outcome == Outcome.ANALYSED else ():
        other = its.get(one.label)
        if other is None:
            continue
        key = (
            _day(shadow),
            active.model,
            shadow.model,
            one.label,
            active.bundle_digest[:12],
            shadow.bundle_digest[:12],
        )
        mine, theirs = one.decision == Decision.PRESENT, other.decision == Decision.PRESENT
        difference = one.score - other.score
        added = (1, mine and theirs, theirs and not mine, mine and not theirs, difference, abs(difference))
        total = tally.pairs[key]
        for index, number in enumerate(added):
            total[index] += number


def _count_delivered(database: Database, limit: int) -> int:
    ended = (JobState.DELIVERED, JobState.SUPERSEDED, JobState.WITHDRAWN)
    with database.read() as transaction:
        rows = transaction.rows(
            sa.select(job.c.id, job.c.model, job.c.state, job.c.revision, job.c.created_at, instance.c.received_at)
            .add_columns(job.c.settled_at)
            .join_from(job, instance, instance.c.id == job.c.instance_id)
            .where(sa.text(UNTIMED), job.c.state.in_(ended))
            .order_by(job.c.state, job.c.id)
            .limit(limit)
        )
        reported = _reported_at(transaction, [row.id for row in rows])
    if not rows:
        return 0
    tally = _Tally.new()
    for row in rows:
        if row.state == JobState.DELIVERED and row.revision == 1 and row.id in reported:
            for stage, since in (("delivery", reported[row.id]), ("total", row.received_at)):
                tally.times[_day(row), row.model, stage, time_bin(row.settled_at - since)] += 1
    with database.write() as transaction:
        _alone(transaction)
        ids = [row.id for row in rows]
        changed = transaction.count(sa.update(job).where(job.c.id.in_(ids), job.c.counted == 1).values(counted=2))
        if changed != len(ids):
            raise Transient("these deliveries were counted by another process meanwhile")
        _add(transaction, tally)
    return len(ids)


def _alone(transaction: Transaction) -> None:
    """Wait for whoever counts or rebuilds at the moment; on SQLite every writer is alone."""
    if transaction.connection.dialect.name != "sqlite":
        transaction.connection.execute(sa.text("SELECT pg_advisory_xact_lock(7277847)"))


def _add(transaction: Transaction, tally: _Tally) -> None:
    _add_rows(transaction, daily, KEY, COUNTED, tally.daily)
    _add_rows(
        transaction, daily_time, ("day", "model", "stage", "bin"), ("jobs",), {k: (n,) for k, n in tally.times.items()}
    )
    names = ("films", "both", "only_active", "only_shadow", "difference", "distance")
    key = ("day", "active", "shadow", "label", "active_bundle", "shadow_bundle")
    _add_rows(transaction, daily_pair, key, names, tally.pairs)


def _add_rows(
    transaction: Transaction,
    table: sa.Table,
    key: Sequence[str],
    counted: Sequence[str],
    tally: Mapping[tuple[Any, ...], Sequence[float]],
) -> None:
    """Add to the rows that stand, and insert those that do not."""
    if not tally:
        return
    make = sqlite.insert if transaction.connection.dialect.name == "sqlite" else postgresql.insert
    statement = make(table)
    change = {name: table.c[name] + statement.excluded[name] for name in counted}
    rows = [
        dict(zip(key, where, strict=True)) | dict(zip(counted, what, strict=True))
        for where, what in sorted(tally.items())
    ]
    transaction.connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=change), rows)


# ---------------------------------------------------------------------------------------------- volume


def count_hours(database: Database, *, most: int = 24) -> int:
    """Count what each sender sent in the hours that are not over for long, up to `most` hours; return how many.

    An hour is counted anew as a whole, so that doing it twice, or after a stop, changes nothing.
    """
    with database.read() as transaction:
        counted = transaction.scalar(sa.select(sa.func.max(hourly.c.hour)))
        first = transaction.scalar(sa.select(sa.func.min(instance.c.received_at))) if counted is None else None
        now = transaction.now
    if counted is None and first is None:
        return 0
    # The newest hour that was counted may have been young then; the one before it may have been, too.
    # A database from before there were tallies starts two months ago: `sources` looks no further, `rebuild` does.
    start = max(int(first // HOUR), int(now // HOUR) - 1440) if first is not None else int(counted) - 1
    hours = range(start, min(int(now // HOUR), start + most - 1) + 1)
    for hour in hours:
        count_hour(database, hour)
    return len(hours)


def count_hour(database: Database, hour: int) -> None:
    """Count one hour (since 1970 in UTC) anew. An hour without films is remembered, too, by a row without sender."""
    with database.write() as transaction:
        rows = transaction.rows(
            sa.select(
                instance.c.calling_aet,
                sa.func.count().label("received"),
                sa.func.sum(sa.case((instance.c.verdict == "accepted", 1), else_=0)).label("accepted"),
            )
            .where(instance.c.received_at >= hour * HOUR, instance.c.received_at < (hour + 1) * HOUR)
            .group_by(instance.c.calling_aet)
        )
        transaction.connection.execute(sa.delete(hourly).where(hourly.c.hour == hour))
        counted = [{"hour": hour, **row._mapping} for row in rows]
        counted.append({"hour": hour, "calling_aet": "", "received": 0, "accepted": 0})
        transaction.connection.execute(sa.insert(hourly), counted)


# ---------------------------------------------------------------------------------------------- anew


def days(database: Database) -> range:
    """The days that have jobs or tallies, from the first to the last."""
    with database.read() as transaction:
        ends = transaction.row(sa.select(sa.func.min(job.c.created_at), sa.func.max(job.c.created_at)))
    if ends is None or ends[0] is None:
        return range(0)
    return range(int(ends[0] // DAY), int(ends[1] // DAY) + 1)


def forget(database: Database, day: int) -> int:
    """Drop the tallies of one day and let its readings count again; return how many. `count` then counts them."""
    with database.read() as transaction:
        known = transaction.rows(sa.select(daily.c.model, daily.c.label).where(daily.c.part == "all").distinct())
    with database.write() as transaction:
        _alone(transaction)
        # By the key's columns, so that nothing is looked at but that day.
        for model in sorted({row.model for row in known}):
            labels = [row.label for row in known if row.model == model]
            where = (daily.c.part.in_(PARTS), daily.c.model == model, daily.c.label.in_(labels), daily.c.day == day)
            transaction.connection.execute(sa.delete(daily).where(*where))
        for table in (daily_time, daily_pair):
            transaction.connection.execute(sa.delete(table).where(table.c.day == day))
        return transaction.count(
            sa.update(job)
            .where(job.c.created_at >= day * DAY, job.c.created_at < (day + 1) * DAY, job.c.counted > 0)
            .values(counted=0)
        )


def rebuild(database: Database, words: WordList, *, told: Callable[[int, int], None] = lambda day, jobs: None) -> int:
    """Make all tallies anew, day by day, and return how many readings they count. Safe while the node works.

    It may be stopped at any point: what is not counted then is counted by `tend`. `told` hears of each day.
    """
    total = 0
    for day in days(database):
        told(day, forget(database, day))
        while done := count(database, words, limit=10 * BATCH):
            total += done
    with database.read() as transaction:
        first = transaction.scalar(sa.select(sa.func.min(instance.c.received_at)))
        now = transaction.now
    if first is not None:
        for hour in range(int(first // HOUR), int(now // HOUR) + 1):
            count_hour(database, hour)
    return total
