"""`cxrnode audit export`: what the models said on every film, as CSV, JSON Lines or Parquet.

Without `--identity` or `--deidentify` it tells nothing of whose films they are. Names in the columns are those of
`store.records.Record`; a preset has the columns that somebody else asks for.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import itertools
import json
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from cxrnode import __version__
from cxrnode.cli import tables
from cxrnode.cli.filters import chosen, filter_options
from cxrnode.cli.options import config_option, load, open_store, who
from cxrnode.errors import ConfigError

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.core.pseudonyms import Pseudonyms
    from cxrnode.store.records import Record

#: Rows of one row group of Parquet.
_GROUP = 20_000
#: What ACR's registry calls a decision.
_ASSESS = {"present": "Positive", "absent": "Negative", "undetermined": "Indeterminate", "not_assessed": "Not assessed"}


@click.command("export")
@filter_options
@click.option("--format", "kind", type=click.Choice(["csv", "jsonl", "parquet"]), default="csv", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Else stdout.")
@click.option("--preset", type=click.Choice(["assess-ai"]), help="The columns of ACR's Assess-AI upload.")
@click.option("--identity", "identified", is_flag=True, help="With names. The audit trail notes that you looked.")
@click.option("--deidentify", is_flag=True, help="With pseudonyms that stay the same, dates moved, ages up to 90.")
@config_option
def export_command(
    kind: str,
    out: Path | None,
    preset: str | None,
    identified: bool,
    deidentify: bool,
    config_path: Path | None,
    **filters: Any,
) -> None:
    """Write a row for each finding of each job, and one for each job without findings."""
    if identified and deidentify:
        raise click.UsageError("--identity or --deidentify, not both")
    if preset and not (identified or deidentify):
        raise click.UsageError("the registry wants names or pseudonyms: add --identity or --deidentify")
    if kind == "parquet" and out is None:
        raise click.UsageError("Parquet goes into a file: --out FILE")
    from cxrnode.roles.rules import configured_words
    from cxrnode.store import records

    config = load(config_path)
    wanted = chosen(filters)
    with open_store(config) as database:
        whose = records.identified(database, by=who()) if identified else None
        if deidentify:
            whose = records.pseudonymous(database, pseudonyms(config))
        found = records.records(database, wanted, words=configured_words(config), who=whose)
        columns, rows = _assess_ai(found) if preset else _plain(found)
        with _open(out, binary=kind == "parquet") as file:
            written = _WRITERS[kind](file, columns, rows)
    tables.aside(f"{written} rows" + (f" in {out}" if out else ""))


def pseudonyms(config: Config) -> Pseudonyms:
    """The site's pseudonyms. Their key is made at the first use, readable by its owner alone. Raises ConfigError."""
    from cxrnode.core.pseudonyms import Pseudonyms

    path = config.node.data_dir / "pseudonyms.key"
    try:
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(os.urandom(32))
                file.flush()
                os.fsync(file.fileno())
        return Pseudonyms(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: the key of the pseudonyms cannot be read or made ({error.strerror})") from None
    except ValueError:
        raise ConfigError(f"{path} is no key of pseudonyms; restore it from the backup") from None


def _plain(found: Iterable[Record]) -> tuple[Mapping[str, Any], Iterator[dict[str, Any]]]:
    from cxrnode.store.records import Record

    columns = typing.get_type_hints(Record)
    timed = [name for name in columns if name.endswith("_at")]

    def rows() -> Iterator[dict[str, Any]]:
        for one in found:
            row = {name: getattr(one, name) for name in columns}
            yield row | {name: tables.utc(row[name]) for name in timed}

    return columns | dict.fromkeys(timed, str), rows()


def _assess_ai(found: Iterable[Record]) -> tuple[Mapping[str, Any], Iterator[dict[str, Any]]]:
    """The columns of ACR Connect's import template for AI results, in its order. Race and ethnicity are not known here.

    Source: acrconnectsupport.acr.org, solution 11000129804, "Import data from local drive".
    """
    columns: dict[str, Callable[[Record], Any]] = {
        "Patient ID": lambda one: one.patient_id,
        "Accession Number": lambda one: one.accession,
        "Result Indicator": lambda one: one.finding.replace("_", " "),
        "AI Result": lambda one: _ASSESS[one.decision],
        "Manufacturer": lambda one: "cxrnode",
        "Model": lambda one: one.bundle,
        "Study Date": lambda one: one.study_date,
        "Software Version": lambda one: one.version,
        "Platform": lambda one: f"cxrnode {__version__}",
        "Inference Date": lambda one: "" if one.read_at is None else f"{_date(one.read_at):%Y%m%d}",
        "Age": lambda one: "" if one.age_years is None else str(int(one.age_years)),
        "Sex": lambda one: one.sex,
        "Race": lambda one: "",
        "Ethnicity": lambda one: "",
        "Exam Name": lambda one: one.study_description,
        "Modality": lambda one: one.modality,
        "Body Part Examined": lambda one: "CHEST",
        "Contrast Indication": lambda one: "",
    }
    # What a shadow model says is shown to nobody, and what was taken back is no result.
    standing = (
        one for one in found if one.finding and one.mode == "active" and one.state not in ("superseded", "withdrawn")
    )
    return dict.fromkeys(columns, str), ({name: of(one) for name, of in columns.items()} for one in standing)


def _date(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)


@contextlib.contextmanager
def _open(out: Path | None, *, binary: bool) -> Iterator[IO[Any]]:
    if out is None:
        yield sys.stdout
        return
    # What was exported may name patients: nobody else reads it, unless its owner says so.
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") if binary else os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        yield file


def _csv(file: IO[str], columns: Mapping[str, Any], rows: Iterable[dict[str, Any]]) -> int:
    writer = csv.DictWriter(file, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    written = 0
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
        written += 1
    return written


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet runs as a formula (OWASP, CSV injection): text of peers may begin with one."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return "'" + value
    return value


def _jsonl(file: IO[str], _columns: Mapping[str, Any], rows: Iterable[dict[str, Any]]) -> int:
    written = 0
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        written += 1
    return written


def _parquet(file: IO[bytes], columns: Mapping[str, Any], rows: Iterable[dict[str, Any]]) -> int:
    """Write with pyarrow, the reference implementation; it is large, and only this command wants it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("Parquet needs the package pyarrow: pip install 'cxrnode[export]'") from None
    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    schema = pa.schema([pa.field(name, kinds[_kind(hint)]) for name, hint in columns.items()])
    written = 0
    remaining = iter(rows)
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(remaining, _GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            written += len(group)
        if not written:
            writer.write_table(schema.empty_table())
    return written


def _kind(hint: Any) -> type:
    """The type of a column that may be empty."""
    found = next((one for one in typing.get_args(hint) if one is not type(None)), hint)
    assert isinstance(found, type)
    return found


#: file, columns with their types, rows -> how many were written
_WRITERS: Mapping[str, Callable[[IO[Any], Mapping[str, Any], Iterable[dict[str, Any]]], int]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}

__all__ = ["export_command", "pseudonyms"]
