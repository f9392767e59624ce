"""A centrifugal pump on a variable-speed drive, pumping against static head and a throttling valve.

Sources: affinity laws and curves, Karassik et al., Pump Handbook, ch. 2 (head ~ n^2, flow ~ n, power ~ n^3; head falls
with the square of flow; system head = static head + k Q^2). Valve: equal-percentage characteristic, IEC 60534-2-4.
Bearing life: ISO 281 (revolutions ~ 1/load^3; the load is part weight,
part hydraulic thrust ~ speed^2). Impeller erosion ~ velocity^2.5 (Finnie 1960). Seal faces: Archard, wear
~ pressure x sliding speed; leakage through a gap ~ sqrt(pressure).
"""

from typing import Final

import numpy as np

from forewarn_device_simulator.duty import Array, Duty, lag, lag_share
from forewarn_device_simulator.machines.machine import Columns, Machine, Sensor, Trait, Traits

GRAVITY_M_S2: Final = 9.81
WATER_KG_M3: Final = 998.0
BAR_PA: Final = 1e5
SUCTION_BAR: Final = 0.3
RATED_RPM: Final = 1480.0
LEAST_SPEED: Final = 0.70
"""Slowest running speed as a share of the rated one: below it the pump does not overcome the static head."""
VALVE_RANGEABILITY: Final = 30.0
BEST_FLOW_M3_H: Final = 180.0
THERMAL_TAU_MINUTES: Final = 45.0
HEAD_LOST: Final = 0.20
"""Head lost to a worn-out impeller, as a share: it acts like one turned down to a smaller diameter."""


def operate(duty: Duty, traits: Traits) -> Columns:
    speed = np.clip(duty.demand * traits["sizing"], LEAST_SPEED, 1.0) * duty.wanted
    valve = np.where(duty.wanted, 88.0 - 28.0 * duty.resistance, 0.0)
    return {
        "speed_rpm": RATED_RPM * speed,
        "valve_position_pct": valve,
        "ambient_temperature_c": duty.ambient_c,
    }


def stress(regime: Columns) -> Columns:
    speed = regime["speed_rpm"] / RATED_RPM
    relative = speed / 0.85
    return {
        "impeller_wear": relative**2.5,
        "bearing_wear": relative * (0.7 + 0.3 * relative**2) ** 3,
        "seal_leak": relative**2 * relative,
    }


def respond(regime: Columns, severity: Columns, traits: Traits, interval_minutes: float) -> Columns:
    speed = regime["speed_rpm"] / RATED_RPM
    flow, head = _operating_point(speed, regime["valve_position_pct"], severity["impeller_wear"], traits)
    power_kw = _motor_power_kw(flow, head, speed, severity["impeller_wear"], traits)
    pressure_bar = np.where(speed > 0, SUCTION_BAR + WATER_KG_M3 * GRAVITY_M_S2 * head / BAR_PA, SUCTION_BAR)
    return {
        "flow_m3_h": flow,
        "discharge_pressure_bar": pressure_bar,
        "motor_power_kw": power_kw,
        "vibration_rms_mm_s": _vibration_mm_s(flow, speed, severity["bearing_wear"], traits),
        "bearing_temperature_c": _bearing_c(regime, speed, severity["bearing_wear"], traits, interval_minutes),
        "seal_leakage_ml_h": _leakage_ml_h(pressure_bar, speed, severity["seal_leak"], traits),
    }


def _operating_point(speed: Array, valve_pct: Array, wear: Array, traits: Traits) -> tuple[Array, Array]:
    """Flow in m3/h and head in m where the pump's curve meets the system's."""
    shut_off_m = traits["shut_off_head_m"] * speed**2 * (1 - HEAD_LOST * wear)
    pump_slope = 0.32 * traits["shut_off_head_m"] / BEST_FLOW_M3_H**2
    opening = VALVE_RANGEABILITY ** (valve_pct / 100 - 1)
    system_slope = traits["system_head_m"] / BEST_FLOW_M3_H**2 * (0.4 + 0.1 / opening**2)
    flow = np.sqrt(np.maximum(shut_off_m - traits["static_head_m"], 0.0) / (pump_slope + system_slope))
    return flow, np.maximum(shut_off_m - pump_slope * flow**2, 0.0)


