"""Agreement of what a model said with the truth that was fed back. Reads alone.

    for one in agreement.agreement(database, "chest", since=t0, until=t1):       # an Agreement a finding
        one.films, one.positives, one.auroc.value, one.auroc.low, one.sensitivity.value, one.specificity.value
    agreement.by_month(database, "chest", "Effusion", since=t0, until=t1)        # the same month by month
    told = agreement.told(database, "chest", since=t0, until=t1)                 # what both are made of, read once
    told.by_finding(since=t2), told.by_month("Effusion")

`since` and `until` are seconds since 1970, of the film's receipt. The result that counts is the model's newest that
was neither superseded nor withdrawn; of several truths of a film and finding the last one given. Sensitivity and
specificity are those of "present". At most `MOST` truths are looked at, the newest; `capped` says that there are more.
Truth that is fed back is seldom a sample: if only what was doubted is followed up, all of this is of such films alone.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from cxrnode.core.findings import Decision
from cxrnode.core.lifecycle import JobState
from cxrnode.core.quality import Interval, Share, auroc, share
from cxrnode.store.database import Database
from cxrnode.store.schema import feedback, finding, instance, job

#: Truths that are looked at, at most, and those of one read (design, rule 13).
MOST = 10_000
_PAGE = 1000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a model said of one finding beside the truth; `month` is "" for the whole, else "2026-11"."""

    label: str
    month: str
    films: int
    positives: int
    auroc: Interval
    sensitivity: Share
    specificity: Share
    ppv: Share
    npv: Share
    capped: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _One:
    """One film's score and truth of one finding."""

    label: str
    received_at: float
    score: float
    present: bool
    truth: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Truths beside what a model said of the same films; `capped`: there are older ones that were not looked at."""

    films: tuple[_One, ...]
    capped: bool

    def by_finding(self, *, since: float = 0.0) -> tuple[Agreement, ...]:
        """The agreement by finding, of films received from `since` on; findings without any truth are left out."""
        groups: defaultdict[str, list[_One]] = defaultdict(list)
        for one in self.films:
            if one.received_at >= since:
                groups[one.label].append(one)
        # Those that were left out are older than all that were looked at, about: a short span may have them all.
        capped = self.capped and since < min((one.received_at for one in self.films), default=since)
        return tuple(_measured(label, "", groups[label], capped) for label in sorted(groups))

    def by_month(self, label: str) -> tuple[Agreement, ...]:
        """The agreement on one finding, month by month (in UTC) of the film's receipt."""
        groups: defaultdict[str, list[_One]] = defaultdict(list)
        for one in self.films:
            if one.label == label:
                groups[f"{datetime.datetime.fromtimestamp(one.received_at, datetime.UTC):%Y-%m}"].append(one)
        return tuple(_measured(label, month, groups[month], self.capped) for month in sorted(groups))


def agreement(database: Database, model: str, *, since: float, until: float) -> tuple[Agreement, ...]:
    """How a model agrees with the truth, by finding; findings without any truth are left out."""
    return told(database, model, since=since, until=until).by_finding()


def by_month(database: Database, model: str, label: str, *, since: float, until: float) -> tuple[Agreement, ...]:
    """How a model agrees with the truth of one finding, month by month (in UTC) of the film's receipt."""
    return told(database, model, label=label, since=since, until=until).by_month(label)


def _measured(label: str, month: str, told: Sequence[_One], capped: bool) -> Agreement:
    ill = [one for one in told if one.truth]
    well = [one for one in told if not one.truth]
    hits, alarms = _present(ill), _present(well)
    missed, passed = len(ill) - hits, len(well) - alarms
    return Agreement(
        label=label,
        month=month,
        films=len(told),
        positives=len(ill),
        auroc=auroc([one.score for one in ill], [one.score for one in well]),
        sensitivity=share(hits, len(ill)),
        specificity=share(passed, len(well)),
        ppv=share(hits, hits + alarms),
        npv=share(passed, passed + missed),
        capped=capped,
    )


def _present(told: Iterable[_One]) -> int:
    return sum(one.present for one in told)


def told(database: Database, model: str, *, since: float, until: float, label: str | None = None) -> Told:
    """The newest truth of each film and finding with the model's newest standing score, by keyset pages."""
    page = sa.select(feedback.c.id, feedback.c.instance_id, feedback.c.label, feedback.c.truth, feedback.c.given_at)
    page = page.where(feedback.c.truth.is_not(None)).order_by(feedback.c.id.desc()).limit(_PAGE)
    if label is not None:
        page = page.where(feedback.c.label == label)
    newest: dict[tuple[int, str], _One] = {}
    last = 1 << 62
    for _ in range(max(1, MOST // _PAGE)):
        with database.read() as transaction:
            rows = transaction.rows(_beside(page.where(feedback.c.id < last), model))
        for row in rows:  # ten thousand of them: by place, not by name
            film, name, truth, score, decision, at = row[2:]
            # Not a condition of the query: a range that is a parameter has led PostgreSQL to begin with the films.
            if score is None or not since <= at < until or (film, name) in newest:
                continue
            present = decision == Decision.PRESENT
            newest[film, name] = _One(label=name, received_at=at, score=score, present=present, truth=bool(truth))
        # Nothing is found out of a film before it comes: what was given before `since` is of films before it.
        if len({row[0] for row in rows}) < _PAGE or rows[-1].given_at < since:
            return Told(films=tuple(newest.values()), capped=False)
        last = rows[-1][0]
    return Told(films=tuple(newest.values()), capped=True)


def _beside(page: sa.Select[Any], model: str) -> sa.Select[Any]:
    """The truths of a page, the newest first, each with what the model said; without a score where it said nothing."""
    # The page is a table of its own: else SQLite begins with the films, of which there may be a million.
    some = page.subquery()
    standing = job.c.state.not_in((JobState.SUPERSEDED, JobState.WITHDRAWN))
    return (
        sa.select(some.c.id, some.c.given_at, some.c.instance_id, some.c.label, some.c.truth)
        .add_columns(finding.c.score, finding.c.decision, instance.c.received_at)
        .join_from(some, instance, instance.c.id == some.c.instance_id)
        .outerjoin(job, (job.c.instance_id == some.c.instance_id) & (job.c.model == model) & standing)
        .outerjoin(finding, (finding.c.job_id == job.c.id) & (finding.c.label == some.c.label))
        .order_by(some.c.id.desc(), job.c.id.desc())
    )
