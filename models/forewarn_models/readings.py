"""Data manipulation (ISO 13374): which readings are measurements, and when the machine runs."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_models.assessment import Quality
from forewarn_models.layout import Bools, Floats, Ints, Layout, updated

_STUCK_AT_LEAST: Final = 6
_STUCK_LOG_CHANCE: Final = np.log(1e-6)
_STUCK_LONGEST_RUNS: Final = 3
_VARIED: Final = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadingState:
    """What has to be remembered of the readings; all (assets, ...)."""

    last_ms: Ints
    """(A,) time of the last sample, -1 before the first."""
    started_ms: Ints
    """(A,) since when the machine runs, -1 while it is off."""
    last_value: Floats
    run_length: Ints
    """(A, S) how many times running the last value was read, 0 for none."""
    repeats: Ints
    transitions: Ints
    longest_run: Ints
    """(A, S) how often a healthy signal reads the same twice, learned with the baseline ..."""
    finest: Floats
    """(A, S) ... and the smallest change between two readings; 0 before there was one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """Readings of one segment, checked; time first."""

    t_ms: Ints
    """(n, A)"""
    raw: Floats
    """(n, A, S) as they came."""
    values: Floats
    """(n, A, S), 0 where unusable."""
    quality: NDArray[np.int8]
    good: Bools
    """(n, A, S)"""
    on: Bools
    """(n, A) the machine runs and the sample is in time order."""
    settled: Bools
    """(n, A) it has run long enough to be compared with its baseline."""
    step_ms: Floats
    """(n, A) time since the sample before; 0 for the first."""
    latest_ms: Ints
    """(n, A) the latest time up to the sample."""
    started_ms: Ints
    """(n, A) since when the machine runs, -1 while it is off."""
    run_length: NDArray[np.integer]
    """(n, A, S) how many times running each value was read, 0 where unusable ..."""
    repeat: Bools
    """(n, A, S) ... and where it repeats the one before."""


def new_reading_state(assets: int, signals: int) -> ReadingState:
    counts = np.zeros((assets, signals), dtype=np.int64)
    nowhen = np.full(assets, -1, dtype=np.int64)
    return ReadingState(
        last_ms=nowhen,
        started_ms=nowhen,
        last_value=np.zeros((assets, signals)),
        run_length=counts,
        repeats=counts,
        transitions=counts,
        longest_run=counts,
        finest=np.zeros((assets, signals)),
    )


def read(
    layout: Layout, state: ReadingState, t_ms: Ints, values: Floats, *, learning: Bools, settling_ms: float
) -> Readings:
    """Judge every reading of a segment: `t_ms` (n, A), `values` (n, A, S), `learning` (A,)."""
    quality = _quality(layout, values)
    latest_ms = np.maximum.accumulate(np.concatenate([state.last_ms[None], t_ms]), axis=0)
    before_ms = latest_ms[:-1]
    running = _running(layout, values, quality)
    on = (t_ms > before_ms) & running
    good = quality == Quality.GOOD
    run_length, repeat = _runs(state, values, good if on.all() else good & on[:, :, None])
    if run_length.max() >= _STUCK_AT_LEAST:
        stuck = (run_length >= _stuck_from(state)) & ~learning[:, None]
        quality = np.where(stuck, np.int8(Quality.STUCK), quality)
        good = quality == Quality.GOOD
    started_ms, warm = _settled(layout, state, t_ms, running, settling_ms)
    return Readings(
        t_ms=t_ms,
        raw=values,
        values=values if good.all() else np.where(good, values, 0.0),
        quality=quality,
        good=good,
        on=on,
        settled=on & warm,
        step_ms=np.where(before_ms >= 0, np.maximum(t_ms - before_ms, 0), 0).astype(np.float64),
        latest_ms=latest_ms[1:],
        started_ms=started_ms,
        run_length=run_length,
        repeat=repeat,
    )


def remembered(state: ReadingState, readings: Readings, steps: slice, learning: Bools) -> ReadingState:
    """The state after some of the `steps` of a segment, consecutive ones from its beginning.

    While an asset is `learning` (A,), how often its signals repeat and how finely they are read is learned, too.
    """
    last = steps.stop - 1
    run_length = readings.run_length[last].astype(np.int64)
    after = updated(
        state,
        last_ms=readings.latest_ms[last],
        started_ms=readings.started_ms[last],
        last_value=np.where(run_length > 0, readings.raw[last], 0.0),
        run_length=run_length,
    )
    if not learning.any():
        return after
    learns, run_lengths = learning[:, None], readings.run_length[steps]
    longest = np.maximum(state.longest_run, run_lengths.max(axis=0))
    return updated(
        after,
        repeats=state.repeats + learns * readings.repeat[steps].sum(axis=0),
        transitions=state.transitions + learns * (run_lengths > 0).sum(axis=0),
        longest_run=np.where(learns, longest, state.longest_run),
        finest=np.where(learns, _finest(state, readings.raw[steps], run_lengths > 0), state.finest),
    )


