"""`cxrnode jobs`: the readings. What was found, what was sent where, what went wrong.

No identifier without `--identity`. Nothing here changes a job: `cli.corrections` does, through the store.
"""

from __future__ import annotations

from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.dossier import deliveries_of, fields_of, job_as_json, named, revision_of, show_job, whose
from cxrnode.cli.filters import OUTCOMES, STATES
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
    columns = ("id", "instance", "received", "from", "model", "revision", "state", "outcome", "deliveries", "reason")
    tables.table(
        (*columns, *(IDENTITY_COLUMNS if with_identity else ())),
        (
            (
                row.id,
                row.instance_id,
                tables.local(row.received_at),
                row.calling_aet,
                named(row.model, row.mode),
                revision_of(row.revision, row.predecessor),
                f"{row.state}, disputed" if row.disputed else row.state,
                row.outcome.replace("_", " "),
                deliveries_of(row),
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
