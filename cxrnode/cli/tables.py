"""How answers look: rich tables for people, JSON for programs, times in both. Knows no command and no database.

Text from peers, files and models is shown as plain text: no markup is read in it, and no control character passes.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Words that are coloured wherever they fill a cell.
STYLES: Mapping[str, str] = {
    "ok": "green",
    "FAULT": "bold red",
    "SILENT": "bold red",
    "failed": "bold red",
    "held": "yellow",
    "present": "bold yellow",
    "undetermined": "cyan",
    "not assessed": "dim",
    "accepted": "green",
    "delivered": "green",
}
#: Columns where the answer goes into a pipe or file, so that lines stay lines.
_PIPED = 320


def utc(at: float | None) -> str | None:
    """ISO 8601 in UTC with milliseconds, for programs."""
    if at is None:
        return None
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(at: float | None, *, fine: bool = False) -> str:
    """ISO 8601 in this machine's time zone with its offset, for people; `fine` adds milliseconds."""
    if at is None:
        return ""
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC).astimezone()
    return moment.isoformat(timespec="milliseconds" if fine else "seconds")


def span(seconds: float) -> str:
    """A time between two events, as people read it: `12 ms`, `3.40 s`, `2 min 5 s`, `3 h 20 min`."""
    sign, seconds = ("-", -seconds) if seconds < 0 else ("", seconds)
    if seconds < 1:
        return f"{sign}{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{sign}{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{sign}{minutes} min {rest} s"
    return f"{sign}{minutes // 60} h {minutes % 60} min"


def plain(value: object) -> str:
    """Text for one cell: "" for None, and a mark for each character that is no text, a line's end included."""
    if value is None:
        return ""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def to_json(value: Any) -> Any:
    """Return plain values for JSON: dataclasses as objects, `at` and `..._at` as ISO 8601 in UTC."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): utc(item) if _is_time(str(key), item) else to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float | int | str | None):
        return value
    return str(value)


def _is_time(key: str, value: Any) -> bool:
    return isinstance(value, float) and (key in ("at", "not_before") or key.endswith("_at"))


def emit(value: Any) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(to_json(value), indent=2, allow_nan=False))


def show(what: RenderableType) -> None:
    """Print to stdout, as wide as its terminal; into a pipe or file without colours and spaces at the ends of lines."""
    from rich.console import Console

    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(what)
        return
    console = Console(file=sys.stdout, width=_PIPED, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(what)
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", numbers: str = "") -> None:
    """Print a table. `numbers` names the columns to set flush right, with spaces between."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=Text(plain(title)) if title else None, title_justify="left", pad_edge=False)
    right = numbers.split()
    for name in columns:
        made.add_column(Text(name), justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(text, style=STYLES.get(text, "")) for text in map(plain, row)))
    show(made)


def pairs(rows: Iterable[tuple[str, object]], *, title: str = "") -> None:
    """Print names and values beside each other; a value that is empty leaves its line out."""
    from rich.table import Table
    from rich.text import Text

    if title:
        say(title, style="bold")
    made = Table.grid(padding=(0, 2))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in rows:
        if text := plain(value):
            made.add_row(Text(name), Text(text, style=STYLES.get(text, "")))
    show(made)


def say(text: str, *, style: str = "") -> None:
    """Print one line to stdout, as text and not as markup."""
    from rich.text import Text

    show(Text(plain(text), style=style))


def aside(text: str) -> None:
    """Print one line to stderr: for people, never part of the answer."""
    click.echo(plain(text), err=True)
