"""`cxrnode instances`: what was received, and what was decided about it. No identifier without `--identity`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli import tables
from cxrnode.cli.audit import said
from cxrnode.cli.options import (
    config_option,
    identity_option,
    json_option,
    limit_option,
    load,
    open_store,
    since_option,
    until_option,
    who,
)

if TYPE_CHECKING:
    from cxrnode.store.database import Database
    from cxrnode.store.details import Revealed
    from cxrnode.store.listing import InstanceRow

#: Attributes of the routing header that hold codes and numbers. The others are free text or dates, which may say
#: who the patient is: they go with the identity.
CODED = (
    *("modality", "presentation_intent", "image_type", "photometric", "rows", "columns", "bits_stored", "samples"),
    *("frames", "region_codes", "view_codes", "view_modifier_codes", "patient_orientation", "manufacturer"),
    *("model_name", "age_years", "own_output"),
)
IDENTITY = (
    *(("patient_id", "patient ID"), ("issuer", "issuer"), ("patient_name", "patient name")),
    *(("birth_date", "birth date"), ("sex", "sex"), ("accession", "accession number")),
    *(("study_instance_uid", "study UID"), ("series_instance_uid", "series UID")),
    *(("sop_instance_uid", "SOP instance UID"),),
)


@click.group()
def instances() -> None:
    """What was received, with its verdict."""


@instances.command("ls")
@click.option("--verdict", type=click.Choice(["accepted", "ignored"]), help="Only these.")
@click.option("--calling-aet", metavar="AET", help="Only what this AE sent.")
@click.option("--rule", metavar="NAME", help="Only what this rule decided.")
@since_option
@until_option
@limit_option(50)
@identity_option
@json_option
@config_option
def ls_command(
    verdict: str | None,
    calling_aet: str | None,
    rule: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    with_identity: bool,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """List instances, the newest first."""
    from cxrnode.store.listing import InstanceFilter, list_instances

    chosen = InstanceFilter(verdict=verdict, calling_aet=calling_aet, rule=rule, since=since, until=until)
    with open_store(load(config_path)) as database:
        rows = list(list_instances(database, chosen, limit=limit))
        seen = revealed(database, [row.id for row in rows], with_identity)
    if as_json:
        tables.emit([_as_json(row, seen) for row in rows])
        return
    tables.table(
        (
            "id",
            "received",
            "from",
            "modality",
            "verdict",
            "rule",
            "jobs",
            "reason",
            *(IDENTITY_COLUMNS if with_identity else ()),
        ),
        (
            (
                row.id,
                tables.local(row.received_at),
                row.calling_aet,
                row.header.get("modality", ""),
                row.verdict,
                row.rule,
                " ".join(map(str, row.jobs)),
                row.reason,
                *(identity_cells(seen, row.id) if with_identity else ()),
            )
            for row in rows
        ),
        numbers="id",
    )
    more(len(rows), limit)


@instances.command("show")
@click.argument("instance_id", metavar="ID", type=int)
@identity_option
@json_option
@config_option
def show_command(instance_id: int, with_identity: bool, as_json: bool, config_path: Path | None) -> None:
    """Show one instance: its verdict, what routing saw, and its events."""
    from cxrnode.store.details import instance_events, instance_row

    with open_store(load(config_path)) as database:
        row = instance_row(database, instance_id)
        seen = revealed(database, [row.id], with_identity)
        events = instance_events(database, instance_id)
    if as_json:
        tables.emit({**_as_json(row, seen), "events": events})
        return
    tables.pairs(
        [
            ("verdict", row.verdict),
            ("reason", row.reason),
            ("rule", row.rule),
            ("received", tables.local(row.received_at, fine=True)),
            ("from", f"{row.calling_aet} to {row.called_aet}"),
            ("SOP class", uid_name(row.sop_class_uid)),
            ("transfer syntax", uid_name(row.transfer_syntax_uid)),
            ("bytes", f"{row.size}" + ("" if row.kept else ", removed by retention")),
            ("jobs", " ".join(map(str, row.jobs)) or "none"),
        ],
        title=f"Instance {row.id}",
    )
    tables.pairs(
        [(key.replace("_", " "), _value(value)) for key, value in _header(row, with_identity).items()],
        title="What routing saw",
    )
    show_identity(seen, row.id, with_identity)
    timeline(events)


#: Headings of the identity in listings.
IDENTITY_COLUMNS = ("patient ID", "patient name", "birth date", "accession")


def revealed(database: Database, instance_ids: Sequence[int], wanted: bool) -> dict[int, Revealed]:
    """Whose films these are, where that was asked for; the audit trail notes it."""
    if not wanted:
        return {}
    from cxrnode.store.details import reveal

    return reveal(database, instance_ids, by=who())


def identity_cells(seen: Mapping[int, Revealed], instance_id: int) -> tuple[str, ...]:
    """The cells under IDENTITY_COLUMNS."""
    one = seen.get(instance_id)
    return (one.patient_id, one.patient_name, one.birth_date, one.accession) if one else ("erased", "", "", "")


def show_identity(seen: Mapping[int, Revealed], instance_id: int, wanted: bool) -> None:
    """Print whose film it is, where that was asked for."""
    if not wanted:
        return
    one = seen.get(instance_id)
    known = [(title, getattr(one, name)) for name, title in IDENTITY] if one else [("identity", "erased")]
    tables.pairs(known, title="Identity (the audit trail notes that you looked)")


def timeline(events: Sequence[Any]) -> None:
    """Print events with the time that passed from each to the next."""
    before: float | None = None
    rows = []
    for event in events:
        passed = "" if before is None else f"+{tables.span(event.at - before)}"
        rows.append((tables.local(event.at, fine=True), passed, event.name, said(event.detail)))
        before = event.at
    tables.table(("time", "after", "event", "detail"), rows, title="Events", numbers="after")


def more(shown: int, limit: int) -> None:
    """Say on stderr that a listing is empty, or that it was cut."""
    if not shown:
        tables.aside("none found")
    elif shown == limit:
        tables.aside(f"the newest {limit} are shown; there may be more: --limit, --until")


def uid_name(uid: str) -> str:
    """The name of one of DICOM's own UIDs (PS3.6 annex A), else the UID."""
    from pydicom.uid import UID

    return str(UID(uid).name)


def _header(row: InstanceRow, with_identity: bool) -> dict[str, Any]:
    return {key: value for key, value in row.header.items() if with_identity or key in CODED}


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else ("" if value is False else str(value or ""))


def _as_json(row: InstanceRow, seen: Mapping[int, Revealed]) -> dict[str, Any]:
    fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
    fields["header"] = _header(row, row.id in seen)
    return fields | ({"identity": seen[row.id]} if row.id in seen else {})
