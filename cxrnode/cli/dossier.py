"""One job as people and as programs read it: findings, outputs, deliveries. Decides nothing, asks no database."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cxrnode.cli import tables
from cxrnode.cli.instances import uid_name

if TYPE_CHECKING:
    from cxrnode.core.findings import Report
    from cxrnode.store.details import DeliveryRow, JobDetail, ObjectRow, Revealed
    from cxrnode.store.listing import JobRow


def named(model: str, mode: str) -> str:
    """A job's model as tables say it: with its mode where it is not the usual one."""
    return model + (" (shadow)" if mode == "shadow" else "")


def revision_of(revision: int, predecessor: int | None) -> str:
    """The number of a reading, and the job whose place it takes."""
    return str(revision) + (f" of job {predecessor}" if predecessor is not None else "")


def deliveries_of(row: JobRow) -> str:
    """The state of each delivery, and that of what takes it back."""
    said = [f"{name} {state}" for name, state in row.deliveries.items()]
    said += [f"{name} withdrawal {state}" for name, state in row.withdrawals.items()]
    return ", ".join(said)


def show_job(detail: JobDetail) -> None:
    """Print a job but for its events and whose film it is."""
    job, report = detail.job, detail.report
    if report is not None and report.reader.demonstration:
        tables.say("DEMONSTRATION MODEL: not for patients", style="bold red")
    tables.pairs(
        [
            ("state", job.state),
            ("identity", "in dispute: `cxrnode jobs decide` says which is right" if job.disputed else ""),
            ("withdrawn for", ": ".join(filter(None, (job.rejection, detail.rejection_note)))),
            ("outcome", job.outcome.replace("_", " ")),
            ("reason", job.reason),
            (
                "instance",
                f"{job.instance_id}, received {tables.local(job.received_at, fine=True)} from {job.calling_aet}",
            ),
            ("rule", detail.rule),
            ("model", named(job.model, job.mode)),
            ("revision", revision_of(job.revision, job.predecessor)),
            ("bundle", _bundle(detail)),
            ("engine", detail.engine),
            ("duplicate of", detail.duplicate_of),
            ("next revision", detail.successor),
            (
                "attempts",
                f"{detail.attempts}, workers lost: {detail.losses}" if detail.attempts or detail.losses else "",
            ),
        ],
        title=f"Job {job.id}",
    )
    if report is not None:
        _findings(report)
    if detail.outputs:
        tables.table(
            ("no", "kind", "finding", "SOP class", "bytes", "kept"),
            (
                (
                    o.instance_number,
                    o.kind,
                    _title(o.label),
                    uid_name(o.sop_class_uid),
                    o.size,
                    "yes" if o.kept else "no",
                )
                for o in detail.outputs
            ),
            title="Outputs",
            numbers="no bytes",
        )
    if detail.deliveries:
        _deliveries(detail)


def _bundle(detail: JobDetail) -> str:
    if detail.report is None:
        return detail.bundle_digest[:12]
    reader = detail.report.reader
    return f"{reader.name} {reader.version}, digest {reader.bundle_digest[:12]}, calibration: {reader.calibration}"


def _findings(report: Report) -> None:
    if report.plausibility is not None:
        tables.say(f"plausibility: distance {report.plausibility.distance:.2f}, limit {report.plausibility.limit:.2f}")
    for note in report.notes:
        tables.say(f"note: {note}")
    if not report.findings:
        tables.say("no findings: the film was not analysed")
        return
    # The word is the report's: only a calibrated bundle gives probabilities.
    tables.table(
        ("finding", str(report.scale), "rule-out", "rule-in", "decision"),
        (
            (
                finding.title,
                f"{finding.score:.3f}",
                f"{finding.thresholds.rule_out:.3f}" if finding.thresholds else "-",
                f"{finding.thresholds.rule_in:.3f}" if finding.thresholds else "-",
                finding.decision.replace("_", " "),
            )
            for finding in report.ranked()
        ),
        title="Findings",
        numbers="score probability rule-out rule-in",
    )


def _deliveries(detail: JobDetail) -> None:
    tables.table(
        ("destination", "act", "state", "objects", "attempts", "settled", "reason"),
        (
            (
                one.destination,
                one.act,
                _state(one),
                f"{sum(o.done for o in one.objects)} of {len(one.objects)}",
                one.attempts,
                tables.local(one.settled_at),
                one.reason,
            )
            for one in detail.deliveries
        ),
        title="Deliveries",
        numbers="attempts",
    )
    for name, down in {one.destination: one.down for one in detail.deliveries if one.down is not None}.items():
        since, again = tables.local(down.opened_at), tables.local(down.next_probe_at)
        tables.say(f"{name} is down since {since}: {down.reason}; it is tried again at {again}")
    named = {one.id: f"{one.kind} {_title(one.label)}".strip() for one in detail.outputs}
    answers = [row for one in detail.deliveries for row in _answers(one, named)]
    if answers:
        tables.table(("destination", "object", "status", "meaning"), answers, title="Answers")


def _state(one: DeliveryRow) -> str:
    if one.held and one.state == "pending":
        return "held"
    return f"{one.state}, not committed yet" if one.commit_at is not None else one.state


def _answers(one: DeliveryRow, named: Mapping[int, str]) -> list[tuple[str, str, str, str]]:
    from cxrnode.dicom.statuses import classify

    return [
        (
            one.destination,
            named.get(answer.output_id, str(answer.output_id)),
            f"0x{answer.status:04X}",
            "; ".join(filter(None, (answer.comment or classify(answer.status).gloss, _committed(answer)))),
        )
        for answer in one.objects
        if answer.status is not None
    ]


def _committed(answer: ObjectRow) -> str:
    """What storage commitment said of an object."""
    from cxrnode.dicom.commitment import failure

    if answer.committed:
        return "committed to"
    if answer.commit_failure is None:
        return ""
    return f"not committed to: 0x{answer.commit_failure:04X}, {failure(answer.commit_failure)[1]}"


def _title(label: str) -> str:
    return label.replace("_", " ")


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, its values as they are."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def whose(seen: Mapping[int, Revealed], instance_id: int) -> dict[str, Any]:
    """The identity as a field of JSON, where it was asked for and stands."""
    return {"identity": seen[instance_id]} if instance_id in seen else {}


def job_as_json(detail: JobDetail, seen: Mapping[int, Revealed]) -> dict[str, Any]:
    """All of it; the outputs' UIDs and the identity's digest only with the identity."""
    known = whose(seen, detail.job.instance_id)
    fields = fields_of(detail)
    fields = {**fields_of(fields.pop("job")), **fields, **known}
    fields["demonstration"] = detail.report.reader.demonstration if detail.report else None
    if not known:
        fields["outputs"] = [{k: v for k, v in fields_of(o).items() if k != "sop_instance_uid"} for o in detail.outputs]
        if detail.report is not None:
            digests = ("pixel_digest", "identity_digest")
            fields["report"] = {k: v for k, v in fields_of(detail.report).items() if k not in digests}
    return fields
