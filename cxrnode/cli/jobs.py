"""`cxrnode jobs`: the readings. What was found, what was sent where, what went wrong; and to do it again.

No identifier without `--identity`. Nothing here changes a job but `retry` and `resend`, through the store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.instances import (
    IDENTITY_COLUMNS,
    identity_cells,
    more,
    revealed,
    show_identity,
    timeline,
    uid_name,
)
from cxrnode.cli.options import (
    config_option,
    identity_option,
    json_option,
    limit_option,
    load,
    open_store,
    since_option,
    until_option,
)
from cxrnode.errors import Rejected

if TYPE_CHECKING:
    from cxrnode.core.findings import Report
    from cxrnode.store.listing import DeliveryRow, JobDetail, Revealed

STATES = ("queued", "reading", "reported", "delivered", "failed", "superseded", "withdrawn")
OUTCOMES = ("analysed", "not_analysed", "duplicate")
#: Jobs that one bulk retry takes, at most.
_BULK = 10_000

_reason_option = click.option(
    "--reason", required=True, metavar="TEXT", help="Why; it stands in the audit trail. No patient's name."
)


@click.group()
def jobs() -> None:
    """The reading of each film by each model."""


@jobs.command("ls")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--model", metavar="NAME", help="Only this model's.")
@click.option("--outcome", type=click.Choice(OUTCOMES), help="Only jobs that ended so.")
@since_option
@until_option
@limit_option(50)
@identity_option
@json_option
@config_option
def ls_command(
    state: str | None,
    model: str | None,
    outcome: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    with_identity: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """List jobs, the newest first."""
    from cxrnode.store.listing import JobFilter, list_jobs

    chosen = JobFilter(state=state, model=model, outcome=outcome, since=since, until=until)
    with open_store(load(config_path)) as database:
        rows = list(list_jobs(database, chosen, limit=limit))
        seen = revealed(database, [row.instance_id for row in rows], with_identity)
    if as_json:
        tables.emit([{**_fields(row), **_whose(seen, row.instance_id)} for row in rows])
        return
    columns = ("id", "instance", "received", "from", "model", "state", "outcome", "deliveries", "reason")
    tables.table(
        (*columns, *(IDENTITY_COLUMNS if with_identity else ())),
        (
            (
                row.id,
                row.instance_id,
                tables.local(row.received_at),
                row.calling_aet,
                _named(row.model, row.revision, row.mode),
                row.state,
                row.outcome.replace("_", " "),
                ", ".join(f"{name} {state}" for name, state in row.deliveries.items()),
                row.reason,
                *(identity_cells(seen, row.instance_id) if with_identity else ()),
            )
            for row in rows
        ),
        numbers="id instance",
    )
    more(len(rows), limit)


@jobs.command("show")
@click.argument("job_id", metavar="ID", type=int)
@identity_option
@json_option
@config_option
def show_command(job_id: int, with_identity: bool, as_json: bool, config_path: Path | None) -> None:
    """Show one job: its findings, outputs, deliveries and events."""
    from cxrnode.store.listing import job_detail

    with open_store(load(config_path)) as database:
        detail = job_detail(database, job_id)
        seen = revealed(database, [detail.job.instance_id], with_identity)
    if as_json:
        tables.emit(_as_json(detail, seen))
        return
    _show(detail)
    show_identity(seen, detail.job.instance_id, with_identity)
    timeline(detail.events)


@jobs.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=int)
@click.option("--state", type=click.Choice(["failed"]), help="Instead of IDs: all jobs that failed.")
@click.option("--model", metavar="NAME", help="With --state: only this model's.")
@since_option
@click.option("--yes", is_flag=True, help="With --state: do not ask.")
@_reason_option
@json_option
@config_option
@click.pass_context
def retry_command(
    ctx: click.Context,
    job_ids: tuple[int, ...],
    state: str | None,
    model: str | None,
    since: float | None,
    yes: bool,
    reason: str,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Read films again. A job that was reported before gets its next revision."""
    if bool(job_ids) == bool(state):
        raise click.UsageError("name either job IDs or --state failed")
    if not state and (model or since is not None or yes):
        raise click.UsageError("--model, --since and --yes go with --state")
    from cxrnode.store.jobs import retry
    from cxrnode.store.listing import JobFilter, list_jobs
    from cxrnode.wakeup import wake

    config = load(config_path)
    with open_store(config) as database:
        ids: Sequence[int] = job_ids
        if state:
            chosen = JobFilter(state=state, model=model, since=since)
            ids = [row.id for row in list_jobs(database, chosen, limit=_BULK)][::-1]
            if ids and not yes:
                click.confirm(f"Read {len(ids)} failed jobs again?", abort=True, err=True)
        done = _each(ids, lambda one: f"queued as job {retry(database, one, reason=reason)}")
    wake(config.node.data_dir, "infer")
    _conclude(ctx, done, as_json)


