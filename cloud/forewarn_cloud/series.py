"""Merging and down-sampling of telemetry. Pure: columns in, columns out."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_cloud.telemetry import TelemetrySeries

Columns = tuple[NDArray[np.int64], Mapping[str, NDArray[np.float32]]]
"""Times (n,) and signals (n,) each, NaN where missing."""

MIN_POINTS: Final = 2
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS
WIDTHS_MS: Final = (
    *(step * scale for scale in (1, 10, 100) for step in (1, 2, 5)),
    *(1000 * seconds for seconds in (1, 2, 5, 10, 15, 30)),
    *(MINUTE_MS * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(HOUR_MS * hours for hours in (1, 2, 3, 6, 12)),
    *(DAY_MS * days for days in (1, 2, 5, 10, 30, 100)),
)
"""Of buckets, all aligned to 1970. Each level below divides every width from itself on."""
LEVELS_MS: Final = (MINUTE_MS, HOUR_MS, DAY_MS)
"""Widths of the buckets that are kept ready."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary:
    """Of one signal, by bucket: `count` float64 (m,), 0 where it was not measured; `low`, `high` float32 (m,) and
    `mean` float64 (m,), NaN there."""

    count: NDArray[np.float64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    mean: NDArray[np.float64]


Buckets = tuple[NDArray[np.int64], Mapping[str, Summary]]
"""Starts (m,), strictly increasing, and signals."""

NO_COLUMNS: Final[Columns] = (np.empty(0, np.int64), {})
NO_BUCKETS: Final[Buckets] = (np.empty(0, np.int64), {})


def series(
    blocks: Sequence[Columns], *, signals: Collection[str] | None, from_ms: int, to_ms: int, max_points: int
) -> TelemetrySeries:
    """Blocks of samples as one series of at most `max_points` points."""
    t_ms, merged = merge([cut(block, signals, from_ms, to_ms) for block in blocks])
    samples = len(t_ms)
    if samples <= max(max_points, MIN_POINTS):
        return TelemetrySeries(t_ms=t_ms, signals=merged, samples=samples)
    return bucket_series(_each((t_ms, merged)), width=1, samples=samples, max_points=max_points)


def bucket_series(buckets: Buckets, *, width: int, samples: int, max_points: int) -> TelemetrySeries:
    """Buckets of `width` as a series, in wider ones if they are more than `max_points`."""
    starts, _ = buckets
    if not len(starts):
        return TelemetrySeries(t_ms=starts, signals={}, samples=0)
    width = max(width, least_width(int(starts[0]), int(starts[-1]), max_points))
    starts, summaries = combine([buckets], width)
    return TelemetrySeries(
        t_ms=starts,
        signals={name: summary.mean.astype(np.float32) for name, summary in summaries.items()},
        samples=samples,
        bucket_ms=width,
        low={name: summary.low for name, summary in summaries.items()},
        high={name: summary.high for name, summary in summaries.items()},
    )


def count_samples(buckets: Buckets) -> int:
    """The instants that were measured, if every signal is measured together with the one that is measured most."""
    _, summaries = buckets
    if not summaries:
        return 0
    most = max(summaries.values(), key=lambda summary: float(summary.count.sum()))
    return int(most.count.sum())


def least_width(first_ms: int, last_ms: int, max_points: int) -> int:
    """Of the buckets, no more than `max_points` (at least 2) of them, that hold all from `first_ms` to `last_ms`."""
    most = max(max_points, MIN_POINTS)
    wider = (WIDTHS_MS[-1] * 2**power for power in count(1))
    widths: Iterator[int] = chain(WIDTHS_MS, wider)
    return next(width for width in widths if last_ms // width - first_ms // width < most)


def level_for(from_ms: int, to_ms: int, max_points: int) -> int | None:
    """The widest level that is fine enough for the range; None where the samples themselves have to be read."""
    wanted = (to_ms - from_ms) / max(max_points, MIN_POINTS)
    return max((level for level in LEVELS_MS if level <= wanted), default=None)


def cut(block: Columns, signals: Collection[str] | None, from_ms: int, to_ms: int) -> Columns:
    t_ms, columns = block
    inside = slice(np.searchsorted(t_ms, from_ms, "left"), np.searchsorted(t_ms, to_ms, "right"))
    return t_ms[inside], {name: c[inside] for name, c in columns.items() if signals is None or name in signals}


def merge(blocks: Sequence[Columns]) -> Columns:
    """All samples in order of time, once each; of differing readings the larger. What nobody measured is left out."""
    filled = [(t_ms, columns) for t_ms, columns in blocks if len(t_ms) and columns]
    if not filled:
        return NO_COLUMNS
    t_ms = np.concatenate([t_ms for t_ms, _ in filled])
    joined = _laid_out(filled, len(t_ms))
    steps = np.diff(t_ms)
    if (steps > 0).all():
        return _measured(t_ms, joined)
    order = np.argsort(t_ms, kind="stable")
    t_ms = t_ms[order]
    firsts = np.flatnonzero(np.diff(t_ms, prepend=t_ms[0] - 1))
    if len(firsts) == len(t_ms):
        return _measured(t_ms, {name: column[order] for name, column in joined.items()})
    return _measured(t_ms[firsts], {name: np.fmax.reduceat(column[order], firsts) for name, column in joined.items()})


def _laid_out(blocks: Sequence[Columns], samples: int) -> dict[str, NDArray[np.float32]]:
    """The columns of all blocks, one block after the other."""
    joined, start = dict[str, NDArray[np.float32]](), 0
    for t_ms, columns in blocks:
        end = start + len(t_ms)
        for name, column in columns.items():
            if name not in joined:
                joined[name] = np.full(samples, np.nan, dtype=np.float32)
            joined[name][start:end] = column
        start = end
    return joined


def _measured(t_ms: NDArray[np.int64], columns: Mapping[str, NDArray[np.float32]]) -> Columns:
    known = {name: ~np.isnan(columns[name]) for name in sorted(columns)}
    kept = [name for name, is_known in known.items() if is_known.any()]
    if not kept:
        return NO_COLUMNS
    instants = np.logical_or.reduce([known[name] for name in kept])
    if instants.all():
        return t_ms, {name: columns[name] for name in kept}
    return t_ms[instants], {name: columns[name][instants] for name in kept}


def summarise(block: Columns, width: int) -> Buckets:
    """Samples, strictly increasing in time, by buckets of `width` milliseconds."""
    return combine([_each(block)], width)


def _each(block: Columns) -> Buckets:
    """A bucket of a millisecond for each sample."""
    t_ms, columns = block
    return t_ms, {
        name: Summary(count=(~np.isnan(column)).astype(np.float64), low=column, high=column, mean=column.astype(float))
        for name, column in columns.items()
    }


def combine(parts: Sequence[Buckets], width: int) -> Buckets:
    """Buckets of parts that have no sample in common, as buckets of `width`, a multiple of the width of each."""
    filled = [(starts, summaries) for starts, summaries in parts if len(starts) and summaries]
    if not filled:
        return NO_BUCKETS
    every = np.concatenate([starts for starts, _ in filled]) // width * width
    order = np.argsort(every, kind="stable")
    every = every[order]
    firsts = np.flatnonzero(np.diff(every, prepend=every[0] - 1))
    names = sorted({name for _, summaries in filled for name in summaries})
    return every[firsts], {name: _reduced(_joined(filled, name), order, firsts) for name in names}


def _joined(parts: Sequence[Buckets], name: str) -> Summary:
    found = [summaries.get(name) or _unmeasured(len(starts)) for starts, summaries in parts]
    return Summary(
        count=np.concatenate([one.count for one in found]),
        low=np.concatenate([one.low for one in found]),
        high=np.concatenate([one.high for one in found]),
        mean=np.concatenate([one.mean for one in found]),
    )


def _unmeasured(length: int) -> Summary:
    missing = np.full(length, np.nan, dtype=np.float32)
    return Summary(count=np.zeros(length), low=missing, high=missing, mean=missing.astype(float))


def _reduced(of: Summary, order: NDArray[np.intp], firsts: NDArray[np.intp]) -> Summary:
    if len(firsts) == len(order):
        return Summary(count=of.count[order], low=of.low[order], high=of.high[order], mean=of.mean[order])
    count = np.add.reduceat(of.count[order], firsts)
    total = np.add.reduceat(np.where(of.count > 0, of.count * of.mean, 0.0)[order], firsts)
    mean = np.divide(total, count, out=np.full(len(firsts), np.nan), where=count > 0)
    low, high = np.fmin.reduceat(of.low[order], firsts), np.fmax.reduceat(of.high[order], firsts)
    return Summary(count=count, low=low, high=high, mean=mean)
