"""A two-stage reciprocating air compressor with an intercooler, delivering into a line whose pressure the plant sets.

Sources: Bloch, A Practical Guide to Compressor Technology, ch. 3 (volumetric efficiency 1 - c (r^(1/k) - 1), staging,
continuity of mass between stages); compression work cp T ((r^((k-1)/k) - 1) / isentropic efficiency, any textbook of
thermodynamics; cooler effectiveness (T_in - T_out) / (T_in - T_coolant), Kays and London. A leaking second-stage
delivery valve lets hot gas back into the cylinder: the second stage takes less, so the pressure between the stages
rises, the discharge gets hotter and the relief valve between the stages blows off some of the air. Valve plates
fatigue with strokes and lift pressure; fouling grows with running time and faster when it is warm.
"""

from typing import Final

import numpy as np

from forewarn_device_simulator.duty import Array, Duty, lag, lag_share
from forewarn_device_simulator.machines.machine import Columns, Machine, Sensor, Trait, Traits

ATMOSPHERE_BAR: Final = 1.013
ZERO_C_K: Final = 273.15
RATIO_OF_HEATS: Final = 1.4
EXPONENT: Final = (RATIO_OF_HEATS - 1) / RATIO_OF_HEATS
CP_KJ_KG_K: Final = 1.005
GAS_KJ_KG_K: Final = 0.287
RATED_RPM: Final = 990.0
CLEARANCE: Final = 0.08
DISCHARGE_TAU_MINUTES: Final = 15.0
COOLER_TAU_MINUTES: Final = 8.0
LEAK_AT_FAILURE: Final = 0.20
"""Share of the second stage's displacement lost to a failed valve."""
HOT_GAS_RETURNED: Final = 1.2
"""Share of the cylinder's charge that is hot gas come back, per share of displacement lost."""
BLOWN_OFF: Final = 0.9
"""Share of the air lost between the stages, per share of displacement lost."""
EFFECTIVENESS_LOST: Final = 0.30
"""Share of its effectiveness a fouled intercooler has lost when it trips the machine."""


def operate(duty: Duty, traits: Traits) -> Columns:
    speed = np.clip(duty.demand * traits["sizing"], 0.6, 1.0) * duty.wanted
    return {
        "speed_rpm": RATED_RPM * speed,
        "line_pressure_bar": np.where(duty.wanted, traits["line_pressure_bar"] + 0.8 * (duty.resistance - 0.5), 0.0),
        "ambient_temperature_c": duty.ambient_c,
    }


def stress(regime: Columns) -> Columns:
    speed = regime["speed_rpm"] / RATED_RPM
    pressure = regime["line_pressure_bar"] / 7.0
    warmth = np.exp(0.01 * (regime["ambient_temperature_c"] - 20))
    return {
        "valve_leak": (speed / 0.85) ** 2 * pressure**1.5,
        "cooler_fouling": (speed / 0.85) * warmth,
    }


def respond(regime: Columns, severity: Columns, traits: Traits, interval_minutes: float) -> Columns:
    speed = regime["speed_rpm"] / RATED_RPM
    running = speed > 0
    inlet_k = regime["ambient_temperature_c"] + ZERO_C_K
    line_bar = regime["line_pressure_bar"] + ATMOSPHERE_BAR
    leak = LEAK_AT_FAILURE * severity["valve_leak"]
    inter_bar, cooled_k, rise_1_k = _between_stages(inlet_k, line_bar, leak, severity["cooler_fouling"], traits)
    ratio_2 = np.maximum(line_bar / inter_bar, 1.0)
    rise_2_k = _second_rise_k(cooled_k, (ratio_2**EXPONENT - 1) / traits["efficiency"], leak)
    passed_on = 1 - BLOWN_OFF * leak
    mass_kg_s = _mass_kg_s(speed, inlet_k, inter_bar, traits)
    power_kw = mass_kg_s * CP_KJ_KG_K * (rise_1_k + passed_on * rise_2_k) / 0.9 + 1.5 * speed
    delivered = mass_kg_s * passed_on * GAS_KJ_KG_K * inlet_k / (ATMOSPHERE_BAR * 100) * 60
    ambient = regime["ambient_temperature_c"]
    discharge = lag(
        np.where(running, cooled_k + rise_2_k - ZERO_C_K, ambient), lag_share(DISCHARGE_TAU_MINUTES, interval_minutes)
    )
    cooler = lag(np.where(running, cooled_k - ZERO_C_K, ambient), lag_share(COOLER_TAU_MINUTES, interval_minutes))
    return {
        "interstage_pressure_bar": np.where(running, inter_bar - ATMOSPHERE_BAR, 0.0),
        "air_flow_m3_min": delivered,
        "discharge_temperature_c": discharge,
        "cooler_outlet_temperature_c": cooler,
        "motor_power_kw": power_kw,
        "vibration_rms_mm_s": np.where(
            running, traits["vibration_mm_s"] * (0.4 + 0.6 * speed**2) * (1 + 0.8 * leak), 0.08
        ),
    }


