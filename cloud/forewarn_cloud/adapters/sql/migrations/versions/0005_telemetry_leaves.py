"""Telemetry in large blocks with summaries, and the digests of the records they were made of."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "telemetry_leaves",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("level_ms", sa.BigInteger(), nullable=False),
        sa.Column("rolled_ms", sa.BigInteger(), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("columns", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("first_ms <= last_ms", name=op.f("ck_telemetry_leaves_time_ordered")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_telemetry_leaves")),
    )
    op.create_index(
        "ix_telemetry_leaves_place",
        "telemetry_leaves",
        ["tenant", "asset", "level_ms", "rolled_ms", "last_ms", "first_ms"],
        unique=False,
    )
    op.create_table(
        "telemetry_digests",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("page", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digests", sa.LargeBinary(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "node", "epoch", "page", name=op.f("pk_telemetry_digests")),
    )


def downgrade() -> None:
    """What was compacted is lost: an older forewarn cannot read it."""
    op.drop_table("telemetry_digests")
    op.drop_index("ix_telemetry_leaves_place", table_name="telemetry_leaves")
    op.drop_table("telemetry_leaves")
