"""The names of findings in reports: which there are, and which is meant by one that a person wrote. Reads alone."""

from __future__ import annotations

import sqlalchemy as sa

from cxrnode.core.findings import folded
from cxrnode.store.database import Database
from cxrnode.store.schema import finding


def newest(database: Database) -> list[str]:
    """The findings that the newest reports have, by name."""
    with database.read() as transaction:
        last = transaction.scalar(sa.select(sa.func.max(finding.c.job_id))) or 0
        # Named one by one: else SQLite walks the index of all labels.
        some = list(range(max(last - 20, 0), last + 1))
        rows = transaction.rows(sa.select(finding.c.label).where(finding.c.job_id.in_(some)))
    return sorted({row.label for row in rows})


def spelled(database: Database, written: str) -> str:
    """The finding's name as reports spell it; as it was written where they have it, or none that is like it."""
    with database.read() as transaction:
        if transaction.row(sa.select(finding.c.job_id).where(finding.c.label == written).limit(1)) is not None:
            return written
        # From one name to the next along the index: there are some dozen, in millions of rows.
        name = transaction.scalar(sa.select(sa.func.min(finding.c.label)))
        while name is not None:
            if folded(name) == folded(written):
                return str(name)
            name = transaction.scalar(sa.select(sa.func.min(finding.c.label)).where(finding.c.label > name))
    return written
