"""Telemetry in memory, for programs that keep none and for tests; it passes the same contract as the database."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries, series

_Identity = tuple[str, str, str, int]


@dataclass(frozen=True)
class MemoryTelemetry:
    """`TelemetryStore` that lasts as long as the object."""

    records: dict[_Identity, TelemetryRecord] = field(default_factory=dict)

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        added = {(r.tenant, r.node, r.epoch, r.seq): r for r in records}
        if len(added) < len(records) or added.keys() & self.records.keys():
            raise ValueError("a record with this identity is stored already")
        self.records.update(added)

    def digests(self, tenant: str, node: str, epoch: str, seqs: Collection[int]) -> dict[int, bytes]:
        found = {seq: self.records.get((tenant, node, epoch, seq)) for seq in seqs}
        return {seq: record.digest for seq, record in found.items() if record is not None}

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        mine = [r for r in self.records.values() if (r.tenant, r.asset) == (tenant, asset)]
        mine.sort(key=lambda r: (int(r.t_ms[-1]), r.seq))
        blocks = [(r.t_ms, r.signals) for r in mine]
        return series(blocks, signals=signals, from_ms=from_ms, to_ms=to_ms, max_points=max_points)
