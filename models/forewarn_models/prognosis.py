"""Prognostic assessment (ISO 13381-1): remaining useful life as a distribution, from the machine's own trend.

The severity of a fault (the anomaly score, 1 at the ALARM level) is followed from its onset at some thirty points,
thinned as time goes on. Where its fourth root has grown significantly (faults grow between linearly and exponentially;
a root is in between), a line through it, recent points weighing more, gives the time to the severity at which machines
fail. The prior is fleet knowledge, or the P-F interval of the likely failure mode. Both the failure severity
and the P-F interval are log-logistic and conditional on what the machine has already survived, so that a machine which
outlives expectations makes the prognosis wider, not surer. Trend and prior are combined as log-normal densities, by
precision. Where there is no trend there is no number.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_models.knowledge import FleetKnowledge, remaining_life_given_severity
from forewarn_models.layout import Bools, Floats, Ints, Layout
from forewarn_models.wire import RulHours

POINTS: Final = 32
_FEWEST_POINTS: Final = 4
_Z90: Final = 1.2815515655446004
_SIGNIFICANT: Final = 2.0
_MODEL_ERROR: Final = 0.4
"""Standard deviation of the logarithm of a remaining life extrapolated from a trend: faults do not grow exactly so."""
_ROOT: Final = 4.0
_P_F_SPREAD: Final = 0.5
_LEAST_DUTY: Final = 0.1
"""Share of the observed time that a machine runs, at least."""
_FAILURE_LOG_SEVERITY: Final = math.log(8.0)
_FAILURE_LOG_SPREAD: Final = 0.8
_LOGISTIC_SPREAD: Final = math.pi / math.sqrt(3.0)
"""Standard deviation of a logistic variable of scale 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrendState:
    """(assets, ...). Hours are observed running hours."""

    hours: Floats
    root_severity: Floats
    """(A, POINTS)"""
    count: Ints
    spacing_hours: Floats
    """(A,) least distance of the points."""
    rul_hours: Floats
    """(A, 3) as estimated at `estimated_ms`."""
    estimated_ms: Ints
    """(A,) -1 where there is no estimate."""


def new_trend_state(assets: int) -> TrendState:
    return TrendState(
        hours=np.zeros((assets, POINTS)),
        root_severity=np.zeros((assets, POINTS)),
        count=np.zeros(assets, dtype=np.int64),
        spacing_hours=np.zeros(assets),
        rul_hours=np.zeros((assets, 3)),
        estimated_ms=np.full(assets, -1, dtype=np.int64),
    )


def remaining_life(state: TrendState, t_ms: Ints, evident: Bools) -> Floats:
    """(n, A, 3) P10, P50, P90 in hours: the last estimate less the time passed since; NaN where there is none."""
    known = (state.estimated_ms >= 0) & evident
    if not known.any():
        return np.full((*t_ms.shape, 3), np.nan)
    passed = (t_ms - state.estimated_ms) / 3_600_000.0
    rul = np.maximum(state.rul_hours - passed[:, :, None], 0.0)
    return np.where(known[:, :, None], rul, np.nan)