@jobs.command("resend")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, type=int)
@_reason_option
@json_option
@config_option
@click.pass_context
def resend_command(
    ctx: click.Context, job_ids: tuple[int, ...], reason: str, as_json: bool, config_path: Path | None
) -> None:
    """Send the same outputs again, byte for byte; or release them, where they are held."""
    from cxrnode.store.resend import resend
    from cxrnode.wakeup import wake

    config = load(config_path)
    with open_store(config) as database:
        done = _each(job_ids, lambda one: f"deliveries to send: {resend(database, one, reason=reason)}")
    wake(config.node.data_dir, "send")
    _conclude(ctx, done, as_json)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one job that a person asked something of."""

    job_id: int
    ok: bool
    detail: str


def _each(job_ids: Sequence[int], act: Callable[[int], str]) -> list[Done]:
    """Do it for each job; what is refused for one stops no other."""
    done = []
    for job_id in dict.fromkeys(job_ids):
        try:
            done.append(Done(job_id=job_id, ok=True, detail=act(job_id)))
        except Rejected as refusal:
            done.append(Done(job_id=job_id, ok=False, detail=str(refusal)))
    return done


def _conclude(ctx: click.Context, done: Sequence[Done], as_json: bool) -> None:
    if as_json:
        tables.emit(done)
    elif done:
        tables.table(
            ("job", "state", "detail"),
            ((one.job_id, "ok" if one.ok else "FAULT", one.detail) for one in done),
            numbers="job",
        )
    else:
        tables.aside("none found")
    ctx.exit(0 if all(one.ok for one in done) else 1)


def _named(model: str, revision: int, mode: str) -> str:
    return model + (f" r{revision}" if revision > 1 else "") + (" (shadow)" if mode == "shadow" else "")


def _show(detail: JobDetail) -> None:
    job, report = detail.job, detail.report
    if report is not None and report.reader.demonstration:
        tables.say("DEMONSTRATION MODEL: not for patients", style="bold red")
    tables.pairs(
        [
            ("state", job.state),
            ("outcome", job.outcome.replace("_", " ")),
            ("reason", job.reason),
            (
                "instance",
                f"{job.instance_id}, received {tables.local(job.received_at, fine=True)} from {job.calling_aet}",
            ),
            ("rule", detail.rule),
            ("model", _named(job.model, job.revision, job.mode)),
            ("bundle", _bundle(detail)),
            ("engine", detail.engine),
            ("duplicate of", detail.duplicate_of),
            ("revision of", detail.predecessor),
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
            for finding in sorted(report.findings, key=lambda f: (-f.score, f.index))
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
                "held" if one.held and one.state == "pending" else one.state,
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
    named = {one.id: f"{one.kind} {_title(one.label)}".strip() for one in detail.outputs}
    answers = [row for one in detail.deliveries for row in _answers(one, named)]
    if answers:
        tables.table(("destination", "object", "status", "meaning"), answers, title="Answers")


def _answers(one: DeliveryRow, named: Mapping[int, str]) -> list[tuple[str, str, str, str]]:
    from cxrnode.dicom.statuses import classify

    return [
        (
            one.destination,
            named.get(answer.output_id, str(answer.output_id)),
            f"0x{answer.status:04X}",
            answer.comment or classify(answer.status).gloss,
        )
        for answer in one.objects
        if answer.status is not None
    ]


def _title(label: str) -> str:
    return label.replace("_", " ")


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _whose(seen: Mapping[int, Revealed], instance_id: int) -> dict[str, Any]:
    return {"identity": seen[instance_id]} if instance_id in seen else {}


def _as_json(detail: JobDetail, seen: Mapping[int, Revealed]) -> dict[str, Any]:
    """All of it; the outputs' UIDs and the identity's digest only with the identity."""
    whose = _whose(seen, detail.job.instance_id)
    fields = _fields(detail)
    fields = {**_fields(fields.pop("job")), **fields, **whose}
    fields["demonstration"] = detail.report.reader.demonstration if detail.report else None
    if not whose:
        fields["outputs"] = [{k: v for k, v in _fields(o).items() if k != "sop_instance_uid"} for o in detail.outputs]
        if detail.report is not None:
            digests = ("pixel_digest", "identity_digest")
            fields["report"] = {k: v for k, v in _fields(detail.report).items() if k not in digests}
    return fields
