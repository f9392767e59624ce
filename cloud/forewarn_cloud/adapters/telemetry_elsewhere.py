"""Samples in another database, records and their digests in the relational one."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Engine, Row, bindparam, select, tuple_

from forewarn_cloud.adapters.sql.engine import reading, retrying, writing
from forewarn_cloud.adapters.sql.schema import telemetry_blocks as blocks
from forewarn_cloud.adapters.telemetry_codec import decode_columns
from forewarn_cloud.adapters.telemetry_compaction import RECORD, remove_blocks
from forewarn_cloud.adapters.telemetry_shards import SHARDS
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.telemetry import SampleStore, TelemetryRecord, TelemetrySeries

KEEP_MS: Final = 60_000
_ROWS_A_STEP: Final = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TelemetryElsewhere:
    """`TelemetryStore` in two places: `samples` before the transaction of `records` commits.

    What fails in between is sent again by the node and written again, which changes nothing.
    """

    records: SqlTelemetry
    samples: SampleStore

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        self.samples.write(records)
        self.records.append(records)

    def digests(
        self, tenant: str, node: str, epoch: str, seqs: Collection[int], *, assets: Collection[str] = ()
    ) -> dict[int, bytes]:
        return self.records.digests(tenant, node, epoch, seqs, assets=assets)

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        return self.samples.read(
            tenant=tenant, asset=asset, signals=signals, from_ms=from_ms, to_ms=to_ms, max_points=max_points
        )


@dataclass(kw_only=True)
class ElsewhereUpkeep:
    """Keeps every record for a while after it was stored elsewhere, in case the store there loses it again.

    A store may acknowledge a write some seconds before it is on its disk (VictoriaMetrics: 5 s). When it has been
    restarted, the records that are kept here are written to it once more, which changes nothing where they are.
    """

    engine: Engine
    samples: SampleStore
    keep_ms: int = KEEP_MS
    _started_at: str | None = None
    _settled: dict[int, int] = field(default_factory=dict)
    """The last record of each shard when it was last looked at, and that long ago stored elsewhere; of those of which
    something is left."""
    _looked_ms: int | None = None

    def rewrite(self, _now_ms: int) -> bool:
        """Write all that is kept here again if the store was restarted; also at our own start, when nobody knows.

        Raises:
            Unavailable: one of the stores cannot serve.
        """
        started_at = self.samples.started_at()
        if started_at == self._started_at:
            return False
        written, after = 0, (-1, -1)
        while rows := self._kept(after):
            self.samples.write([_record(row) for row in rows])
            written, after = written + len(rows), (rows[-1].shard, rows[-1].id)
        if written:
            _log.info("the telemetry store was restarted: the last %d records were written to it again", written)
        self._started_at = started_at
        return False

    def forget(self, now_ms: int) -> bool:
        """Remove some of the records that were kept long enough, but for their digests; none while the store is away.

        Raises:
            Unavailable: one of the stores cannot serve.
        """
        if self.samples.started_at() != self._started_at:
            return False
        while self._settled:
            shard = next(iter(self._settled))
            if self._forget(shard, self._settled[shard], now_ms):
                return True
            del self._settled[shard]
        if self._looked_ms is None or now_ms - self._looked_ms >= self.keep_ms:
            self._settled, self._looked_ms = self._last_of_shards(), now_ms
        return False

    def _forget(self, shard: int, last: int, now_ms: int) -> bool:
        settled = (blocks.c.shard == shard, blocks.c.id <= last)
        query = select(*RECORD).where(*settled).order_by(blocks.c.id).limit(_ROWS_A_STEP)

        def once() -> bool:
            with writing(self.engine) as connection:
                rows = connection.execute(query).all()
                remove_blocks(connection, list(map(tuple, rows)), now_ms=now_ms)
                return bool(rows)

        return retrying(once)

    def _last_of_shards(self) -> dict[int, int]:
        last = select(blocks.c.id).where(blocks.c.shard == bindparam("of_shard")).order_by(blocks.c.id.desc()).limit(1)
        with reading(self.engine) as connection:
            found = {shard: connection.execute(last, {"of_shard": shard}).scalar() for shard in range(SHARDS)}
        return {shard: last for shard, last in found.items() if last is not None}

    def _kept(self, after: tuple[int, int]) -> Sequence[Row[Any]]:
        key = tuple_(blocks.c.shard, blocks.c.id)
        query = select(blocks).where(key > after).order_by(*key.clauses).limit(_ROWS_A_STEP)
        with reading(self.engine) as connection:
            return connection.execute(query).all()


def _record(row: Row[Any]) -> TelemetryRecord:
    t_ms, signals = decode_columns(bytes(row.columns))
    return TelemetryRecord(
        tenant=row.tenant,
        node=row.node,
        epoch=row.epoch,
        seq=row.seq,
        digest=bytes(row.digest),
        asset=row.asset,
        t_ms=t_ms,
        signals=signals,
    )
