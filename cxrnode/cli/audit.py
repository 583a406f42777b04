"""`cxrnode audit`: the events, as they stand in the trail. They hold no identifier of a patient."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, limit_option, load, open_store, since_option, until_option


@click.group()
def audit() -> None:
    """The audit trail."""


@audit.command("query")
@click.option("--job", "job_id", type=int, metavar="ID", help="Of this job.")
@click.option("--instance", "instance_id", type=int, metavar="ID", help="Of this instance.")
@click.option("--event", "name", metavar="NAME", help="Of this kind, as accepted, reported, delivery_sent.")
@since_option
@until_option
@limit_option(1000)
@json_option
@config_option
def query_command(
    job_id: int | None,
    instance_id: int | None,
    name: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Show events, the oldest first."""
    from cxrnode.store.audit import EventFilter, query

    chosen = EventFilter(job_id=job_id, instance_id=instance_id, name=name, since=since, until=until)
    with open_store(load(config_path)) as database:
        events = list(query(database, chosen, limit=limit))
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
    if len(events) == limit:
        tables.aside(f"{limit} events shown; there may be more: --since, --limit")


def said(detail: object) -> str:
    """An event's detail on one line: `key=value`, strings without their quotes, digests by their first letters."""
    if not isinstance(detail, dict):
        return ""
    return "  ".join(f"{key}={_short(value)}" for key, value in sorted(detail.items()))


def _short(value: object) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else value
