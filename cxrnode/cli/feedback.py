"""`cxrnode audit feedback import`: what was found out later of films, from a CSV file. It never changes a result."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrnode.cli import tables
from cxrnode.cli.options import Fault, config_option, json_option, load, open_store, who
from cxrnode.errors import ConfigError

if TYPE_CHECKING:
    from cxrnode.store.feedback import Given

_TRUTHS = {
    **dict.fromkeys(("1", "yes", "true", "present", "positive"), True),
    **dict.fromkeys(("0", "no", "false", "absent", "negative"), False),
}
_COLUMNS = {"accession", "sop_instance_uid", "job", "finding", "truth", "source"}


@click.group()
def feedback() -> None:
    """What was found out of films after they were read."""


@feedback.command("import")
@click.argument("file", metavar="FILE.csv", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@json_option
@config_option
def import_command(file: Path, as_json: bool, config_path: Path | None) -> None:
    """Read truths from columns accession or sop_instance_uid or job, finding, truth, source. Again changes nothing."""
    from cxrnode.store.feedback import give

    config = load(config_path)
    given, wrong = _read(file)
    with open_store(config) as database:
        done = give(database, [one for _, one in given])
    wrong += [(given[index][0], reason) for index, reason in done.refused]
    if as_json:
        refused = [{"line": line, "reason": reason} for line, reason in sorted(wrong)]
        tables.emit({"stored": done.stored, "same": done.same, "refused": refused})
    else:
        tables.say(f"stored: {done.stored}; known already: {done.same}")
        for line, reason in sorted(wrong):
            tables.say(f"line {line}: {reason}")
    if wrong:
        raise Fault(f"{len(wrong)} lines of {file} were left out")


def _read(file: Path) -> tuple[list[tuple[int, Given]], list[tuple[int, str]]]:
    """The lines by number, and what is wrong with others. Raises ConfigError for a file that is no such table."""
    from cxrnode.store.feedback import Given

    found: list[tuple[int, Given]] = []
    wrong: list[tuple[int, str]] = []
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            _require(file, reader.fieldnames or ())
            for row in reader:
                cells = {name: (row.get(name) or "").strip() for name in _COLUMNS}
                truth = _TRUTHS.get(cells["truth"].lower())
                if truth is None:
                    wrong.append((reader.line_num, "truth is none of 1, 0, yes, no, present, absent"))
                    continue
                job = cells["job"]
                if job and not job.isdecimal():
                    wrong.append((reader.line_num, "job is no number"))
                    continue
                one = Given(
                    label=cells["finding"],
                    truth=truth,
                    source=cells["source"],
                    by=who(),
                    job_id=int(job) if job else None,
                    accession=cells["accession"],
                    sop_instance_uid=cells["sop_instance_uid"],
                )
                found.append((reader.line_num, one))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} cannot be read as a CSV file in UTF-8 ({type(error).__name__})") from None
    return found, wrong


def _require(file: Path, names: Sequence[str]) -> None:
    if not {"finding", "truth"} <= set(names) or not {"accession", "sop_instance_uid", "job"} & set(names):
        raise ConfigError(
            f"{file} needs the columns finding, truth, and accession, sop_instance_uid or job; source is welcome"
        )