def _between_stages(
    inlet_k: Array, line_bar: Array, leak: Array, fouling: Array, traits: Traits
) -> tuple[Array, Array, Array]:
    """Absolute pressure in bar, temperature behind the cooler in K and the first stage's temperature rise in K.

    What the first stage delivers the second must take: p2 follows from continuity. Both volumetric efficiencies depend
    on it weakly, so a few rounds of substitution settle it.
    """
    coolant_k = inlet_k + traits["coolant_above_ambient_k"]
    effectiveness = traits["effectiveness"] * (1 - EFFECTIVENESS_LOST * fouling)
    inter_bar = np.sqrt(ATMOSPHERE_BAR * np.maximum(line_bar, ATMOSPHERE_BAR))
    for _ in range(4):
        rise_1_k = inlet_k * ((inter_bar / ATMOSPHERE_BAR) ** EXPONENT - 1) / traits["efficiency"]
        hot_k = inlet_k + rise_1_k
        cooled_k = hot_k - effectiveness * (hot_k - coolant_k)
        first = _volumetric(inter_bar / ATMOSPHERE_BAR)
        second = _volumetric(np.maximum(line_bar / inter_bar, 1.0)) * (1 - leak)
        inter_bar = ATMOSPHERE_BAR * traits["displacement_ratio"] * (cooled_k / inlet_k) * first / second
    return inter_bar, cooled_k, rise_1_k


def _second_rise_k(cooled_k: Array, work_share: Array, leak: Array) -> Array:
    """Temperature rise of the second stage in K; hot gas that comes back warms what is compressed next.

    With a share x of discharge gas at T_d in the charge: T_s = T_c + x (T_d - T_c) and T_d = T_s (1 + work_share).
    """
    x = HOT_GAS_RETURNED * leak
    discharge_k = cooled_k * (1 - x) * (1 + work_share) / (1 - x * (1 + work_share))
    return discharge_k - cooled_k


def _volumetric(ratio: Array) -> Array:
    return 1 - CLEARANCE * (ratio ** (1 / RATIO_OF_HEATS) - 1)


def _mass_kg_s(speed: Array, inlet_k: Array, inter_bar: Array, traits: Traits) -> Array:
    density_kg_m3 = ATMOSPHERE_BAR * 100 / (GAS_KJ_KG_K * inlet_k)
    return traits["displacement_m3_min"] / 60 * speed * _volumetric(inter_bar / ATMOSPHERE_BAR) * density_kg_m3


COMPRESSOR: Final = Machine(
    name="air_compressor",
    traits={
        "sizing": Trait(median=1.05, spread=0.02),
        "line_pressure_bar": Trait(median=7.0, spread=0.03),
        "displacement_m3_min": Trait(median=12.0, spread=0.02),
        "displacement_ratio": Trait(median=2.75, spread=0.01),
        "efficiency": Trait(median=0.87, spread=0.012),
        "effectiveness": Trait(median=0.90, spread=0.015),
        "coolant_above_ambient_k": Trait(median=6.0, spread=0.1),
        "vibration_mm_s": Trait(median=3.4, spread=0.12),
    },
    life_hours={"valve_leak": 7_000.0, "cooler_fouling": 9_000.0},
    sensors={
        "speed_rpm": Sensor(resolution=1.0, noise=1.0),
        "line_pressure_bar": Sensor(resolution=0.01, noise=0.02),
        "ambient_temperature_c": Sensor(resolution=0.1, noise=0.2),
        "interstage_pressure_bar": Sensor(resolution=0.005, noise=0.012, relative_noise=0.004),
        "air_flow_m3_min": Sensor(resolution=0.01, relative_noise=0.012),
        "discharge_temperature_c": Sensor(resolution=0.1, noise=0.8),
        "cooler_outlet_temperature_c": Sensor(resolution=0.1, noise=0.4),
        "motor_power_kw": Sensor(resolution=0.01, relative_noise=0.01),
        "vibration_rms_mm_s": Sensor(resolution=0.01, noise=0.01, relative_noise=0.05),
    },
    operate=operate,
    stress=stress,
    respond=respond,
)
