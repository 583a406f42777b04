"""A database says which kind of digest its films and files have; what is there has SHA-256, and goes on with it."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("standing", sa.Column("digests", sa.String(16), nullable=False, server_default="sha256"))
