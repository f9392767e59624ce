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
_GREATEST: Final = 1e38
"""No measurement is larger, and the squares of larger ones could not be added up."""


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
    """(A, S) how often a healthy signal reads the same twice, learned with the baseline."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Readings:
    """Readings of one segment, checked. n steps; asset-major."""

    t_ms: Ints
    """(A, n)"""
    values: Floats
    """(A, n, S), 0 where unusable."""
    quality: NDArray[np.int8]
    good: Bools
    """(A, n, S)"""
    on: Bools
    """(A, n) the machine runs and the sample is in time order."""
    settled: Bools
    """(A, n) it has run long enough to be compared with its baseline."""
    step_ms: Floats
    """(A, n) time since the sample before; 0 for the first."""


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
    )


def read(
    layout: Layout, state: ReadingState, t_ms: Ints, values: Floats, *, learning: Bools, settling_ms: float
) -> tuple[Readings, ReadingState]:
    """Judge every reading of a segment: `t_ms` (A, n), `values` (A, n, S), `learning` (A,)."""
    quality = _quality(layout, values)
    before_ms = np.concatenate([state.last_ms[:, None], t_ms[:, :-1]], axis=1)
    latest_ms = np.maximum.accumulate(before_ms, axis=1)
    running = _running(layout, values, quality)
    on = (t_ms > latest_ms) & running
    good = quality == Quality.GOOD
    run_length, repeat = _runs(state, values, good & on[:, :, None])
    if run_length.max() >= _STUCK_AT_LEAST:
        stuck = (run_length >= _stuck_from(state)[:, None, :]) & ~learning[:, None, None]
        quality = np.where(stuck, np.int8(Quality.STUCK), quality)
        good = quality == Quality.GOOD
    known = layout.running_column >= 0
    started_ms, warm = _settled(state, t_ms, running, settling_ms) if known else (state.started_ms, on)
    step_ms = np.where(latest_ms >= 0, np.maximum(t_ms - latest_ms, 0), 0).astype(np.float64)
    readings = Readings(
        t_ms=t_ms,
        values=values if good.all() else np.where(good, values, 0.0),
        quality=quality,
        good=good,
        on=on,
        settled=on & warm,
        step_ms=step_ms,
    )
    last_value = np.where(run_length[:, -1] > 0, values[:, -1], 0.0)
    return readings, _advanced(state, readings, learning, run_length, repeat, last_value, started_ms)


def _quality(layout: Layout, values: Floats) -> NDArray[np.int8]:
    quality = np.zeros(values.shape, dtype=np.int8)
    inside = values >= np.maximum(layout.valid_min, -_GREATEST)
    inside &= values <= np.minimum(layout.valid_max, _GREATEST)
    if not inside.all():
        quality[~inside] = Quality.OUT_OF_RANGE
        quality[~np.isfinite(values)] = Quality.MISSING
    for column, sentinel in layout.sentinels:
        quality[..., column][values[..., column] == sentinel] = Quality.SENTINEL
    return quality


def _running(layout: Layout, values: Floats, quality: NDArray[np.int8]) -> Bools:
    if layout.running_column < 0:
        return np.ones(values.shape[:2], dtype=np.bool_)
    column = layout.running_column
    with np.errstate(invalid="ignore"):
        above: Bools = values[:, :, column] > layout.running_above
    readable: Bools = quality[:, :, column] == Quality.GOOD
    return above & readable


def _runs(state: ReadingState, values: Floats, usable: Bools) -> tuple[Ints, Bools]:
    """How many times running each value was read, (A, n, S), 0 where unusable; and where it repeats the one before."""
    n = values.shape[1]
    before = np.concatenate([state.last_value[:, None], values[:, :-1]], axis=1)
    before_usable = np.concatenate([state.run_length[:, None] > 0, usable[:, :-1]], axis=1)
    repeat = usable & before_usable & (values == before)
    if not repeat.any():
        return usable.astype(np.int64), repeat
    step = np.arange(n)[None, :, None]
    began = np.maximum.accumulate(np.where(repeat, -1, step), axis=1)
    length = np.where(began >= 0, step - began + 1, state.run_length[:, None] + step + 1)
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


def _settled(state: ReadingState, t_ms: Ints, running: Bools, settling_ms: float) -> tuple[Ints, Bools]:
    """Since when the machine runs after the segment, (A,), and where it has run for `settling_ms`, (A, n)."""
    n = t_ms.shape[1]
    step = np.arange(n)
    last_off = np.maximum.accumulate(np.where(running, -1, step), axis=1)
    first_on = np.minimum(last_off + 1, n - 1)
    carried = np.where(state.started_ms >= 0, state.started_ms, t_ms[:, 0])[:, None]
    started = np.where(last_off < 0, carried, np.take_along_axis(t_ms, first_on, axis=1))
    started_ms = np.where(running[:, -1], started[:, -1], -1)
    settled: Bools = running & (t_ms - started >= settling_ms)
    return started_ms, settled


def _advanced(
    state: ReadingState,
    readings: Readings,
    learning: Bools,
    run_length: Ints,
    repeat: Bools,
    last_value: Floats,
    started_ms: Ints,
) -> ReadingState:
    after = updated(
        state,
        last_ms=np.maximum(state.last_ms, readings.t_ms.max(axis=1)),
        started_ms=started_ms,
        last_value=last_value,
        run_length=run_length[:, -1],
    )
    if not learning.any():
        return after
    learns = learning[:, None]
    longest = np.maximum(state.longest_run, run_length.max(axis=1))
    return updated(
        after,
        repeats=state.repeats + learns * repeat.sum(axis=1),
        transitions=state.transitions + learns * (run_length > 0).sum(axis=1),
        longest_run=np.where(learns, longest, state.longest_run),
    )
