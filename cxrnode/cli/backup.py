"""`cxrnode db backup` and `cxrnode db restore`: the database and the spool's films, out of a node and into another.

    DIR/backup.json                    what the backup is of; written last, so that it names what is whole
    DIR/cxrnode-MOMENT-DIGEST.sqlite   or .pgdump: the database at one moment
    DIR/spool/objects/..               every file of the spool, at that moment or later

The spool may be newer than the database, never older: so it is copied after it. A second backup into the same folder
copies what is new. One that is broken off leaves the one before as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cxrnode import __version__
from cxrnode.cli import tables
from cxrnode.cli.options import config_option, json_option, load, open_store, told, who
from cxrnode.errors import Rejected, Transient

if TYPE_CHECKING:
    from cxrnode.spool.folder import FolderSpool
    from cxrnode.store.database import Database

#: What a backup is of.
CARD = "backup.json"
#: Who holds it writes here.
_LOCK = ".lock"
_FORMAT = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a backup is of, as its card says it. Without the spool, `files` is None.

    `missing`: files that rows know and that are in neither spool nor backup.
    """

    made_at: str
    version: str
    schema: str
    file: str
    size: int
    sha256: str
    files: int | None
    files_size: int | None
    missing: int = 0
    format: int = _FORMAT


@click.command("backup")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--spool/--no-spool", "with_spool", default=True, help="Copy the spool's films, too.", show_default=True)
@json_option
@config_option
def backup_command(folder: Path, with_spool: bool, as_json: bool, config_path: Path | None) -> None:
    """Write the database and the spool's films to DIR, while the node runs. It names patients: guard it.

    The same DIR again gets what is new; what was there stays whole until the new backup is. PostgreSQL needs pg_dump.
    """
    from cxrnode.spool.copies import mirror
    from cxrnode.spool.folder import FolderSpool
    from cxrnode.store import backup
    from cxrnode.store.audit import note

    config = load(config_path)
    if config.spool.is_bucket and with_spool:
        raise Rejected(
            f"the films lie in {config.spool.url}, which is not copied: switch on versions or replication there, and "
            "say --no-spool"
        )
    started = time.monotonic()
    kind = "sqlite" if config.database_url.startswith("sqlite") else "pgdump"
    with open_store(config) as database, _alone(folder):
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        part = folder / ".part"
        part.unlink(missing_ok=True)
        target = FolderSpool(folder / "spool")
        try:
            with told(database):
                copied = backup.copy(database, part)
            mirrored = mirror(FolderSpool(config.spool_dir), target) if with_spool else None
            file = part.rename(folder / f"cxrnode-{moment}-{copied.sha256[:8]}.{kind}")
        finally:
            part.unlink(missing_ok=True)
        card = Card(
            made_at=moment,
            version=__version__,
            schema=copied.schema,
            file=file.name,
            size=copied.size,
            sha256=copied.sha256,
            files=mirrored.files if mirrored else None,
            files_size=mirrored.size if mirrored else None,
            missing=_missing(database, target) if mirrored else 0,
        )
        _write_card(folder, card)
        _tidy(database, folder, card, target)
        with told(database), database.write() as transaction:
            note(transaction, "backed_up", by=who(), spool=with_spool, sha256=copied.sha256)
    seconds = time.monotonic() - started
    if as_json:
        new = mirrored.new if mirrored else None
        tables.emit({**dataclasses.asdict(card), "new_files": new, "seconds": seconds, "writers_waited": copied.waited})
        return
    films = f", {card.files} files of the spool ({mirrored.new} new)" if mirrored else ", without the spool"
    tables.say(f"{folder}: schema {card.schema}, {card.size / 2**20:.1f} MiB{films}, in {tables.span(seconds)}")
    if copied.waited:
        tables.aside(f"writers waited {tables.span(copied.waited)} meanwhile")
    if card.missing:
        tables.aside(f"{card.missing} files that rows know are in neither spool nor backup: is the spool mounted?")


