"""A pump simple enough to be understood at a glance, for tests that must know what is true."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from forewarn_models.assessment import Block
from forewarn_models.asset_type import builtin_asset_type
from forewarn_models.kernel import Model, Settings

START_MS = 1_767_571_200_000
"""Monday 2026-01-05T00:00:00Z."""
STEP_MS = 600_000
DAY_STEPS = 144
BASELINE_SAMPLES = 400

Floats = NDArray[np.float64]

_SYMPTOMS = {
    "impeller_wear": {"discharge_pressure_bar": -0.8, "flow_m3_h": -9.0, "motor_power_kw": -1.2},
    "bearing_wear": {"vibration_rms_mm_s": 2.0, "bearing_temperature_c": 12.0},
    "seal_leak": {"seal_leakage_ml_h": 60.0},
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Grows from nothing on `from_day` to failure on `to_day`, faster and faster."""

    failure_mode: str
    from_day: float
    to_day: float

    def severity(self, day: Floats) -> Floats:
        return np.clip((day - self.from_day) / (self.to_day - self.from_day), 0.0, 1.0) ** 1.5


@dataclass(frozen=True, kw_only=True)
class Duty:
    """Speed follows the day; the pump stands still on the night from Saturday to Sunday, unless `never_stops`.

    From `slower_from_day` on it runs at a speed it was never seen at before.
    """

    never_stops: bool = False
    slower_from_day: float = float("inf")
    faults: dict[int, Fault] = field(default_factory=dict)


def pump_history(days: float, *, seed: int, assets: int = 1, duty: Duty | None = None) -> Block:
    """All signals of the built-in pump, every ten minutes. Temperatures lag by 40 minutes."""
    duty = duty or Duty()
    columns = [_pump(round(days * DAY_STEPS), np.random.default_rng([seed, a]), duty, a) for a in range(assets)]
    steps = np.arange(round(days * DAY_STEPS), dtype=np.int64)
    t_ms = np.repeat((START_MS + STEP_MS * steps)[:, None], assets, axis=1)
    return Block(t_ms=t_ms, values=np.stack(columns, axis=1))


def _pump(n: int, random: np.random.Generator, duty: Duty, asset: int) -> Floats:
    day = np.arange(n) / DAY_STEPS
    running = duty.never_stops | ~((day % 7 > 5.75) & (day % 7 < 6.25))
    usual = np.where(day < duty.slower_from_day, 1450, 1050)
    speed = np.where(running, usual + 60 * np.sin(2 * np.pi * day) + random.normal(0, 4, n), 0.0)
    valve = 60 + 10 * np.sin(2 * np.pi * day / 7) + random.normal(0, 1, n)
    ambient = 18 + 5 * np.sin(2 * np.pi * (day - 0.3)) + random.normal(0, 0.2, n)
    ratio = speed / 1450
    expected = {
        "flow_m3_h": 100 * ratio * valve / 60,
        "discharge_pressure_bar": 5 * ratio**2 - 0.01 * (valve - 60),
        "motor_power_kw": 20 * ratio**3 * (0.7 + 0.3 * valve / 60),
        "vibration_rms_mm_s": 1.4 * ratio**2,
        "bearing_temperature_c": _lagged(ambient + 30 * ratio**1.6),
        "seal_leakage_ml_h": 8.0 * ratio,
    }
    noise = {
        "flow_m3_h": 0.8,
        "discharge_pressure_bar": 0.03,
        "motor_power_kw": 0.2,
        "vibration_rms_mm_s": 0.08,
        "bearing_temperature_c": 0.4,
        "seal_leakage_ml_h": 0.7,
    }
    fault = duty.faults.get(asset)
    for name, column in expected.items():
        change = _SYMPTOMS[fault.failure_mode].get(name, 0.0) * fault.severity(day) if fault else 0.0
        expected[name] = np.maximum(column + change * running + random.normal(0, noise[name], n), 0.0)
    readings = {"speed_rpm": speed, "valve_position_pct": valve, "ambient_temperature_c": ambient, **expected}
    return np.stack([readings[name] for name in builtin_asset_type("centrifugal_pump").signal_names], axis=1)


def _lagged(target: Floats) -> Floats:
    lagged, now = np.empty_like(target), target[0]
    for i, goal in enumerate(target):
        now += 0.22 * (goal - now)
        lagged[i] = now
    return lagged


@pytest.fixture(scope="session")
def pump_model() -> Model:
    return Model(
        asset_type=builtin_asset_type("centrifugal_pump"), settings=Settings(baseline_samples=BASELINE_SAMPLES)
    )
