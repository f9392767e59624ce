"""State detection, second half (ISO 13374): residuals accumulated to evidence, and evidence judged against a budget.

1. A residual is divided by its standard deviation and by the uncertainty of the prediction, and smoothed over time with
   an exponential window; each step is bounded (Huber), so that one wild sample moves little and a lasting change all.
2. Smoothed residuals are divided by their own standard deviation in health, which is where serial correlation counts,
   cut to the bad direction, and whitened by the shrunk correlation matrix (ZCA-cor: Kessy, Lewin, Strimmer 2018,
   "Optimal whitening and decorrelation"). The length of that vector is the distance; its squares say who contributed.
3. The distance is divided by a threshold from its maxima over windows in health: their logarithm is taken as Gumbel
   distributed (extreme-value theory of block maxima: Coles 2001, ch. 3), and the threshold is the level which the
   budgeted number of windows a month exceeds. Block maxima need no assumption on serial correlation within a window.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from forewarn_models.layout import MONTH_MS, Bools, Floats, Layout, Settings

_CLIP: Final = 8.0
"""Standard deviations by which one sample can differ from the evidence so far."""
_EULER_GAMMA: Final = 0.5772156649015329
_PRIOR_WINDOWS: Final = 6.0
_PRIOR_LOG_SPREAD: Final = 0.25
_CONSTANT: Final = 1e-3
_FINEST: Final = 1e-6
"""Smallest standard deviation of a residual, relative to the reading: of a signal that was constant, of any other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvidenceState:
    """(assets, ...); C condition signals."""

    smoothed: Floats
    """(A, C) smoothed residuals, in standard deviations of a single residual."""
    products: Floats
    """(A, C, C) sum of e e' over healthy samples, e the residual in its unit over sqrt(1 + leverage)."""
    samples: Floats
    """(A, C) samples behind `products`."""
    squares: Floats
    """(A, C) sum of the squares of `smoothed` in health."""
    smoothed_samples: Floats
    """(A, C) samples behind `squares`."""
    pending_products: Floats
    pending_samples: Floats
    pending_squares: Floats
    pending_smoothed_samples: Floats
    """The same four for the window under way."""
    pending_maximum: Floats
    """(A,) largest distance of the window under way."""
    log_maxima: Floats
    """(A, 3) number, sum and sum of squares of the logarithms of the healthy window maxima."""
    deviation: Floats
    """(A, C) standard deviation of a residual, in the signal's unit; 0 before it is known."""
    shrink: Floats
    """(A, C) standard deviation of a smoothed residual over that of a single one."""
    whitening: Floats
    """(A, C, C)"""
    threshold: Floats
    """(A,) distance that is an ALARM; 0 before it is known."""
    fitted_samples: Floats
    """(A,) samples behind deviation and whitening."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Of one segment; asset-major."""

    smoothed: Floats
    """(A, n, C) in standard deviations of a single residual."""
    distance: Floats
    """(A, n)"""
    share: Floats
    """(A, n, C) contribution to the distance; sums to 1, or to 0 where the distance is 0."""


def new_evidence_state(layout: Layout, assets: int) -> EvidenceState:
    c = len(layout.condition)
    none, per_signal, square = np.zeros(assets), np.zeros((assets, c)), np.zeros((assets, c, c))
    return EvidenceState(
        smoothed=per_signal,
        products=square,
        samples=per_signal,
        squares=per_signal,
        smoothed_samples=per_signal,
        pending_products=square,
        pending_samples=per_signal,
        pending_squares=per_signal,
        pending_smoothed_samples=per_signal,
        pending_maximum=none,
        log_maxima=np.zeros((assets, 3)),
        deviation=per_signal,
        shrink=np.ones((assets, c)),
        whitening=np.broadcast_to(np.eye(c), (assets, c, c)),
        threshold=none,
        fitted_samples=none,
    )


