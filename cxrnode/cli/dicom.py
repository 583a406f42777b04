"""`cxrnode echo` and `cxrnode send`: does a node answer, and does it take these files? Writes nothing to the store."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cxrnode.cli import tables
from cxrnode.cli.options import Fault, config_option, hush, json_option, load_if_there
from cxrnode.errors import ConfigError, Rejected

if TYPE_CHECKING:
    from cxrnode.config import Config
    from cxrnode.dicom.destination import AnyDestination, Sent, Timeouts

#: Files that are named one by one in the table; of more, the good ones are counted.
_NAMED = 40

_calling_option = click.option("--calling-aet", metavar="AET", help="Call as this AE; else as node.ae_title.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileSent:
    """What became of one file: its C-STORE status, None where the peer was not asked, and that in words."""

    file: str
    stored: bool
    status: str | None
    meaning: str


@click.command()
@click.argument("node")
@_calling_option
@json_option
@config_option
@click.pass_context
def echo(ctx: click.Context, node: str, calling_aet: str | None, as_json: bool, config_path: Path | None) -> None:
    """Ask NODE whether it is there, by C-ECHO, STOW-RS or MLLP: a name from [nodes], or AET@host:port."""
    from cxrnode.dicom.destination import AssociationFault, Destination
    from cxrnode.dicom.ways import reach

    hush()
    config = load_if_there(config_path)
    destination = _destination(config, node)
    started = time.monotonic()
    try:
        said = reach(destination, calling_aet=_calling(config, calling_aet), timeouts=_timeouts(config))
    except AssociationFault as fault:
        if not as_json:
            raise
        answer = {"ok": False, "kind": fault.kind, "detail": fault.detail, "remedy": fault.remedy}
        tables.emit({"node": node, **answer})
        ctx.exit(1)
    took = time.monotonic() - started
    if as_json:
        named = {"aet": destination.aet} if isinstance(destination, Destination) else {"address": destination.address}
        tables.emit({"node": node, "ok": True, **named, "said": said, "ms": round(1000 * took, 1)})
    else:
        tables.say(f"{destination.address} {said} in {tables.span(took)}")


@click.command()
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--to", "to", metavar="NODE", required=True, help="A name from [nodes], or AET@host:port.")
@_calling_option
@json_option
@config_option
@click.pass_context
def send(
    ctx: click.Context,
    paths: tuple[Path, ...],
    to: str,
    calling_aet: str | None,
    as_json: bool,
    config_path: Path | None,
) -> None:
    """Store files, and folders with all that is below, at a node. Exit status 1 if any was not stored.

    The bytes go as they are, each file in its own transfer syntax.
    """
    from cxrnode.dicom.destination import AssociationFault

    hush()
    config = load_if_there(config_path)
    destination = _destination(config, to)
    files = list(found(paths))
    if not files:
        raise ConfigError("there are no files in these folders; name others")
    results: list[FileSent] = []
    broken: AssociationFault | None = None
    try:
        with _progress(len(files), destination.name) as advance:
            for result in _send(files, destination, _calling(config, calling_aet), _timeouts(config)):
                results.append(result)
                advance()
    except AssociationFault as fault:
        broken = fault
    answered = {result.file for result in results}
    results += [
        FileSent(file=str(file), stored=False, status=None, meaning="not sent: the association failed")
        for file in files
        if str(file) not in answered
    ]
    if as_json:
        tables.emit({"to": to, "stored": sum(r.stored for r in results), "files": results, "fault": _told(broken)})
    else:
        _show(results)
    if broken is not None and not as_json:
        raise Fault(str(broken))
    ctx.exit(0 if all(result.stored for result in results) else 1)


def found(paths: Iterable[Path]) -> Iterator[Path]:
    """The files named, and those below the folders named, in the order of their names; hidden ones and DICOMDIR not."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for file in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden and file.name != "DICOMDIR":
                yield file


def _send(
    files: Sequence[Path], destination: AnyDestination, calling_aet: str, timeouts: Timeouts
) -> Iterator[FileSent]:
    from cxrnode.dicom.ways import send_files

    try:
        for path, answer in send_files(files, destination, calling_aet=calling_aet, timeouts=timeouts):
            yield _result(path, answer)
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}; check its permissions") from None


def _result(path: Path, answer: Sent | Rejected) -> FileSent:
    from cxrnode.dicom.statuses import classify

    if isinstance(answer, Rejected):
        return FileSent(file=str(path), stored=False, status=None, meaning=str(answer))
    meaning = answer.comment or answer.said or classify(answer.status).gloss
    if answer.converted:
        meaning += ", converted to Implicit VR Little Endian"
    return FileSent(file=str(path), stored=answer.kind.delivered, status=f"0x{answer.status:04X}", meaning=meaning)


def _show(results: Sequence[FileSent]) -> None:
    named = results if len(results) <= _NAMED else [one for one in results if not one.stored]
    tables.table(
        ("file", "state", "status", "meaning"),
        ((one.file, "ok" if one.stored else "FAULT", one.status or "-", one.meaning) for one in named),
    )
    tables.say(f"{sum(one.stored for one in results)} of {len(results)} stored")


def _told(fault: BaseException | None) -> str | None:
    return str(fault) if fault is not None else None


def _destination(config: Config | None, text: str) -> AnyDestination:
    """A configured node by name, else a triple. Raises ConfigError for neither."""
    from cxrnode.dicom.destination import parse_destination
    from cxrnode.roles.destinations import destination_of

    if config is not None and text in config.nodes:
        return destination_of(config, text)
    try:
        return parse_destination(text)
    except ValueError:
        known = ", ".join(config.nodes) if config is not None and config.nodes else "none"
        raise ConfigError(f"{text!r} is neither AET@host:port nor a node of the configuration ({known})") from None


def _calling(config: Config | None, named: str | None) -> str:
    return named or (config.node.ae_title if config is not None else "CXRNODE")


def _timeouts(config: Config | None) -> Timeouts:
    from cxrnode.dicom.destination import Timeouts

    if config is None:
        return Timeouts()
    send = config.send
    return Timeouts(connect=send.connect_timeout, acse=send.acse_timeout, dimse=send.dimse_timeout)


class _progress:
    """A progress bar on stderr while a terminal is there to see it."""

    def __init__(self, total: int, name: str) -> None:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn(f"to {escape(name)}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
        self._task = self._bar.add_task("", total=total)
        self._count = itertools.count(1)

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __call__(self) -> None:
        self._bar.update(self._task, completed=next(self._count))

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
