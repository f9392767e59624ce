"""How good models are: the metrics of the field, each with its formula and its source. numpy only; nothing is plotted.

Predictions and truth are remaining hours unless stated. A prediction that was not made is NaN: functions about single
predictions refuse it (say how many there are instead), those about a path of predictions count it as wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_models.assessment import Condition
from forewarn_models.layout import HOUR_MS, Bools, Floats, Ints

HOURS_PER_MONTH: Final = 720.0
_LEVELS: Final = 200
_Z90: Final = NormalDist().inv_cdf(0.9)
_LIFE_FRACTIONS: Final = 100

# --- remaining life at one time -------------------------------------------------------------------------------------


def rmse(predicted: Floats, truth: Floats) -> float:
    """Root of the mean squared error of (n,) predictions.

    Raises:
        ValueError: shapes differ, there is no value, or one is not finite.
    """
    return float(np.sqrt(np.mean(_error(predicted, truth) ** 2)))


def phm08_score(predicted: Floats, truth: Floats) -> float:
    """The score of the PHM'08 data challenge, summed over (n,) units; 0 is perfect, late costs more than early.

    sum(exp(-d/13) - 1 where d < 0, exp(d/10) - 1 elsewhere), d = predicted - truth in cycles (Saxena, Goebel, Simon
    and Eklund, Damage propagation modeling for aircraft engine run-to-failure simulation, PHM 2008).

    Raises:
        ValueError: as `rmse`.
    """
    late = _error(predicted, truth)
    return float(np.expm1(np.where(late < 0, -late / 13.0, late / 10.0)).sum())


def crps(rul_hours: Floats, truth: Floats) -> Floats:
    """Continuous ranked probability score (n,) in hours of each predictive distribution; 0 is perfect.

    CRPS = integral of (F(x) - 1{x >= truth})^2 dx (Matheson and Winkler 1976), a proper score that for a sure
    prediction is its absolute error. F is the distribution of `prognosis.failure_probability`: the log-normal in two
    pieces through P10, P50, P90 `rul_hours` (n, 3). It is computed as twice the pinball loss averaged over quantile
    levels (Laio and Tamea 2007), at 200 of them: the exact score of 200 equally likely points of F.

    Raises:
        ValueError: shapes differ, a value is not finite, or quantiles are negative or not in order.
    """
    _check(rul_hours, (len(truth), 3))
    _check(truth, truth.shape)
    if (rul_hours[:, 0] < 0).any() or (np.diff(rul_hours, axis=1) < 0).any():
        raise ValueError("rul_hours: give 0 <= P10 <= P50 <= P90")
    score = np.zeros(len(truth))
    for level in (np.arange(_LEVELS) + 0.5) / _LEVELS:
        error = truth - rul_quantile(rul_hours, float(level))
        score += np.maximum(level * error, (level - 1.0) * error)
    return 2.0 * score / _LEVELS


def rul_quantile(rul_hours: Floats, level: float) -> Floats:
    """(n,) the quantile at `level` in (0, 1) of the log-normal in two pieces through `rul_hours` (n, 3).

    Where P10 is 0, the lower half is what `prognosis.failure_probability` takes it for: 0 up to P10, then even.
    """
    p10, p50, p90 = rul_hours.T
    z = NormalDist().inv_cdf(level) / _Z90
    outer = p10 if level < 0.5 else p90
    some = (outer > 0) & (p50 > 0)
    ratio = np.where(some, outer, 1.0) / np.where(some, p50, 1.0)
    even = p50 * np.clip((level - 0.1) / 0.4, 0.0, 1.0)
    return np.asarray(np.where(some, p50 * ratio ** abs(z), even))


def interval_coverage(low: Floats, high: Floats, truth: Floats) -> float:
    """Share of (n,) truths within [low, high]; 0.8 for an honest P10 to P90.

    Raises:
        ValueError: as `rmse`.
    """
    for bound in (low, high):
        _check(bound, truth.shape)
    _check(truth, truth.shape)
    return float(((low <= truth) & (truth <= high)).mean())


# --- remaining life along a path ------------------------------------------------------------------------------------


def within_alpha(predicted: Floats, truth: Floats, alpha: float = 0.2) -> Bools:
    """(n,) where (1 - alpha) truth <= predicted <= (1 + alpha) truth; False where nothing was predicted (NaN)."""
    return np.asarray(np.abs(predicted - truth) <= alpha * np.abs(truth))


def alpha_lambda(predicted: Floats, truth: Floats, *, alpha: float = 0.2, lam: float = 0.5) -> bool:
    """Whether one unit's prediction was within alpha when the share `lam` of its way to the failure was gone.

    The way begins with the first prediction; the time is that of the last sample at or before t_lambda = t_P +
    lam (EOL - t_P) (Saxena, Celaya, Saha, Saha and Goebel, Metrics for offline evaluation of prognostic performance,
    IJPHM 1, 2010, section 4). False where nothing was ever predicted.

    Args:
        predicted: (n,) P50 along time, NaN where there was none.
        truth: (n,) hours left, never growing.
    """
    made = np.flatnonzero(~np.isnan(predicted))
    if not len(made):
        return False
    left = (1.0 - lam) * truth[made[0]]
    reached = np.flatnonzero(truth >= left)[-1]
    return bool(within_alpha(predicted, truth, alpha)[reached])


def prognostic_horizon(predicted: Floats, truth: Floats, *, life_hours: float, alpha: float = 0.1) -> float:
    """Hours before the failure from which on one unit's prediction is, and stays, within alpha of its whole life.

    PH = EOL - t_i, i the first index at which truth - alpha EOL <= predicted <= truth + alpha EOL (Saxena et al. 2010,
    section 4). Stricter than there, the prediction must remain within: one that crosses the band by chance has no
    horizon. 0 where the last prediction is outside or there is none.
    """
    outside = np.flatnonzero(~(np.abs(predicted - truth) <= alpha * life_hours))
    first = int(outside[-1]) + 1 if len(outside) else 0
    return float(truth[first]) if first < len(truth) else 0.0


def monotonicity(paths: Sequence[Floats]) -> float:
    """How far health indicators only rise or only fall over each life, in [0, 1].

    Mean over the paths, (n,) each, of |number of rises - number of falls| / (n - 1) (Coble and Hines, Identifying
    optimal prognostic parameters from data, PHM 2009).

    Raises:
        ValueError: there is no path, one has fewer than two points or a value that is not finite.
    """
    _check_paths(paths, fewest=1)
    signs = [np.sign(np.diff(path)) for path in paths]
    return float(np.mean([abs(sign.sum()) / len(sign) for sign in signs]))


def trendability(paths: Sequence[Floats]) -> float:
    """How alike health indicators run over the lives of units, in [0, 1].

    Least absolute correlation of any two paths, each taken at the same 100 fractions of its life (Coble, Merging data
    sources to predict remaining useful life, 2010). A path that stands still correlates with nothing.

    Raises:
        ValueError: as `monotonicity`, or there is only one path.
    """
    _check_paths(paths, fewest=2)
    at = np.linspace(0.0, 1.0, _LIFE_FRACTIONS)
    resampled = [np.interp(at, np.linspace(0.0, 1.0, len(path)), path) for path in paths]
    return min(abs(_correlation(one, other)) for one, other in combinations(resampled, 2))


def _correlation(one: Floats, other: Floats) -> float:
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one @ one) * (other @ other)))
    return float(one @ other) / scale if scale > 0 else 0.0


# --- detection in time ----------------------------------------------------------------------------------------------


def raised_steps(condition: NDArray[np.int8]) -> NDArray[np.intp]:
    """The steps at which one asset's (n,) `Condition` says that an ALARM is raised.

    UNKNOWN (off, a gap) neither raises nor clears: an ALARM before and after it is one.
    """
    told = np.flatnonzero(condition != Condition.UNKNOWN)
    alarm = condition[told] == Condition.ALARM
    before = np.concatenate([[False], alarm[:-1]])
    return np.asarray(told[alarm & ~before])


def lead_time_hours(t_ms: Ints, alarm: Bools, failed_ms: int) -> float | None:
    """Hours from the first ALARM of a life, (n,) samples in time order, to its failure; None if there was none."""
    first = np.flatnonzero(alarm)
    return (failed_ms - int(t_ms[first[0]])) / HOUR_MS if len(first) else None


def detection_delay_s(t_ms: Ints, alarm: Bools, started_ms: int, ended_ms: int) -> float | None:
    """Seconds from the beginning of a fault to the first ALARM sample within it; None if there is none."""
    within = np.flatnonzero(alarm & (t_ms >= started_ms) & (t_ms <= ended_ms))
    return (int(t_ms[within[0]]) - started_ms) / 1000.0 if len(within) else None


def observed_hours(t_ms: Ints) -> float:
    """Hours that (n,) samples of one asset stand for: a gap counts as two usual (median) intervals at most."""
    if len(t_ms) < 2:
        return 0.0
    steps = np.diff(t_ms)
    return float(np.minimum(steps, 2.0 * np.median(steps)).sum()) / HOUR_MS


def alarms_per_asset_month(raised: int, hours: float) -> float | None:
    """Raised ALARMs per asset and month of 720 observed `hours`, summed over assets; None if nothing was observed."""
    return raised / (hours / HOURS_PER_MONTH) if hours > 0 else None


def poisson_interval(count: int, level: float = 0.9) -> tuple[float, float]:
    """Interval that holds the expected number of events with probability `level` when `count` of them were seen.

    Exact and equal-tailed: P(N >= count) at the lower bound and P(N <= count) at the upper are (1 - level) / 2 (Garwood
    1936). The lower bound of 0 events is 0.
    """
    tail = (1.0 - level) / 2.0
    low = _poisson_mean(count - 1, 1.0 - tail) if count else 0.0
    return low, _poisson_mean(count, tail)


def _poisson_mean(count: int, probability: float) -> float:
    """The mean m at which P(N <= count) = `probability`, by bisection: it falls as m grows."""
    events = np.arange(count + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    low, high = 0.0, 2.0 * count + 50.0
    for _ in range(60):
        middle = (low + high) / 2.0
        below = float(np.exp(events * np.log(middle) - middle - log_factorial).sum())
        low, high = (middle, high) if below > probability else (low, middle)
    return low


# --- detection by row -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RowRates:
    """How well an alarm agrees with labels, row by row; None where a rate has nothing to rest on.

    precision = TP / (TP + FP); recall = TP / (TP + FN); F1 = 2 TP / (2 TP + FP + FN); false alarm rate = FP / (FP + TN)
    (Fawcett, An introduction to ROC analysis, 2006). F1 says nothing without the false alarm rate: where faults are
    common, an alarm that is always on scores high.
    """

    rows: int
    faulty_rows: int
    precision: float | None
    recall: float | None
    f1: float | None
    false_alarm_rate: float | None


def row_rates(alarm: Bools, faulty: Bools) -> RowRates:
    """`alarm` against the label `faulty`, (n,) each."""
    hit, false, missed = (int(rows.sum()) for rows in (alarm & faulty, alarm & ~faulty, ~alarm & faulty))
    return RowRates(
        rows=len(alarm),
        faulty_rows=hit + missed,
        precision=_ratio(hit, hit + false),
        recall=_ratio(hit, hit + missed),
        f1=_ratio(2 * hit, 2 * hit + false + missed),
        false_alarm_rate=_ratio(false, len(alarm) - hit - missed),
    )


def roc_auc(score: Floats, faulty: Bools) -> float | None:
    """Area under the ROC curve: P(score of a faulty row > that of a healthy one) + P(they tie) / 2.

    By the rank sum, U / (faulty x healthy) with mean ranks for ties (Hanley and McNeil 1982). None where all rows are
    alike.

    Raises:
        ValueError: shapes differ, there is no row, or a score is not finite.
    """
    _check(score, faulty.shape)
    positives = int(faulty.sum())
    negatives = len(faulty) - positives
    if not positives or not negatives:
        return None
    _, group, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2.0)[group]
    return (float(rank[faulty].sum()) - positives * (positives + 1) / 2.0) / (positives * negatives)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


# --- checks ---------------------------------------------------------------------------------------------------------


def _error(predicted: Floats, truth: Floats) -> Floats:
    _check(predicted, truth.shape)
    _check(truth, truth.shape)
    return predicted - truth


def _check(values: Floats, shape: tuple[int, ...]) -> None:
    if values.shape != shape:
        raise ValueError(f"shapes: {values.shape} given, {shape} needed")
    if not values.size:
        raise ValueError("no value: give at least one")
    if not np.isfinite(values).all():
        raise ValueError("NaN or infinite values: leave out what was not predicted, and say how many that were")


def _check_paths(paths: Sequence[Floats], *, fewest: int) -> None:
    if len(paths) < fewest:
        raise ValueError(f"paths: {len(paths)} given, at least {fewest} needed")
    for path in paths:
        _check(path, (max(2, len(path)),))
