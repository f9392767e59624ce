"""State detection, the verdict: from a score that goes up and down to a condition one can act on.

Raise levels, a lower clear level and dwell times, all in observed running time, keep the condition from flapping. At
the same score a slow fault leaves more time than a quick one, so its ALARM waits, within bounds; what a fleet model
knows of the time left decides instead, where there is one. Limits that hold for every machine of the type speak from
the first sample on, though no louder than ALERT while the machine warms up. One signal that leaps while the others stay
is a suspect sensor (a changed unit, a loose mount): worth an ALERT, no evidence of a fault. A sensor that told the
impossible on a machine at work is not believed about limits either, until it has told something credible there again:
on its way to the impossible (a temperature in another unit, at every start) it would pass the limit.
"""

from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from forewarn_models.assessment import Condition, Quality
from forewarn_models.layout import Bools, Floats, Ints, Layout, put, updated
from forewarn_models.readings import Readings

ALERT_LEVEL: Final = 0.75
_HIGHEST_ALERT: Final = 0.95
CLEAR_LEVEL: Final = 0.7
"""Of the anomaly score; the ALARM level is 1. A condition is cleared below it, or below what is calm for the asset."""
_HALF: Final = 0.5
"""Of the ALARM level: where a fault begins to be followed."""
_DOUBLE: Final = 2.0
"""Twice the ALARM level is an ALARM, whatever speaks for waiting."""
_SLOW_POWER: Final = 0.75
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
_LATCHES: Final = ("calm_hours", "raised_hours", "alert", "alarm", "since_ms")
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
    """(A, 3) when the score was last below the ALERT level, the ALARM level and half of it."""
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
    limit_exceeded: Bools | None
    """(n, A, S); None if the type has no limits."""
    evident: Bools
    """There is evidence of a fault."""


