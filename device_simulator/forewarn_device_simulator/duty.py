"""What is asked of a machine and where it stands: demand through day and week, starts and stops, ambient temperature.

All arrays have shape (n, units): n instants, one column per machine.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_device_simulator.randomness import generator
from forewarn_device_simulator.scenario import DutyKind

Array = NDArray[np.float64]

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
_MONDAY_MS: Final = 4 * DAY_MS
"""1970-01-05 was a Monday."""


@dataclass(frozen=True, kw_only=True)
class Shift:
    """When a machine is wanted: from one hour of the day to another, on the first `days` days of the week."""

    from_hour: float
    to_hour: float
    days: int


SHIFTS: Final[dict[DutyKind, Shift]] = {
    "continuous": Shift(from_hour=0, to_hour=24, days=7),
    "two_shift": Shift(from_hour=6, to_hour=22, days=6),
    "weekdays": Shift(from_hour=0, to_hour=24, days=5),
}
STOP_PROBABILITY: Final = 0.03
"""Chance that a machine is stopped once on a given day beside its shifts: cleaning, changeover, a trip elsewhere."""
STOP_HOURS: Final = (1.0, 5.0)
SHIFT_JITTER_HOURS: Final = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class Duty:
    """What is asked of the machines; each array (n, units)."""

    wanted: NDArray[np.bool_]
    """Whether the machine is wanted to run."""
    demand: Array
    """Share of the rated throughput asked for, about 0.5 to 1.0; meaningful while wanted."""
    resistance: Array
    """Where the process stands between its least (0) and greatest (1) resistance: valves, dampers, line pressure."""
    ambient_c: Array
    """Air temperature around the machine, degrees Celsius."""


def duty(kinds: list[DutyKind], assets: list[str], seed: int, t_ms: NDArray[np.int64]) -> Duty:
    """The duty of each of `assets` (of the kind given beside it) at the instants `t_ms` (n,), evenly spaced."""
    hours = t_ms / HOUR_MS
    interval_hours = float(hours[1] - hours[0]) if len(hours) > 1 else 1.0
    columns = [_unit_duty(kind, asset, seed, t_ms) for kind, asset in zip(kinds, assets, strict=True)]
    wanted, pattern, disturbance, process, weather, ambient = (
        np.stack(part, axis=1) for part in zip(*columns, strict=True)
    )
    swing = disturbance_of(disturbance, 4.0, interval_hours)
    return Duty(
        wanted=wanted.astype(np.bool_),
        demand=np.clip(pattern + 0.04 * swing, 0.45, 1.05),
        resistance=np.clip(0.5 + 0.18 * disturbance_of(process, 12.0, interval_hours), 0.0, 1.0),
        ambient_c=ambient + 2.0 * disturbance_of(weather, 48.0, interval_hours),
    )


def disturbance_of(white: Array, tau_hours: float, interval_hours: float) -> Array:
    """A first-order autoregressive process of unit variance and time constant `tau_hours` from unit white noise."""
    share = float(1.0 - np.exp(-interval_hours / tau_hours))
    scale = float(np.sqrt((2.0 - share) / share))
    return lag(white, share, start=white[0] / scale) * scale


def lag(target: Array, share: float, start: Array | None = None) -> Array:
    """First-order lag: each step goes the `share` of the way left to `target` (n, units), from `start` or settled."""
    settled = np.empty_like(target)
    state = (target[0] if start is None else start).copy()
    step = np.empty_like(state)
    for i in range(len(target)):
        np.subtract(target[i], state, out=step)
        step *= share
        state += step
        settled[i] = state
    return settled


def lag_share(tau_minutes: float, interval_minutes: float) -> float:
    """The share of the way a first-order system of time constant `tau_minutes` goes in one interval."""
    return float(1.0 - np.exp(-interval_minutes / tau_minutes))


def _unit_duty(kind: DutyKind, asset: str, seed: int, t_ms: NDArray[np.int64]) -> tuple[Array, ...]:
    """Columns (n,) of one unit: wanted, daily and weekly demand, three times white noise, seasonal ambient."""
    n = len(t_ms)
    character = generator(seed, asset, "duty").random(6)
    wanted = _wanted(SHIFTS[kind], generator(seed, asset, "stops"), t_ms)
    noise = [generator(seed, asset, what).standard_normal(n) for what in ("demand", "process", "weather")]
    return (wanted, _demand_pattern(character, t_ms), *noise, _ambient(character, t_ms))


def _hour_of_day(t_ms: NDArray[np.int64]) -> Array:
    return np.asarray(t_ms % DAY_MS, dtype=np.float64) / HOUR_MS


def _wanted(shift: Shift, random: np.random.Generator, t_ms: NDArray[np.int64]) -> Array:
    day = (t_ms - t_ms[0] // DAY_MS * DAY_MS) // DAY_MS
    hour = _hour_of_day(t_ms)
    weekday = (t_ms - _MONDAY_MS) // DAY_MS % 7
    draws = random.random((int(day[-1]) + 1, 4))[day]
    early, late = (draws[:, i] * SHIFT_JITTER_HOURS for i in (0, 1))
    in_shift = (hour >= shift.from_hour + (shift.from_hour > 0) * early) & (
        hour < shift.to_hour - (shift.to_hour < 24) * late
    )
    stop_from = draws[:, 3] * (24 - STOP_HOURS[1])
    stop_hours = STOP_HOURS[0] + (STOP_HOURS[1] - STOP_HOURS[0]) * draws[:, 1]
    stopped = (draws[:, 2] < STOP_PROBABILITY) & (hour >= stop_from) & (hour < stop_from + stop_hours)
    return np.asarray(in_shift & (weekday < shift.days) & ~stopped, dtype=np.float64)


def _demand_pattern(character: Array, t_ms: NDArray[np.int64]) -> Array:
    """Highest in the afternoon, lower at night and at the weekend; each unit with its own level and swing."""
    hour = _hour_of_day(t_ms)
    weekend = (t_ms - _MONDAY_MS) // DAY_MS % 7 >= 5
    level = 0.76 + 0.1 * character[0]
    swing = 0.05 + 0.07 * character[1]
    return np.asarray(level + swing * np.cos(2 * np.pi * (hour - 13 - 4 * character[2]) / 24) - 0.06 * weekend)


def _ambient(character: Array, t_ms: NDArray[np.int64]) -> Array:
    """Season (coldest in mid-January, northern hemisphere) and time of day (warmest at 15:00) in a heated hall."""
    year = (t_ms / DAY_MS / 365.2425) % 1.0
    hour = _hour_of_day(t_ms)
    season = -8.0 * np.cos(2 * np.pi * (year - 0.04))
    day = (2.0 + 2.0 * character[3]) * np.cos(2 * np.pi * (hour - 15) / 24)
    return np.asarray(19.0 + 4.0 * character[4] + season + day)
