"""Records for export: one a finding of a job, or one a job without any, oldest first, by keyset pages.

    for record in records.records(database, RecordFilter(model="chest", since=t0)):        # without identifiers
    for record in records.records(database, RecordFilter(), who=revealed):                 # with what `who` returns

Whose film it is comes from `who`, which the caller chooses: `identified` writes an event for each film that is shown,
`pseudonymous` replaces each name by one that only the key's owner can follow. Without it the columns stay empty.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import sqlalchemy as sa

from cxrnode.core.header import Header
from cxrnode.core.pseudonyms import Pseudonyms
from cxrnode.core.views import view_of
from cxrnode.core.words import WordList
from cxrnode.store import labels
from cxrnode.store.database import Database, Row
from cxrnode.store.details import reveal
from cxrnode.store.schema import feedback, finding, identity, instance, job

#: Jobs of one read.
_PAGE = 200


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RecordFilter:
    """What is exported; None leaves a condition out. Times are of the job's making, seconds since 1970 in UTC.

    `label`: a finding, in whatever case. `at_least`: findings with such a score or more, and the jobs that have one.
    """

    state: str | None = None
    model: str | None = None
    outcome: str | None = None
    calling_aet: str | None = None
    label: str | None = None
    decision: str | None = None
    at_least: float | None = None
    patient_id: str | None = None
    accession: str | None = None
    since: float | None = None
    until: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One finding of one job; of a job without any the finding's columns are empty. Times are in UTC."""

    job: int
    instance: int
    patient_id: str
    accession: str
    study_instance_uid: str
    sop_instance_uid: str
    calling_aet: str
    sex: str
    age_years: float | None
    view: str
    modality: str
    manufacturer: str
    manufacturer_model: str
    study_description: str
    study_date: str
    received_at: float
    read_at: float | None
    settled_at: float | None
    model: str
    bundle: str
    version: str
    demonstration: bool | None
    bundle_digest: str
    config_digest: str
    mode: str
    revision: int
    engine: str
    state: str
    outcome: str
    reason: str
    report_sha256: str
    finding: str
    score: float | None
    scale: str
    decision: str
    rule_out: float | None
    rule_in: float | None
    truth: bool | None
    truth_source: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Whose:
    """Whose film it is, as an export says it. `back`: seconds by which its times are moved into the past."""

    patient_id: str = ""
    accession: str = ""
    study_instance_uid: str = ""
    sop_instance_uid: str = ""
    back: float = 0.0
    oldest: float | None = None  # ages above are given as this


#: Who is asked whose films these instances are.
Who = Callable[[Sequence[int]], Mapping[int, Whose]]
NOBODY = Whose()


def identified(database: Database, *, by: str) -> Who:
    """Say whose films they are, with an event `identity_viewed` for each."""

    def who(instances: Sequence[int]) -> Mapping[int, Whose]:
        return {
            one: Whose(
                patient_id=found.patient_id,
                accession=found.accession,
                study_instance_uid=found.study_instance_uid,
                sop_instance_uid=found.sop_instance_uid,
            )
            for one, found in reveal(database, instances, by=by).items()
        }

    return who


def pseudonymous(database: Database, names: Pseudonyms) -> Who:
    """Say it by pseudonyms, move each patient's times by whole days, and give ages of 90 and more as 90.

    A film whose identity was erased has no pseudonym, and its times are moved as those of a patient of its own.
    """

    def who(instances: Sequence[int]) -> Mapping[int, Whose]:
        columns = (identity.c.patient_id, identity.c.issuer, identity.c.accession, identity.c.study_instance_uid)
        chosen = (
            sa.select(instance.c.id, instance.c.sop_instance_uid, *columns)
            .join_from(instance, identity, identity.c.instance_id == instance.c.id, isouter=True)
            .where(instance.c.id.in_(instances))
        )
        with database.read() as transaction:
            rows = transaction.rows(chosen)
        found = {}
        for row in rows:
            patient = f"{row.patient_id}\0{row.issuer}" if row.patient_id else ""
            found[row.id] = Whose(
                patient_id=names.name("patient", patient),
                accession=names.name("accession", row.accession or ""),
                study_instance_uid=names.uid("study", row.study_instance_uid or ""),
                sop_instance_uid=names.uid("instance", row.sop_instance_uid),
                back=names.shift(patient or f"instance {row.id}"),
                oldest=90.0,
            )
        return found

    return who