@click.command("restore")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True))
@config_option
def restore_command(folder: Path, config_path: Path | None) -> None:
    """Bring a backup back into an empty place: no SQLite file, or an empty PostgreSQL database; the node is stopped.

    Films of the backup join those that are in the spool. The database is brought to this version's schema.
    """
    from cxrnode.node import open_database, open_spool
    from cxrnode.spool.copies import mirror
    from cxrnode.spool.folder import FolderSpool
    from cxrnode.store import backup, upgrade
    from cxrnode.store.audit import note

    config = load(config_path)
    card = read_card(folder)
    file = folder / card.file
    with contextlib.closing(open_database(config)) as database:
        kind = "sqlite" if database.is_sqlite else "pgdump"
        if file.suffix != f".{kind}":
            raise Rejected(
                f"the backup is of {'SQLite' if kind == 'pgdump' else 'PostgreSQL'}, and database.url names the other: "
                "restore it with database.url as it was; `cxrnode db migrate-to` moves it then"
            )
        if card.schema > upgrade.HEAD:
            raise Rejected(
                f"the backup has schema {card.schema}, newer than this version's {upgrade.HEAD}: install {card.version}"
            )
        with told(database):
            backup.require_empty(database)
        if not file.is_file() or backup.digest(file) != card.sha256:
            raise Rejected(f"{file} is not what {CARD} says that it is: take another backup's folder")
        if card.files is not None:
            spool = open_spool(config)
            if not isinstance(spool, FolderSpool):
                raise Rejected(f"the backup's films are for a folder, and spool.url names {config.spool.url}")
            mirror(FolderSpool(folder / "spool"), spool)
        with told(database):
            backup.restore(database, file)
            with database.write() as transaction:
                note(transaction, "restored", by=who(), of=card.made_at, sha256=card.sha256)
        tables.say(f"{database.url}: as it was at {card.made_at}, schema {upgrade.HEAD}")
        tables.say("what senders had Success for after that moment is not in it: let them send it again")


def read_card(folder: Path) -> Card:
    """The card of a backup. Raises Rejected where there is none that can be read."""
    try:
        said: Mapping[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if said["format"] != _FORMAT or Path(said["file"]).name != said["file"]:
            raise ValueError("format")
        return Card(**said)
    except (OSError, ValueError, TypeError, KeyError):
        raise Rejected(f"{folder} holds no backup that this version can read: there is no {CARD} of its kind") from None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Have the folder to ourselves: two backups would take each other's parts. Raises Rejected, Transient."""
    _make(folder)
    try:
        lock = (folder / _LOCK).open("a")
    except OSError as error:
        raise Transient(f"the folder {folder} cannot be used: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Rejected(f"another backup writes to {folder}: wait for its end, or name another folder") from None
        except OSError:  # a share that knows no locks
            pass
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        foreign = sorted(one.name for one in folder.iterdir() if not _ours(one.name))
    except OSError as error:
        raise Transient(f"the folder {folder} cannot be used: {error.strerror}") from None
    if foreign and not (folder / CARD).exists():
        raise Rejected(f"{folder} holds other things ({foreign[0]}): name a new or empty folder")


def _ours(name: str) -> bool:
    return name in (CARD, _LOCK, ".part", f".{CARD}", "spool") or name.startswith("cxrnode-")


def _missing(database: Database, target: FolderSpool) -> int:
    """How many files rows know that the backup does not have. Retention may have taken some of them meanwhile."""
    from cxrnode.store import retention

    lacking = [key for keys in retention.known_keys(database) for key in keys if not target.path(key).exists()]
    return len(lacking) - len(retention.unknown_keys(database, lacking)) if lacking else 0


def _write_card(folder: Path, card: Card) -> None:
    part = folder / f".{CARD}"
    try:
        with part.open("w", encoding="utf-8") as written:
            written.write(json.dumps(dataclasses.asdict(card), indent=1) + "\n")
            written.flush()
            os.fsync(written.fileno())
        part.rename(folder / CARD)
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        raise Transient(f"the backup's card cannot be written: {error.strerror}") from None


def _tidy(database: Database, folder: Path, card: Card, target: FolderSpool) -> None:
    """Remove what only the backup before needed. A film goes when no row knows it, whatever the spool has lost."""
    from cxrnode.store import retention

    for old in folder.glob("cxrnode-*.*"):
        if old.name != card.file:
            old.unlink(missing_ok=True)
    if card.files is None:
        return
    keys = list(target.keys_older_than(-86400.0))
    for start in range(0, len(keys), 500):
        for key in retention.unknown_keys(database, keys[start : start + 500]):
            target.remove(key)
