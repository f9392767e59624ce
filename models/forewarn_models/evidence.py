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
from typing import Final

import numpy as np

from forewarn_models.layout import MONTH_MS, Bools, Floats, Layout, Settings, put, row_sums, updated
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
_CAUTION: Final = 0.3
"""Thresholds of a baseline of n samples, fewer than trusted, are raised by (trusted / n) to this power."""
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
    """Of one segment; asset-major."""

    offset: Floats
    """(A, n, C) of the smoothed residual from its reference, in standard deviations of a single residual."""
    significance: Floats
    """(A, n, C) the same in standard deviations of such an offset in health."""
    distance: Floats
    """(A, n)"""
    magnitude: Floats
    """(A, n) plain length of z: grows with the deviation where the distance only grows with its logarithm."""
    share: Floats
    """(A, n, C) contribution to the distance; sums to 1, or to 0 where the distance is 0."""


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


def accumulate(
    layout: Layout,
    state: EvidenceState,
    reference: ReferenceState,
    residual: Floats,
    usable: Bools,
    doubt: Floats,
    gain: Floats,
    void: Bools,
) -> tuple[Evidence, EvidenceState]:
    """Evidence of a segment: `residual` (A, n, C) in units, where `usable` (A, n, C); the others (A, n).

    `doubt` is the standard deviation of a prediction relative to a familiar one. `gain` is the weight of a sample in
    the exponential window: 0 where the sample does not count, so that the evidence stays. Evidence of a signal that
    cannot be used fades; where its sensor lies, `void` (A, n, C), it is gone at once.
    """
    known = state.deviation > 0
    per_unit = np.where(known, 1.0 / np.where(known, state.deviation, 1.0), 0.0)
    level = reference.level[:, None]
    standard = residual * per_unit[:, None]
    standard /= doubt[:, :, None]
    if not usable.all():
        np.copyto(standard, level, where=~usable)
    smoothed = _smooth(state.smoothed, standard, gain, void, reference.level)
    offset = smoothed - level
    significance = offset * reference.scale[:, None]
    bad = np.clip(significance, layout.lowest_deviation, layout.highest_deviation) if layout.one_sided else significance
    evidence = _evidence(np.matmul(bad, state.whitening), reference.freedom[:, None], offset, significance)
    return evidence, updated(state, smoothed=smoothed[:, -1])


def _smooth(start: Floats, standard: Floats, gain: Floats, void: Bools, level: Floats) -> Floats:
    some_void = bool(void.any())
    if not some_void and len(start) == 1:
        smoothed = _smooth_unbounded(start, standard, gain)
        before = np.concatenate([start[:, None], smoothed[:, :-1]], axis=1)
        if (np.abs(standard - before) <= _CLIP).all():
            return smoothed
    smoothed = np.empty_like(standard)
    now = start
    for i in range(standard.shape[1]):
        step = np.minimum(np.maximum(standard[:, i] - now, -_CLIP), _CLIP)
        now = now + gain[:, i, None] * step
        if some_void:
            now = np.where(void[:, i], level, now)
        smoothed[:, i] = now
    return smoothed


def _smooth_unbounded(start: Floats, standard: Floats, gain: Floats) -> Floats:
    """The same where no step is bounded, without a loop, which would cost more than all the rest for a single asset."""
    kept = np.cumsum(np.log1p(-gain), axis=1)
    since = np.minimum(kept[:, :, None] - kept[:, None], 0.0)
    weight = np.exp(since) * np.tri(gain.shape[1]) * gain[:, None]
    smoothed: Floats = np.exp(kept)[:, :, None] * start[:, None] + np.matmul(weight, standard)
    return smoothed


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
    single = np.log1p(np.expm1(np.minimum(total, _GREATEST_T)) / _TOUCHED)
    return Evidence(
        offset=offset,
        significance=significance,
        distance=np.sqrt(2.0 * np.maximum(single, total)),
        magnitude=np.sqrt(row_sums(square)),
        share=np.divide(terms, np.where(total > 0, total, 1.0)[:, :, None], out=terms),
    )


def collected(
    state: EvidenceState,
    evidence: Evidence,
    residual: Floats,
    leverage: Floats,
    usable: Bools,
    counts: Bools,
    calibrating: Bools,
) -> EvidenceState:
    """The state with a segment added to what is pending.

    `residual` (A, n, C) counts where `usable` (A, n, C) in samples of familiar regimes, `counts` (A, n), of assets that
    are `calibrating` (A,); `leverage` (A, n).
    """
    maximum = np.where(counts, evidence.distance, 0.0).max(axis=1)
    state = updated(state, pending_maximum=np.maximum(state.pending_maximum, maximum))
    if not calibrating.any():
        return state
    used = usable & (counts & calibrating[:, None])[:, :, None]
    deviation = np.where(state.samples > 2 * state.samples.shape[1], state.deviation, 0.0)
    error = residual / np.sqrt(1.0 + leverage)[:, :, None]
    bound = np.where(deviation > 0, _LEARN_CLIP * deviation, np.inf)[:, None]
    kept = np.where(used, np.clip(error, -bound, bound), 0.0)
    return updated(
        state,
        pending_products=state.pending_products + np.matmul(kept.transpose(0, 2, 1), kept),
        pending_samples=state.pending_samples + used.sum(axis=1),
    )


def learned(
    layout: Layout,
    settings: Settings,
    state: EvidenceState,
    *,
    healthy: Bools,
    alarmed: Bools,
    calibrating: Bools,
    complete: Bools,
    level: Floats,
    steadiness: Floats,
    interval_ms: Floats,
) -> EvidenceState:
    """The state after a window, (A,) each: learned where `healthy`; its maximum counts if it is `complete`, and waits
    if the machine is neither healthy nor `alarmed`.

    `level` (A, C) typical size of the readings and `steadiness` (A, C) share of readings that repeat the one before:
    they bound the standard deviation of signals that hardly move from below.
    """
    state = _counted(state, healthy, alarmed, complete)
    keep = (healthy & calibrating)[:, None]
    state = updated(
        state,
        products=state.products + keep[:, :, None] * state.pending_products,
        samples=state.samples + keep * state.pending_samples,
        pending_products=np.zeros_like(state.pending_products),
        pending_samples=np.zeros_like(state.pending_samples),
        pending_maximum=np.zeros_like(state.pending_maximum),
    )
    return _fitted(_budgeted(layout, settings, state, interval_ms), level, steadiness)


def _counted(state: EvidenceState, healthy: Bools, alarmed: Bools, complete: Bools) -> EvidenceState:
    most = np.where(state.threshold > 0, state.threshold, np.inf)
    highest = 0.5 * np.clip(state.pending_maximum, 1.0, most) ** 2
    counts = complete & (state.fitted_samples > 0) & (state.pending_maximum > 0)
    waiting = state.waiting_maxima + counts[:, None] * np.stack([np.ones_like(highest), highest, highest**2], axis=1)
    kept = np.minimum(1.0, _REMEMBERED_WINDOWS / np.maximum(state.maxima[:, :1], 1.0))
    return updated(
        state,
        maxima=kept * state.maxima + healthy[:, None] * waiting,
        unbudgeted=state.unbudgeted + healthy * waiting[:, 0],
        waiting_maxima=np.where((healthy | alarmed)[:, None], 0.0, waiting),
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
