"""Feedback: what was found out later of a film, and what a reader thinks of a result. It never changes a result.

    given = feedback.give(database, [Given(job_id=7, label="Effusion", verdict="disagree", by="dr_a")])
    given = feedback.give(database, [Given(accession="A1", label="Effusion", truth=True, source="CT", by="qa")])
    given.stored, given.same, given.refused      # `refused`: (index, reason) of those that could not be used
    feedback.of_job(database, 7)                 # what was said of a job's film and result, newest last

`web`'s POST endpoint and `cxrnode audit feedback import` call `give`. A `Given` names its film by job, by SOP Instance
UID, or by accession, and then all read films of that are meant. A verdict needs the job: a finding that is present or
absent becomes a truth by it, an undetermined one an opinion alone. Of several truths of one film and finding the
last counts. Each that is stored is an event, `feedback_given`, without identifiers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import sqlalchemy as sa

from cxrnode.core.findings import Decision
from cxrnode.store.audit import note
from cxrnode.store.database import Database, Row, Transaction
from cxrnode.store.schema import feedback, finding, identity, instance, job

Verdict = Literal["", "agree", "disagree"]
#: Given in one transaction, so that none is long.
_BATCH = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What somebody says of one finding of a film; label "" is the result as a whole, and takes a verdict alone."""

    label: str
    by: str
    truth: bool | None = None
    verdict: Verdict = ""
    source: str = ""
    job_id: int | None = None
    accession: str = ""
    sop_instance_uid: str = ""

    def __repr__(self) -> str:
        """Nothing of the film's names: a repr ends in logs and tracebacks."""
        return f"Given(label={self.label!r}, job_id={self.job_id})"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of it: rows stored, rows that said the same already, and what was refused, by index and reason."""

    stored: int
    same: int
    refused: tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """One stored piece of feedback."""

    id: int
    given_at: float
    instance_id: int
    job_id: int | None
    label: str
    truth: bool | None
    verdict: str
    source: str
    given_by: str


def give(database: Database, given: Sequence[Given]) -> Taken:
    """Store feedback; what is wrong with one stops no other."""
    stored = same = 0
    refused: list[tuple[int, str]] = []
    for start in range(0, len(given), _BATCH):
        with database.write() as transaction:
            for index, one in enumerate(given[start : start + _BATCH], start=start):
                films, reason = _films(transaction, one)
                if reason:
                    refused.append((index, reason))
                for film in films:
                    new = _store(transaction, one, film)
                    stored, same = stored + new, same + (not new)
    return Taken(stored=stored, same=same, refused=tuple(refused))


def of_job(database: Database, job_id: int) -> tuple[Feedback, ...]:
    """What was said of a job's film, whoever read it, and of its result; oldest first."""
    film = sa.select(job.c.instance_id).where(job.c.id == job_id).scalar_subquery()
    chosen = (feedback.c.instance_id == film, feedback.c.job_id.is_(None) | (feedback.c.job_id == job_id))
    with database.read() as transaction:
        rows = transaction.rows(sa.select(feedback).where(*chosen).order_by(feedback.c.id).limit(500))
    return tuple(Feedback(**row._mapping) for row in rows)


def _films(transaction: Transaction, one: Given) -> tuple[Sequence[Row], str]:
    """The jobs that are meant, one a film, with what they said of the finding; or why there is none."""
    if one.truth is None and not one.verdict:
        return (), "it says neither a truth nor a verdict"
    if one.verdict and one.job_id is None:
        return (), "a verdict is on a job's result; name the job"
    if not one.label and one.truth is not None:
        return (), "a truth is of a finding; name it"
    columns = (job.c.id, job.c.instance_id, finding.c.decision)
    chosen = sa.select(*columns).join_from(
        job, finding, (finding.c.job_id == job.c.id) & (finding.c.label == one.label), isouter=True
    )
    if one.job_id is not None:
        rows = transaction.rows(chosen.where(job.c.id == one.job_id))
        missing = f"there is no job {one.job_id}"
    else:
        its = _instances(one)
        if its is None:
            return (), "it names no film: give a job, an accession or a SOP Instance UID"
        rows = transaction.rows(chosen.where(job.c.instance_id.in_(its)).order_by(job.c.id))
        missing = "no film of that name was read here"
    if not rows:
        return (), missing
    known = [row for row in rows if row.decision is not None] if one.label else rows
    if not known:
        return (), f"no model said anything of {one.label!r} there"
    if one.job_id is not None:
        return known, ""
    return list({row.instance_id: row for row in known}.values()), ""


def _instances(one: Given) -> sa.Select[Any] | None:
    if one.sop_instance_uid:
        return sa.select(instance.c.id).where(instance.c.sop_instance_uid == one.sop_instance_uid)
    if one.accession:
        return sa.select(identity.c.instance_id).where(identity.c.accession == one.accession)
    return None


def _store(transaction: Transaction, one: Given, film: Row) -> bool:
    truth = one.truth
    if truth is None and film.decision in (Decision.PRESENT, Decision.ABSENT):
        truth = (film.decision == Decision.PRESENT) == (one.verdict == "agree")
    job_id = film.id if one.verdict else None
    who = {"label": one.label, "source": one.source[:64], "given_by": one.by[:64]}
    before = transaction.row(
        sa.select(feedback.c.truth, feedback.c.verdict)
        .where(feedback.c.instance_id == film.instance_id, feedback.c.job_id.is_not_distinct_from(job_id))
        .where(*(feedback.c[name] == value for name, value in who.items()))
        .order_by(feedback.c.id.desc())
        .limit(1)
    )
    if before is not None and (before.truth, before.verdict) == (truth, one.verdict):
        return False
    row = {**who, "instance_id": film.instance_id, "job_id": job_id, "truth": truth, "verdict": one.verdict}
    transaction.connection.execute(sa.insert(feedback).values(given_at=transaction.now, **row))
    # On the instance alone: a chain is moved only by whoever holds its job.
    note(
        transaction,
        "feedback_given",
        instance_id=film.instance_id,
        label=one.label,
        truth=truth,
        verdict=one.verdict,
        by=one.by[:64],
    )
    return True
