"""State detection, first half (ISO 13374): what the signals should read in this operating regime.

One ridge regression per condition signal on the regime signals, their squares and products, all signals of an asset
sharing one moment matrix. It is kept as moments, so learning a segment is one matrix product, the order of samples does
not matter, and memory is bounded. Ridge prior: one pseudo-sample on every feature, scaled to unit variance. The
leverage h(x) = 1/n + (x - m)' P (x - m) is the variance of the prediction relative to that of the noise (Bayesian
linear regression): large in a regime the machine was never seen in, so that ignorance is not mistaken for a fault.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_models.layout import Bools, Floats, Ints, Layout, by_asset, put, row_dots, updated

_PRIOR_SAMPLES: Final = 1.0
_SMALLEST_VARIANCE: Final = 1e-5
"""Of a feature, relative to the square of its scale: a regime signal that never moved is known to 0.3 %."""

_MOST: Final = 1.96
"""Normal quantile of the share of the regimes of a baseline that are familiar."""
_LEAST_SIZE: Final = 1e-20
"""Of a first reading; with a smaller one as its scale, the square of a square might overflow."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegimeState:
    """(assets, ...); p features, C condition signals, q = 1 + p + C moments."""

    anchored: Bools
    """(A,) whether `origin` and `scale` are set, from the first sample that was judged."""
    origin: Floats
    scale: Floats
    """(A, R) features are computed from (reading - origin) / scale."""
    levelled: Bools
    level: Floats
    """(A, C) readings are taken relative to the level, the signal's first; and whether it has been read yet."""
    moments: Floats
    """(A, q, q) sum of w a a' over the samples learned, a = (1, features, readings)."""
    pending: Floats
    """(A, q, q) the same for the window under way, not learned yet."""
    fitted: Bools
    """(A,)"""
    feature_mean: Floats
    """(A, p)"""
    reading_mean: Floats
    """(A, C)"""
    coefficients: Floats
    """(A, p, C)"""
    inverse: Floats
    """(A, p, p) P of the leverage."""
    weight: Floats
    """(A,) number of samples behind the fit."""
    freedom: Ints
    """(A,) number of features that ever moved."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Time first."""

    features: Floats
    """(n, A, p)"""
    expected: Floats
    """(n, A, C) in the signal's unit, relative to `level`."""
    leverage: Floats
    """(n, A)"""
    known: Bools
    """(n, A) the regime is readable and something was learned."""


def new_regime_state(layout: Layout, assets: int) -> RegimeState:
    p, c, r = layout.features, len(layout.condition), len(layout.regime)
    q = 1 + p + c
    return RegimeState(
        anchored=np.zeros(assets, dtype=np.bool_),
        origin=np.zeros((assets, r)),
        scale=np.ones((assets, r)),
        levelled=np.zeros((assets, c), dtype=np.bool_),
        level=np.zeros((assets, c)),
        moments=np.zeros((assets, q, q)),
        pending=np.zeros((assets, q, q)),
        fitted=np.zeros(assets, dtype=np.bool_),
        feature_mean=np.zeros((assets, p)),
        reading_mean=np.zeros((assets, c)),
        coefficients=np.zeros((assets, p, c)),
        inverse=np.zeros((assets, p, p)),
        weight=np.zeros(assets),
        freedom=np.zeros(assets, dtype=np.int64),
    )


def anchored(layout: Layout, state: RegimeState, values: Floats, good: Bools, readable: Bools) -> RegimeState:
    """The state with origin, scale and levels taken from the first readable samples of each asset that lacks them.

    `values` and `good` (n, A, S), `readable` (n, A).
    """
    if state.levelled.all():
        return state
    first = ~state.anchored & readable.any(axis=0)
    origin = values[np.argmax(readable, axis=0), np.arange(values.shape[1])][:, layout.regime_at]
    size = np.abs(origin + layout.absolute[layout.regime_at])
    read = good[:, :, layout.condition_at] & readable[:, :, None]
    begins = ~state.levelled & read.any(axis=0)
    reading = np.take_along_axis(values[:, :, layout.condition_at], np.argmax(read, axis=0)[None], axis=0)[0]
    if not (first.any() or begins.any()):
        return state
    return updated(
        state,
        anchored=state.anchored | first,
        origin=np.where(first[:, None], origin, state.origin),
        scale=np.where(first[:, None], np.where(size > _LEAST_SIZE, size, 1.0), state.scale),
        levelled=state.levelled | begins,
        level=np.where(begins, reading, state.level),
    )


