"""Indexes that the console's pages walk, for databases with a million jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_USUAL = (
    *("received", "accepted", "ignored", "enqueued", "claimed", "reported", "delivered"),
    *("delivery_created", "delivery_claimed", "delivery_sent"),
)


def upgrade() -> None:
    disputed = sa.text("disputed")
    unusual = sa.text("name NOT IN ({})".format(", ".join(f"'{name}'" for name in _USUAL)))
    op.create_index("ix_job_walk", "job", ["id", "outcome", "model", "mode"])
    op.create_index("ix_job_disputed", "job", ["id"], sqlite_where=disputed, postgresql_where=disputed)
    op.create_index("ix_finding_walk", "finding", ["label", "job_id", "decision", "score"])
    op.drop_index("ix_finding_label", table_name="finding")
    op.create_index("ix_event_unusual", "event", ["name", "id"], sqlite_where=unusual, postgresql_where=unusual)
