"""Storage commitment: what was asked of a destination, and what it said of each object."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("delivery", sa.Column("commit_at", sa.Double(), nullable=True))
    op.create_index(op.f("ix_delivery_commit"), "delivery", ["destination", "commit_at"], unique=False)
    op.add_column("delivery_output", sa.Column("committed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("delivery_output", sa.Column("commit_failure", sa.Integer(), nullable=True))
    op.create_table(
        "commitment",
        sa.Column("id", _ID, nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("delivery_id", _ID, nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("answered_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_commitment_delivery_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_commitment_transaction_uid")),
    )
    op.create_index(op.f("ix_commitment_delivery_id"), "commitment", ["delivery_id"], unique=False)
