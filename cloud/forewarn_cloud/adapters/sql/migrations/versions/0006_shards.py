"""New records by shard, in the order in which they came, instead of by machine and by lane."""

import zlib
from typing import Any, Final

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SHARDS: Final = 64
_ROWS_A_STEP: Final = 1000
_BEFORE: Final = "telemetry_blocks_before"
_SHARED: Final = ("tenant", "node", "epoch", "seq", "digest", "asset", "first_ms", "last_ms", "samples", "columns")


def upgrade() -> None:
    op.drop_index(op.f("ix_telemetry_blocks_tenant_asset_last_ms"), table_name="telemetry_blocks")
    _set_aside()
    op.create_table(
        "telemetry_blocks",
        sa.Column("shard", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        *_shared_columns(),
        sa.CheckConstraint("first_ms <= last_ms", name=op.f("ck_telemetry_blocks_time_ordered")),
        sa.PrimaryKeyConstraint("shard", "id", name=op.f("pk_telemetry_blocks")),
        sqlite_with_rowid=False,
    )
    _move(("shard", "id", *_SHARED))


def downgrade() -> None:
    _set_aside()
    op.create_table(
        "telemetry_blocks",
        *_shared_columns(),
        sa.CheckConstraint("first_ms <= last_ms", name=op.f("ck_telemetry_blocks_time_ordered")),
        sa.PrimaryKeyConstraint("tenant", "node", "epoch", "seq", name=op.f("pk_telemetry_blocks")),
    )
    op.create_index(
        op.f("ix_telemetry_blocks_tenant_asset_last_ms"),
        "telemetry_blocks",
        ["tenant", "asset", "last_ms"],
        unique=False,
    )
    _move(_SHARED)


def _shared_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=16), nullable=False),
        sa.Column("asset", sa.String(length=64), nullable=False),
        sa.Column("first_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_ms", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("columns", sa.LargeBinary(), nullable=False),
    ]


def _set_aside() -> None:
    """PostgreSQL wants the name of the primary key for the new table."""
    op.rename_table("telemetry_blocks", _BEFORE)
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(op.f("pk_telemetry_blocks"), _BEFORE, type_="primary")


def _move(columns: tuple[str, ...]) -> None:
    bind = op.get_bind()
    before, into = (
        sa.table(name, *map(sa.column, of)) for name, of in ((_BEFORE, _SHARED), ("telemetry_blocks", columns))
    )
    there, moved = sa.select(before).execution_options(yield_per=_ROWS_A_STEP), 0
    for rows in bind.execute(there).mappings().partitions():
        placed = [{**row, **_place(row, moved + i)} for i, row in enumerate(rows)]
        bind.execute(sa.insert(into), [{name: row[name] for name in columns} for row in placed])
        moved += len(rows)
    op.drop_table(_BEFORE)


def _place(row: sa.RowMapping, number: int) -> dict[str, int]:
    return {"shard": zlib.crc32(f"{row['tenant']}/{row['asset']}".encode()) % SHARDS, "id": number}