def new_condition_state(layout: Layout, assets: int) -> ConditionState:
    none, never = np.zeros(assets), np.full(assets, -1, dtype=np.int64)
    no, over = np.zeros(assets, dtype=np.bool_), np.zeros((assets, len(layout.limit_alert)), dtype=np.int64)
    per_signal = np.zeros((assets, len(layout.condition)))
    return ConditionState(
        observed_hours=none,
        idle_hours=none,
        calm_hours=np.zeros((assets, 3)),
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


# --- what readings say by themselves --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Signs:
    """Of one segment; (n, A) unless stated."""

    step_hours: Floats
    """Time observed with the sample: a gap counts as two usual intervals at most ..."""
    running: Bools
    """... running or standing."""
    residual: Floats
    """(n, A, C) the last usable one up to the sample."""
    leap: Floats
    """(n, A, C) height of the leap of a suspect signal, 0 for the others."""
    suspect: Bools | None
    """(n, A, C) the reading comes from a sensor that leapt; None if none does."""
    suspect_samples: Ints | None
    """How many samples running a signal was suspect; None for 0."""
    limits: "Limits | None"
    """None if the type has none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """(n, A, S) samples running beyond each limit, and whether the sensor is not believed about them."""

    over_alert: Ints
    over_alarm: Ints
    unbelieved: Bools
    settled: Bools
    """(n, A) the machine has run long enough for an ALARM."""


def signs(
    layout: Layout,
    state: ConditionState,
    readings: Readings,
    *,
    residual: Floats,
    unknown: Bools | None,
    deviation: Floats,
    spread: Floats,
    armed: Bools,
    interval_ms: Floats,
) -> Signs:
    """What readings say by themselves, and which of their sensors leapt.

    `residual` (n, A, C), 0 where `unknown` (None: nowhere); `deviation` and `spread` (A, C): standard deviation of the
    residual and of the reading itself over all regimes; `armed` (n, A): the sample is judged; `interval_ms` (A,): the
    usual time between samples.
    """
    last, leap, suspect = _leaps(state, residual, unknown, deviation, spread, armed)
    suspect_samples = None
    if suspect is not None or state.suspect_samples.any():
        holds = np.zeros(armed.shape, dtype=np.bool_) if suspect is None else np.asarray(suspect.any(axis=2))
        suspect_samples = _running_length(state.suspect_samples, holds)
    longest_ms = np.where(interval_ms > 0, 2.0 * interval_ms, np.inf)
    return Signs(
        step_hours=np.minimum(readings.step_ms, longest_ms) / 3_600_000.0,
        running=readings.on,
        residual=last,
        leap=leap,
        suspect=suspect,
        suspect_samples=suspect_samples,
        limits=_limits(layout, state, readings, suspect) if layout.has_limits else None,
    )


def _leaps(
    state: ConditionState, residual: Floats, unknown: Bools | None, deviation: Floats, spread: Floats, armed: Bools
) -> tuple[Floats, Floats, Bools | None]:
    """(n, A, C) each: the last usable residual up to the sample, the height of a leap, and `Signs.suspect`."""
    last = residual if unknown is None else _last_usable(state.residual, residual, ~unknown)
    before = np.concatenate([state.residual[None], last[:-1]])
    moved = residual - before
    np.abs(moved, out=moved)
    noise = np.where(deviation > 0, deviation, np.inf)
    far = moved > np.maximum(_LEAP_DEVIATIONS * noise, _LEAP_SPREADS * spread)
    if not (far.any() or state.leap.any()):
        return last, np.broadcast_to(state.leap, residual.shape), None
    usable = np.ones(residual.shape, dtype=np.bool_) if unknown is None else ~unknown
    leapt = usable & far & (np.abs(before) < _CALM_DEVIATIONS * noise) & armed[:, :, None]
    relative = np.where(usable, moved / noise, 0.0)
    leapt &= relative > _DOMINANCE * np.sort(relative, axis=2)[:, :, -2:-1].max(axis=2, keepdims=True, initial=0.0)
    leap, now = np.empty_like(residual), state.leap
    for i in range(len(residual)):
        now = leap[i] = _leap_after(now, residual[i], usable[i], leapt[i])
    suspect = (leap != 0) & usable
    return last, leap, suspect if suspect.any() else None


def _last_usable(initial: Floats, residual: Floats, usable: Bools) -> Floats:
    """(n, A, C) the residual, or the last usable one before."""
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


def _limits(layout: Layout, state: ConditionState, readings: Readings, suspect: Bools | None) -> Limits:
    """For how long signals were beyond their limits: one spike is no alarm."""
    credible = readings.good
    if suspect is not None:
        credible = credible.copy()
        credible[:, :, layout.condition_at] &= ~suspect
    unbelieved = _unbelieved(state, readings, credible)
    active = credible & readings.on[:, :, None] & ~unbelieved
    values = readings.values
    beyond_alert = (values >= layout.limit_alert) | (values <= layout.limit_alert_low)
    beyond_alarm = (values >= layout.limit_alarm) | (values <= layout.limit_alarm_low)
    return Limits(
        over_alert=_running_length(state.over_alert, active & beyond_alert),
        over_alarm=_running_length(state.over_alarm, active & beyond_alarm),
        unbelieved=unbelieved,
        settled=readings.settled,
    )


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


def _running_length(initial: Ints, holds: Bools) -> Ints:
    """For how many steps running `holds` (n, A, ...) is true, after `initial` (A, ...) of them."""
    if not holds.any():
        return np.zeros(holds.shape, dtype=np.int64)
    step = np.arange(len(holds)).reshape(-1, *(1,) * initial.ndim)
    last = np.maximum.accumulate(np.where(holds, -1, step), axis=0)
    return np.where(last < 0, initial + step + 1, step - last)


# --- the verdict ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Pace:
    """How fast things go with a machine, so that an ALARM means the same for slow and quick faults."""

    baseline_samples: int
    """A fault that takes longer than these from half the ALARM level to the whole is slow."""
    left_hours: Floats | None = None
    """(n, A) the remaining life a fleet model expects; None without one."""
    usual_hours: float = 0.0
    """The remaining life with which machines of this type usually reach the ALARM level."""


def judge(
    layout: Layout,
    state: ConditionState,
    signs: Signs,
    *,
    t_ms: Ints,
    score: Floats,
    alert: Floats,
    calm: Floats,
    judged: Bools,
    armed: Bools,
    interval_ms: Floats,
    pace: Pace,
) -> tuple[Verdict, ConditionState]:
    """The condition at every sample.

    `score` (n, A); `alert` (A,): the score that is an ALERT; `calm` (A,): the one that most healthy windows stay below;
    `judged` (n, A): the sample was compared with its baseline; `armed` (A,): the baseline is complete;
    `interval_ms` (A,): the usual time between samples.
    """
    counts = judged & armed
    hours, state = _observed(state, signs)
    score = score if counts.all() else _latest(state.score, score, counts)
    high = score >= np.minimum(np.maximum(calm, CLEAR_LEVEL), ALERT_LEVEL)
    alert = np.minimum(np.maximum(alert, ALERT_LEVEL), _HIGHEST_ALERT)
    alerted, alarm, since_ms, state = _latched(
        layout, state, t_ms, score, high, alert, counts, hours, interval_ms, pace
    )
    raised, level, beyond = alerted | alarm, counts.astype(np.int8), None
    if signs.suspect_samples is not None:
        level[counts & (signs.suspect_samples >= LIMIT_SAMPLES)] = Condition.ALERT
    if raised.any():
        level[counts & alerted] = Condition.ALERT
        level[counts & alarm] = Condition.ALARM
    if signs.limits is not None:
        over_limit, beyond = _over_limit(signs.limits)
        level = np.maximum(np.where(signs.running & ~armed, np.int8(Condition.NORMAL), level), over_limit)
        raised = raised | (over_limit > 0)
    verdict = Verdict(
        condition=level, since_ms=since_ms, score=score, limit_exceeded=beyond, evident=counts & high & raised
    )
    return verdict, _after_signs(state, signs)


def _over_limit(limits: Limits) -> tuple[NDArray[np.int8], Bools]:
    """(n, A) the condition that a limit demands, 0 for none; and (n, A, S) where one is exceeded."""
    alert, alarm = limits.over_alert >= LIMIT_SAMPLES, limits.over_alarm >= LIMIT_SAMPLES
    over = np.zeros(limits.settled.shape, dtype=np.int8)
    if alert.any() or alarm.any():
        over[alert.any(axis=2)] = Condition.ALERT
        over[alarm.any(axis=2) & limits.settled] = Condition.ALARM
    return over, alert | alarm


def _after_signs(state: ConditionState, signs: Signs) -> ConditionState:
    limits, suspect = signs.limits, signs.suspect_samples
    state = updated(state, residual=signs.residual[-1], leap=signs.leap[-1])
    if suspect is not None:
        state = updated(state, suspect_samples=suspect[-1])
    if limits is None:
        return state
    return updated(
        state,
        over_alert=limits.over_alert[-1],
        over_alarm=limits.over_alarm[-1],
        unbelieved=limits.unbelieved[-1],
    )


def _observed(state: ConditionState, signs: Signs) -> tuple[Floats, ConditionState]:
    """Observed running hours at every sample."""
    if signs.running.all():
        hours = np.cumsum(signs.step_hours, axis=0)
    else:
        hours = np.cumsum(np.where(signs.running, signs.step_hours, 0.0), axis=0)
        idle = np.where(signs.running, 0.0, signs.step_hours).sum(axis=0)
        state = updated(state, idle_hours=state.idle_hours + idle)
    hours += state.observed_hours
    return hours, updated(state, observed_hours=hours[-1])


_Column = TypeVar("_Column", bound=np.generic)


def _latest(initial: NDArray[_Column], values: NDArray[_Column], at: Bools) -> NDArray[_Column]:
    """The value at the last step so far where `at` (n, A) holds; `initial` (A,) before."""
    step = np.arange(len(at))[:, None]
    index = np.maximum.accumulate(np.where(at, step, -1), axis=0)
    taken = np.take_along_axis(values, np.maximum(index, 0), axis=0)
    return np.where(index >= 0, taken, initial)


def _last(initial: Floats, values: Floats, at: Bools) -> Floats:
    """(A,) the value at the last step where `at` (n, A) holds; `initial` (A,) where it never does."""
    last = len(at) - 1 - at[::-1].argmax(axis=0)
    return np.where(at.any(axis=0), values[last, np.arange(len(last))], initial)


def _latched(
    layout: Layout,
    state: ConditionState,
    t_ms: Ints,
    score: Floats,
    high: Bools,
    alert: Floats,
    counts: Bools,
    hours: Floats,
    interval_ms: Floats,
    pace: Pace,
) -> tuple[Bools, Bools, Ints, ConditionState]:
    """(n, A) where an ALERT and an ALARM stand, and since when there is evidence; and the state after.

    Of a machine that is quiet all along there is little to work out.
    """
    alerted, since_ms = np.zeros(score.shape, dtype=np.bool_), np.full(score.shape, -1, dtype=np.int64)
    calm_hours, low = np.repeat(hours[-1][:, None], 3, axis=1), score < _HALF
    if not low.all():
        calm_hours[:, 2] = _last(state.calm_hours[:, 2], hours, low)
    after = updated(state, score=score[-1], calm_hours=calm_hours, since_ms=since_ms[-1].copy())
    some = np.flatnonzero(high.any(axis=0) | state.alert | state.alarm | ~counts.all(axis=0))
    if not len(some):
        return alerted, alerted, since_ms, after
    mine = updated(state, **{name: getattr(state, name)[some] for name in _LATCHES})
    score, high, counts, hours = score[:, some], high[:, some], counts[:, some], hours[:, some]
    interval_hours = _ROUNDED * interval_ms[some] / 3_600_000.0
    alarmed = alerted.copy()
    alerted[:, some], alarmed[:, some], mine = _levels(
        layout,
        mine,
        score,
        high,
        alert[some],
        counts,
        hours,
        interval_hours,
        pace if pace.left_hours is None else replace(pace, left_hours=pace.left_hours[:, some]),
    )
    since_ms[:, some], mine = _since(mine, t_ms[:, some], high | alerted[:, some] | alarmed[:, some], counts)
    changed = {name: put(getattr(after, name), some, getattr(mine, name)) for name in _LATCHES}
    return alerted, alarmed, since_ms, updated(after, **changed)


def _levels(
    layout: Layout,
    state: ConditionState,
    score: Floats,
    high: Bools,
    alert: Floats,
    counts: Bools,
    hours: Floats,
    interval_hours: Floats,
    pace: Pace,
) -> tuple[Bools, Bools, ConditionState]:
    """(n, A) where an ALERT, from a score of `alert` (A,) on, and an ALARM stand."""
    levels = (alert, np.ones_like(alert), np.full_like(alert, _HALF))
    below = [_latest(state.calm_hours[:, i], hours, counts & (score < level)) for i, level in enumerate(levels)]
    above_alert, above_alarm, followed = (hours - last for last in below)
    dwell = _RAISE_WINDOWS * layout.window * interval_hours
    raises_alert = counts & (score >= alert) & (above_alert >= dwell)
    raises_alarm = counts & (score >= 1.0) & (above_alarm >= dwell)
    if pace.left_hours is not None:
        due = pace.left_hours <= pace.usual_hours
        raises_alarm &= (score >= _DOUBLE) | (above_alarm >= _ROUNDED * pace.usual_hours)
        raises_alarm |= raises_alert & due
    elif raises_alarm.any():
        raises_alarm &= _ripe(score, followed, above_alarm, pace.baseline_samples * interval_hours)
    raised = _latest(state.raised_hours, hours, counts & high)
    clear = hours - raised >= _CLEAR_WINDOWS * layout.window * interval_hours
    alerted = _latest(state.alert, raises_alert, raises_alert | clear)
    alarm = _latest(state.alarm, raises_alarm, raises_alarm | clear)
    calm_hours = np.stack([last[-1] for last in below], axis=1)
    after = updated(state, raised_hours=raised[-1], calm_hours=calm_hours, alert=alerted[-1], alarm=alarm[-1])
    return alerted, alarm, after


def _ripe(score: Floats, followed: Floats, above_alarm: Floats, baseline_hours: Floats) -> Bools:
    """(n, A) an ALARM need not wait any longer: the score is as far beyond its level as the fault was slow to reach it,
    or twice as high, or has been beyond it for a baseline.

    `followed` and `above_alarm` (n, A): hours since the score was last below half the level, and below it.
    """
    slowness = followed / np.maximum(baseline_hours, 1e-9)
    ripe: Bools = (score >= np.minimum(slowness**_SLOW_POWER, _DOUBLE)) | (above_alarm >= baseline_hours)
    return ripe


def _since(state: ConditionState, t_ms: Ints, lasts: Bools, counts: Bools) -> tuple[Ints, ConditionState]:
    """A condition that is held, although the score has come down, is held by evidence that began when it began."""
    before = np.concatenate([state.since_ms[None] >= 0, lasts[:-1]])
    since = _latest(state.since_ms, np.where(lasts, t_ms, np.int64(-1)), (lasts & ~before & counts) | ~lasts)
    return since, updated(state, since_ms=since[-1])