def predict(
    layout: Layout, state: RegimeState, values: Floats, readable: Bools, windows: Sequence[slice]
) -> Prediction:
    """What the condition signals should read in some windows; `values` (n, A, S), `readable` (n, A): all regime signals
    are good."""
    features = _features(layout, state, values)
    if not readable.all():
        features[~readable] = 0.0
    offset = features - state.feature_mean
    expected = by_asset(offset, state.coefficients, windows)
    expected += state.reading_mean
    leverage = row_dots(by_asset(offset, state.inverse, windows), offset)
    leverage += 1.0 / np.maximum(state.weight, 1.0)
    return Prediction(features=features, expected=expected, leverage=leverage, known=readable & state.fitted)


def _features(layout: Layout, state: RegimeState, values: Floats) -> Floats:
    features = np.empty((*values.shape[:2], layout.features))
    relative = [
        (values[:, :, column] - state.origin[:, k]) / state.scale[:, k] for k, column in enumerate(layout.regime)
    ]
    for k, column in enumerate(relative):
        features[:, :, k] = column
    for k, (i, j) in enumerate(zip(*layout.products, strict=True), start=len(relative)):
        np.multiply(relative[i], relative[j], out=features[:, :, k])
    return features


def collected(state: RegimeState, features: Floats, readings: Floats, weight: Floats) -> RegimeState:
    """The state with a segment added to what is pending: `features` (n, A, p), `readings` (n, A, C) relative to the
    level, `weight` (n, A).

    A missing reading is filled with what was expected: it then says nothing about its signal.
    """
    if not weight.any():
        return state
    ones = np.ones((*weight.shape, 1))
    sample = np.concatenate([ones, features, readings], axis=2).transpose(1, 0, 2)
    product = np.matmul((sample * weight.T[:, :, None]).transpose(0, 2, 1), sample)
    return updated(state, pending=state.pending + product)


def learned(layout: Layout, state: RegimeState, accept: Bools) -> RegimeState:
    """The state after a window: what is pending is learned where `accept` (A,) says so, and forgotten elsewhere."""
    if not state.pending.any():
        return state
    moments = np.where(accept[:, None, None], state.moments + state.pending, state.moments)
    state = updated(state, moments=moments, pending=np.zeros_like(state.pending))
    weight = moments[:, 0, 0]
    due = np.flatnonzero((weight >= 3.0) & (weight > 1.05 * state.weight))
    return _fitted(layout, state, due) if len(due) else state


def _fitted(layout: Layout, state: RegimeState, due: NDArray[np.intp]) -> RegimeState:
    p = layout.features
    moments = state.moments[due]
    weight = moments[:, 0, 0]
    mean = moments[:, 0, 1:] / weight[:, None]
    centred = moments[:, 1:, 1:] - weight[:, None, None] * mean[:, :, None] * mean[:, None, :]
    gram, cross = centred[:, :p, :p], centred[:, :p, p:]
    variance = np.maximum(np.einsum("app->ap", gram) / weight[:, None], 0.0) + _SMALLEST_VARIANCE
    size = np.sqrt(variance)
    outer = size[:, :, None] * size[:, None, :]
    inverse = np.linalg.inv(gram / outer + _PRIOR_SAMPLES * np.eye(p)) / outer
    return updated(
        state,
        fitted=put(state.fitted, due, np.ones(len(due), dtype=np.bool_)),
        feature_mean=put(state.feature_mean, due, mean[:, :p]),
        reading_mean=put(state.reading_mean, due, mean[:, p:]),
        coefficients=put(state.coefficients, due, np.matmul(inverse, cross)),
        inverse=put(state.inverse, due, inverse),
        weight=put(state.weight, due, weight),
        freedom=put(state.freedom, due, np.count_nonzero(np.einsum("app->ap", gram) > 0, axis=1)),
    )


def familiar_square(state: RegimeState) -> Floats:
    """(A,) the squared distance within which most regimes of a baseline lie, in their standard deviations."""
    square: Floats = _squares(state.feature_mean.shape[1])[state.freedom]
    return square


@lru_cache(maxsize=64)
def _squares(most: int) -> Floats:
    """Chi-squared quantiles with 0 to `most` degrees of freedom (Wilson, Hilferty 1931); 1 without any."""
    freedom = np.arange(most + 1.0)
    part = 2.0 / (9.0 * np.maximum(freedom, 1.0))
    return np.where(freedom > 0, freedom * (1.0 - part + _MOST * np.sqrt(part)) ** 3, 1.0)
