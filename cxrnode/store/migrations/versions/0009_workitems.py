"""Worklists: the steps that this node claimed, and the films that came for them."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "workitem",
        sa.Column("id", _ID, nullable=False),
        sa.Column("worklist", sa.String(length=64), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("settled_at", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem")),
        sa.UniqueConstraint(
            "worklist", "uid", "transaction_uid", name=op.f("uq_workitem_worklist_uid_transaction_uid")
        ),
    )
    op.create_index("ix_workitem_state", "workitem", ["worklist", "state", "id"], unique=False)
    op.create_table(
        "workitem_film",
        sa.Column("workitem_id", _ID, nullable=False),
        sa.Column("instance_id", _ID, nullable=False),
        sa.ForeignKeyConstraint(["workitem_id"], ["workitem.id"], name=op.f("fk_workitem_film_workitem_id")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_workitem_film_instance_id")),
        sa.PrimaryKeyConstraint("workitem_id", "instance_id", name=op.f("pk_workitem_film")),
    )
    op.create_index(op.f("ix_workitem_film_instance_id"), "workitem_film", ["instance_id"], unique=False)
