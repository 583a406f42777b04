"""Quality and audit: histograms by day, volume by hour, feedback, seals, alerts."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "alert",
        sa.Column("id", _ID, nullable=False),
        sa.Column("rule", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("severity", sa.String(length=8), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("began_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("raised_at", sa.Double(), nullable=True),
        sa.Column("quiet_since", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alert")),
    )
    op.create_index("ix_alert_open", "alert", ["ended_at", "rule", "subject"], unique=False)
    op.create_table(
        "daily",
        sa.Column("part", sa.String(length=8), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("bundle", sa.String(length=12), nullable=False),
        sa.Column("calling_aet", sa.String(length=16), nullable=False),
        sa.Column("device", sa.String(length=64), nullable=False),
        sa.Column("view", sa.String(length=16), nullable=False),
        sa.Column("sex", sa.String(length=8), nullable=False),
        sa.Column("age_band", sa.String(length=8), nullable=False),
        sa.Column("films", sa.Integer(), nullable=False),
        sa.Column("refused", sa.Integer(), nullable=False),
        sa.Column("present", sa.Integer(), nullable=False),
        sa.Column("undetermined", sa.Integer(), nullable=False),
        sa.Column("absent", sa.Integer(), nullable=False),
        sa.Column("not_assessed", sa.Integer(), nullable=False),
        *(sa.Column(f"b{number:02}", sa.Integer(), nullable=False) for number in range(24)),
        sa.PrimaryKeyConstraint(
            "part",
            "model",
            "label",
            "day",
            "mode",
            "bundle",
            "calling_aet",
            "device",
            "view",
            "sex",
            "age_band",
            name=op.f("pk_daily"),
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "daily_pair",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("active", sa.String(length=64), nullable=False),
        sa.Column("shadow", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("active_bundle", sa.String(length=12), nullable=False),
        sa.Column("shadow_bundle", sa.String(length=12), nullable=False),
        sa.Column("films", sa.Integer(), nullable=False),
        sa.Column("both", sa.Integer(), nullable=False),
        sa.Column("only_active", sa.Integer(), nullable=False),
        sa.Column("only_shadow", sa.Integer(), nullable=False),
        sa.Column("difference", sa.Double(), nullable=False),
        sa.Column("distance", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "active", "shadow", "label", "active_bundle", "shadow_bundle", name=op.f("pk_daily_pair")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "daily_time",
        sa.Column("day", sa.Integer(), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("stage", sa.String(length=16), nullable=False),
        sa.Column("bin", sa.SmallInteger(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("day", "model", "stage", "bin", name=op.f("pk_daily_time")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "follower",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("last_event", _ID, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_follower")),
    )
    op.create_table(
        "hourly",
        sa.Column("calling_aet", sa.String(length=16), nullable=False),
        sa.Column("hour", sa.Integer(), nullable=False),
        sa.Column("received", sa.Integer(), nullable=False),
        sa.Column("accepted", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("calling_aet", "hour", name=op.f("pk_hourly")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "seal",
        sa.Column("id", _ID, nullable=False),
        sa.Column("sealed_at", sa.Double(), nullable=False),
        sa.Column("first_event", _ID, nullable=False),
        sa.Column("last_event", _ID, nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("before", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_seal")),
    )
    op.create_table(
        "alert_told",
        sa.Column("alert_id", _ID, nullable=False),
        sa.Column("channel", sa.String(length=16), nullable=False),
        sa.Column("phase", sa.String(length=8), nullable=False),
        sa.Column("told_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["alert_id"], ["alert.id"], name=op.f("fk_alert_told_alert_id")),
        sa.PrimaryKeyConstraint("alert_id", "channel", "phase", name=op.f("pk_alert_told")),
    )
    op.create_table(
        "feedback",
        sa.Column("id", _ID, nullable=False),
        sa.Column("given_at", sa.Double(), nullable=False),
        sa.Column("instance_id", _ID, nullable=False),
        sa.Column("job_id", _ID, nullable=True),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("truth", sa.Boolean(), nullable=True),
        sa.Column("verdict", sa.String(length=8), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("given_by", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_feedback_instance_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_feedback_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feedback")),
    )
    op.create_index("ix_feedback_instance", "feedback", ["instance_id", "label"], unique=False)
    op.create_index(op.f("ix_feedback_job_id"), "feedback", ["job_id"], unique=False)
    op.create_index("ix_instance_source", "instance", ["calling_aet", "received_at"], unique=False)
    op.add_column("job", sa.Column("counted", sa.SmallInteger(), server_default=sa.text("0"), nullable=False))
    op.create_index(
        "ix_job_uncounted",
        "job",
        ["id"],
        unique=False,
        sqlite_where=sa.text("counted = 0 AND report IS NOT NULL"),
        postgresql_where=sa.text("counted = 0 AND report IS NOT NULL"),
    )
    op.create_index(
        "ix_job_untimed",
        "job",
        ["state", "id"],
        unique=False,
        sqlite_where=sa.text("counted = 1"),
        postgresql_where=sa.text("counted = 1"),
    )
