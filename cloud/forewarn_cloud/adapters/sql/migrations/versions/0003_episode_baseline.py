"""Whether the baseline that the evidence of an episode deviates from still holds."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("episodes", sa.Column("baseline", sa.String(length=16), server_default="KEPT", nullable=False))


def downgrade() -> None:
    """In place: a table copied in batch mode may lose its partial indexes."""
    op.drop_column("episodes", "baseline")
