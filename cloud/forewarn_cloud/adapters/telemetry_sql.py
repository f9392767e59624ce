"""Telemetry in the relational database: one row per record, its columns compressed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from forewarn_cloud.adapters.sql.bulk import insert_many
from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks
from forewarn_cloud.adapters.telemetry_codec import decode_columns, encode_columns
from forewarn_cloud.series import series
from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries

_KEYS_A_QUERY = 500


@dataclass(frozen=True)
class SqlTelemetry:
    """`TelemetryStore` in the transaction of `connection`."""

    connection: Connection

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        if records:
            insert_many(self.connection, insert(blocks), [_row(record) for record in records])

    def digests(self, tenant: str, node: str, epoch: str, seqs: Collection[int]) -> dict[int, bytes]:
        wanted, found = list(seqs), dict[int, bytes]()
        for start in range(0, len(wanted), _KEYS_A_QUERY):
            query = select(blocks.c.seq, blocks.c.digest).where(
                blocks.c.tenant == tenant,
                blocks.c.node == node,
                blocks.c.epoch == epoch,
                blocks.c.seq.in_(wanted[start : start + _KEYS_A_QUERY]),
            )
            found.update((row.seq, bytes(row.digest)) for row in self.connection.execute(query))
        return found

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        query = (
            select(blocks.c.columns)
            .where(blocks.c.tenant == tenant, blocks.c.asset == asset)
            .where(blocks.c.last_ms >= from_ms, blocks.c.first_ms <= to_ms)
            .order_by(blocks.c.last_ms, blocks.c.seq)
        )
        stored = [decode_columns(bytes(row.columns)) for row in self.connection.execute(query)]
        return series(stored, signals=signals, from_ms=from_ms, to_ms=to_ms, max_points=max_points)


def _row(record: TelemetryRecord) -> dict[str, object]:
    return {
        "tenant": record.tenant,
        "node": record.node,
        "epoch": record.epoch,
        "seq": record.seq,
        "digest": record.digest,
        "asset": record.asset,
        "first_ms": int(record.t_ms[0]),
        "last_ms": int(record.t_ms[-1]),
        "samples": len(record.t_ms),
        "columns": encode_columns(record.t_ms, record.signals),
    }
