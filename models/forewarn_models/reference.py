"""State detection: where a residual should be by now, and how sure that is.

A regression on the regime leaves what it does not know: ambient, wear-in, a thermostat. Some residuals keep to their
mean, others wander. The means of healthy windows (blocks) of a residual are taken as a first-order autoregression,

    b[k] - m = r (b[k-1] - m) + innovation of variance q,    0 <= r <= 1 (a random walk).

r comes from the von Neumann ratio of the blocks (von Neumann 1941), with Kendall's (1954) correction of its bias, and
is 0 unless it is significant. The forecast h windows after the last healthy one is m + r^h (b - m), of variance
q (1 - r^2h) / (1 - r^2), or q h for r = 1 (Box, Jenkins, Reinsel 2015, ch. 5). So the reference follows a signal that
wanders by nature and stands still for one that does not. While there is evidence of a fault nothing is learned and h
grows: the reference of a wandering signal becomes uncertain, and with it the evidence.

A signal most of whose variance in health is wandering has not shown what is normal for it: its evidence is reduced by
that share. Innovations that resemble each other (ramps) tell less of q than their number says: the degrees of freedom
are reduced by (1 - a) / (1 + a), a their autocorrelation (Bayley and Hammersley 1946).
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from forewarn_models.layout import Bools, Columns, Floats, Ints, Layout, inverse_where_positive, put, updated
from forewarn_models.regime import RegimeState

BLOCKS: Final = 48
_FEWEST_TO_WANDER: Final = 12
_SIGNIFICANT: Final = 1.3
"""In standard errors 1/sqrt(n) of an autocorrelation."""
_RANDOM_WALK: Final = 0.85
"""Estimated r of a few blocks from which on it is a random walk."""
_PRIOR_BLOCKS: Final = 4.0
"""Weight of white noise as a prior for q, for a signal that does not wander."""
_LEAST_PRIOR: Final = 0.5
_MOST_ALIKE: Final = 0.95
_MOST_REDUCED: Final = 0.97
_RANGE: Final = 4.0
"""Standard deviations of the blocks by which the reference may leave the baseline, for a signal that hardly wanders."""
_GREATEST: Final = 3e38
"""That a float32 holds."""
_MODEL_ERROR: Final = 0.32
"""Standard deviations of a residual by which a healthy machine may differ from its model without anyone caring."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ReferenceState:
    """(assets, ...); C condition signals, p features of the regime. In standard deviations of a residual if not said.

    The reference may follow a signal within a range about its baseline, the wider the more the signal wanders: a fault
    that grows as slowly as a machine wanders leaves it all the same.
    """

    features: NDArray[np.float32]
    """(A, BLOCKS, p) means over each of the last healthy windows, the newest last."""
    readings: NDArray[np.float32]
    """(A, BLOCKS, C) the same of the readings, in their unit, relative to the level of the regime."""
    blocks: Ints
    """(A,) how many of them there are."""
    pending_features: Floats
    pending_readings: Floats
    pending: Ints
    """(A, p), (A, C), (A,) sums and number of the samples of the window under way."""
    since: Floats
    """(A,) windows since the last healthy one."""
    persistence: Floats
    innovation: Floats
    """(A, C) r and q."""
    freedom: Floats
    """(A, C) degrees of freedom behind q."""
    wander: Floats
    """(A, C) share of the variance in health that is wandering."""
    home: Floats
    range: Floats
    """(A, C) mean of the blocks of the baseline, and how far from there the reference may follow."""
    level: Floats
    """(A, C) where the smoothed residual should be in the window under way."""
    scale: Floats
    """(A, C) one over the standard deviation of its distance from there."""


def new_reference_state(layout: Layout, assets: int) -> ReferenceState:
    p, c = layout.features, len(layout.condition)
    per_signal, counts = np.zeros((assets, c)), np.zeros(assets, dtype=np.int64)
    return ReferenceState(
        features=np.zeros((assets, BLOCKS, p), dtype=np.float32),
        readings=np.zeros((assets, BLOCKS, c), dtype=np.float32),
        blocks=counts,
        pending_features=np.zeros((assets, p)),
        pending_readings=per_signal,
        pending=counts,
        since=np.zeros(assets),
        persistence=per_signal,
        innovation=np.full((assets, c), 1.0 / layout.window),
        freedom=np.full((assets, c), _PRIOR_BLOCKS),
        wander=per_signal,
        home=per_signal,
        range=per_signal,
        level=per_signal,
        scale=np.full((assets, c), 1.0 / _spread(layout, np.array(1.0 / layout.window))),
    )


