"""A secret that all consoles of one store share; the narrow indexes have all that a search asks."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_job_walk", table_name="job")
    op.create_index("ix_job_walk", "job", ["id", "state", "outcome", "model", "mode", "instance_id"])
    failed = sa.text("state = 'failed'")
    op.create_index("ix_job_failed", "job", ["settled_at"], sqlite_where=failed, postgresql_where=failed)
    op.create_index("ix_instance_walk", "instance", ["id", "calling_aet"])
    op.create_table(
        "secret",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.String(64), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
    )
