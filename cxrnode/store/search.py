"""Looking for jobs as people do: by state, sender, finding, probability, date, and by whose film it is.

A search walks back from the newest job along the index that fits it best, and ends when its page is full or its time is
up; then it says how far it came, so that the next page goes on from there. A patient or an accession number is looked
up in `identity` first, and each look is an event.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.store import labels
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row
from cxrnode.store.listing import JOBS, JobRow, jobs_of
from cxrnode.store.schema import DISPUTED, finding, identity, instance, job

#: Ids in the first window of a walk; each next one is twice as wide, up to the last, while it takes so many seconds.
_FIRST, _WIDEST, _SHORT = 20_000, 320_000, 0.02
#: Jobs whose rows are read at once, at most.
_MOST_CANDIDATES = 800
#: Instances of one patient or rare sender that are looked at, the newest of them.
_MOST_FILMS = 1_000
#: Seconds by which the order of ids may differ from that of time.
_ABOUT = 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is looked for; None leaves a condition out. Times are seconds since 1970 in UTC, of the job's making.

    With `finding`, in whatever case: its `decision`, or its score between `least` and `most`.
    """

    state: str | None = None
    outcome: str | None = None
    model: str | None = None
    mode: str | None = None
    calling_aet: str | None = None
    finding: str | None = None
    decision: str | None = None
    least: float | None = None
    most: float | None = None
    since: float | None = None
    until: float | None = None
    disputed: bool | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose films are looked for: exact values, "" for any. Identifiers: never part of a URL or a log line."""

    patient_id: str = ""
    accession: str = ""

    def __bool__(self) -> bool:
        return bool(self.patient_id or self.accession)

    def __repr__(self) -> str:
        return "Whose(...)"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Jobs, the newest first. `before` is the id to go on from, None at the end; `scores` those of the finding asked.

    `looked_back_to`: where the time was up before the page was full, the time of making of the last job looked at.
    """

    rows: tuple[JobRow, ...]
    before: int | None
    scores: dict[int, float]
    looked_back_to: float | None = None


