"""`cxrnode audit query`: the events as they stand in the trail, or what models said. Neither names a patient."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.filters import chosen, filter_options
from cxrnode.cli.options import config_option, json_option, limit_option, load, open_store

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.store.records import RecordFilter


@click.group()
def audit() -> None:
    """The audit trail."""


@audit.command("query")
@click.option("--job", "job_id", type=int, metavar="ID", help="Events of this job.")
@click.option("--instance", "instance_id", type=int, metavar="ID", help="Events of this instance.")
@click.option("--event", "name", metavar="NAME", help="Events of this kind, as accepted, reported, delivery_sent.")
@click.option("--findings", is_flag=True, help="What models said in place of events; the filters below choose.")
@filter_options
@limit_option(1000)
@json_option
@config_option
def query_command(
    job_id: int | None,
    instance_id: int | None,
    name: str | None,
    findings: bool,
    limit: int,
    as_json: bool,
    config_path: Path | None,
    **filters: Any,
) -> None:
    """Show events, the oldest first; or with --findings what the models said, a line a finding."""
    from cxrnode.store.audit import EventFilter, query

    wanted = chosen(filters)
    if findings:
        if (job_id, instance_id, name) != (None, None, None):
            raise click.UsageError("--job, --instance and --event are of events")
        _show_findings(load(config_path), wanted, limit, as_json)
        return
    given = [field for field, value in _fields(wanted) if value is not None and field not in ("since", "until")]
    if given:
        raise click.UsageError("filters of findings go with --findings")
    of = EventFilter(job_id=job_id, instance_id=instance_id, name=name, since=wanted.since, until=wanted.until)
    with open_store(load(config_path)) as database:
        events = list(query(database, of, limit=limit))
    if as_json:
        tables.emit(events)
        return
    tables.table(
        ("id", "time", "event", "instance", "job", "delivery", "detail"),
        (
            (e.id, tables.local(e.at, fine=True), e.name, e.instance_id, e.job_id, e.delivery_id, said(e.detail))
            for e in events
        ),
        numbers="id instance job delivery",
    )
    if not events:
        tables.aside("none found; docs/events.md has the names of events" if name else "none found")
    if len(events) == limit:
        tables.aside(f"{limit} events shown; there may be more: --since, --limit")


def _fields(wanted: RecordFilter) -> list[tuple[str, Any]]:
    return [(name, getattr(wanted, name)) for name in wanted.__dataclass_fields__]


def _show_findings(config: Config, wanted: RecordFilter, limit: int, as_json: bool) -> None:
    from cxrnode.roles.rules import configured_words
    from cxrnode.store.records import records

    with open_store(config) as database:
        found = list(itertools.islice(records(database, wanted, words=configured_words(config)), limit))
    if as_json:
        # The columns of whose film it is are empty here: `audit export` fills them.
        tables.emit(found)
        return
    tables.table(
        ("job", "received", "from", "model", "state", "outcome", "finding", "score", "decision", "truth"),
        (
            (
                *(one.job, tables.local(one.received_at), one.calling_aet, one.model, one.state, one.outcome),
                *(one.finding, "" if one.score is None else f"{one.score:.4f}", one.decision.replace("_", " ")),
                "" if one.truth is None else ("present" if one.truth else "absent"),
            )
            for one in found
        ),
        numbers="job score",
    )
    if not found:
        hint = "; a finding is written as `cxrnode model show` writes it" if wanted.label else ""
        tables.aside(f"none found{hint}")
    if len(found) == limit:
        tables.aside(f"{limit} lines shown; there may be more: --since, --limit, or audit export")


def said(detail: object) -> str:
    """An event's detail on one line: `key=value`, strings without their quotes, digests by their first letters."""
    if not isinstance(detail, dict):
        return ""
    return "  ".join(f"{key}={_short(value)}" for key, value in sorted(detail.items()))


def _short(value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value
