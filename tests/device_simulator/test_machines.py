"""The machines obey the laws they are built on, and every fault shows as its asset type says."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import numpy as np
import pytest

from forewarn_device_simulator.duty import Array, Duty
from forewarn_device_simulator.machines import MACHINES
from forewarn_device_simulator.machines.machine import Columns, Machine
from forewarn_device_simulator.sensors import noise_deviation

MODES = [(name, mode) for name, machine in MACHINES.items() for mode in machine.life_hours]


def steady(
    machine: Machine, severity: Mapping[str, float] = MappingProxyType({}), *, demand: float = 0.85, wanted: bool = True
) -> Columns:
    """All signals of a median unit in a settled state; each array (1, 1)."""

    def cell(value: float) -> Array:
        return np.full((1, 1), value)

    asked = Duty(wanted=np.full((1, 1), wanted), demand=cell(demand), resistance=cell(0.5), ambient_c=cell(20.0))
    traits = {name: np.array([trait.median]) for name, trait in machine.traits.items()}
    severities = {mode: cell(severity.get(mode, 0.0)) for mode in machine.life_hours}
    regime = machine.operate(asked, traits)
    return {**regime, **machine.respond(regime, severities, traits, 10.0)}


def value(columns: Columns, name: str) -> float:
    return float(columns[name][0, 0])


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_emits_exactly_the_signals_of_its_asset_type(name: str) -> None:
    machine = MACHINES[name]
    assert set(steady(machine)) == set(machine.asset_type.signal_names) == set(machine.sensors)
    assert set(machine.life_hours) == {mode.code for mode in machine.asset_type.failure_modes}


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("demand", [0.5, 0.85, 1.05])
def test_a_healthy_machine_stays_within_ranges_and_limits(name: str, demand: float) -> None:
    machine = MACHINES[name]
    shown = steady(machine, demand=demand)
    for signal in machine.asset_type.signals:
        reading = value(shown, signal.name)
        assert signal.valid_min is None or reading >= signal.valid_min
        assert signal.valid_max is None or reading <= signal.valid_max
        assert signal.limit_alert is None or reading < signal.limit_alert, signal.name


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_standing_still_moves_nothing(name: str) -> None:
    machine = MACHINES[name]
    shown = steady(machine, wanted=False)
    running = machine.asset_type.running
    assert running is not None
    assert value(shown, running.signal) == 0.0
    assert all(value(machine.stress(shown), mode) == 0.0 for mode in machine.life_hours)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_fault_shows_as_its_asset_type_says(name: str, mode: str) -> None:
    """The deviations, in standard deviations of noise, point where the symptoms of the failure mode point."""
    machine = MACHINES[name]
    healthy, failing = steady(machine), steady(machine, {mode: 0.6})
    condition = [signal.name for signal in machine.asset_type.signals if signal.role == "condition"]
    deviation = np.array(
        [
            (value(failing, s) - value(healthy, s)) / float(noise_deviation(machine.sensors[s], healthy[s])[0, 0])
            for s in condition
        ]
    )
    cosines = {
        known.code: float(
            deviation
            @ (weights := np.array([known.symptoms.get(s, 0.0) for s in condition]))
            / np.linalg.norm(deviation)
            / np.linalg.norm(weights)
        )
        for known in machine.asset_type.failure_modes
    }
    assert max(cosines, key=lambda code: cosines[code]) == mode
    assert cosines[mode] > 0.85


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_fault_grows_steadily_stronger(name: str, mode: str) -> None:
    machine = MACHINES[name]
    known = machine.asset_type.failure_mode(mode)
    assert known is not None
    strongest = max(known.symptoms, key=lambda s: abs(known.symptoms[s]))
    readings = [value(steady(machine, {mode: float(s)}), strongest) for s in np.linspace(0, 1, 11)]
    steps = np.diff(readings) * np.sign(known.symptoms[strongest])
    assert (steps > 0).all()


def test_the_pump_follows_the_affinity_laws_where_there_is_no_static_head() -> None:
    machine = MACHINES["centrifugal_pump"]
    traits = {name: np.array([trait.median]) for name, trait in machine.traits.items()} | {
        "static_head_m": np.array([0.0])
    }
    none = {mode: np.zeros((2, 1)) for mode in machine.life_hours}
    regime = {
        "speed_rpm": np.array([[740.0], [1480.0]]),
        "valve_position_pct": np.full((2, 1), 80.0),
        "ambient_temperature_c": np.full((2, 1), 20.0),
    }
    shown = machine.respond(regime, none, traits, 10.0)
    flow, pressure = shown["flow_m3_h"][:, 0], shown["discharge_pressure_bar"][:, 0] - 0.3
    assert flow[1] / flow[0] == pytest.approx(2.0)
    assert pressure[1] / pressure[0] == pytest.approx(4.0)


def test_the_two_stages_of_the_compressor_share_the_work() -> None:
    """With a well-chosen displacement ratio and cooling, the pressure ratios of the stages are about equal."""
    shown = steady(MACHINES["air_compressor"])
    between, line = value(shown, "interstage_pressure_bar") + 1.013, value(shown, "line_pressure_bar") + 1.013
    assert between / 1.013 == pytest.approx(line / between, rel=0.12)


def test_the_vibration_of_an_unbalanced_fan_grows_with_the_square_of_speed() -> None:
    machine = MACHINES["motor_fan"]

    def added(demand: float) -> float:
        worn, sound = steady(machine, {"imbalance": 1.0}, demand=demand), steady(machine, demand=demand)
        return value(worn, "vibration_rms_mm_s") - value(sound, "vibration_rms_mm_s")

    assert added(0.9) / added(0.6) == pytest.approx((0.9 / 0.6) ** 2)


def test_kurtosis_rises_with_a_young_spall_and_falls_with_an_old_one() -> None:
    machine = MACHINES["motor_fan"]
    kurtosis = [value(steady(machine, {"bearing_spall": s}), "acceleration_kurtosis") for s in (0.0, 0.4, 1.0)]
    assert kurtosis[0] < kurtosis[2] < kurtosis[1]
    envelope = [value(steady(machine, {"bearing_spall": s}), "acceleration_envelope_g") for s in (0.0, 0.4, 1.0)]
    assert envelope == sorted(envelope)


def test_a_bearing_warms_slowly() -> None:
    """After a cold start the bearing has gone about 63 % of the way in one thermal time constant of 45 minutes."""
    machine = MACHINES["centrifugal_pump"]
    minutes = np.arange(0, 600, 5)
    wanted = (minutes >= 5)[:, None]
    still = np.zeros((len(minutes), 1))
    asked = Duty(wanted=wanted, demand=still + 0.85, resistance=still + 0.5, ambient_c=still + 20.0)
    traits = {name: np.array([trait.median]) for name, trait in machine.traits.items()}
    regime = machine.operate(asked, traits)
    shown = machine.respond(regime, dict.fromkeys(machine.life_hours, still), traits, 5.0)
    bearing = cast("list[float]", shown["bearing_temperature_c"][:, 0].tolist())
    risen = (bearing[9] - bearing[0]) / (bearing[-1] - bearing[0])
    assert risen == pytest.approx(1 - np.exp(-1), abs=0.01)
