"""A motor-driven fan on rolling bearings, blowing through a damper.

Sources: fan laws, Bleier, Fan Handbook, ch. 5 (flow ~ n, pressure ~ n^2, power ~ n^3). Unbalance force = eccentricity
x omega^2 (ISO 21940-11); with the support stiff, vibration velocity follows it. Spall: impulses raise the envelope of
the acceleration with the size of the damage, while kurtosis rises with the first sharp impulses and falls again when
they overlap late in the damage (Dyer and Stewart 1978; Randall and Antoni 2011). Motor current: active and
magnetising part of an induction motor in quadrature. Bearing life: ISO 281.
"""

from typing import Final

import numpy as np

from forewarn_device_simulator.duty import Array, Duty, lag, lag_share
from forewarn_device_simulator.machines.machine import Columns, Machine, Sensor, Trait, Traits

RATED_RPM: Final = 1485.0
RATED_FLOW_M3_S: Final = 12.0
VOLTAGE_V: Final = 400.0
THERMAL_TAU_MINUTES: Final = 50.0
KURTOSIS_PEAK_AT: Final = 0.4
"""Severity of a spall at which the kurtosis is highest."""


def operate(duty: Duty, traits: Traits) -> Columns:
    speed = np.clip(duty.demand * traits["sizing"], 0.45, 1.0) * duty.wanted
    return {
        "speed_rpm": RATED_RPM * speed,
        "damper_position_pct": np.where(duty.wanted, 90.0 - 35.0 * duty.resistance, 0.0),
        "ambient_temperature_c": duty.ambient_c,
    }


def stress(regime: Columns) -> Columns:
    speed = regime["speed_rpm"] / RATED_RPM
    return {
        "bearing_spall": speed / 0.82 * (0.7 + 0.3 * (speed / 0.82) ** 2) ** 3,
        "imbalance": speed / 0.82,
    }


def respond(regime: Columns, severity: Columns, traits: Traits, interval_minutes: float) -> Columns:
    speed = regime["speed_rpm"] / RATED_RPM
    spall, unbalance = severity["bearing_spall"], severity["imbalance"]
    flow_m3_s, pressure_pa = _operating_point(speed, regime["damper_position_pct"], traits)
    heat_k = traits["bearing_rise_k"] * speed**1.4 * (1 + 0.7 * spall)
    return {
        "vibration_rms_mm_s": _vibration_mm_s(speed, spall, unbalance, traits),
        "acceleration_envelope_g": np.where(speed > 0, traits["envelope_g"] * speed**1.5 * (1 + 9.0 * spall), 0.01),
        "acceleration_kurtosis": np.where(speed > 0, _kurtosis(spall), 3.0),
        "bearing_temperature_c": lag(
            regime["ambient_temperature_c"] + heat_k, lag_share(THERMAL_TAU_MINUTES, interval_minutes)
        ),
        "motor_current_a": _current_a(flow_m3_s, pressure_pa, speed, traits),
        "static_pressure_pa": pressure_pa,
    }


def _operating_point(speed: Array, damper_pct: Array, traits: Traits) -> tuple[Array, Array]:
    """Flow in m3/s and pressure in Pa where the fan's curve meets the ducts': no static head, so both scale cleanly."""
    fan_slope = 0.35 * traits["shut_off_pa"] / RATED_FLOW_M3_S**2
    duct_slope = traits["duct_pa"] / RATED_FLOW_M3_S**2 / np.maximum(damper_pct / 80, 0.2) ** 2
    flow = speed * np.sqrt(traits["shut_off_pa"] / (fan_slope + duct_slope))
    return flow, duct_slope * flow**2


def _vibration_mm_s(speed: Array, spall: Array, unbalance: Array, traits: Traits) -> Array:
    healthy = traits["vibration_mm_s"] * (0.25 + 0.75 * speed**2)
    return np.where(speed > 0, healthy + 7.5 * unbalance * speed**2 + 2.2 * spall * speed, 0.05)


def _kurtosis(spall: Array) -> Array:
    x = spall / KURTOSIS_PEAK_AT
    return np.asarray(3.1 + 8.0 * (x * np.exp(1 - x)) ** 1.5)


def _current_a(flow_m3_s: Array, pressure_pa: Array, speed: Array, traits: Traits) -> Array:
    shaft_kw = flow_m3_s * pressure_pa / 1000 / traits["efficiency"] + 0.6 * speed**3
    active_a = shaft_kw * 1000 / 0.92 / (np.sqrt(3) * VOLTAGE_V)
    magnetising_a = traits["magnetising_a"] * speed
    return np.asarray(np.hypot(active_a, magnetising_a))


FAN: Final = Machine(
    name="motor_fan",
    traits={
        "sizing": Trait(median=1.02, spread=0.02),
        "shut_off_pa": Trait(median=2600.0, spread=0.03),
        "duct_pa": Trait(median=1700.0, spread=0.05),
        "efficiency": Trait(median=0.74, spread=0.015),
        "magnetising_a": Trait(median=16.0, spread=0.04),
        "vibration_mm_s": Trait(median=1.9, spread=0.15),
        "envelope_g": Trait(median=0.55, spread=0.12),
        "bearing_rise_k": Trait(median=30.0, spread=0.08),
    },
    life_hours={"bearing_spall": 12_000.0, "imbalance": 10_000.0},
    sensors={
        "speed_rpm": Sensor(resolution=1.0, noise=1.5),
        "damper_position_pct": Sensor(resolution=0.1, noise=0.3),
        "ambient_temperature_c": Sensor(resolution=0.1, noise=0.2),
        "vibration_rms_mm_s": Sensor(resolution=0.01, noise=0.01, relative_noise=0.05),
        "acceleration_envelope_g": Sensor(resolution=0.001, noise=0.005, relative_noise=0.08),
        "acceleration_kurtosis": Sensor(resolution=0.01, noise=0.12, relative_noise=0.03),
        "bearing_temperature_c": Sensor(resolution=0.1, noise=0.4),
        "motor_current_a": Sensor(resolution=0.01, noise=0.05, relative_noise=0.008),
        "static_pressure_pa": Sensor(resolution=1.0, noise=5.0, relative_noise=0.008),
    },
    operate=operate,
    stress=stress,
    respond=respond,
)
