"""Telemetry in the relational database: a row per record as it comes, large blocks once upkeep has compacted them."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from operator import itemgetter
from typing import Final

from sqlalchemy import Connection, insert, select

from forewarn_cloud.adapters.sql.bulk import run_many
from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks
from forewarn_cloud.adapters.telemetry_codec import decode_all, encode_columns
from forewarn_cloud.adapters.telemetry_digests import Lane, paged_digests
from forewarn_cloud.adapters.telemetry_leaves import buckets_of_leaf, kinds_of_level, kinds_of_samples, stored_parts
from forewarn_cloud.adapters.telemetry_shards import SHARDS, of_lane, shard_of
from forewarn_cloud.series import bucket_series, combine, count_samples, cut, level_for, merge, series, summarise
from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries

_KEYS_A_QUERY: Final = 500
_INSERT: Final = insert(blocks)
_COLUMNS: Final = tuple(blocks.c.keys())


@dataclass(frozen=True)
class SqlTelemetry:
    """`TelemetryStore` in the transaction of `connection`."""

    connection: Connection

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        if records:
            run_many(self.connection, _INSERT, _COLUMNS, _rows(records))

    def digests(
        self, tenant: str, node: str, epoch: str, seqs: Collection[int], *, assets: Collection[str] = ()
    ) -> dict[int, bytes]:
        """First of the blocks, then of what was compacted: a record that is moved meanwhile is found."""
        lane, likely = (tenant, node, epoch), {shard_of(tenant, asset) for asset in assets}
        found = self._digests_of_blocks(lane, seqs, likely)
        found |= paged_digests(self.connection, lane, [seq for seq in seqs if seq not in found])
        return found | self._digests_of_blocks(
            lane, [seq for seq in seqs if seq not in found], set(range(SHARDS)) - likely
        )

    def _digests_of_blocks(self, lane: Lane, seqs: Collection[int], shards: Collection[int]) -> dict[int, bytes]:
        wanted, found = list(seqs) if shards else [], dict[int, bytes]()
        for start in range(0, len(wanted), _KEYS_A_QUERY):
            some = blocks.c.seq.in_(wanted[start : start + _KEYS_A_QUERY])
            query = select(blocks.c.seq, blocks.c.digest).where(blocks.c.shard.in_(shards), of_lane(lane), some)
            found.update((row.seq, bytes(row.digest)) for row in self.connection.execute(query))
        return found

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        """Of a long range the widest buckets that are fine enough, and the samples of which there are none.

        A reading that came twice counts twice in the mean of its bucket until upkeep has compacted it.
        """
        level = level_for(from_ms, to_ms, max_points)
        if level is not None:
            found = self._read_level(tenant, asset, signals, from_ms, to_ms, level, max_points)
            if found is not None:
                return found
        stored = stored_parts(self.connection, tenant, asset, kinds_of_samples(), from_ms, to_ms)
        samples = decode_all((bytes(row.columns) for row in stored), signals)
        return series(samples, signals=signals, from_ms=from_ms, to_ms=to_ms, max_points=max_points)

    def _read_level(
        self,
        tenant: str,
        asset: str,
        signals: Collection[str] | None,
        from_ms: int,
        to_ms: int,
        level: int,
        max_points: int,
    ) -> TelemetrySeries | None:
        """None where there is nothing ready, or the samples are few enough to be read one by one."""
        first_ms = from_ms // level * level
        stored = stored_parts(self.connection, tenant, asset, kinds_of_level(level), first_ms, to_ms)
        ready = [
            buckets_of_leaf(bytes(row.columns), signals, first_ms, to_ms) for row in stored if row.level_ms == level
        ]
        if not ready:
            return None
        others = decode_all((bytes(row.columns) for row in stored if row.level_ms != level), signals)
        single = [cut(block, signals, from_ms, to_ms) for block in others]
        buckets = combine([*ready, summarise(merge(single), level)], level)
        samples = count_samples(buckets)
        if samples <= max_points:
            return None
        return bucket_series(buckets, width=level, samples=samples, max_points=max_points)


def _rows(records: Sequence[TelemetryRecord]) -> list[tuple[object, ...]]:
    """Values for `_COLUMNS`, shard by shard: their pages are written once."""
    shards = [shard_of(record.tenant, record.asset) for record in records]
    placed = sorted(zip(shards, count(time.time_ns()), records, strict=False), key=itemgetter(0, 1))
    return [_row(*one) for one in placed]


def _row(shard: int, stored_ns: int, record: TelemetryRecord) -> tuple[object, ...]:
    return (
        shard,
        stored_ns,
        record.tenant,
        record.node,
        record.epoch,
        record.seq,
        record.digest,
        record.asset,
        record.t_ms.item(0),
        record.t_ms.item(-1),
        len(record.t_ms),
        encode_columns(record.t_ms, record.signals),
    )