def collected(state: ReferenceState, features: Floats, readings: Floats, count: Ints) -> ReferenceState:
    """The state with samples added to the window under way: sums of their `features` (A, p) and `readings` (A, C),
    missing ones filled with what was expected; and their number (A,)."""
    return updated(
        state,
        pending_features=state.pending_features + features,
        pending_readings=state.pending_readings + readings,
        pending=state.pending + count,
    )


def learned(
    layout: Layout, state: ReferenceState, regime: RegimeState, deviation: Floats, *, accept: Bools, calibrating: Bools
) -> ReferenceState:
    """The state after a window, (A,) each: it becomes a block where `accept`; r and q are estimated while
    `calibrating`. `deviation` (A, C) of a residual, in its unit; 0 where unknown."""
    due = accept & (2 * state.pending >= layout.window)
    state = _extended(state, due)
    estimated = due & calibrating & (state.blocks > 1)
    if estimated.any():
        some = np.flatnonzero(estimated)
        state = _estimated(layout, state, block_offsets(state, regime, deviation, some), some)
    return _forecast(layout, updated(state, since=np.where(due, 0.0, state.since + 1.0)), regime, deviation)


def _extended(state: ReferenceState, due: Bools) -> ReferenceState:
    """The state with what is pending as a block of the assets that are `due`, and nothing pending."""
    features, readings = state.features, state.readings
    if due.any():
        count, some = np.maximum(state.pending, 1)[:, None], None if due.all() else due[:, None, None]
        features = _shifted(features, state.pending_features / count, some)
        readings = _shifted(readings, state.pending_readings / count, some)
    return updated(
        state,
        features=features,
        readings=readings,
        blocks=np.minimum(state.blocks + due, BLOCKS),
        pending_features=np.zeros(state.pending_features.shape),
        pending_readings=np.zeros(state.pending_readings.shape),
        pending=np.zeros(len(due), dtype=np.int64),
    )


def _shifted(ring: NDArray[np.float32], newest: Floats, some: Bools | None) -> NDArray[np.float32]:
    """The `ring` (A, BLOCKS, k) with the `newest` (A, k) instead of the oldest, of `some` (A, 1, 1) or all assets."""
    last = np.minimum(np.maximum(newest, -_GREATEST), _GREATEST).astype(np.float32)
    shifted = np.concatenate([ring[:, 1:], last[:, None]], axis=1)
    return shifted if some is None else np.where(some, shifted, ring)


def block_offsets(state: ReferenceState, regime: RegimeState, deviation: Floats, some: NDArray[np.intp]) -> Floats:
    """(BLOCKS, k, C) residuals of the blocks of `some` assets by what the regression says today, 0 where none is."""
    offset = _offset(regime, deviation, state.features, state.readings, some)
    return np.where(_real(state.blocks[some]), offset.transpose(1, 0, 2), 0.0)


def _real(blocks: Ints) -> Bools:
    """(BLOCKS, k, 1) which of the blocks there are, the newest last."""
    real: Bools = (np.arange(BLOCKS)[:, None] >= BLOCKS - blocks)[:, :, None]
    return real


def _offset(
    regime: RegimeState, deviation: Floats, features: NDArray[Any], readings: NDArray[Any], some: Columns = slice(None)
) -> Floats:
    """(k, m, C) residuals of m mean `features` (A, m, p) and `readings` (A, m, C) of each of `some` assets."""
    explained = np.matmul(features[some] - regime.feature_mean[some, None], regime.coefficients[some])
    residual = readings[some] - regime.reading_mean[some, None] - explained
    offset: Floats = residual * inverse_where_positive(deviation[some])[:, None]
    return offset


