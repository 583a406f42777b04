"""The accounting at the end: where every acknowledged film is, and what the archives got. It believes no counter.

Each clause of the promise is a function over the ledger that yields what speaks against it; an empty list is a proof.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cxrnode.core.digests import Kind as DigestKind
from cxrnode.core.digests import kind_of
from cxrnode.core.findings import Outcome
from cxrnode.core.lifecycle import (
    RESTING,
    DeliveryEvent,
    DeliveryState,
    JobState,
    advance_delivery,
    job_after,
)
from cxrnode.dicom.part10 import dataset_digest
from cxrnode.errors import IllegalTransition
from cxrnode.store.audit import broken_link
from cxrnode.store.schema import delivery, delivery_output, event, identity, instance, job, output
from tests.peers import Orthanc, Stored
from tests.torture.films import Film, Kind
from tests.torture.node import TorturedSite

Row = Any


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """All that is known at the end: what was sent and acknowledged, all rows, all that the archives were given."""

    films: Sequence[Film]
    acknowledged: frozenset[Path]
    site: TorturedSite
    received: Sequence[Stored]
    archived: frozenset[str]
    instances: Sequence[Row]
    jobs: Sequence[Row]
    outputs: Sequence[Row]
    deliveries: Sequence[Row]
    parcels: Sequence[Row]
    events: Sequence[Row]
    people: Sequence[Row]

    @classmethod
    def of(cls, site: TorturedSite, films: Sequence[Film], acknowledged: frozenset[Path], received: Sequence[Stored],
           archive: Orthanc) -> Ledger:  # fmt: skip
        """Read everything. The node is stopped."""
        return cls(
            films=films,
            acknowledged=acknowledged,
            site=site,
            received=received,
            archived=frozenset(one["MainDicomTags"]["SOPInstanceUID"] for one in archive.json("/instances?expand")),
            instances=site.rows(sa.select(instance).order_by(instance.c.id)),
            jobs=site.rows(sa.select(job).order_by(job.c.id)),
            outputs=site.rows(sa.select(output).order_by(output.c.id)),
            deliveries=site.rows(sa.select(delivery).order_by(delivery.c.id)),
            parcels=site.rows(sa.select(delivery_output)),
            events=site.rows(sa.select(event).order_by(event.c.id)),
            people=site.rows(sa.select(identity)),
        )

    def events_of(self, column: str) -> Mapping[int, list[Row]]:
        """Events by the id in this column, in their order."""
        found: dict[int, list[Row]] = defaultdict(list)
        for one in self.events:
            key = getattr(one, column)
            if key is not None:
                found[key].append(one)
        return found

    def file(self, key: str) -> Path:
        """Where the spool keeps this key."""
        return self.site.data_dir / "spool" / "objects" / key[:2] / key

    def site_has(self, key: str) -> bool:
        """Whether the spool has this key."""
        return self.file(key).is_file()

    def archived_outputs(self) -> set[str]:
        """What the second archive has that was not sent to it as a film."""
        return set(self.archived) - {film.uid for film in self.films}

    @property
    def accepted_by_pacs(self) -> dict[str, list[Stored]]:
        """What the recording archive said Success to, or a warning."""
        kept: dict[str, list[Stored]] = defaultdict(list)
        for one in self.received:
            if one.status == 0 or one.status & 0xF000 == 0xB000:
                kept[one.sop_instance_uid].append(one)
        return kept


def at_rest(ledger: Ledger) -> Counter[str]:
    """How many jobs rest as what."""
    found: Counter[str] = Counter()
    sent_somewhere = {one.job_id for one in ledger.deliveries if one.act == "report"}
    for one in ledger.jobs:
        match one.state:
            case JobState.DELIVERED:
                found["not analysed" if one.outcome == Outcome.NOT_ANALYSED else "delivered"] += 1
            case JobState.REPORTED if one.outcome == Outcome.DUPLICATE:
                found["duplicate"] += 1
            case JobState.REPORTED if one.mode == "shadow":
                found["reported in shadow"] += 1
            case JobState.SUPERSEDED | JobState.WITHDRAWN:
                found[one.state] += 1
            case JobState.FAILED if one.reason or _parked_reasons(ledger, one.id):
                found["parked with reason"] += 1
            case _:
                found[f"NOT AT REST: {one.state}{'' if one.id in sent_somewhere else ', nothing to send'}"] += 1
    return found


def _parked_reasons(ledger: Ledger, job_id: int) -> list[str]:
    return [
        one.reason
        for one in ledger.deliveries
        if one.job_id == job_id and one.act == "report" and one.state == DeliveryState.FAILED
    ]


# ------------------------------------------------------------------------------------------- the clauses


def nothing_is_lost(ledger: Ledger) -> Iterator[str]:
    """Every film that its sender has Success for has its row, its bytes and its verdict; each film once."""
    for film in ledger.films:
        if film.path not in ledger.acknowledged:
            yield f"{film.path.name} was never acknowledged"
    expected = Counter(film.uid for film in ledger.films if film.path in ledger.acknowledged)
    found = Counter(one.sop_instance_uid for one in ledger.instances)
    for uid in expected | found:
        if expected[uid] != found[uid]:
            yield f"{uid}: {expected[uid]} films acknowledged, {found[uid]} instances"
    having = {one.instance_id for one in ledger.jobs}
    for one in ledger.instances:
        if not one.reason:
            yield f"instance {one.id} has no reason"
        if (one.verdict == "accepted") != (one.id in having):
            yield f"instance {one.id} is {one.verdict} and has {'a' if one.id in having else 'no'} job"
        if one.spool_key is None or not ledger.site_has(one.spool_key):
            yield f"instance {one.id} has no file"
        elif dataset_digest(ledger.file(one.spool_key), kind_of(one.dataset_sha256)) != one.dataset_sha256:
            yield f"instance {one.id}: its file is not what was received"


def verdicts_are_right(ledger: Ledger) -> Iterator[str]:
    """Ignored is what was meant to be ignored, and nothing else."""
    kinds = {film.uid: film.kind for film in ledger.films}
    for one in ledger.instances:
        if (kinds.get(one.sop_instance_uid) is Kind.IGNORED) != (one.verdict == "ignored"):
            yield f"instance {one.id} is {one.verdict}: {one.reason}"


def everything_rests(ledger: Ledger) -> Iterator[str]:
    """No job and no delivery is under way, and what was parked says why."""
    for state, count in at_rest(ledger).items():
        if state.startswith("NOT"):
            yield f"{count} jobs {state}"
    for one in ledger.deliveries:
        if one.state not in RESTING:
            yield f"delivery {one.id} of job {one.job_id} is {one.state}"
        if one.state == DeliveryState.FAILED and "C000" not in one.reason:
            yield f"delivery {one.id} was parked, and no answer of its destination asked for it: {one.reason}"


def no_innocent_film_is_parked(ledger: Ledger) -> Iterator[str]:
    """No film is parked because of what happened to workers: each has its report."""
    for one in ledger.jobs:
        if one.state == JobState.FAILED and not one.report:
            yield f"job {one.id} was parked unread: {one.reason}"


def each_is_reported_once(ledger: Ledger) -> Iterator[str]:
    """Exactly one `reported` event where there is a report, and none else; one job a film, model and revision."""
    names = {job_id: Counter(e.name for e in events) for job_id, events in ledger.events_of("job_id").items()}
    for one in ledger.jobs:
        told = names[one.id]["reported"]
        if told != bool(one.report):
            yield f"job {one.id} ({one.state}) has {told} reported events and {'a' if one.report else 'no'} report"
        if (names[one.id]["duplicate_found"] == 1) != (one.outcome == Outcome.DUPLICATE):
            yield f"job {one.id} is {one.outcome} with {names[one.id]['duplicate_found']} duplicate_found"
    for key, count in Counter((one.instance_id, one.model, one.revision) for one in ledger.jobs).items():
        if count > 1:
            yield f"{key} has {count} jobs"


def each_job_has_one_set_of_objects(ledger: Ledger) -> Iterator[str]:
    """What the archive got of a job in any number of tries is one set of UIDs: that of its rows, one document in it."""
    of_uid: dict[str, Row] = {}
    for one in ledger.outputs:
        if one.sop_instance_uid in of_uid:
            yield f"{one.sop_instance_uid} is an output of two jobs"
        of_uid[one.sop_instance_uid] = one
    for uid in {one.sop_instance_uid for one in ledger.received} | ledger.archived_outputs():
        if uid not in of_uid:
            yield f"an archive has {uid}, which no job made"
    having = {one.delivery_id for one in ledger.parcels}
    for one in ledger.deliveries:
        if one.id not in having and one.state != DeliveryState.CANCELLED:
            yield f"delivery {one.id} has no object"
    of_delivery = {one.id: one for one in ledger.deliveries}
    documents: Counter[int] = Counter()
    kinds = {one.id: one.kind for one in ledger.outputs}
    for destination in ("PACS", "ARCHIVE"):
        documents.clear()
        for one in ledger.parcels:
            its = of_delivery[one.delivery_id]
            if its.destination == destination and its.act == "report" and kinds[one.output_id] == "sr":
                documents[its.job_id] += 1
        for job_id, count in documents.items():
            if count != 1:
                yield f"job {job_id} has {count} reports for {destination}"


def what_was_sent_arrived(ledger: Ledger) -> Iterator[str]:
    """Every object of a delivery that is `sent` is in its archive."""
    uids = {one.id: one.sop_instance_uid for one in ledger.outputs}
    there = {"PACS": set(ledger.accepted_by_pacs), "ARCHIVE": set(ledger.archived)}
    of_delivery = {one.id: one for one in ledger.deliveries}
    for one in ledger.parcels:
        its = of_delivery[one.delivery_id]
        arrived = uids[one.output_id] in there[its.destination]
        if its.state == DeliveryState.SENT and not arrived:
            yield f"delivery {its.id} is sent, and {its.destination} does not have {uids[one.output_id]}"


def repeats_are_identical(ledger: Ledger) -> Iterator[str]:
    """Every C-STORE of an object brought the same bytes, whatever was answered: those that lie in the spool."""
    digests: dict[str, set[str]] = defaultdict(set)
    for one in ledger.received:
        digests[one.sop_instance_uid].add(one.sha256)
    for uid, found in digests.items():
        if len(found) > 1:
            yield f"{uid} came with {len(found)} different contents"
    for one in ledger.outputs:
        if one.spool_key is None or not ledger.site_has(one.spool_key):
            yield f"output {one.id} has no file"
        elif digests.get(one.sop_instance_uid, set()) - {dataset_digest(ledger.file(one.spool_key), DigestKind.SHA256)}:
            yield f"{one.sop_instance_uid} came with other bytes than the spool has"


def patient_and_study_are_the_sources(ledger: Ledger) -> Iterator[str]:
    """No object names another patient or study than the film that it was made of."""
    films = {film.uid: film for film in ledger.films}
    source = {one.id: one.sop_instance_uid for one in ledger.instances}
    film_of = {one.id: films[source[one.instance_id]] for one in ledger.jobs}
    job_of = {one.sop_instance_uid: one.job_id for one in ledger.outputs}
    for copies in ledger.accepted_by_pacs.values():
        made, uid = copies[0].dataset(), copies[0].sop_instance_uid
        film = film_of[job_of[uid]]
        said = (str(made.PatientID).strip(), str(made.PatientName), str(made.StudyInstanceUID))
        if said != (film.patient_id, film.patient_name, film.study_uid):
            yield f"{uid} of job {job_of[uid]} names another patient or study than its film"


def every_chain_is_legal(ledger: Ledger) -> Iterator[str]:
    """The events of each job and delivery follow the tables and end in its state; every chain of hashes holds."""
    by_job, by_delivery = ledger.events_of("job_id"), ledger.events_of("delivery_id")
    for one in ledger.jobs:
        try:
            ends = job_after(e.name for e in by_job[one.id])
        except IllegalTransition as illegal:
            yield f"job {one.id}: {illegal}"
            continue
        if ends != one.state:
            yield f"job {one.id} is {one.state}, its events end in {ends}"
        if (broken := broken_link(ledger.site.database, one.id)) is not None:
            yield f"job {one.id}: the chain breaks at event {broken}"
    known = set(DeliveryEvent)
    for one in ledger.deliveries:
        state: DeliveryState | None = None
        try:
            for happened in by_delivery[one.id]:
                if happened.name in known:
                    state = advance_delivery(state, DeliveryEvent(happened.name))
        except IllegalTransition as illegal:
            yield f"delivery {one.id}: {illegal}"
            continue
        if state != one.state:
            yield f"delivery {one.id} is {one.state}, its events end in {state}"


def no_one_is_named(ledger: Ledger) -> Iterator[str]:
    """No patient, study or accession number stands in an event or in the log."""
    written = " ".join(one.detail for one in ledger.events) + ledger.site.log.read_text(errors="replace")
    for one in ledger.people:
        for column in ("patient_id", "patient_name", "accession", "study_instance_uid"):
            value = getattr(one, column).strip()
            if len(value) > 3 and value in written:
                yield f"instance {one.instance_id}: its {column} stands in an event or the log"


def nothing_was_a_bug(ledger: Ledger) -> Iterator[str]:
    """Whatever was done to the node, none of its roles met what nobody had thought of."""
    for name in ("bug", "receive_failed", "sender_failed"):
        for line in ledger.site.logged(name):
            yield f"{name}: {line.get('error')} at {(line.get('where') or ['?'])[-1]}"
    if "Traceback (most recent call last)" in ledger.site.log.read_text(errors="replace"):
        yield "a traceback stands in the log"


CLAUSES: Mapping[str, Callable[[Ledger], Iterable[str]]] = {
    "nothing is lost": nothing_is_lost,
    "verdicts are right": verdicts_are_right,
    "everything rests": everything_rests,
    "no innocent film is parked": no_innocent_film_is_parked,
    "each is reported once": each_is_reported_once,
    "one set of objects a job": each_job_has_one_set_of_objects,
    "what was sent arrived": what_was_sent_arrived,
    "repeats are identical": repeats_are_identical,
    "patient and study are the source's": patient_and_study_are_the_sources,
    "every chain is legal": every_chain_is_legal,
    "no one is named": no_one_is_named,
    "nothing was a bug": nothing_was_a_bug,
}


def violations(ledger: Ledger) -> dict[str, list[str]]:
    """What speaks against each clause; all of them empty is what was promised."""
    return {name: list(clause(ledger)) for name, clause in CLAUSES.items()}