def search(
    database: Database, wanted: Wanted, *, before: int | None = None, limit: int = 50, seconds: float = 0.15
) -> Page:
    """Return a page of the newest jobs that are like this, with ids below `before`."""
    until = time.monotonic() + seconds
    wanted = _spelled(database, wanted)
    if (films := _few_films(database, wanted.calling_aet)) is not None:
        return _page_of_few(database, wanted, films, before, limit)
    high, floor = _ends(database, wanted, before)
    candidates, conditions = _candidates(wanted), _conditions(wanted)
    found: list[Row] = []
    scores: dict[int, float] = {}
    width, count = _FIRST, limit + 1
    # One row more than the page has: then there is another page.
    while high > floor and len(found) <= limit:
        began = time.monotonic()
        low = max(floor, high - width) if candidates.sparse else floor
        with database.read() as transaction:
            some = transaction.rows(candidates.between(low, high).limit(count))
        high = some[-1].id - 1 if len(some) == count else low
        if some:
            ids = [row.id for row in some]
            with database.read() as transaction:
                chosen = JOBS.where(job.c.id.in_(ids), *conditions).order_by(job.c.id.desc())
                found += transaction.rows(chosen.limit(limit + 1 - len(found)))
            scores |= {row.id: row.score for row in some}
        took = time.monotonic() - began
        # A read is short on any machine (design, rule 13): what it may look at is learnt from the one before.
        width = min(2 * width, _WIDEST) if took < _SHORT else max(width // 2, _FIRST)
        count = min(2 * count, _MOST_CANDIDATES)
        if time.monotonic() > until:
            break
    more = len(found) > limit
    rows = found[:limit]
    following = rows[-1].id if more else (high + 1 if high > floor else None)
    looked: float | None = None
    if not more and high > floor:
        with database.read() as transaction:
            looked = transaction.scalar(sa.select(job.c.created_at).where(job.c.id > high).order_by(job.c.id).limit(1))
    its = {row.id: scores[row.id] for row in rows} if wanted.finding else {}
    return Page(rows=tuple(jobs_of(database, rows)), before=following, scores=its, looked_back_to=looked)


def _spelled(database: Database, wanted: Wanted) -> Wanted:
    if not wanted.finding:
        return wanted
    return dataclasses.replace(wanted, finding=labels.spelled(database, wanted.finding))


def _few_films(database: Database, calling_aet: str | None) -> list[int] | None:
    """The instances of a sender that sent few; None for one that sent more, or where none is asked for."""
    if calling_aet is None:
        return None
    newest = sa.select(instance.c.id).where(instance.c.calling_aet == calling_aet)
    with database.read() as transaction:
        rows = transaction.rows(newest.order_by(instance.c.received_at.desc()).limit(_MOST_FILMS + 1))
    return [row.id for row in rows] if len(rows) <= _MOST_FILMS else None


def _page_of_few(database: Database, wanted: Wanted, films: Sequence[int], before: int | None, limit: int) -> Page:
    """A page of the jobs of these instances."""
    rows = _jobs_on(database, wanted, films, limit + 1, before)
    more, rows = len(rows) > limit, rows[:limit]
    scores = {row.id: row.score for row in rows} if wanted.finding else {}
    return Page(rows=tuple(jobs_of(database, rows)), before=rows[-1].id if more else None, scores=scores)


def _jobs_on(
    database: Database, wanted: Wanted, films: Sequence[int], limit: int, before: int | None = None
) -> list[Row]:
    """The newest jobs of these instances that are like this."""
    statement, conditions = JOBS, _conditions(wanted)
    if wanted.finding:
        its = (finding.c.job_id == job.c.id) & (finding.c.label == wanted.finding)
        statement = JOBS.add_columns(finding.c.score).join(finding, its)
        conditions += _of_finding(wanted)
    if before is not None:
        conditions.append(job.c.id < before)
    rows: list[Row] = []
    for start in range(0, len(films), 400):
        some = films[start : start + 400]
        chosen = statement.where(job.c.instance_id.in_(some), *conditions).order_by(job.c.id.desc()).limit(limit)
        with database.read() as transaction:
            rows += transaction.rows(chosen)
    return sorted(rows, key=lambda row: -row.id)[:limit]


def _ends(database: Database, wanted: Wanted, before: int | None) -> tuple[int, int]:
    """The highest id that may be like this, and the one below all of them: ids grow with time, about."""

    def made_before(at: float) -> int:
        chosen = sa.select(job.c.id).where(job.c.created_at < at).order_by(job.c.created_at.desc()).limit(1)
        return int(transaction.scalar(chosen) or 0)

    with database.read() as transaction:
        high = int(transaction.scalar(sa.select(sa.func.max(job.c.id))) or 0)
        if wanted.until is not None:
            high = made_before(wanted.until + _ABOUT)
        floor = made_before(wanted.since - _ABOUT) if wanted.since is not None else 0
    return (high if before is None else min(high, before - 1)), floor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Candidates:
    """Ids, and scores, from narrow indexes: a job's row is a page by itself on SQLite, and is read for few alone.

    `sparse`: the indexes hold others, too, so that a read of them goes by windows of ids.
    """

    key: sa.ColumnElement[int]
    statement: sa.Select[tuple[int, float | None]]
    sparse: bool

    def between(self, low: int, high: int) -> sa.Select[tuple[int, float | None]]:
        """Those with ids above `low` and up to `high`, the newest first."""
        return self.statement.where(self.key > low, self.key <= high).order_by(self.key.desc())


def _candidates(wanted: Wanted) -> _Candidates:
    """Where a walk looks: the index that leaves out the most of what is not wanted, and what it lacks beside it.

    SQLite takes a table itself where its ids are known, four kilobytes a job, unless it is told of the narrow index.
    """
    narrow, film = job.alias("narrow"), instance.alias("film")
    pairs = [(narrow.c.outcome, wanted.outcome), (narrow.c.model, wanted.model), (narrow.c.mode, wanted.mode)]
    where: list[sa.ColumnElement[bool]] = []
    source: sa.FromClause
    key: sa.ColumnElement[int]
    score: sa.ColumnElement[Any] = sa.null()
    if wanted.finding:
        source, key, score = finding, finding.c.job_id, finding.c.score
        where = [finding.c.label == wanted.finding, *_of_finding(wanted)]
        sparse = len(where) > 1
        pairs.append((narrow.c.state, wanted.state))
    elif wanted.disputed or wanted.state is not None:
        source, key, sparse = job, job.c.id, False
        where = [job.c.state == wanted.state] if wanted.state is not None else []
    else:
        source, key, sparse = narrow, narrow.c.id, False
    conditions = [column == value for column, value in pairs if value is not None]
    if source is not narrow and (conditions or wanted.calling_aet is not None):
        source = source.join(narrow, narrow.c.id == key)
    if wanted.calling_aet is not None:
        source = source.join(film, film.c.id == narrow.c.instance_id)
        conditions.append(film.c.calling_aet == wanted.calling_aet)
    statement = sa.select(key.label("id"), score.label("score")).select_from(source).where(*where, *conditions)
    if wanted.disputed:
        statement = statement.where(sa.text(f"job.{DISPUTED}"))
    statement = statement.with_hint(narrow, "INDEXED BY ix_job_walk", "sqlite")
    statement = statement.with_hint(film, "INDEXED BY ix_instance_walk", "sqlite")
    return _Candidates(key=key, statement=statement, sparse=sparse or bool(conditions))


def _conditions(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    """What a job must be like, but for its finding."""
    conditions: list[sa.ColumnElement[bool]] = [
        column == value
        for column, value in (
            (job.c.state, wanted.state),
            (job.c.outcome, wanted.outcome),
            (job.c.model, wanted.model),
            (job.c.mode, wanted.mode),
            (job.c.disputed, wanted.disputed),
            (instance.c.calling_aet, wanted.calling_aet),
        )
        if value is not None
    ]
    if wanted.since is not None:
        conditions.append(job.c.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(job.c.created_at < wanted.until)
    return conditions


def _of_finding(wanted: Wanted) -> list[sa.ColumnElement[bool]]:
    """What its finding must be like."""
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.decision is not None:
        conditions.append(finding.c.decision == wanted.decision)
    if wanted.least is not None:
        conditions.append(finding.c.score >= wanted.least)
    if wanted.most is not None:
        conditions.append(finding.c.score <= wanted.most)
    return conditions


def search_whose(database: Database, whose: Whose, wanted: Wanted, *, by: str, why: str, limit: int = 200) -> Page:
    """Return the newest jobs of these films that are like this. The look is an event, found or not."""
    pairs = ((identity.c.patient_id, whose.patient_id), (identity.c.accession, whose.accession))
    conditions = [column == value for column, value in pairs if value]
    newest = sa.select(identity.c.instance_id).where(*conditions).order_by(identity.c.instance_id.desc())
    with database.read() as transaction:
        ids = [row[0] for row in transaction.rows(newest.limit(_MOST_FILMS))]
    wanted = _spelled(database, wanted)
    rows = _jobs_on(database, wanted, ids, limit)
    note_search(database, whose, len(rows), by=by, why=why)
    scores = {row.id: row.score for row in rows} if wanted.finding else {}
    return Page(rows=tuple(jobs_of(database, rows)), before=None, scores=scores)


def note_search(database: Database, whose: Whose, found: int, *, by: str, why: str) -> None:
    """One event for the search, which does not say what was typed."""
    keys = [name for name in ("patient_id", "accession") if getattr(whose, name)]
    with database.write() as transaction:
        note(transaction, "searched", by=by, why=why, keys=keys, found=found)


def view(database: Database, job_id: int, instance_id: int, *, by: str, why: str, how: str) -> None:
    """Write down that a person looked at a patient's result."""
    with database.write() as transaction:
        note(transaction, "result_viewed", instance_id=instance_id, job=job_id, by=by, why=why, how=how)
