"""What machines measured: records as they are stored, series as they are read, and the port between."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

MIN_POINTS: Final = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class TelemetryRecord:
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

    `t_ms` int64 (m,), strictly increasing; `signals` float32 (m,) each, NaN where missing. `samples` is how many
    instants there are in the range; where it is more than m, each pair of points is the minimum and the maximum of the
    samples from the first's time to the second's.
    """

    t_ms: NDArray[np.int64]
    signals: Mapping[str, NDArray[np.float32]]
    samples: int


class TelemetryStore(Protocol):
    """Durable telemetry. `append` belongs to the caller's transaction, or is durable and repeatable where the store has
    none: when it raises, nothing is acknowledged and the same records come again."""

    def append(self, records: Sequence[TelemetryRecord]) -> None:
        """Store records whose identity is new. An identity that is stored already raises the store's own error."""
        ...

    def digests(self, tenant: str, node: str, epoch: str, seqs: Collection[int]) -> dict[int, bytes]:
        """The digests of those of these records that are stored."""
        ...

    def read(
        self, *, tenant: str, asset: str, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
    ) -> TelemetrySeries:
        """What an asset measured from `from_ms` to `to_ms`, both included, in event time.

        Late and overlapping records are merged; where two say something of the same signal at the same instant, the one
        of the record that ends later stands. `signals` None: all there are. A signal that was not measured in this time
        is not in the result.
        """
        ...


Columns = tuple[NDArray[np.int64], Mapping[str, NDArray[np.float32]]]
"""Times (n,) and signals (n,) each."""


def series(
    blocks: Sequence[Columns], *, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
) -> TelemetrySeries:
    """Merge blocks, a later one over an earlier one, into one series of at most `max_points` (at least 2) points."""
    t_ms, merged = _merge([_cut(block, signals, from_ms, to_ms) for block in blocks])
    samples = len(t_ms)
    if samples > max(max_points, MIN_POINTS):
        t_ms, merged = _decimate(t_ms, merged, max(max_points, MIN_POINTS))
    return TelemetrySeries(t_ms=t_ms, signals=merged, samples=samples)


def _cut(block: Columns, signals: Collection[str] | None, from_ms: int, to_ms: int) -> Columns:
    t_ms, columns = block
    inside = slice(np.searchsorted(t_ms, from_ms, "left"), np.searchsorted(t_ms, to_ms, "right"))
    return t_ms[inside], {name: c[inside] for name, c in columns.items() if signals is None or name in signals}


def _merge(blocks: Sequence[Columns]) -> Columns:
    every_t = np.concatenate([np.empty(0, np.int64), *(t_ms for t_ms, _ in blocks)])
    t_ms, place = np.unique(every_t, return_inverse=True)
    names = sorted({name for _, columns in blocks for name in columns})
    merged = {name: np.full(len(t_ms), np.nan, dtype=np.float32) for name in names}
    start = 0
    for block_t, columns in blocks:
        at = place[start : start + len(block_t)]
        start += len(block_t)
        for name, column in columns.items():
            known = ~np.isnan(column)
            merged[name][at[known]] = column[known]
    return t_ms, merged


def _decimate(t_ms: NDArray[np.int64], signals: Mapping[str, NDArray[np.float32]], max_points: int) -> Columns:
    """Equal spans of time become two points each: the minimum at the span's first sample, the maximum at its last."""
    edges = np.linspace(t_ms[0], t_ms[-1], max_points // 2 + 1)
    bucket = np.minimum(np.searchsorted(edges, t_ms, "right") - 1, max_points // 2 - 1)
    starts = np.flatnonzero(np.diff(bucket, prepend=-1))
    ends = np.append(starts[1:], len(t_ms)) - 1
    places = np.stack([starts, ends], axis=1)
    keep = np.stack([np.ones(len(starts), dtype=bool), ends > starts], axis=1)
    decimated = {
        name: np.stack([np.fmin.reduceat(column, starts), np.fmax.reduceat(column, starts)], axis=1)[keep]
        for name, column in signals.items()
    }
    return t_ms[places[keep]], decimated
