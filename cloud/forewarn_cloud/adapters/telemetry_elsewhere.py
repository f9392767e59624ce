"""Samples in another database, records and their digests in the relational one."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.telemetry import SampleStore, TelemetryRecord, TelemetrySeries


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

    def digests(self, tenant: str, node: str, epoch: str, seqs: Collection[int]) -> dict[int, bytes]:
        return self.records.digests(tenant, node, epoch, seqs)

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        return self.samples.read(
            tenant=tenant, asset=asset, signals=signals, from_ms=from_ms, to_ms=to_ms, max_points=max_points
        )
