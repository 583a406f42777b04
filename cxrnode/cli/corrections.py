"""`cxrnode jobs retry|resend|withdraw|decide`: what a person can do about a result; the audit keeps who, why and when.

Each command does its deed for each job that it is given, and what is refused for one stops no other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load, open_store, since_option, who
from cxrnode.errors import Rejected

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.store.database import Database
    from cxrnode.store.jobs import Reader
    from cxrnode.store.withdrawals import TakenBack

#: Jobs that one bulk retry takes, at most.
_BULK = 10_000
REJECTIONS = ("quality", "patient-safety", "worklist")

_reason_option = click.option(
    "--reason", required=True, metavar="TEXT", help="Why; it stands in the audit trail. No patient's name."
)


@click.command("retry")
@click.argument("job_ids", metavar="[ID]...", nargs=-1, type=int)
@click.option("--state", type=click.Choice(["failed"]), help="Instead of IDs: all jobs that failed.")
@click.option("--model", metavar="NAME", help="With IDs: read by this model now. With --state: only this model's.")
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
    """Read films again, by the model in force now. A job that was reported before gets its next revision."""
    if bool(job_ids) == bool(state):
        raise click.UsageError("name either job IDs or --state failed")
    if not state and (since is not None or yes):
        raise click.UsageError("--since and --yes go with --state")
    from cxrnode.rousing import rouse
    from cxrnode.store.jobs import retry
    from cxrnode.store.listing import JobFilter, list_jobs

    config = load(config_path)
    if job_ids and model and model not in config.models:
        raise click.UsageError(f"the configuration has no model {model!r}; it has {', '.join(config.models)}")
    with open_store(config) as database:
        ids: Sequence[int] = job_ids
        if state:
            chosen = JobFilter(state=state, model=model, since=since)
            ids = [row.id for row in list_jobs(database, chosen, limit=_BULK)][::-1]
            if ids and not yes:
                click.confirm(f"Read {len(ids)} failed jobs again?", abort=True, err=True)

        def again(one: int) -> str:
            reader = _reader(config, database, one, model if job_ids else None)
            return f"queued as job {retry(database, one, reason=reason, by=who(), reader=reader)}"

        done = _each(ids, again)
        rouse(config.node.data_dir, database, "infer")
    _conclude(ctx, done, as_json)


def _reader(config: Config, database: Database, job_id: int, model: str | None) -> Reader | None:
    """The model that is to read the film, in the mode that it has now; None where it is configured no more."""
    from cxrnode.store.details import job_detail
    from cxrnode.store.jobs import Reader

    name = model or job_detail(database, job_id).job.model
    return Reader(model=name, mode=config.models[name].mode) if name in config.models else None


@click.command("resend")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, type=int)
@_reason_option
@json_option
@config_option
@click.pass_context
def resend_command(
    ctx: click.Context, job_ids: tuple[int, ...], reason: str, as_json: bool, config_path: Path | None
) -> None:
    """Send the same outputs again, byte for byte; of a job that is withdrawn, the rejection note."""
    from cxrnode.rousing import rouse
    from cxrnode.store.resend import resend

    config = load(config_path)
    with open_store(config) as database:
        done = _each(job_ids, lambda one: f"deliveries to send: {resend(database, one, reason=reason, by=who())}")
        rouse(config.node.data_dir, database, "send")
    _conclude(ctx, done, as_json)


@click.command("withdraw")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True, type=int)
@click.option(
    "--reason",
    required=True,
    type=click.Choice(REJECTIONS),
    help="quality: a bad result. patient-safety: it may do harm. worklist: the film is not this patient's or order's.",
)
@click.option("--note", metavar="TEXT", default="", help="In words, for those who read the archive. No patient's name.")
@json_option
@config_option
@click.pass_context
def withdraw_command(
    ctx: click.Context, job_ids: tuple[int, ...], reason: str, note: str, as_json: bool, config_path: Path | None
) -> None:
    """Take results back: what was not sent is never sent, what was is rejected by an IHE rejection note.

    A withdrawal can be made graver later: quality, then patient-safety, then worklist.
    """
    from cxrnode.store.withdrawals import Cause, withdraw

    config = load(config_path)
    cause = Cause(rejection=reason, note=note or _WORDS[reason], by=who())
    with open_store(config) as database:
        done = _each(job_ids, lambda one: _taken_back(withdraw(database, one, cause)))
    _conclude(ctx, done, as_json)


#: What is said in the archive where nobody says it in words of their own.
_WORDS = {
    "quality": "rejected for quality reasons",
    "patient-safety": "rejected for patient safety reasons",
    "worklist": "the film is not this patient's, or not of this order",
}


def _taken_back(done: TakenBack) -> str:
    return f"withdrawn; deliveries cancelled: {done.cancelled}, destinations to be told: {done.ordered}"


@click.command("decide")
@click.argument("job_id", metavar="ID", type=int)
@click.option("--all-right", is_flag=True, help="Every identity is right: send all results.")
@_reason_option
@json_option
@config_option
@click.pass_context
def decide_command(
    ctx: click.Context, job_id: int, all_right: bool, reason: str, as_json: bool, config_path: Path | None
) -> None:
    """Say that this job's identity is right, where one film came under two: the others' results are withdrawn.

    Of a job that a wrong decision withdrew: it is read again, and the others' results are withdrawn.
    """
    from cxrnode.rousing import rouse
    from cxrnode.store.disputes import decide

    def settle(one: int) -> str:
        made = decide(database, one, reason=reason, by=who(), all_right=all_right)
        withdrawn = ", ".join(map(str, made.withdrawn)) or "none"
        again = f", read again as job {made.read_again}" if made.read_again else ""
        return f"deliveries released: {made.released}, jobs withdrawn: {withdrawn}{again}"

    config = load(config_path)
    with open_store(config) as database:
        done = _each([job_id], settle)
        rouse(config.node.data_dir, database, "send", "infer")
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