def accumulate(
    layout: Layout,
    state: EvidenceState,
    residual: Floats,
    leverage: Floats,
    strangeness: Floats,
    gain: Floats,
    void: Bools,
) -> tuple[Evidence, EvidenceState]:
    """Evidence of a segment: `residual` (A, n, C) in units, 0 where unusable; the others (A, n).

    `gain` is the weight of a sample in the exponential window: 0 where the sample does not count, so that the evidence
    stays. Evidence of a signal that cannot be used fades; where its sensor lies, `void` (A, n, C), it is gone at once.
    """
    known = state.deviation > 0
    n_eff = (2.0 - layout_gain(layout)) / layout_gain(layout)
    scale = np.where(known, 1.0 / np.where(known, state.deviation, 1.0), 0.0)
    doubt = np.sqrt(1.0 + n_eff * leverage + strangeness**2)
    standard = residual * scale[:, None] / doubt[:, :, None]
    smoothed = _smooth(state.smoothed, standard, gain, void)
    relative = np.clip(smoothed / state.shrink[:, None], layout.lowest_deviation, layout.highest_deviation)
    white = np.matmul(relative, state.whitening)
    square = white * white
    total = square.sum(axis=2)
    share = square / np.where(total > 0, total, 1.0)[:, :, None]
    evidence = Evidence(smoothed=smoothed, distance=np.sqrt(total), share=share)
    return evidence, replace(state, smoothed=smoothed[:, -1])


def layout_gain(layout: Layout) -> float:
    """Weight of one sample, at the usual sampling interval, in the exponential window."""
    return float(-np.expm1(-1.0 / layout.smoothing_samples))


def _smooth(start: Floats, standard: Floats, gain: Floats, void: Bools) -> Floats:
    smoothed = np.empty_like(standard)
    now, some_void = start, bool(void.any())
    for i in range(standard.shape[1]):
        step = np.minimum(np.maximum(standard[:, i] - now, -_CLIP), _CLIP)
        now = now + gain[:, i, None] * step
        if some_void:
            now = np.where(void[:, i], 0.0, now)
        smoothed[:, i] = now
    return smoothed


def collected(
    state: EvidenceState, evidence: Evidence, error: Floats, usable: Bools, counts: Bools, calibrating: Bools
) -> EvidenceState:
    """The state with a segment added to what is pending.

    `error` (A, n, C) residual over sqrt(1 + leverage), counted where `usable` (A, n, C) in samples of familiar regimes,
    `counts` (A, n), of assets that are `calibrating` (A,).
    """
    maximum = np.where(counts, evidence.distance, 0.0).max(axis=1)
    state = replace(state, pending_maximum=np.maximum(state.pending_maximum, maximum))
    if not calibrating.any():
        return state
    used = usable & (counts & calibrating[:, None])[:, :, None]
    deviation = np.where(state.samples > 2 * state.samples.shape[1], state.deviation, 0.0)
    bound = np.where(deviation > 0, _CLIP * deviation, np.inf)[:, None]
    kept = np.where(used, np.clip(error, -bound, bound), 0.0)
    smooth = used & (state.deviation > 0)[:, None]
    return replace(
        state,
        pending_products=state.pending_products + np.matmul(kept.transpose(0, 2, 1), kept),
        pending_samples=state.pending_samples + used.sum(axis=1),
        pending_squares=state.pending_squares + np.where(smooth, evidence.smoothed**2, 0.0).sum(axis=1),
        pending_smoothed_samples=state.pending_smoothed_samples + smooth.sum(axis=1),
    )


def learned(
    layout: Layout,
    settings: Settings,
    state: EvidenceState,
    *,
    accept: Bools,
    complete: Bools,
    level: Floats,
    steadiness: Floats,
    interval_ms: Floats,
) -> EvidenceState:
    """The state after a window: learned where `accept` (A,) says so; its maximum counts if it is `complete` (A,).

    `level` (A, C) typical size of the readings and `steadiness` (A, C) share of readings that repeat the one before:
    they bound the standard deviation of signals that hardly move from below.
    """
    if not state.pending_samples.any():
        return replace(state, pending_maximum=np.zeros_like(state.pending_maximum))
    keep = accept[:, None]
    maxima = np.log(np.maximum(state.pending_maximum, 1e-3))
    counted = (accept & complete & (state.fitted_samples > 0) & (state.pending_maximum > 0))[:, None]
    zero = np.zeros_like(state.pending_samples)
    state = replace(
        state,
        products=state.products + keep[:, :, None] * state.pending_products,
        samples=state.samples + keep * state.pending_samples,
        squares=state.squares + keep * state.pending_squares,
        smoothed_samples=state.smoothed_samples + keep * state.pending_smoothed_samples,
        log_maxima=state.log_maxima + counted * np.stack([np.ones_like(maxima), maxima, maxima**2], axis=1),
        pending_products=np.zeros_like(state.pending_products),
        pending_samples=zero,
        pending_squares=zero,
        pending_smoothed_samples=zero,
        pending_maximum=np.zeros_like(state.pending_maximum),
    )
    state = replace(state, shrink=_shrink(layout, state), threshold=_threshold(layout, settings, state, interval_ms))
    return _fitted(state, level, steadiness)


