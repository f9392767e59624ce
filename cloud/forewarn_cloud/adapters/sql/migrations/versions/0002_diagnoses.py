"""What findings teach the diagnosis, and with how many of them an episode was diagnosed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "diagnoses",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("asset_type", sa.String(length=64), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("version >= 0", name=op.f("ck_diagnoses_version_not_negative")),
        sa.PrimaryKeyConstraint("tenant", "asset_type", name=op.f("pk_diagnoses")),
    )
    op.add_column("episodes", sa.Column("diagnosis_version", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    """In place, which SQLite has known since 3.35: a table copied in batch mode may lose its partial indexes."""
    op.drop_column("episodes", "diagnosis_version")
    op.drop_table("diagnoses")
