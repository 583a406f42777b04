"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "circuit",
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("faults", sa.Integer(), nullable=False),
        sa.Column("next_probe_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_circuit")),
    )
    op.create_table(
        "duty",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duty")),
    )
    op.create_table(
        "instance",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=128), nullable=False),
        sa.Column("dataset_sha256", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=128), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=128), nullable=False),
        sa.Column("calling_aet", sa.String(length=16), nullable=False),
        sa.Column("called_aet", sa.String(length=16), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rule", sa.String(length=128), nullable=False),
        sa.Column("header", sa.Text(), nullable=False),
        sa.Column("spool_key", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint(
            "sop_instance_uid", "dataset_sha256", name=op.f("uq_instance_sop_instance_uid_dataset_sha256")
        ),
    )
    op.create_index(op.f("ix_instance_received_at"), "instance", ["received_at"], unique=False)
    op.create_index(op.f("ix_instance_spool_key"), "instance", ["spool_key"], unique=False)
    op.create_index(op.f("ix_instance_verdict"), "instance", ["verdict"], unique=False)
    op.create_table(
        "reader",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("loaded_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("model", name=op.f("pk_reader")),
    )
    op.create_table(
        "identity",
        sa.Column(
            "instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("patient_name", sa.Text(), nullable=False),
        sa.Column("birth_date", sa.Text(), nullable=False),
        sa.Column("sex", sa.Text(), nullable=False),
        sa.Column("accession", sa.Text(), nullable=False),
        sa.Column("study_instance_uid", sa.Text(), nullable=False),
        sa.Column("series_instance_uid", sa.Text(), nullable=False),
        sa.Column("header", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_identity_instance_id")),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_identity")),
    )
    op.create_index(op.f("ix_identity_accession"), "identity", ["accession"], unique=False)
    op.create_index(op.f("ix_identity_patient_id"), "identity", ["patient_id"], unique=False)
    op.create_index(op.f("ix_identity_study_instance_uid"), "identity", ["study_instance_uid"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("claimed_at", sa.Double(), nullable=True),
        sa.Column("settled_at", sa.Double(), nullable=True),
        sa.Column("wanted", sa.Text(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("alone", sa.Boolean(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("losses", sa.Integer(), nullable=False),
        sa.Column("bundle_digest", sa.String(length=64), nullable=False),
        sa.Column("config_digest", sa.String(length=64), nullable=False),
        sa.Column("engine", sa.String(length=64), nullable=False),
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("identity_digest", sa.String(length=64), nullable=False),
        sa.Column("duplicate_of", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("predecessor", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("disputed", sa.Boolean(), nullable=False),
        sa.Column("rejection", sa.String(length=16), nullable=False),
        sa.Column("rejection_note", sa.Text(), nullable=False),
        sa.Column("rejected_at", sa.Double(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.Column("report_sha256", sa.String(length=64), nullable=False),
        sa.Column("saliency_key", sa.String(length=64), nullable=True),
        sa.Column("saliency_sha256", sa.String(length=64), nullable=False),
        sa.Column("preview_key", sa.String(length=64), nullable=True),
        sa.Column("preview_sha256", sa.String(length=64), nullable=False),
        sa.Column("chain_head", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["duplicate_of"], ["job.id"], name=op.f("fk_job_duplicate_of")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_job_instance_id")),
        sa.ForeignKeyConstraint(["predecessor"], ["job.id"], name=op.f("fk_job_predecessor")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("instance_id", "model", "revision", name=op.f("uq_job_instance_id_model_revision")),
    )
    op.create_index("ix_job_created", "job", ["created_at"], unique=False)
    op.create_index("ix_job_lease", "job", ["state", "lease_until"], unique=False)
    op.create_index("ix_job_pixels", "job", ["pixel_digest"], unique=False)
    op.create_index(op.f("ix_job_predecessor"), "job", ["predecessor"], unique=False)
    op.create_index(op.f("ix_job_preview_key"), "job", ["preview_key"], unique=False)
    op.create_index("ix_job_ready", "job", ["state", "model", "rank", "id"], unique=False)
    op.create_index(op.f("ix_job_saliency_key"), "job", ["saliency_key"], unique=False)
    op.create_index("ix_job_settled", "job", ["settled_at"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("destination", sa.String(length=64), nullable=False),
        sa.Column("act", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("rank", sa.Double(), nullable=False),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("settled_at", sa.Double(), nullable=True),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=128), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_delivery_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("job_id", "destination", "act", name=op.f("uq_delivery_job_id_destination_act")),
    )
    op.create_index(op.f("ix_delivery_job_id"), "delivery", ["job_id"], unique=False)
    op.create_index("ix_delivery_lease", "delivery", ["state", "lease_until"], unique=False)
    op.create_index("ix_delivery_ready", "delivery", ["destination", "state", "rank", "id"], unique=False)
    op.create_table(
        "film",
        sa.Column("pixel_digest", sa.String(length=64), nullable=False),
        sa.Column("identity_digest", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_film_job_id")),
        sa.PrimaryKeyConstraint("pixel_digest", "identity_digest", "model", name=op.f("pk_film")),
    )
    op.create_index(op.f("ix_film_job_id"), "film", ["job_id"], unique=False)
    op.create_table(
        "finding",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("scale", sa.String(length=16), nullable=False),
        sa.Column("decision", sa.String(length=16), nullable=False),
        sa.Column("rule_out", sa.Double(), nullable=True),
        sa.Column("rule_in", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_finding_job_id")),
        sa.PrimaryKeyConstraint("job_id", "label", name=op.f("pk_finding")),
    )
    op.create_index("ix_finding_label", "finding", ["label", "decision"], unique=False)
    op.create_table(
        "notice",
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("report", sa.Text(), nullable=False),
        sa.Column("report_sha256", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_notice_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_notice")),
    )
    op.create_table(
        "output",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("instance_number", sa.Integer(), nullable=False),
        sa.Column("spool_key", sa.String(length=64), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_output_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_output")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_output_sop_instance_uid")),
    )
    op.create_index(op.f("ix_output_job_id"), "output", ["job_id"], unique=False)
    op.create_index(op.f("ix_output_spool_key"), "output", ["spool_key"], unique=False)
    op.create_table(
        "study_summary",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study_digest", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("readings_digest", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("act", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_study_summary_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study_summary")),
        sa.UniqueConstraint("study_digest", "revision", name=op.f("uq_study_summary_study_digest_revision")),
    )
    op.create_index(op.f("ix_study_summary_job_id"), "study_summary", ["job_id"], unique=False)
    op.create_table(
        "delivery_output",
        sa.Column("delivery_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("output_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("had", sa.Boolean(), nullable=False),
        sa.Column("comment", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_delivery_output_delivery_id")),
        sa.ForeignKeyConstraint(["output_id"], ["output.id"], name=op.f("fk_delivery_output_output_id")),
        sa.PrimaryKeyConstraint("delivery_id", "output_id", name=op.f("pk_delivery_output")),
    )
    op.create_table(
        "event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("instance_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("delivery_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["delivery_id"], ["delivery.id"], name=op.f("fk_event_delivery_id")),
        sa.ForeignKeyConstraint(["instance_id"], ["instance.id"], name=op.f("fk_event_instance_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_event_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
    )
    op.create_index(op.f("ix_event_at"), "event", ["at"], unique=False)
    op.create_index(op.f("ix_event_instance_id"), "event", ["instance_id"], unique=False)
    op.create_index(op.f("ix_event_job_id"), "event", ["job_id"], unique=False)
