"""Telemetry in memory: for tests, and as the plainest form of what a telemetry store does."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from forewarn_cloud.series import series
from forewarn_cloud.telemetry import TelemetryRecord, TelemetrySeries


@dataclass(frozen=True)
class MemoryTelemetry:
    """`TelemetryStore` and `SampleStore` that last as long as the object."""

    records: list[TelemetryRecord] = field(default_factory=list)

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        self.records.extend(records)

    write = append

    def digests(
        self,
        tenant: str,
        node: str,
        epoch: str,
        seqs: Collection[int],
        *,
        assets: Collection[str] = (),  # noqa: ARG002
    ) -> dict[int, bytes]:
        lane = (tenant, node, epoch)
        of_lane = [record for record in self.records if (record.tenant, record.node, record.epoch) == lane]
        return {record.seq: record.digest for record in of_lane if record.seq in seqs}

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        of_asset = [record for record in self.records if (record.tenant, record.asset) == (tenant, asset)]
        blocks = [(record.t_ms, record.signals) for record in of_asset]
        return series(blocks, signals=signals, from_ms=from_ms, to_ms=to_ms, max_points=max_points)

    def started_at(self) -> str:
        return str(id(self.records))
