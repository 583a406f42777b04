"""The filters that `audit query --findings` and `audit export` share: those of the console's search."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from cxrnode.cli.options import since_option, until_option

if TYPE_CHECKING:
    from cxrnode.store.records import RecordFilter

STATES = ("queued", "reading", "reported", "delivered", "failed", "superseded", "withdrawn")
OUTCOMES = ("analysed", "not_analysed", "duplicate")
_DECISIONS = ("present", "undetermined", "absent", "not_assessed")
_NAMES = ("state", "model", "outcome", "calling_aet", "label", "decision", "at_least", "patient_id", "accession")


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the filters of records; `chosen` makes one of what it gets."""
    for option in reversed(
        (
            click.option("--state", type=click.Choice(STATES), metavar="STATE", help="Jobs in this state."),
            click.option("--model", metavar="NAME", help="Read by this model."),
            click.option("--outcome", type=click.Choice(OUTCOMES), metavar="OUTCOME", help=f"{', '.join(OUTCOMES)}."),
            click.option("--calling-aet", metavar="AET", help="Sent by this AE."),
            click.option("--finding", "label", metavar="FINDING", help="This finding alone."),
            click.option(
                "--decision", type=click.Choice(_DECISIONS), metavar="DECISION", help=f"{', '.join(_DECISIONS)}."
            ),
            click.option("--at-least", type=click.FloatRange(0, 1), metavar="SCORE", help="Such a score or more."),
            click.option("--patient-id", metavar="TEXT", help="Films of this patient."),
            click.option("--accession", metavar="TEXT", help="Films of this order."),
            since_option,
            until_option,
        )
    ):
        command = option(command)
    return command


def chosen(values: dict[str, Any]) -> RecordFilter:
    """Take the filters out of a command's arguments."""
    from cxrnode.store.records import RecordFilter

    return RecordFilter(**{name: values.pop(name) for name in (*_NAMES, "since", "until")})
