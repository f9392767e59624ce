"""From what a machine does to what its sensors say: noise, resolution, and sensors that lie."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_device_simulator.duty import DAY_MS, HOUR_MS, Array, disturbance_of
from forewarn_device_simulator.machines.machine import Columns, Machine, Sensor
from forewarn_device_simulator.randomness import generator
from forewarn_device_simulator.scenario import SensorFault, SensorFaultKind
from forewarn_models.asset_type import AssetType

WHITE_SHARE: Final = 0.85
SLOW_SHARE: Final = float(np.sqrt(1 - WHITE_SHARE**2))
SLOW_TAU_HOURS: Final = 6.0
"""Real residuals are correlated: part of the noise wanders with this time constant."""


def noise_deviation(sensor: Sensor, reading: Array) -> Array:
    """Standard deviation of a sensor's noise at a reading, in the signal's unit."""
    return np.hypot(sensor.noise, sensor.relative_noise * np.abs(reading))


def measure(
    machine: Machine, true: Columns, assets: Sequence[str], seed: int, t_ms: NDArray[np.int64]
) -> dict[str, Array]:
    """What healthy sensors say of the true values, (n, units) per signal, in the order of the asset type."""
    asset_type = machine.asset_type
    names = asset_type.signal_names
    n = len(t_ms)
    interval_hours = float(t_ms[1] - t_ms[0]) / HOUR_MS if n > 1 else 1.0
    shape = (n, len(assets) * len(names))
    white = _draw(assets, "white noise", seed, (n, len(names)))
    slow = disturbance_of(
        _draw(assets, "slow noise", seed, (n, len(names))).reshape(shape), SLOW_TAU_HOURS, interval_hours
    )
    noise = WHITE_SHARE * white + SLOW_SHARE * slow.reshape(white.shape)
    return {name: _read(asset_type, machine, name, true[name], noise[:, :, k]) for k, name in enumerate(names)}


def lie(readings: dict[str, Array], column: int, fault: SensorFault, t_ms: NDArray[np.int64], start_ms: int) -> None:
    """Replace, in place, what one sensor says while it is faulty."""
    day = (t_ms - start_ms) / DAY_MS
    during = (day >= fault.from_day) & (day < fault.to_day)
    if not during.any():
        return
    said = readings[fault.signal][:, column]
    readings[fault.signal][during, column] = _LIES[fault.kind](said[during], fault.value)


_LIES: Final[dict[SensorFaultKind, Callable[[Array, float], Array]]] = {
    "stuck": lambda said, _: np.full_like(said, said[0]),
    "missing": lambda said, _: np.full_like(said, np.nan),
    "constant": lambda said, value: np.full_like(said, value),
    "offset": lambda said, value: said + value,
    "fahrenheit": lambda said, _: np.round(said * 1.8 + 32.0, 2),
}


def _draw(assets: Sequence[str], what: str, seed: int, shape: tuple[int, int]) -> Array:
    """Unit white noise (n, units, signals); a unit's numbers do not depend on the other units."""
    return np.stack([generator(seed, asset, what).standard_normal(shape) for asset in assets], axis=1)


def _read(asset_type: AssetType, machine: Machine, name: str, true: Array, noise: Array) -> Array:
    """A value of exactly 0 (standing still) is read without noise; nothing is read below the least possible value."""
    sensor = machine.sensors[name]
    signal = asset_type.signals[asset_type.signal_names.index(name)]
    reading = true + np.where(true == 0.0, 0.0, noise_deviation(sensor, true) * noise)
    if signal.valid_min is not None:
        np.maximum(reading, signal.valid_min, out=reading)
    steps = 1.0 / sensor.resolution
    np.multiply(reading, steps, out=reading)
    np.round(reading, out=reading)
    return np.divide(reading, steps, out=reading)