def records(
    database: Database, chosen: RecordFilter, *, words: WordList | None = None, who: Who | None = None
) -> Iterator[Record]:
    """Yield what was asked for, jobs by their ids, findings by their labels."""
    said = words or WordList()
    if chosen.label is not None:
        chosen = dataclasses.replace(chosen, label=labels.spelled(database, chosen.label))
    last = 0
    while True:
        with database.read() as transaction:
            rows = transaction.rows(_page(chosen, last))
            ids = [row.id for row in rows]
            films = sorted({row.instance_id for row in rows})
            found: defaultdict[int, list[Row]] = defaultdict(list)
            where = [finding.c.job_id.in_(ids), *_findings(chosen)]
            for one in transaction.rows(sa.select(finding).where(*where).order_by(finding.c.job_id, finding.c.label)):
                found[one.job_id].append(one)
            truths = {
                (one.instance_id, one.label): one
                for one in transaction.rows(
                    sa.select(feedback)
                    .where(feedback.c.instance_id.in_(films), feedback.c.truth.is_not(None))
                    .order_by(feedback.c.id)
                )
            }
        whose = who(films) if who and films else {}
        only = chosen.label is not None or chosen.decision is not None or chosen.at_least is not None
        for row in rows:
            header = Header.from_json(json.loads(row.header))
            lines: list[Row | None] = [*found[row.id]]
            for line in lines or ([] if only else [None]):
                truth = truths.get((row.instance_id, line.label)) if line is not None else None
                yield _record(row, header, said, whose.get(row.instance_id, NOBODY), line, truth, named=who is not None)
        if len(rows) < _PAGE:
            return
        last = rows[-1].id


def _page(chosen: RecordFilter, last: int) -> sa.Select[*tuple[object, ...]]:
    columns = (
        *(job.c.id, job.c.instance_id, job.c.model, job.c.bundle_digest, job.c.config_digest, job.c.mode),
        *(job.c.revision, job.c.engine, job.c.state, job.c.outcome, job.c.reason, job.c.report_sha256),
        *(
            job.c.claimed_at,
            job.c.settled_at,
            job.c.report,
            instance.c.received_at,
            instance.c.calling_aet,
            instance.c.header,
        ),
    )
    where: list[sa.ColumnElement[bool]] = [job.c.id > last]
    for column, value in (
        (job.c.state, chosen.state),
        (job.c.model, chosen.model),
        (job.c.outcome, chosen.outcome),
        (instance.c.calling_aet, chosen.calling_aet),
    ):
        if value is not None:
            where.append(column == value)
    for column, value in ((identity.c.patient_id, chosen.patient_id), (identity.c.accession, chosen.accession)):
        if value is not None:
            where.append(job.c.instance_id.in_(sa.select(identity.c.instance_id).where(column == value)))
    if chosen.since is not None:
        where.append(job.c.created_at >= chosen.since)
    if chosen.until is not None:
        where.append(job.c.created_at < chosen.until)
    return (
        sa.select(*columns)
        .join_from(job, instance, instance.c.id == job.c.instance_id)
        .where(*where)
        .order_by(job.c.id)
        .limit(_PAGE)
    )


def _findings(chosen: RecordFilter) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = []
    if chosen.label is not None:
        where.append(finding.c.label == chosen.label)
    if chosen.decision is not None:
        where.append(finding.c.decision == chosen.decision)
    if chosen.at_least is not None:
        where.append(finding.c.score >= chosen.at_least)
    return where


def _record(
    row: Row, header: Header, words: WordList, whose: Whose, one: Row | None, truth: Row | None, *, named: bool
) -> Record:
    reader = json.loads(row.report)["reader"] if row.report else {}
    age = header.age_years
    if age is not None and whose.oldest is not None:
        age = float(min(int(age), int(whose.oldest)))
    return Record(
        job=row.id,
        instance=row.instance_id,
        patient_id=whose.patient_id,
        accession=whose.accession,
        study_instance_uid=whose.study_instance_uid,
        sop_instance_uid=whose.sop_instance_uid,
        calling_aet=row.calling_aet,
        sex=header.sex,
        age_years=age,
        view=str(view_of(header, words)),
        modality=header.modality,
        manufacturer=header.manufacturer,
        manufacturer_model=header.model_name,
        # Free text may name the patient, and the date of the study is theirs.
        study_description=header.study_description if named and not whose.back else "",
        study_date=_moved(header.study_date, whose.back) if named else "",
        received_at=row.received_at - whose.back,
        read_at=None if row.claimed_at is None else row.claimed_at - whose.back,
        settled_at=None if row.settled_at is None else row.settled_at - whose.back,
        model=row.model,
        bundle=reader.get("name", ""),
        version=reader.get("version", ""),
        demonstration=reader.get("demonstration"),
        bundle_digest=row.bundle_digest,
        config_digest=row.config_digest,
        mode=row.mode,
        revision=row.revision,
        engine=row.engine,
        state=row.state,
        outcome=row.outcome,
        reason=row.reason,
        report_sha256=row.report_sha256 if not whose.back else "",
        finding=one.label if one is not None else "",
        score=one.score if one is not None else None,
        scale=one.scale if one is not None else "",
        decision=one.decision if one is not None else "",
        rule_out=one.rule_out if one is not None else None,
        rule_in=one.rule_in if one is not None else None,
        truth=truth.truth if truth is not None else None,
        truth_source=truth.source if truth is not None else "",
    )


def _moved(date: str, back: float) -> str:
    """A date of DICOM, so many seconds earlier; "" for anything that is none."""
    try:
        day = datetime.datetime.strptime(date, "%Y%m%d")
    except ValueError:
        return ""
    return f"{day - datetime.timedelta(seconds=back):%Y%m%d}"
