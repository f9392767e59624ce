"""State detection, second half (ISO 13374): residuals accumulated to evidence, and evidence judged against a budget.

1. A residual is divided by its standard deviation and by the uncertainty of the prediction, and smoothed over time with
   an exponential window; each step is bounded (Huber), so that one wild sample moves little and a lasting change all.
2. What is smoothed is compared with its reference (`reference.py`), cut to the bad direction and whitened by the shrunk
   correlation matrix (ZCA-cor: Kessy, Lewin, Strimmer 2018, "Optimal whitening and decorrelation"): z, one value for
   each signal. A variance known from n windows only makes it a Student t: z^2 becomes (n + 1) log(1 + z^2 / n).
3. A fault shows in few of the signals, nobody knows in which: T = sum log(1 - p + p exp(z^2 / 2)), the log likelihood
   ratio of a mixture that touches each signal with probability p (Xie and Siegmund 2013, "Sequential multi-sensor
   change-point detection"). Its terms are the contributions. The distance is the z of a single signal of the same T.
4. The threshold comes from the maxima over windows in health of half the squared distance, whose tail is exponential
   where residuals are normal: they are taken as Gumbel distributed (extreme-value theory of block maxima: Coles 2001,
   ch. 3), fitted by moments, and the threshold is the level which the budgeted number of windows a month exceeds.
   Maxima need no assumption on serial correlation within a window. A window that is not calm waits, and counts once the
   machine is calm again, or not at all if it led to an ALARM; none counts for more than the threshold.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from forewarn_models.layout import (
    EVERY_STEP,
    MONTH_MS,
    Bools,
    Floats,
    Layout,
    Settings,
    by_asset,
    inverse_where_positive,
    put,
    row_sums,
    updated,
)
from forewarn_models.reference import ReferenceState

_CLIP: Final = 4.0
"""Standard deviations by which one sample can differ from the evidence so far."""
_LEARN_CLIP: Final = 8.0
_TOUCHED: Final = 0.1
"""Probability that a fault touches a signal."""
_GREATEST_T: Final = 300.0
_EULER_GAMMA: Final = 0.5772156649015329
_GUMBEL_SCALE: Final = float(np.sqrt(6.0) / np.pi)
_PRIOR_MEAN_WINDOWS: Final = 4.0
_PRIOR_SPREAD_WINDOWS: Final = 20.0
_PRIOR_SPREAD: Final = 0.5
"""Standard deviation of the window maxima, relative to their mean, of a machine of which few were seen."""
_REMEMBERED_WINDOWS: Final = 1000.0
_DOUBT: Final = 14.0
_PASSING: Final = 1.6
"""Excursions for each one that lasts long enough to be an ALARM (measured on simulated healthy machines)."""
_ALERTS_PER_ALARM: Final = 10.0
"""So many times the budget of ALARMs may be ALERTs."""
_CALM_CHANCE: Final = 0.2
"""A window is learned from unless its maximum is among so many of the highest in health."""
_CALM_MOST: Final = 0.9
"""Of the threshold."""
_TRUSTED_SAMPLES: Final = 400.0
_CAUTION: Final = 0.28
"""Thresholds of a baseline of n samples, fewer than trusted, are raised by (trusted / n) to this power."""
_POWERS: Final = np.arange(3.0)
_CONSTANT: Final = 1e-3
_FINEST: Final = 1e-6
"""Smallest standard deviation of a residual, relative to the reading: of a signal that never moved, of any other."""


@dataclass(frozen=True, kw_only=True, eq=False)
class EvidenceState:
    """(assets, ...); C condition signals."""

    smoothed: Floats
    """(A, C) smoothed residuals, in standard deviations of a single residual."""
    products: Floats
    """(A, C, C) sum of e e' over healthy samples, e the residual in its unit over sqrt(1 + leverage)."""
    samples: Floats
    """(A, C) samples behind `products`."""
    pending_products: Floats
    pending_samples: Floats
    """The same for the window under way."""
    pending_maximum: Floats
    """(A,) largest distance of the window under way."""
    maxima: Floats
    """(A, 3) number, sum and sum of squares of the healthy window maxima of half the squared distance."""
    waiting_maxima: Floats
    """(A, 3) the same of windows of which it is not known yet whether they were healthy."""
    deviation: Floats
    """(A, C) standard deviation of a residual, in the signal's unit; 0 before it is known."""
    whitening: Floats
    """(A, C, C)"""
    threshold: Floats
    alert: Floats
    """(A,) distances that are an ALARM and an ALERT; 0 before they are known."""
    calm: Floats
    """(A,) distance below which a window is learned from; 0 before it is known."""
    fitted_samples: Floats
    """(A,) samples behind deviation and whitening."""
    unbudgeted: Floats
    """(A,) windows counted since threshold, alert and calm were worked out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """Of one segment; time first."""

    offset: Floats
    """(n, A, C) of the smoothed residual from its reference, in standard deviations of a single residual."""
    significance: Floats
    """(n, A, C) the same in standard deviations of such an offset in health."""
    square: Floats
    """(n, A, C) z^2. Its sum grows with the deviation where the distance only grows with its logarithm."""
    term: Floats
    """(n, A, C) the terms of T ..."""
    total: Floats
    """(n, A) ... and their sum."""
    distance: Floats
    """(n, A)"""


def new_evidence_state(layout: Layout, assets: int) -> EvidenceState:
    c = len(layout.condition)
    none, per_signal, square = np.zeros(assets), np.zeros((assets, c)), np.zeros((assets, c, c))
    return EvidenceState(
        smoothed=per_signal,
        products=square,
        samples=per_signal,
        pending_products=square,
        pending_samples=per_signal,
        pending_maximum=none,
        maxima=np.zeros((assets, 3)),
        waiting_maxima=np.zeros((assets, 3)),
        deviation=per_signal,
        whitening=np.broadcast_to(np.eye(c), (assets, c, c)),
        threshold=none,
        alert=none,
        calm=none,
        fitted_samples=none,
        unbudgeted=none,
    )


def standardised(state: EvidenceState, residual: Floats, doubt: Floats) -> Floats:
    """(n, A, C) residuals, in units, over their standard deviation and the `doubt` (n, A) of their prediction, the
    standard deviation of one relative to a familiar one; 0 where nothing is known."""
    standard = residual * inverse_where_positive(state.deviation)
    standard /= doubt[:, :, None]
    return standard


def accumulate(
    layout: Layout,
    state: EvidenceState,
    reference: ReferenceState,
    standard: Floats,
    gain: Floats,
    *,
    unusable: Bools | None,
    void: Bools | None,
) -> tuple[Evidence, EvidenceState]:
    """Evidence of a segment: residuals `standard` (n, A, C) and their weight `gain` (n, A) in the exponential window: 0
    where the sample does not count, so that the evidence stays.

    Evidence of a signal that is `unusable` (n, A, C) fades; where its sensor lies, `void` (n, A, C), it is gone at
    once; None where there is none.
    """
    if unusable is not None:
        standard = np.where(unusable, reference.level, standard)
    smoothed = _smooth(state.smoothed, standard, gain, void, reference.level)
    offset = smoothed - reference.level
    significance = offset * reference.scale
    bad = np.clip(significance, layout.lowest_deviation, layout.highest_deviation) if layout.one_sided else significance
    evidence = _evidence(by_asset(bad, state.whitening, EVERY_STEP), reference.freedom, offset, significance)
    return evidence, updated(state, smoothed=smoothed[-1])


def _smooth(start: Floats, standard: Floats, gain: Floats, void: Bools | None, level: Floats) -> Floats:
    if void is None and len(start) == 1:
        smoothed = _smooth_unbounded(start, standard[:, 0], gain[:, 0])
        before = np.concatenate([start, smoothed[:-1]])
        if np.abs(standard[:, 0] - before).max(initial=0.0) <= _CLIP:
            return smoothed[:, None]
    smoothed = np.empty_like(standard)
    now, weight = start, gain[:, :, None]
    for i, target in enumerate(standard):
        step = target - now
        np.maximum(step, -_CLIP, out=step)
        np.minimum(step, _CLIP, out=step)
        step *= weight[i]
        now = np.add(now, step, out=smoothed[i])
        if void is not None:
            np.copyto(now, level, where=void[i])
    return smoothed


def _smooth_unbounded(start: Floats, standard: Floats, gain: Floats) -> Floats:
    """(n, C) the same of one asset where no step is bounded, without a loop, which would cost more than all the rest.

    `start` (1, C), `standard` (n, C), `gain` (n,).
    """
    kept = np.log1p(-gain).cumsum()
    weight = np.exp(np.minimum(kept[:, None] - kept, 0.0))
    weight *= _lower_triangle(len(gain))
    weight *= gain
    smoothed: Floats = np.matmul(weight, standard)
    smoothed += np.exp(kept)[:, None] * start
    return smoothed


@lru_cache(maxsize=64)
def _lower_triangle(n: int) -> Floats:
    return np.tri(n)


def _evidence(z: Floats, freedom: Floats, offset: Floats, significance: Floats) -> Evidence:
    square = z * z
    terms = square / freedom
    np.log1p(terms, out=terms)
    terms *= 0.5 * (freedom + 1.0)
    np.minimum(terms, _GREATEST_T, out=terms)
    np.expm1(terms, out=terms)
    terms *= _TOUCHED
    np.log1p(terms, out=terms)
    total = row_sums(terms)
    single = np.minimum(total, _GREATEST_T)
    np.expm1(single, out=single)
    single /= _TOUCHED
    np.log1p(single, out=single)
    np.maximum(single, total, out=single)
    single *= 2.0
    return Evidence(
        offset=offset,
        significance=significance,
        square=square,
        term=terms,
        total=total,
        distance=np.sqrt(single, out=single),
    )


def collected(state: EvidenceState, evidence: Evidence, counts: Bools) -> EvidenceState:
    """The state with the largest distance of a segment, among samples of familiar regimes, `counts` (n, A)."""
    maximum = (evidence.distance * counts).max(axis=0)
    return updated(state, pending_maximum=np.maximum(state.pending_maximum, maximum))


def collected_scatter(state: EvidenceState, residual: Floats, leverage: Floats, used: Bools) -> EvidenceState:
    """The state with a segment added to what is pending: `residual` (n, A, C) where `used` (n, A, C), of predictions
    of `leverage` (n, A)."""
    deviation = np.where(state.samples > 2 * state.samples.shape[1], state.deviation, 0.0)
    error = residual / np.sqrt(1.0 + leverage)[:, :, None]
    bound = np.where(deviation > 0, _LEARN_CLIP * deviation, np.inf)
    kept = np.where(used, np.clip(error, -bound, bound), 0.0).transpose(1, 0, 2)
    return updated(
        state,
        pending_products=state.pending_products + np.matmul(kept.transpose(0, 2, 1), kept),
        pending_samples=state.pending_samples + used.sum(axis=0),
    )


def learned(
    layout: Layout,
    settings: Settings,
    state: EvidenceState,
    *,
    healthy: Bools,
    alarmed: Bools,
    complete: Bools,
    interval_ms: Floats,
) -> EvidenceState:
    """The state after a window, (A,) each: its maximum counts if it is `complete`, for the budget where `healthy`, and
    waits if the machine is neither healthy nor `alarmed`."""
    state = _counted(state, healthy, alarmed, complete)
    return _budgeted(layout, settings, state, interval_ms)


def learned_scatter(state: EvidenceState, keep: Bools, smallest: Floats) -> EvidenceState:
    """The state after a window whose residuals are learned from where `keep` (A,); `smallest` (A, C): what standard
    deviations are bounded by from below."""
    state = updated(
        state,
        products=state.products + keep[:, None, None] * state.pending_products,
        samples=state.samples + keep[:, None] * state.pending_samples,
        pending_products=np.zeros_like(state.pending_products),
        pending_samples=np.zeros_like(state.pending_samples),
    )
    return _fitted(state, smallest)


def smallest_deviation(level: Floats, finest: Floats, steadiness: Floats) -> Floats:
    """(A, C) the least standard deviation of a residual, in the signal's unit.

    `level`: typical size of the readings; `finest`: the smallest change ever seen, 0 without one; `steadiness`: the
    share of readings that repeat the one before. Where most do, what is less than a change that can be read means
    nothing.
    """
    size = np.where(level > 0, level, _FINEST)
    coarse = np.where(finest > 0, finest, _CONSTANT * size)
    return np.maximum(np.where(steadiness > 0.5, coarse, 0.0), _FINEST * size)


def _counted(state: EvidenceState, healthy: Bools, alarmed: Bools, complete: Bools) -> EvidenceState:
    maximum = state.pending_maximum
    most = np.where(state.threshold > 0, state.threshold, np.inf)
    highest = 0.5 * np.minimum(np.maximum(maximum, 1.0), most) ** 2
    counts = complete & (state.fitted_samples > 0) & (maximum > 0)
    waiting = state.waiting_maxima + counts[:, None] * highest[:, None] ** _POWERS
    kept = np.minimum(1.0, _REMEMBERED_WINDOWS / np.maximum(state.maxima[:, :1], 1.0))
    return updated(
        state,
        pending_maximum=np.zeros(maximum.shape),
        maxima=kept * state.maxima + healthy[:, None] * waiting,
        unbudgeted=state.unbudgeted + healthy * waiting[:, 0],
        waiting_maxima=waiting * ~(healthy | alarmed)[:, None],
    )


def _budgeted(layout: Layout, settings: Settings, state: EvidenceState, interval_ms: Floats) -> EvidenceState:
    """The state with the distances that the budgeted numbers of windows a month exceed, and the one of calm windows.

    They are worked out anew whenever there are some windows more.
    """
    grown = state.unbudgeted >= 0.02 * state.maxima[:, 0]
    due = np.flatnonzero((state.fitted_samples > 0) & (grown | (state.threshold <= 0)))
    if not len(due):
        return state
    count, total, squares = state.maxima[due].T
    prior_mean = 0.5 * (1.4 * len(layout.condition) ** 0.23) ** 2
    mean = (_PRIOR_MEAN_WINDOWS * prior_mean + total) / (_PRIOR_MEAN_WINDOWS + count)
    spread = np.maximum(squares - 2.0 * mean * total + count * mean**2, 0.0)
    variance = (_PRIOR_SPREAD_WINDOWS * (_PRIOR_SPREAD * mean) ** 2 + spread) / (_PRIOR_SPREAD_WINDOWS + count)
    usual_ms = interval_ms[due]
    windows_per_month = MONTH_MS / (layout.window * np.where(usual_ms > 0, usual_ms, MONTH_MS))
    chance = np.clip(_PASSING * settings.false_alarms_per_asset_month / windows_per_month, 1e-9, 0.2)
    doubtful = (1.0 + _DOUBT / (_PRIOR_SPREAD_WINDOWS + count)) * np.sqrt(variance)
    caution = max(1.0, _TRUSTED_SAMPLES / settings.baseline_samples) ** _CAUTION
    threshold = caution * _level(mean, doubtful, chance)
    calm = _level(mean, np.sqrt(variance), np.array(_CALM_CHANCE))
    return updated(
        state,
        threshold=put(state.threshold, due, threshold),
        alert=put(state.alert, due, caution * _level(mean, doubtful, np.minimum(_ALERTS_PER_ALARM * chance, 0.3))),
        calm=put(state.calm, due, np.minimum(calm, _CALM_MOST * threshold)),
        unbudgeted=put(state.unbudgeted, due, np.zeros(len(due))),
    )


def _level(mean: Floats, spread: Floats, chance: Floats) -> Floats:
    """The distance that a window maximum exceeds with that chance."""
    level: Floats = np.sqrt(2.0 * np.maximum(mean + _reduced(chance) * spread, 0.5))
    return level


def _reduced(chance: Floats) -> Floats:
    """Standard deviations above the mean that a Gumbel variable exceeds with that chance."""
    reduced: Floats = (-np.log(-np.log1p(-chance)) - _EULER_GAMMA) * _GUMBEL_SCALE
    return reduced


def _fitted(state: EvidenceState, smallest: Floats) -> EvidenceState:
    samples = state.samples.max(axis=1, initial=0.0)
    due = np.flatnonzero((samples >= 8) & (samples > 1.05 * state.fitted_samples))
    if not len(due):
        return state
    count = np.maximum(state.samples[due], 1.0)
    variance = np.einsum("acc->ac", state.products[due]) / count
    deviation, whitening = state.deviation.copy(), state.whitening.copy()
    deviation[due] = np.where(state.samples[due] >= 4, np.sqrt(variance + smallest[due] ** 2), 0.0)
    whitening[due] = _whitening(state.products[due], samples[due])
    fitted_samples = state.fitted_samples.copy()
    fitted_samples[due] = samples[due]
    return updated(state, deviation=deviation, whitening=whitening, fitted_samples=fitted_samples)


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
