"""The guards of the audit trail: `env.py` installs them after every upgrade, so that this one does nothing else."""

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass
