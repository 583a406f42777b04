"""`cxrnode jobs`: the readings. What was found, what was sent where, what went wrong; and to do it again.

No identifier without `--identity`. Nothing here changes a job but `retry` and `resend`, through the store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.dossier import fields_of, job_as_json, named, show_job, whose
from cxrnode.cli.instances import (
    IDENTITY_COLUMNS,
    identity_cells,
    more,
    revealed,
    show_identity,
    timeline,
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
        tables.emit([{**fields_of(row), **whose(seen, row.instance_id)} for row in rows])
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
                named(row.model, row.revision, row.mode),
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
    from cxrnode.store.details import job_detail

    with open_store(load(config_path)) as database:
        detail = job_detail(database, job_id)
        seen = revealed(database, [detail.job.instance_id], with_identity)
    if as_json:
        tables.emit(job_as_json(detail, seen))
        return
    show_job(detail)
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