def _motor_power_kw(flow: Array, head: Array, speed: Array, wear: Array, traits: Traits) -> Array:
    relative_flow = flow / (BEST_FLOW_M3_H * np.maximum(speed, 0.1))
    efficiency = traits["efficiency"] * (1 - 0.55 * (relative_flow - 1) ** 2) * (1 - 0.15 * wear)
    hydraulic_kw = WATER_KG_M3 * GRAVITY_M_S2 * flow / 3600 * head / 1000
    return hydraulic_kw / np.maximum(efficiency, 0.2) / 0.93 + 0.9 * speed**3


def _vibration_mm_s(flow: Array, speed: Array, wear: Array, traits: Traits) -> Array:
    """Unbalance grows with speed squared and flow off the best point shakes; a worn bearing adds its own."""
    off_best = flow / (BEST_FLOW_M3_H * np.maximum(speed, 0.1)) - 1
    healthy = traits["vibration_mm_s"] * speed**2 * (1 + 0.8 * off_best**2)
    return np.where(speed > 0, healthy + 6.0 * wear * speed, 0.05)


def _bearing_c(regime: Columns, speed: Array, wear: Array, traits: Traits, interval_minutes: float) -> Array:
    """Friction heat ~ speed^1.6 warms the housing above ambient over its thermal time constant."""
    rise_k = traits["bearing_rise_k"] * speed**1.6 * (1 + 1.1 * wear)
    return lag(regime["ambient_temperature_c"] + rise_k, lag_share(THERMAL_TAU_MINUTES, interval_minutes))


def _leakage_ml_h(pressure_bar: Array, speed: Array, wear: Array, traits: Traits) -> Array:
    gap = traits["seal_leakage_ml_h"] + 420.0 * wear
    return np.where(speed > 0, gap * np.sqrt(np.maximum(pressure_bar, 0.0) / 4.0), 0.0)


PUMP: Final = Machine(
    name="centrifugal_pump",
    traits={
        "sizing": Trait(median=1.05, spread=0.02),
        "shut_off_head_m": Trait(median=58.0, spread=0.03),
        "static_head_m": Trait(median=12.0, spread=0.06),
        "system_head_m": Trait(median=26.0, spread=0.05),
        "efficiency": Trait(median=0.78, spread=0.015),
        "vibration_mm_s": Trait(median=2.2, spread=0.12),
        "bearing_rise_k": Trait(median=34.0, spread=0.08),
        "seal_leakage_ml_h": Trait(median=14.0, spread=0.2),
    },
    life_hours={"impeller_wear": 14_000.0, "bearing_wear": 11_000.0, "seal_leak": 9_000.0},
    sensors={
        "speed_rpm": Sensor(resolution=1.0, noise=1.5),
        "valve_position_pct": Sensor(resolution=0.1, noise=0.2),
        "ambient_temperature_c": Sensor(resolution=0.1, noise=0.2),
        "flow_m3_h": Sensor(resolution=0.1, relative_noise=0.008),
        "discharge_pressure_bar": Sensor(resolution=0.01, noise=0.02, relative_noise=0.003),
        "motor_power_kw": Sensor(resolution=0.01, relative_noise=0.018),
        "vibration_rms_mm_s": Sensor(resolution=0.01, noise=0.01, relative_noise=0.05),
        "bearing_temperature_c": Sensor(resolution=0.1, noise=0.4),
        "seal_leakage_ml_h": Sensor(resolution=0.1, noise=0.3, relative_noise=0.12),
    },
    operate=operate,
    stress=stress,
    respond=respond,
)
