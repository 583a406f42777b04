"""Hinting that there is something to claim: by a datagram on this machine, by PostgreSQL to the others of the store."""

from __future__ import annotations

from pathlib import Path

from cxrnode.store.database import Database
from cxrnode.store.hints import hint
from cxrnode.wakeup import wake


def rouse(data_dir: Path, database: Database, *roles: str) -> None:
    """Hint to every process of these roles. Never fails: a hint that is lost costs a poll interval."""
    for role in roles:
        wake(data_dir, role)
        hint(database, role)
