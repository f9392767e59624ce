"""State detection, the verdict: from a score that goes up and down to a condition one can act on.

Raise levels, a lower clear level and dwell times, all in observed running time, keep the condition from flapping.
Limits that hold for every machine of the type speak from the first sample on, though no louder than ALERT while the
machine warms up. One signal that leaps while the others
stay is a suspect sensor (a changed unit, a loose mount): worth an ALERT, no evidence of a fault. A sensor that told the
impossible on a machine at work is not believed about limits either, until it has told something credible there again:
on its way to the impossible (a temperature in another unit, at every start) it would pass the limit.
"""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from forewarn_models.assessment import Quality
from forewarn_models.layout import Bools, Floats, Ints, Layout, updated
from forewarn_models.readings import Readings

ALERT_LEVEL: Final = 0.75
_HIGHEST_ALERT: Final = 0.95
CLEAR_LEVEL: Final = 0.7
"""Of the anomaly score; the ALARM level is 1. A condition is cleared below it, or below what is calm for the asset."""
_RAISE_WINDOWS: Final = 0.15
_CLEAR_WINDOWS: Final = 1.0
_ROUNDED: Final = 1.0 - 1e-6
"""Sums of hours that are equal but for rounding count as equal, however the samples were cut into blocks."""
LIMIT_SAMPLES: Final = 3
_LEAP_DEVIATIONS: Final = 20.0
_LEAP_SPREADS: Final = 3.0
_CALM_DEVIATIONS: Final = 6.0
_DOMINANCE: Final = 5.0
"""A signal leaps alone if it moves so many times as far as any other, in standard deviations."""
_RETURNED: Final = 0.3
_GROWN: Final = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionState:
    """(assets, ...); C condition signals, S signals. Hours are observed running hours."""

    observed_hours: Floats
    """(A,) hours the machine was seen running."""
    idle_hours: Floats
    """(A,) hours it was seen standing."""
    calm_hours: Floats
    """(A, 2) when the score was last below the ALERT and the ALARM level."""
    raised_hours: Floats
    """(A,) when the score was last above the clear level."""
    alert: Bools
    alarm: Bools
    score: Floats
    """(A,) as last judged."""
    since_ms: Ints
    """(A,) first sample of the present run of evidence, which lasts until the condition is cleared; -1 without."""
    over_alert: Ints
    over_alarm: Ints
    """(A, S) samples running beyond the limit, the upper or the lower."""
    unbelieved: Bools
    """(A, S) the last reading of a settled machine was no measurement."""
    residual: Floats
    """(A, C) the last usable one."""
    leap: Floats
    """(A, C) height of the leap of a suspect signal, 0 for the others."""
    suspect_samples: Ints
    """(A,) samples running with a suspect signal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """Of one segment; (n, A) unless stated."""

    condition: NDArray[np.int8]
    since_ms: Ints
    score: Floats
    """As last judged, also while the machine stands still."""
    limit_exceeded: Bools
    """(n, A, S)"""
    evident: Bools
    """There is evidence of a fault."""


def new_condition_state(layout: Layout, assets: int) -> ConditionState:
    none, never = np.zeros(assets), np.full(assets, -1, dtype=np.int64)
    no, over = np.zeros(assets, dtype=np.bool_), np.zeros((assets, len(layout.limit_alert)), dtype=np.int64)
    per_signal = np.zeros((assets, len(layout.condition)))
    return ConditionState(
        observed_hours=none,
        idle_hours=none,
        calm_hours=np.zeros((assets, 2)),
        raised_hours=none,
        alert=no,
        alarm=no,
        score=none,
        since_ms=never,
        over_alert=over,
        over_alarm=over,
        unbelieved=np.zeros(over.shape, dtype=np.bool_),
        residual=per_signal,
        leap=per_signal,
        suspect_samples=np.zeros(assets, dtype=np.int64),
    )


# --- suspect sensors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaps:
    """Of one segment; (n, A, C)."""

    residual: Floats
    """The last usable one up to the sample."""
    height: Floats
    """Of the leap of a suspect signal, 0 for the others."""
    suspect: Bools | None
    """The reading comes from a sensor that leapt; None if none does."""


def leaps(
    state: ConditionState, residual: Floats, usable: Bools, deviation: Floats, spread: Floats, armed: Bools
) -> Leaps:
    """Which sensors leapt in a segment.

    `residual` (n, A, C), 0 where not usable; `deviation` and `spread` (A, C): standard deviation of the residual and of
    the reading itself over all regimes; `armed` (n, A): the sample is judged.
    """
    last = _last_usable(state.residual, residual, usable)
    before = np.concatenate([state.residual[None], last[:-1]])
    moved = residual - before
    np.abs(moved, out=moved)
    noise = np.where(deviation > 0, deviation, np.inf)
    far = moved > np.maximum(_LEAP_DEVIATIONS * noise, _LEAP_SPREADS * spread)
    if not (far.any() or state.leap.any()):
        return Leaps(residual=last, height=np.broadcast_to(state.leap, residual.shape), suspect=None)
    leapt = usable & far & (np.abs(before) < _CALM_DEVIATIONS * noise) & armed[:, :, None]
    relative = np.where(usable, moved / noise, 0.0)
    leapt &= relative > _DOMINANCE * np.sort(relative, axis=2)[:, :, -2:-1].max(axis=2, keepdims=True, initial=0.0)
    height, now = np.empty_like(residual), state.leap
    for i in range(len(residual)):
        now = height[i] = _leap_after(now, residual[i], usable[i], leapt[i])
    suspect = (height != 0) & usable
    return Leaps(residual=last, height=height, suspect=suspect if suspect.any() else None)


def _last_usable(initial: Floats, residual: Floats, usable: Bools) -> Floats:
    """(n, A, C) the residual, or the last usable one before."""
    if usable.all():
        return residual
    step = np.arange(len(residual))[:, None, None]
    last = np.maximum.accumulate(np.where(usable, step, -1), axis=0)
    found = np.take_along_axis(residual, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, found, initial)


def _leap_after(leap: Floats, residual: Floats, usable: Bools, leapt: Bools) -> Floats:
    """A suspect is one until it comes back, or goes on so far that it was the beginning of a fault."""
    size, height = np.abs(residual), np.abs(leap)
    over = usable & ((size < _RETURNED * height) | (size > _GROWN * height))
    leap = np.where(over, 0.0, leap)
    return np.where(leapt & (leap == 0), residual, leap)


# --- the verdict ----------------------------------------------------------------------------------------------------


def judge(
    layout: Layout,
    state: ConditionState,
    readings: Readings,
    leaps: Leaps,
    *,
    score: Floats,
    alert: Floats,
    calm: Floats,
    judged: Bools,
    armed: Bools,
    interval_ms: Floats,
) -> tuple[Verdict, ConditionState]:
    """The condition at every sample.

    `score` (n, A); `alert` (A,): the score that is an ALERT; `calm` (A,): the one that most healthy windows stay below;
    `judged` (n, A): the sample was compared with its baseline; `armed` (A,): the baseline is complete;
    `interval_ms` (A,): the usual time between samples.
    """
    counts = judged & armed
    state = updated(state, residual=leaps.residual[-1], leap=leaps.height[-1])
    hours, state = _observed(state, readings, interval_ms)
    score = _held(state.score, score, counts)
    alert = np.minimum(np.maximum(alert, ALERT_LEVEL), _HIGHEST_ALERT)
    high = score >= np.minimum(np.maximum(calm, CLEAR_LEVEL), ALERT_LEVEL)
    alerted, alarm, state = _latched(layout, state, score, high, alert, counts, hours, interval_ms)
    raised = alerted | alarm
    since_ms, state = _since(state, readings.t_ms, high | raised, counts)
    limit_alert, limit_alarm, state = _limits(layout, state, readings, leaps.suspect)
    doubted, state = _persisting(state, leaps.suspect, counts.shape)
    level = np.where(layout.has_limits & readings.on & ~armed, 1, 0)
    level = np.where(counts, np.where(alarm, 3, np.where(alerted | doubted, 2, 1)), level)
    over_limit = np.where(_any_column(limit_alarm) & readings.settled, 3, np.where(_any_column(limit_alert), 2, 0))
    verdict = Verdict(
        condition=np.maximum(level, over_limit).astype(np.int8),
        since_ms=since_ms,
        score=score,
        limit_exceeded=limit_alert | limit_alarm,
        evident=counts & high & (raised | (over_limit > 0)),
    )
    return verdict, state


def _any_column(holds: Bools) -> Bools:
    """(n, A) of (n, A, k), quickly where it holds nowhere."""
    return np.asarray(holds.any(axis=2)) if holds.any() else np.zeros(holds.shape[:2], dtype=np.bool_)


def _observed(state: ConditionState, readings: Readings, interval_ms: Floats) -> tuple[Floats, ConditionState]:
    """Observed running hours at every sample: a gap counts as two usual intervals at most."""
    longest = np.where(interval_ms > 0, 2.0 * interval_ms, np.inf)
    step_hours = np.minimum(readings.step_ms, longest) / 3_600_000.0
    hours = state.observed_hours + np.cumsum(np.where(readings.on, step_hours, 0.0), axis=0)
    idle = np.where(readings.on, 0.0, step_hours).sum(axis=0)
    return hours, updated(state, observed_hours=hours[-1], idle_hours=state.idle_hours + idle)


_Column = TypeVar("_Column", bound=np.generic)


def _latest(initial: NDArray[_Column], values: NDArray[_Column], at: Bools) -> NDArray[_Column]:
    """The value at the last step so far where `at` (n, A) holds; `initial` (A,) before."""
    step = np.arange(len(at))[:, None]
    index = np.maximum.accumulate(np.where(at, step, -1), axis=0)
    taken = np.take_along_axis(values, np.maximum(index, 0), axis=0)
    return np.where(index >= 0, taken, initial)


def _held(initial: Floats, score: Floats, counts: Bools) -> Floats:
    return score if counts.all() else _latest(initial, score, counts)


def _latched(
    layout: Layout,
    state: ConditionState,
    score: Floats,
    high: Bools,
    alert_level: Floats,
    counts: Bools,
    hours: Floats,
    interval_ms: Floats,
) -> tuple[Bools, Bools, ConditionState]:
    if not (high.any() or state.alert.any() or state.alarm.any()) and counts.all():
        calm = np.repeat(hours[-1][:, None], 2, axis=1)
        return high, high, updated(state, calm_hours=calm, score=score[-1])
    window_hours = _ROUNDED * layout.window * interval_ms / 3_600_000.0
    raised = _latest(state.raised_hours, hours, counts & high)
    clear = hours - raised >= _CLEAR_WINDOWS * window_hours
    calm, latches = state.calm_hours.copy(), []
    levels = (alert_level, np.ones_like(alert_level))
    for i, (level, latch) in enumerate(zip(levels, (state.alert, state.alarm), strict=True)):
        last_calm = _latest(state.calm_hours[:, i], hours, counts & (score < level))
        raises = counts & (score >= level) & (hours - last_calm >= _RAISE_WINDOWS * window_hours)
        latches.append(_latest(latch, raises, raises | clear))
        calm[:, i] = last_calm[-1]
    alert, alarm = latches
    after = updated(state, raised_hours=raised[-1], calm_hours=calm, alert=alert[-1], alarm=alarm[-1])
    return alert, alarm, updated(after, score=score[-1])


def _since(state: ConditionState, t_ms: Ints, lasts: Bools, counts: Bools) -> tuple[Ints, ConditionState]:
    """A condition that is held, although the score has come down, is held by evidence that began when it began."""
    if not lasts.any():
        none = np.full(lasts.shape, -1, dtype=np.int64)
        return none, updated(state, since_ms=none[-1])
    before = np.concatenate([state.since_ms[None] >= 0, lasts[:-1]])
    since = _latest(state.since_ms, np.where(lasts, t_ms, np.int64(-1)), (lasts & ~before & counts) | ~lasts)
    return since, updated(state, since_ms=since[-1])


def _limits(
    layout: Layout, state: ConditionState, readings: Readings, suspect: Bools | None
) -> tuple[Bools, Bools, ConditionState]:
    """(n, A, S) where a signal was beyond its limits for some samples running: one spike is no alarm."""
    if not layout.has_limits:
        none = np.zeros(readings.values.shape, dtype=np.bool_)
        return none, none, state
    credible = readings.good
    if suspect is not None:
        credible = credible.copy()
        credible[:, :, layout.condition_at] &= ~suspect
    unbelieved = _unbelieved(state, readings, credible)
    active = credible & readings.on[:, :, None] & ~unbelieved
    values = readings.values
    beyond_alert = (values >= layout.limit_alert) | (values <= layout.limit_alert_low)
    beyond_alarm = (values >= layout.limit_alarm) | (values <= layout.limit_alarm_low)
    over_alert = _running_length(state.over_alert, active & beyond_alert)
    over_alarm = _running_length(state.over_alarm, active & beyond_alarm)
    after = updated(state, over_alert=over_alert[-1], over_alarm=over_alarm[-1], unbelieved=unbelieved[-1])
    return over_alert >= LIMIT_SAMPLES, over_alarm >= LIMIT_SAMPLES, after


def _unbelieved(state: ConditionState, readings: Readings, credible: Bools) -> Bools:
    """(n, A, S) since the last settled sample the sensor has told nothing credible; a missing reading tells nothing."""
    impossible = np.isin(readings.quality, (Quality.SENTINEL, Quality.OUT_OF_RANGE, Quality.STUCK))
    decides = readings.settled[:, :, None] & (impossible | credible)
    if not (state.unbelieved.any() or (decides & impossible).any()):
        return np.zeros(credible.shape, dtype=np.bool_)
    step = np.arange(len(credible))[:, None, None]
    last = np.maximum.accumulate(np.where(decides, step, -1), axis=0)
    found = np.take_along_axis(impossible, np.maximum(last, 0), axis=0)
    return np.where(last >= 0, found, state.unbelieved)


def _persisting(state: ConditionState, suspect: Bools | None, shape: tuple[int, ...]) -> tuple[Bools, ConditionState]:
    holds = np.zeros(shape, dtype=np.bool_) if suspect is None else np.asarray(suspect.any(axis=2))
    length = _running_length(state.suspect_samples, holds)
    return length >= LIMIT_SAMPLES, updated(state, suspect_samples=length[-1])


def _running_length(initial: Ints, holds: Bools) -> Ints:
    """For how many steps running `holds` (n, A, ...) is true, after `initial` (A, ...) of them."""
    if not holds.any():
        return np.zeros(holds.shape, dtype=np.int64)
    step = np.arange(len(holds)).reshape(-1, *(1,) * initial.ndim)
    last = np.maximum.accumulate(np.where(holds, -1, step), axis=0)
    return np.where(last < 0, initial + step + 1, step - last)