def _finest(state: ReadingState, raw: Floats, usable: Bools) -> Floats:
    """(A, S) the smallest change between two readings so far, 0 without one."""
    usable = np.concatenate([(state.run_length > 0)[None], usable])
    change = np.abs(np.diff(np.where(usable, np.concatenate([state.last_value[None], raw]), 0.0), axis=0))
    smallest = np.where(usable[1:] & usable[:-1] & (change > 0), change, np.inf).min(axis=0)
    smallest = np.minimum(smallest, np.where(state.finest > 0, state.finest, np.inf))
    return np.where(np.isfinite(smallest), smallest, 0.0)


def _quality(layout: Layout, values: Floats) -> NDArray[np.int8]:
    quality = np.zeros(values.shape, dtype=np.int8)
    if not ((values.min(axis=0) >= layout.least).all() and (values.max(axis=0) <= layout.greatest).all()):
        quality[(values < layout.least) | (values > layout.greatest)] = Quality.OUT_OF_RANGE
        quality[~np.isfinite(values)] = Quality.MISSING
    for column, sentinel in layout.sentinels:
        quality[..., column][values[..., column] == sentinel] = Quality.SENTINEL
    return quality


def _running(layout: Layout, values: Floats, quality: NDArray[np.int8]) -> Bools:
    if layout.running_column < 0:
        return np.ones(values.shape[:2], dtype=np.bool_)
    column = layout.running_column
    above: Bools = values[:, :, column] > layout.running_above
    readable: Bools = quality[:, :, column] == Quality.GOOD
    return above & readable


def _runs(state: ReadingState, values: Floats, usable: Bools) -> tuple[NDArray[np.integer], Bools]:
    """How many times running each value was read, (n, A, S), 0 where unusable; and where it repeats the one before."""
    repeat = np.empty(values.shape, dtype=np.bool_)
    np.equal(values[0], state.last_value, out=repeat[0])
    repeat[0] &= state.run_length > 0
    np.equal(values[1:], values[:-1], out=repeat[1:])
    repeat[1:] &= usable[:-1]
    repeat &= usable
    if not repeat.any():
        return usable.view(np.int8), repeat
    step = np.arange(len(values))[:, None, None]
    began = np.maximum.accumulate(np.where(repeat, -1, step), axis=0)
    length = np.where(began >= 0, step - began + 1, state.run_length + step + 1)
    return np.where(usable, length, 0), repeat


def _stuck_from(state: ReadingState) -> Ints:
    """(A, S) run length from which a signal counts as stuck: one a healthy sensor shows once in a million samples.

    A signal that hardly ever changed while its baseline was learned (a constant, a setpoint) is never stuck.
    """
    chance = np.minimum((state.repeats + 1.0) / (state.transitions + 20.0), 0.999)
    by_chance: Ints = np.ceil(_STUCK_LOG_CHANCE / np.log(chance)).astype(np.int64)
    by_history: Ints = np.maximum(_STUCK_LONGEST_RUNS * state.longest_run, _STUCK_AT_LEAST)
    varied = state.transitions - state.repeats >= _VARIED
    longest: Ints = np.where(varied, np.maximum(by_chance, by_history), np.iinfo(np.int64).max)
    return longest


def _settled(layout: Layout, state: ReadingState, t_ms: Ints, running: Bools, settling_ms: float) -> tuple[Ints, Bools]:
    """(n, A) since when the machine runs, and where it has run for `settling_ms`."""
    if layout.running_column < 0:
        return np.broadcast_to(state.started_ms, t_ms.shape), running
    n = len(t_ms)
    step = np.arange(n)[:, None]
    last_off = np.maximum.accumulate(np.where(running, -1, step), axis=0)
    first_on = np.minimum(last_off + 1, n - 1)
    carried = np.where(state.started_ms >= 0, state.started_ms, t_ms[0])
    started = np.where(last_off < 0, carried, np.take_along_axis(t_ms, first_on, axis=0))
    settled: Bools = running & (t_ms - started >= settling_ms)
    return np.where(running, started, -1), settled
