"""Tries to log in are counted in the store: all its consoles count together."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_at", sa.Double(), nullable=False),
        sa.Column("paused_until", sa.Double(), nullable=False),
    )
    op.create_index("ix_attempt_last_at", "attempt", ["last_at"])
