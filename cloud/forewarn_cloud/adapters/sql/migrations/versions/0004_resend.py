"""Records asked for again, gaps that fill, births and storms that are noticed."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_OPEN_RESEND = sa.text("state = 'PENDING' AND command = 'resend'")
_HOLE = sa.text("hole_since IS NOT NULL")


def upgrade() -> None:
    op.add_column("nodes", sa.Column("births", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("assets", sa.Column("storm_at", sa.BigInteger(), nullable=True))
    op.add_column("lane_progress", sa.Column("hole_since", sa.BigInteger(), nullable=True))
    op.add_column("gaps", sa.Column("missing", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("gaps", sa.Column("filled_at", sa.BigInteger(), nullable=True))
    op.add_column("commands", sa.Column("lane", sa.String(length=16), nullable=True))
    op.add_column("commands", sa.Column("epoch", sa.String(length=64), nullable=True))
    op.add_column("commands", sa.Column("first_seq", sa.BigInteger(), nullable=True))
    op.add_column("commands", sa.Column("last_seq", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_lane_progress_holes", "lane_progress", ["hole_since"], sqlite_where=_HOLE, postgresql_where=_HOLE
    )
    op.create_index(
        "uq_commands_one_resend_open",
        "commands",
        ["tenant", "node", "lane", "epoch", "first_seq"],
        unique=True,
        sqlite_where=_OPEN_RESEND,
        postgresql_where=_OPEN_RESEND,
    )


def downgrade() -> None:
    """In place: a table copied in batch mode may lose its partial indexes. An older version knows no resend."""
    op.execute("DELETE FROM commands WHERE command = 'resend'")
    op.drop_index("uq_commands_one_resend_open", table_name="commands")
    op.drop_index("ix_lane_progress_holes", table_name="lane_progress")
    for column in ("last_seq", "first_seq", "epoch", "lane"):
        op.drop_column("commands", column)
    op.drop_column("gaps", "filled_at")
    op.drop_column("gaps", "missing")
    op.drop_column("lane_progress", "hole_since")
    op.drop_column("assets", "storm_at")
    op.drop_column("nodes", "births")
