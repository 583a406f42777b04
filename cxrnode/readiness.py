"""Whether the node can receive and do its work right now, and what to change where it cannot.

One answer for all who ask: `receive` refuses by it, `check` and `/readyz` tell it, `tend` writes down when it changes.

    readiness(config, database, spool)       # everything, each with its remedy; all ok means ready
    room(config, database, spool)            # what makes C-STORE answer 0xA700: the disk, the queue
"""

from __future__ import annotations

import contextlib
import dataclasses

from cxrnode.config import Config
from cxrnode.errors import CxrnodeError
from cxrnode.spool import Spool
from cxrnode.store import jobs, upgrade
from cxrnode.store.database import Database


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One thing that was looked at: `detail` is what was seen, `remedy` what to change where it is not ok."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def readiness(config: Config, database: Database, spool: Spool) -> tuple[Look, ...]:
    """Everything that receiving needs. Takes a few milliseconds; raises nothing that the database or the disk does."""
    looks = [_database(database), _writable(spool)]
    with contextlib.suppress(CxrnodeError):  # which of the two is away is said already
        looks += room(config, database, spool)
    return tuple(looks)


def room(config: Config, database: Database, spool: Spool) -> tuple[Look, Look]:
    """The disk and the queue. Raises Transient where spool or database are away."""
    return disk(config, spool), queue(config, database)


def disk(config: Config, spool: Spool) -> Look:
    """Whether there is room on the spool's disk. Raises Transient where it is away."""
    free, least = spool.free(), config.spool.min_free
    return Look(
        name="disk",
        ok=free >= least,
        detail=f"{size_text(free)} free, {size_text(least)} must be",
        remedy="" if free >= least else "free space, or lower spool.min_free: C-STORE is refused with 0xA700 meanwhile",
    )


def queue(config: Config, database: Database) -> Look:
    """Whether few enough films wait to be read. Raises Transient where the database is away."""
    most = config.listen.max_queue
    waiting = jobs.queued(database, most=most)
    return Look(
        name="queue",
        ok=waiting < most,
        detail=f"{waiting} jobs wait to be read, {most} may" if waiting < most else f"{most} jobs and more wait",
        remedy=""
        if waiting < most
        else "does infer keep up? Or raise listen.max_queue: C-STORE is refused with 0xA700 meanwhile",
    )


def _database(database: Database) -> Look:
    try:
        upgrade.require(database)
    except CxrnodeError as error:
        said = str(error)
        return Look(name="database", ok=False, detail=said, remedy="start it, or run `cxrnode db upgrade`")
    return Look(name="database", ok=True, detail=f"schema {upgrade.HEAD}")


def _writable(spool: Spool) -> Look:
    if spool.answers():
        return Look(name="spool", ok=True, detail="can be written to")
    return Look(
        name="spool",
        ok=False,
        detail="cannot be written to",
        remedy="is it mounted? Give the folder to the service's user",
    )


def size_text(count: int) -> str:
    """A size of disk as people read it."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