def followed(
    layout: Layout,
    knowledge: FleetKnowledge | None,
    state: TrendState,
    *,
    t_ms: Ints,
    hours: Floats,
    idle_hours: Floats,
    score: Floats,
    evident: Bools,
    ended: Bools,
    mode_probability: Floats,
) -> TrendState:
    """The state after a window: a point more and a new estimate where `evident`, forgotten where the evidence `ended`.

    (A,) each, `mode_probability` (A, M); `hours` and `idle_hours`: how long it was seen running and standing.
    """
    if not (evident.any() or (ended & (state.count > 0)).any()):
        return state
    count = np.where(ended, 0, state.count)
    last = np.take_along_axis(state.hours, np.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    due = np.flatnonzero(evident & ((count == 0) | (hours - last >= state.spacing_hours)))
    state = replace(
        state,
        count=count,
        spacing_hours=np.where(ended, 0.0, state.spacing_hours),
        estimated_ms=np.where(ended, -1, state.estimated_ms),
    )
    state = _extended(state, due, hours[due], score[due] ** (1.0 / _ROOT))
    some = np.flatnonzero(evident)
    prior = _prior(layout, knowledge, state, some, hours, score, mode_probability)
    log_median, log_spread = _combined(_trend(knowledge, state, some), prior)
    quantiles = np.exp(log_median[:, None] + log_spread[:, None] * np.array([-_Z90, 0.0, _Z90]))
    rul, estimated = state.rul_hours.copy(), state.estimated_ms.copy()
    usable = np.isfinite(log_median)
    duty = np.maximum(hours / np.maximum(hours + idle_hours, 1e-9), _LEAST_DUTY)
    rul[some] = np.where(usable[:, None], quantiles / duty[some, None], 0.0)
    estimated[some] = np.where(usable, t_ms[some], -1)
    return replace(state, rul_hours=rul, estimated_ms=estimated)


def _extended(state: TrendState, due: NDArray[np.intp], hours: Floats, root_severity: Floats) -> TrendState:
    if not len(due):
        return state
    state = _thinned(state, due[state.count[due] == POINTS])
    all_hours, severities, count = state.hours.copy(), state.root_severity.copy(), state.count.copy()
    all_hours[due, count[due]] = hours
    severities[due, count[due]] = root_severity
    count[due] += 1
    return replace(state, hours=all_hours, root_severity=severities, count=count)


def _thinned(state: TrendState, full: NDArray[np.intp]) -> TrendState:
    """Every second point of those that are full, and twice the spacing from now on."""
    if not len(full):
        return state
    hours, severities, count = state.hours.copy(), state.root_severity.copy(), state.count.copy()
    spacing = state.spacing_hours.copy()
    hours[full, : POINTS // 2] = state.hours[full, 1::2]
    severities[full, : POINTS // 2] = state.root_severity[full, 1::2]
    count[full] = POINTS // 2
    spacing[full] = 1.5 * (state.hours[full, -1] - state.hours[full, 0]) / (POINTS - 1)
    return replace(state, hours=hours, root_severity=severities, count=count, spacing_hours=spacing)


def _trend(knowledge: FleetKnowledge | None, state: TrendState, some: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the logarithm of the hours to failure by extrapolation; NaN without a trend."""
    count, hours, severity = state.count[some], state.hours[some], state.root_severity[some]
    real = np.arange(POINTS) < count[:, None]
    now = np.take_along_axis(hours, np.maximum(count - 1, 0)[:, None], axis=1)
    span = np.maximum(now[:, 0] - hours[:, 0], 1e-9)
    age = np.where(real, now - hours, 0.0)
    weight = np.where(real, np.exp(-2.0 * age / span[:, None]), 0.0)
    slope, slope_error, level = _line(age, severity, weight)
    median, spread = failure_severity(knowledge)
    at_failure = beyond(np.exp(median), spread, np.maximum(level, 0.0) ** _ROOT)
    distance = at_failure ** (1.0 / _ROOT) - np.maximum(level, 0.0)[:, None]
    log_distance, distance_spread = _log_normal(np.maximum(distance, 1e-6))
    significant = (count >= _FEWEST_POINTS) & (slope > _SIGNIFICANT * slope_error) & (slope > 0)
    slope = np.where(significant, slope, np.nan)
    relative = (slope_error / slope) ** 2 + distance_spread**2
    return log_distance - np.log(slope), np.sqrt(relative + _MODEL_ERROR**2)


def beyond(median: Floats | float, spread: float, survived: Floats) -> Floats:
    """(k, 3) P10, P50, P90 of a log-logistic variable, of standard deviation `spread` in the logarithm, given that it
    exceeds `survived` (k,).

    With S(t) = 1 / (1 + (t/m)^a) the quantile q of t given t > s solves S(t) = (1 - q) S(s).
    """
    shape = _LOGISTIC_SPREAD / spread
    odds = 1.0 + np.minimum(survived / median, 1e6) ** shape
    left = odds[:, None] / (1.0 - np.array([0.1, 0.5, 0.9])) - 1.0
    return np.asarray(median)[..., None] * left ** (1.0 / shape)


def _log_normal(quantiles: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of the logarithm, of the log-normal with that median and P10 to P90 as wide."""
    log = np.log(quantiles)
    return log[:, 1], (log[:, 2] - log[:, 0]) / (2.0 * _Z90)


def _line(age: Floats, value: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Slope per hour, its standard error and the level at age 0 of a weighted line through each row."""
    total = np.maximum(weight.sum(axis=1), 1e-12)
    mean_age = (weight * age).sum(axis=1) / total
    mean = (weight * value).sum(axis=1) / total
    x = -(age - mean_age[:, None])
    spread = np.maximum((weight * x * x).sum(axis=1), 1e-12)
    slope = (weight * x * value).sum(axis=1) / spread
    left = value - mean[:, None] - slope[:, None] * x
    effective = total**2 / np.maximum((weight**2).sum(axis=1), 1e-12)
    variance = (weight * left * left).sum(axis=1) / total * effective / np.maximum(effective - 2.0, 0.5)
    error = np.sqrt(variance * (weight**2 * x * x).sum(axis=1)) / spread
    return slope, np.maximum(error, 1e-12), mean + slope * mean_age


def failure_severity(knowledge: FleetKnowledge | None) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of the severity at which machines fail."""
    if knowledge is None:
        return _FAILURE_LOG_SEVERITY, _FAILURE_LOG_SPREAD
    return knowledge.failure_log_severity, knowledge.failure_log_spread


def _prior(
    layout: Layout,
    knowledge: FleetKnowledge | None,
    state: TrendState,
    some: NDArray[np.intp],
    hours: Floats,
    score: Floats,
    mode_probability: Floats,
) -> tuple[Floats, Floats]:
    """The same from what is known of such machines; infinite spread where nothing is."""
    if knowledge is not None:
        return remaining_life_given_severity(knowledge, score[some])
    known = mode_probability[some].sum(axis=1)
    p_f_hours = (mode_probability[some] * layout.p_f_hours).sum(axis=1) / np.where(known > 0, known, 1.0)
    p_f_hours = np.where(known > 0, p_f_hours, 1.0)
    passed = hours[some] - state.hours[some, 0]
    left = beyond(p_f_hours, _P_F_SPREAD, passed) - passed[:, None]
    log_median, spread = _log_normal(np.maximum(left, 1e-6))
    return log_median, np.where(known > 0.5, spread, np.inf)


def _combined(trend: tuple[Floats, Floats], prior: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Product of two log-normal densities; NaN where there is no trend."""
    trend_weight, prior_weight = 1.0 / trend[1] ** 2, 1.0 / prior[1] ** 2
    total = trend_weight + prior_weight
    return (trend[0] * trend_weight + prior[0] * prior_weight) / total, 1.0 / np.sqrt(total)


# --- what others ask of a prognosis ---------------------------------------------------------------------------------


def remaining_life_quantiles(rul_hours: NDArray[np.float64]) -> RulHours | None:
    """(3,) P10, P50, P90 as they travel, or None where there is no number."""
    if not bool(np.isfinite(rul_hours).all()):
        return None
    p10, p50, p90 = np.maximum.accumulate(np.maximum(rul_hours, 0.0)).tolist()
    return RulHours(p10=p10, p50=p50, p90=p90)


def failure_probability(rul_hours: RulHours, within_hours: float) -> float:
    """P(failure within `within_hours` from now), in [0, 1], growing with it.

    The predictive distribution is the log-normal in two pieces through P10, P50 and P90: each half has the spread of
    its own quantile. Where a quantile is 0 or equals the median, its half is a step.
    """
    if within_hours <= 0 or math.isnan(within_hours):
        return 0.0
    if rul_hours.p50 <= 0 or math.isinf(within_hours):
        return 1.0
    quantile = rul_hours.p10 if within_hours < rul_hours.p50 else rul_hours.p90
    if within_hours == rul_hours.p50:
        return 0.5
    if quantile <= 0:
        return 0.1 + 0.4 * within_hours / rul_hours.p50
    spread = abs(math.log(quantile) - math.log(rul_hours.p50)) / _Z90
    if spread <= 0:
        return 0.0 if within_hours < rul_hours.p50 else 1.0
    distance = math.log(within_hours) - math.log(rul_hours.p50)
    return 0.5 * math.erfc(-distance / (spread * math.sqrt(2.0)))