def _shrink(layout: Layout, state: EvidenceState) -> Floats:
    """(A, C) with the value for white noise as a prior of a few windows."""
    gain = layout_gain(layout)
    white = gain / (2.0 - gain)
    prior = 2.0 * layout.window
    variance = (prior * white + state.squares) / (prior + state.smoothed_samples)
    return np.sqrt(np.clip(variance, white, 1.0))


def _threshold(layout: Layout, settings: Settings, state: EvidenceState, interval_ms: Floats) -> Floats:
    """(A,) the distance that the budgeted number of windows a month exceed."""
    count, total, squares = state.log_maxima.T
    prior_mean = np.log(np.sqrt(len(layout.condition)) + 1.2)
    mean = (prior_mean + total) / (1.0 + count)
    spread = np.maximum(squares - 2.0 * mean * total + count * mean**2, 0.0)
    variance = (_PRIOR_WINDOWS * _PRIOR_LOG_SPREAD**2 + spread) / (_PRIOR_WINDOWS + count)
    windows_per_month = MONTH_MS / (layout.window * np.where(interval_ms > 0, interval_ms, MONTH_MS))
    chance = np.clip(settings.false_alarms_per_asset_month / windows_per_month, 1e-9, 0.2)
    reduced = (-np.log(-np.log1p(-chance)) - _EULER_GAMMA) * np.sqrt(6.0) / np.pi
    doubt = 1.0 + 2.0 / (_PRIOR_WINDOWS + count)
    return np.where(state.fitted_samples > 0, np.exp(mean + doubt * reduced * np.sqrt(variance)), 0.0)


def _fitted(state: EvidenceState, level: Floats, steadiness: Floats) -> EvidenceState:
    samples = state.samples.max(axis=1, initial=0.0)
    due = np.flatnonzero((samples >= 8) & (samples > 1.05 * state.fitted_samples))
    if not len(due):
        return state
    count = np.maximum(state.samples[due], 1.0)
    variance = np.einsum("acc->ac", state.products[due]) / count
    smallest = np.where(steadiness[due] > 0.5, _CONSTANT, _FINEST) * np.maximum(level[due], _FINEST)
    deviation, whitening = state.deviation.copy(), state.whitening.copy()
    deviation[due] = np.where(state.samples[due] >= 4, np.sqrt(variance + smallest**2), 0.0)
    whitening[due] = _whitening(state.products[due], samples[due])
    fitted_samples = state.fitted_samples.copy()
    fitted_samples[due] = samples[due]
    return replace(state, deviation=deviation, whitening=whitening, fitted_samples=fitted_samples)


def _whitening(products: Floats, samples: Floats) -> Floats:
    """(A, C, C) inverse square root of the correlation matrix, shrunk towards no correlation."""
    c = products.shape[-1]
    size = np.sqrt(np.maximum(np.einsum("acc->ac", products), np.finfo(np.float64).tiny))
    correlation = products / (size[:, :, None] * size[:, None, :])
    shrinkage = (2.0 * c / (samples + 2.0 * c))[:, None, None]
    correlation = (1.0 - shrinkage) * correlation
    correlation[:, np.arange(c), np.arange(c)] = 1.0
    values, vectors = np.linalg.eigh(correlation)
    root = vectors / np.sqrt(np.maximum(values, 1e-6))[:, None, :]
    whitening: Floats = np.matmul(root, vectors.transpose(0, 2, 1))
    return whitening
