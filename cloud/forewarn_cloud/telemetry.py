"""What machines measured: records as they are stored, series as they are read, and the port between."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray


class TelemetryRecord(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One record of a node's telemetry lane. (tenant, node, epoch, seq) is its identity.

    `t_ms` int64 (n,), non-decreasing; `signals` float32 (n,) each, NaN where missing.
    """

    tenant: str
    node: str
    epoch: str
    seq: int
    digest: bytes
    asset: str
    t_ms: NDArray[np.int64]
    signals: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, eq=False)
class TelemetrySeries:
    """Signals of one asset on one time axis.

    `t_ms` int64 (m,), strictly increasing; `signals`, `low` and `high` float32 (m,) each, NaN where missing.
    `bucket_ms` 0: `signals` are the readings as they were measured, `low` and `high` are empty. Else each point stands
    for the samples from its time until `bucket_ms` later, whose mean, minimum and maximum they are. `samples` is how
    many instants were measured in all.
    """

    t_ms: NDArray[np.int64]
    signals: Mapping[str, NDArray[np.float32]]
    samples: int
    bucket_ms: int = 0
    low: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    high: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


class TelemetryStore(Protocol):
    """Durable telemetry.

    `append` belongs to the caller's transaction, or is durable and repeatable where the store has none: when it raises,
    nothing is acknowledged and the same records come again.
    """

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        """Store records whose identity is new: the caller has looked at the progress of their lane.

        Raises:
            Unavailable: the store cannot serve.
        """
        ...

    def digests(
        self, tenant: str, node: str, epoch: str, seqs: Collection[int], *, assets: Collection[str] = ()
    ) -> dict[int, bytes]:
        """The digests of those of these records that are stored; those of long ago may be forgotten.

        `assets`: whom they are likely to be about, where to look first.
        """
        ...

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        """What an asset measured from `from_ms` to `to_ms`, both included, in event time.

        Late and overlapping records are merged; where they differ about a signal at the same instant, the larger
        reading stands, so that the answer depends on what was stored and not on the order in which it came. `signals`
        None: all there are. A signal that was not measured in this time is not in the result, and neither is an instant
        at which none of the signals was. More than `max_points` (at least 2) instants come in buckets of one width,
        whole ones where the range is long: the first may begin before `from_ms` and the last end after `to_ms`.

        Raises:
            Unavailable: the store cannot serve.
        """
        ...


class SampleStore(Protocol):
    """Another database for the samples alone; who has sent what stays in the relational one.

    A sample that is written again is the same sample: writing is repeatable.
    """

    def write(self, records: Sequence[TelemetryRecord]) -> None:
        """Raises:
        Unavailable: the store cannot serve; some of the records may be stored.
        Invalid: it will never take these records.
        """
        ...

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        """As `TelemetryStore.read`. What was written a few seconds ago may be missing still."""
        ...

    def started_at(self) -> str:
        """Changes when the store has been restarted, which may have cost it what it had acknowledged last.

        Raises:
            Unavailable: the store cannot serve.
        """
        ...
