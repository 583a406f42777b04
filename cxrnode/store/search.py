"""Looking for jobs as people do: by state, sender, finding, probability, date, and by whose film it is.

A search walks back from the newest job in windows of ids and ends when its page is full or its time is up; then it says
how far it came, so that the next page goes on from there. A patient or an accession number is looked up in `identity`
first, and each look is an event.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import sqlalchemy as sa

from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row
from cxrnode.store.listing import JOBS, JobRow, jobs_of
from cxrnode.store.schema import finding, identity, instance, job

#: Ids in the first window of a walk; each next one is twice as wide, up to the last.
_FIRST, _WIDEST = 2_000, 32_000
#: The window where the index of the states leads: it touches the jobs of that state alone.
_WINDOW_OF_STATE = 250_000
#: Instances of one patient that are looked at, the newest of them.
_MOST_FILMS = 1_000
#: States of which there are few: their own index leads to them without a walk.
_RARE = frozenset({"queued", "reading", "failed", "superseded", "withdrawn"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is looked for; None leaves a condition out. Times are seconds since 1970 in UTC, of the job's making.

    With `finding`: its `decision`, or its score between `least` and `most`.
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
    statement, conditions = _statement(wanted)
    with database.read() as transaction:
        high = before - 1 if before is not None else int(transaction.scalar(sa.select(sa.func.max(job.c.id))) or 0)
    found: list[Row] = []
    width = _FIRST if wanted.state not in _RARE else _WINDOW_OF_STATE
    low = high
    # One row more than the page has: then there is another page.
    while high > 0 and len(found) <= limit:
        low = max(0, high - width)
        window = (job.c.id <= high, job.c.id > low)
        chosen = statement.where(*window, *conditions).order_by(job.c.id.desc()).limit(limit + 1 - len(found))
        with database.read() as transaction:
            found += transaction.rows(chosen)
            if wanted.since is not None and _is_past(transaction.scalar, low, wanted.since):
                low = 0
        high = low
        width = max(width, min(2 * width, _WIDEST))
        if time.monotonic() > until:
            break
    more = len(found) > limit
    rows = found[:limit]
    looked: float | None = None
    following = rows[-1].id if more else (low + 1 if low > 0 else None)
    if not more and low > 0:
        with database.read() as transaction:
            looked = transaction.scalar(sa.select(job.c.created_at).where(job.c.id > low).order_by(job.c.id).limit(1))
    scores = {row.id: row.score for row in rows} if wanted.finding else {}
    return Page(rows=tuple(jobs_of(database, rows)), before=following, scores=scores, looked_back_to=looked)


def _is_past(scalar: object, low: int, since: float) -> bool:
    """Whether all jobs up to this id are older than `since`: ids grow with time."""
    assert callable(scalar)
    made = scalar(sa.select(job.c.created_at).where(job.c.id <= low).order_by(job.c.id.desc()).limit(1))
    return made is not None and made < since


def _statement(wanted: Wanted) -> tuple[sa.Select[tuple[object, ...]], list[sa.ColumnElement[bool]]]:
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
    if not wanted.finding:
        return JOBS, conditions
    its = (finding.c.job_id == job.c.id) & (finding.c.label == wanted.finding)
    statement = JOBS.add_columns(finding.c.score).join(finding, its)
    if wanted.decision is not None:
        conditions.append(finding.c.decision == wanted.decision)
    if wanted.least is not None:
        conditions.append(finding.c.score >= wanted.least)
    if wanted.most is not None:
        conditions.append(finding.c.score <= wanted.most)
    return statement, conditions


def search_whose(database: Database, whose: Whose, wanted: Wanted, *, by: str, why: str, limit: int = 200) -> Page:
    """Return the newest jobs of these films that are like this. The look is an event, found or not."""
    pairs = ((identity.c.patient_id, whose.patient_id), (identity.c.accession, whose.accession))
    conditions = [column == value for column, value in pairs if value]
    newest = sa.select(identity.c.instance_id).where(*conditions).order_by(identity.c.instance_id.desc())
    with database.read() as transaction:
        ids = [row[0] for row in transaction.rows(newest.limit(_MOST_FILMS))]
    statement, more = _statement(wanted)
    rows: list[Row] = []
    for start in range(0, len(ids), 400):
        some = ids[start : start + 400]
        chosen = statement.where(job.c.instance_id.in_(some), *more).order_by(job.c.id.desc()).limit(limit)
        with database.read() as transaction:
            rows += transaction.rows(chosen)
    rows = sorted(rows, key=lambda row: -row.id)[:limit]
    _note_search(database, whose, rows, by=by, why=why)
    scores = {row.id: row.score for row in rows} if wanted.finding else {}
    return Page(rows=tuple(jobs_of(database, rows)), before=None, scores=scores)


def _note_search(database: Database, whose: Whose, rows: Sequence[Row], *, by: str, why: str) -> None:
    """One event for the search, which does not say what was typed."""
    keys = [name for name in ("patient_id", "accession") if getattr(whose, name)]
    with database.write() as transaction:
        note(transaction, "searched", by=by, why=why, keys=keys, found=len(rows))


def view(database: Database, job_id: int, instance_id: int, *, by: str, why: str, how: str) -> None:
    """Write down that a person looked at a patient's result."""
    with database.write() as transaction:
        note(transaction, "result_viewed", instance_id=instance_id, job=job_id, by=by, why=why, how=how)


def labels(database: Database) -> list[str]:
    """The findings that the newest reports have, by name."""
    with database.read() as transaction:
        newest = transaction.scalar(sa.select(sa.func.max(finding.c.job_id))) or 0
        rows = transaction.rows(
            sa.select(finding.c.label).where(finding.c.job_id > newest - 20).distinct().order_by(finding.c.label)
        )
    return [row.label for row in rows]