def _estimated(layout: Layout, state: ReferenceState, block: Floats, some: NDArray[np.intp]) -> ReferenceState:
    """r, q and what follows from them, of `some` assets with the offsets `block` (BLOCKS, k, C)."""
    n = state.blocks[some].astype(np.float64)[:, None]
    real = _real(state.blocks[some])
    mean = block.sum(axis=0) / n
    variance = np.maximum((real * (block - mean) ** 2).sum(axis=0) / n, 1e-12)
    step = real[:-1] * np.diff(block, axis=0)
    squares = (step * step).sum(axis=0)
    steps = squares / (n - 1.0)
    r = _persistence(1.0 - steps * (n - 1.0) / (2.0 * variance * n), n)
    white = 1.0 / layout.window
    measured = np.where(r >= 1.0, steps, variance * (1.0 + r**2) - 2.0 * r * (variance - steps / 2.0))
    prior = _PRIOR_BLOCKS * (1.0 - r) + _LEAST_PRIOR
    innovation = np.maximum((measured * n + white * prior) / (n - 1.0 + prior), white)
    alike = (step[1:] * step[:-1]).sum(axis=0) / np.maximum(squares, 1e-12)
    alike = np.where(r > 0.5, np.clip(alike, 0.0, _MOST_ALIKE), 0.0)
    wander = np.clip(variance - white, 0.0, 1.0) * r
    estimates = {
        "persistence": r,
        "innovation": innovation,
        "freedom": prior + n * (1.0 - alike) / (1.0 + alike),
        "wander": wander,
        "home": mean,
        "range": _RANGE * np.sqrt(np.maximum(variance, innovation)) / (1.0 - np.minimum(wander, _MOST_REDUCED)) ** 2,
    }
    return updated(state, **{name: put(getattr(state, name), some, rows) for name, rows in estimates.items()})


def _persistence(raw: Floats, n: Floats) -> Floats:
    """r from its estimate by n blocks: 0 below significance, 1 where it cannot be told from a random walk."""
    unbiased = raw + (1.0 + 3.0 * raw) / n
    least = _SIGNIFICANT / np.sqrt(n)
    r = np.clip((unbiased - least) / np.maximum(_RANDOM_WALK - least, 0.05), 0.0, 1.0)
    return np.where(n >= _FEWEST_TO_WANDER, r, 0.0)


def _forecast(layout: Layout, state: ReferenceState, regime: RegimeState, deviation: Floats) -> ReferenceState:
    """Level and scale for the middle of the window to come."""
    n = np.maximum(state.blocks, 1)[:, None]
    offsets = _offset(regime, deviation, _mean_and_last(state.features, n), _mean_and_last(state.readings, n))
    offsets *= (state.blocks > 0)[:, None, None]
    mean, last = offsets[:, 0], offsets[:, 1]
    ahead, r, q = state.since[:, None] + 0.5, state.persistence, state.innovation
    walks, kept = r >= 1.0, r**ahead
    unsure = np.where(walks, ahead, (1.0 - kept * kept) / np.where(walks, 1.0, 1.0 - r * r))
    level = mean + kept * (last - mean)
    return updated(
        state,
        level=np.minimum(np.maximum(level, state.home - state.range), state.home + state.range),
        scale=(1.0 - np.minimum(state.wander, _MOST_REDUCED)) / _spread(layout, q * unsure + q / n),
    )


def _mean_and_last(ring: NDArray[np.float32], n: Ints) -> Floats:
    """(A, 2, k) of the n (A, 1) blocks in the `ring` (A, BLOCKS, k)."""
    result = np.empty((len(ring), 2, ring.shape[2]))
    np.divide(np.matmul(np.ones(BLOCKS), ring.astype(np.float64)), n, out=result[:, 0])
    result[:, 1] = ring[:, -1]
    return result


def _spread(layout: Layout, variance: Floats) -> Floats:
    """Standard deviation of a smoothed residual about its reference, whose blocks have that `variance`."""
    smoothing = max(layout.smoothed_variance - 1.0 / layout.window, 0.0)
    spread: Floats = np.sqrt(variance + (smoothing + _MODEL_ERROR**2))
    return spread
