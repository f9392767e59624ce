"""The history of a fleet: a pure function of scenario, seed and repairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from forewarn_device_simulator.duty import DAY_MS, HOUR_MS, Array, Duty, duty
from forewarn_device_simulator.machines import MACHINES
from forewarn_device_simulator.machines.machine import Columns, Machine, Traits, draw_traits
from forewarn_device_simulator.randomness import generator
from forewarn_device_simulator.scenario import Scenario, asset_names
from forewarn_device_simulator.sensors import lie, measure, noise_deviation
from forewarn_device_simulator.wear import Life, Repair, Unit, life_hours_of, live_through

RATE_SPREAD = 0.2
"""Standard deviation of the logarithm of the daily variation in the rate of wear."""
DETECTABLE_DEVIATIONS = 2.0
"""A symptom stands out when it is this many standard deviations of the sensor's noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """What the sensors of some units of one type said, and what was really the matter."""

    units: tuple[Unit, ...]
    t_ms: NDArray[np.int64]
    signals: dict[str, Array]
    """Signal -> (n, units), in the order of the asset type; NaN where missing."""
    lives: tuple[Life, ...]
    """One per unit; may reach further than the recording."""


def units_of(scenario: Scenario, seed: int | None = None) -> tuple[Unit, ...]:
    chosen = scenario.seed if seed is None else seed
    return tuple(
        Unit(asset=asset, group=group, seed=chosen) for group in scenario.fleet for asset in asset_names(group)
    )


def instants(scenario: Scenario, start_ms: int, ahead_days: float = 0.0) -> NDArray[np.int64]:
    """The times of all samples of the scenario, and of `ahead_days` more."""
    n = scenario.samples + int(ahead_days * DAY_MS // scenario.interval_ms)
    return start_ms + np.arange(n, dtype=np.int64) * scenario.interval_ms


def simulate(
    scenario: Scenario,
    units: Sequence[Unit],
    t_ms: NDArray[np.int64],
    *,
    ahead: int = 0,
    repairs: Mapping[str, Sequence[Repair]] | None = None,
    repair_delay_hours: tuple[float, float] | None = None,
) -> Recording:
    """The history of some units, all of one type, at the instants `t_ms`.

    Args:
        ahead: for how many of the last instants only the lives are computed and no signals.
        repairs: asset -> repairs ordered from outside.
        repair_delay_hours: as in `live_through`.
    """
    machine = MACHINES[units[0].group.asset_type]
    traits = _traits(machine, units)
    asked = duty([unit.group.duty for unit in units], [unit.asset for unit in units], units[0].seed, t_ms)
    exposures = _exposures(machine, units, machine.stress(machine.operate(asked, traits)), t_ms)
    noticed = detectable_severities(machine)
    lives = tuple(
        live_through(unit, exposure, t_ms, noticed, (repairs or {}).get(unit.asset, ()), repair_delay_hours)
        for unit, exposure in zip(units, exposures, strict=True)
    )
    recorded = len(t_ms) - ahead
    signals = _signals(machine, units, traits, asked, lives, t_ms[:recorded])
    for fault in scenario.sensor_fault:
        for column, unit in enumerate(units):
            if unit.asset == fault.asset:
                lie(signals, column, fault, t_ms[:recorded], int(t_ms[0]))
    return Recording(units=tuple(units), t_ms=t_ms[:recorded], signals=signals, lives=lives)


@cache
def _detectable_severity(name: str, mode: str) -> float:
    """The least severity, on a grid of 1/1000, at which a symptom stands out in a median unit at rated load."""
    machine = MACHINES[name]
    grid = np.linspace(0.0, 1.0, 1001)[None, :]
    traits = {trait: np.full(grid.shape[1], value.median) for trait, value in machine.traits.items()}
    settled = np.full(grid.shape, 0.5)
    rated = Duty(wanted=settled > 0, demand=settled + 0.35, resistance=settled, ambient_c=settled + 19.5)
    severity = {code: grid if code == mode else np.zeros_like(grid) for code in machine.life_hours}
    shown = machine.respond(machine.operate(rated, traits), severity, traits, 10.0)
    deviations = [
        np.abs(values - values[:, :1]) / noise_deviation(machine.sensors[signal], values[:, :1])
        for signal, values in shown.items()
    ]
    stands_out = np.max(deviations, axis=0)[0] >= DETECTABLE_DEVIATIONS
    return float(grid[0, int(np.argmax(stands_out))]) if stands_out.any() else 1.0


def detectable_severities(machine: Machine) -> dict[str, float]:
    """Failure mode -> the severity from which a symptom stands out from the sensors' noise."""
    return {mode: _detectable_severity(machine.name, mode) for mode in machine.life_hours}


def _traits(machine: Machine, units: Sequence[Unit]) -> Traits:
    drawn = [draw_traits(machine, generator(unit.seed, unit.asset, "traits")) for unit in units]
    return {name: np.array([traits[name] for traits in drawn]) for name in machine.traits}


def _exposures(
    machine: Machine, units: Sequence[Unit], stress: Columns, t_ms: NDArray[np.int64]
) -> list[dict[str, Array]]:
    """Per unit: failure mode -> exposure in hours (n + 1,), of the modes that occur in its group."""
    interval_hours = float(t_ms[1] - t_ms[0]) / HOUR_MS if len(t_ms) > 1 else 1.0
    day = (t_ms - t_ms[0]) // DAY_MS
    return [
        {
            mode: np.concatenate([[0.0], np.cumsum(stress[mode][:, u] * _daily_rate(unit, mode, day) * interval_hours)])
            for mode in machine.life_hours
            if mode in life_hours_of(unit.group)
        }
        for u, unit in enumerate(units)
    ]


def _daily_rate(unit: Unit, mode: str, day: NDArray[np.int64]) -> Array:
    """What no sensor sees of the load (solids, lubrication, dirt) makes wear faster on some days; mean 1."""
    z = generator(unit.seed, unit.asset, "rate", mode).standard_normal(int(day[-1]) + 1)
    return np.asarray(np.exp(RATE_SPREAD * z - RATE_SPREAD**2 / 2)[day])


def _signals(
    machine: Machine,
    units: Sequence[Unit],
    traits: Traits,
    asked: Duty,
    lives: Sequence[Life],
    t_ms: NDArray[np.int64],
) -> dict[str, Array]:
    n = len(t_ms)
    down = np.stack([life.down[:n] for life in lives], axis=1)
    still = np.zeros(n)
    severity = {
        mode: np.stack([life.severity.get(mode, still)[:n] for life in lives], axis=1) for mode in machine.life_hours
    }
    served = Duty(
        wanted=asked.wanted[:n] & ~down,
        demand=asked.demand[:n],
        resistance=asked.resistance[:n],
        ambient_c=asked.ambient_c[:n],
    )
    regime = machine.operate(served, traits)
    interval_minutes = float(t_ms[1] - t_ms[0]) / 60_000 if n > 1 else 60.0
    true = {**regime, **machine.respond(regime, severity, traits, interval_minutes)}
    return measure(machine, true, [unit.asset for unit in units], units[0].seed, t_ms)
