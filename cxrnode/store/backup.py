"""The database written to a file while the node goes on, and back again. The spool's files are others' matter.

SQLite: its online backup. Before 3.51.3 (no WAL, `store.database`) a copy in steps begins anew with each write of
another process, and a reader's lock for its whole length would stall readers too; so the writer's lock is taken, all
is copied at once from memory to memory, and writers wait that long. PostgreSQL: pg_dump and pg_restore, of PostgreSQL's
own tools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from cxrnode.errors import Rejected, Transient
from cxrnode.store import integrity, upgrade
from cxrnode.store.database import Database

_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """A database in a file: its size in bytes, its digest, its schema, and how long writers had to wait, in seconds."""

    size: int
    sha256: str
    schema: str
    waited: float


def copy(database: Database, file: Path) -> Copied:
    """Write the database, as it is at one moment, to a new `file`, durably; other processes go on.

    Raises DatabaseDamaged where the copy is not whole, Rejected where a tool is missing or fails, Transient where the
    database or the disk is away.
    """
    schema = upgrade.current(database)
    if schema is None:
        raise Rejected("there is nothing to back up yet: `cxrnode serve` or `cxrnode db upgrade` makes the database")
    # The file is read as a file, too: to close it would drop the locks of what this process has open on it by SQLite
    # (https://www.sqlite.org/howtocorrupt.html, 2.2).
    database.close()
    file.touch(mode=0o600)  # it names patients
    try:
        waited = _copy_sqlite(database.file, file) if database.file is not None else _dump(database, file)
        with file.open("rb") as written:
            os.fsync(written.fileno())
    except OSError as error:
        raise Transient(f"the backup cannot be written: {error.strerror}") from error
    if database.is_sqlite:
        integrity.require_whole(file, seconds=None)
    return Copied(size=file.stat().st_size, sha256=digest(file), schema=schema, waited=waited)


def digest(file: Path) -> str:
    """The SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _copy_sqlite(source: Path, file: Path) -> float:
    with source.open("rb") as pages:  # into memory, while nobody waits
        while pages.read(_CHUNK):
            pass
    try:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=60, isolation_level=None)) as reading,
            contextlib.closing(sqlite3.connect(file, isolation_level=None)) as writing,
            contextlib.closing(sqlite3.connect(source, timeout=60, isolation_level=None)) as lock,
        ):
            writing.execute("PRAGMA synchronous=OFF")  # one fsync at the end
            writing.execute("PRAGMA journal_mode=OFF")
            wal = reading.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
            if not wal:
                lock.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            reading.backup(writing)
            waited = 0.0 if wal else time.monotonic() - began
            if not wal:
                lock.execute("ROLLBACK")
    except sqlite3.DatabaseError as error:
        raise Transient(
            f"the database {source} cannot be copied ({error}); is its disk full, or the file damaged?"
        ) from None
    return waited


def _dump(database: Database, file: Path) -> float:
    """By pg_dump, in its own format: consistent, and nobody waits."""
    _run(database, "pg_dump", "--format=custom", "--no-owner", "--no-privileges", f"--file={file}")
    return 0.0


def restore(database: Database, file: Path) -> None:
    """Bring a copy back into the empty place of a database. Raises Rejected where a tool is missing or fails."""
    require_empty(database)
    try:
        if database.file is not None:
            _place(file, database.file)
        else:
            _run(
                database, "pg_restore", "--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", file
            )
    except OSError as error:
        raise Transient(f"the backup cannot be brought back: {error.strerror}") from error
    upgrade.upgrade(database)


def require_empty(database: Database) -> None:
    """Raise Rejected where a database is already. A journal that a lost one left would be played into the restored."""
    if database.file is None:
        if upgrade.current(database) is not None:
            raise Rejected(f"{database.url} holds a database already: name an empty one, made by `createdb`")
        return
    journals = [database.file.with_name(database.file.name + end) for end in ("-journal", "-wal")]
    left = [database.file.name] if database.file.exists() else []
    left += [one.name for one in journals if one.exists() and one.stat().st_size]
    if left:
        raise Rejected(f"{database.file.parent} has {' and '.join(left)}: stop the node and move that away first")


def _place(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    part = target.with_name(f".{target.name}.restored")
    shutil.copyfile(file, part)
    with part.open("rb") as written:
        os.fsync(written.fileno())
    part.rename(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


#: SQLAlchemy's names in a URL -> libpq's variables. The password goes by its variable: a command line is seen by all.
_LIBPQ = {"host": "PGHOST", "port": "PGPORT", "username": "PGUSER", "password": "PGPASSWORD", "database": "PGDATABASE"}


def _run(database: Database, tool: str, *arguments: str | Path) -> None:
    found = shutil.which(tool)
    if found is None:
        raise Rejected(
            f"{tool} is not installed here: install PostgreSQL's client of the server's version or a later one (on "
            "Debian postgresql-client), or back the server up with its own tools, and the spool after it"
        )
    command = [found]
    if tool == "pg_restore":
        command.append(f"--dbname={database.engine.url.database}")
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env={**os.environ, **_variables(database.engine.url)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        # A row may stand in what these tools say of data; the first line says what went wrong.
        said = next(iter(done.stderr.strip().splitlines()), f"exit status {done.returncode}")
        raise Rejected(f"{tool} failed ({said[:200]}); its version must be the server's or a later one")


def _variables(url: sa.URL) -> Mapping[str, str]:
    named = {variable: str(value) for name, variable in _LIBPQ.items() if (value := getattr(url, name)) is not None}
    options = {f"PG{name.upper()}": value for name, value in url.query.items() if isinstance(value, str)}
    return {**options, **named}
