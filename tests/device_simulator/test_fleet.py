from collections.abc import Callable

import numpy as np
import pytest

from forewarn_device_simulator.duty import HOUR_MS
from forewarn_device_simulator.fleet import Recording, instants, simulate, units_of
from forewarn_device_simulator.machines import MACHINES
from forewarn_device_simulator.scenario import Scenario, parse_scenario
from forewarn_device_simulator.sensors import measure
from forewarn_device_simulator.wear import Repair


def recorded(scenario: Scenario, **options: object) -> Recording:
    return simulate(scenario, units_of(scenario), instants(scenario, scenario.start_ms), **options)  # type: ignore[arg-type]


def test_a_growing_fleet_leaves_those_already_in_it_alone(pumps: Callable[..., str]) -> None:
    small, large = recorded(parse_scenario(pumps(2))), recorded(parse_scenario(pumps(5)))
    for name in small.signals:
        np.testing.assert_array_equal(small.signals[name], large.signals[name][:, :2])


def test_a_longer_recording_begins_with_the_shorter_one(pumps: Callable[..., str]) -> None:
    short = recorded(parse_scenario(pumps().replace("days = 40", "days = 10")))
    long = recorded(parse_scenario(pumps()))
    for name in short.signals:
        np.testing.assert_array_equal(short.signals[name], long.signals[name][: len(short.t_ms)])


def test_units_differ_and_another_seed_is_another_fleet(pumps: Callable[..., str]) -> None:
    scenario = parse_scenario(pumps())
    first = recorded(scenario)
    assert len({life.failures[0].failed_at_ms for life in first.lives}) == 3
    other = simulate(scenario, units_of(scenario, 99), instants(scenario, scenario.start_ms))
    assert not np.array_equal(first.signals["flow_m3_h"], other.signals["flow_m3_h"])


def test_what_was_measured_before_a_repair_does_not_change(pumps: Callable[..., str]) -> None:
    scenario = parse_scenario(pumps())
    at_ms = scenario.start_ms + 200 * HOUR_MS
    before = recorded(scenario)
    after = recorded(scenario, repairs={"pump-002": [Repair(at_ms=at_ms, hours=5.0)]})
    until = int(np.searchsorted(before.t_ms, at_ms))
    for name in before.signals:
        np.testing.assert_array_equal(before.signals[name][:until], after.signals[name][:until])
        np.testing.assert_array_equal(before.signals[name][:, 0], after.signals[name][:, 0])
    assert (after.signals["speed_rpm"][until : until + 15, 1] == 0).all()


def test_a_failed_machine_stands_still(pumps: Callable[..., str]) -> None:
    recording = recorded(parse_scenario(pumps()))
    for column, life in enumerate(recording.lives):
        failed = int(np.searchsorted(recording.t_ms, life.failures[0].failed_at_ms))
        assert recording.signals["speed_rpm"][failed - 1, column] > 0
        assert (recording.signals["speed_rpm"][failed:, column] == 0).all()
        assert (recording.signals["flow_m3_h"][failed:, column] == 0).all()


def test_duty_has_days_weeks_starts_and_stops(mixed: str) -> None:
    scenario = parse_scenario(mixed)
    units = [unit for unit in units_of(scenario) if unit.group.asset_type == "motor_fan"]
    t_ms = instants(scenario, scenario.start_ms)
    running = simulate(scenario, units, t_ms).signals["speed_rpm"][:, 0] > 0
    hour, weekday = t_ms % 86_400_000 / HOUR_MS, (t_ms // 86_400_000 + 3) % 7
    working = (weekday < 6) & (hour >= 8) & (hour < 20)
    assert running[working].mean() > 0.9
    assert not running[weekday == 6].any()
    assert not running[hour < 6].any()


def test_noise_is_as_large_as_the_sensor_says() -> None:
    machine = MACHINES["centrifugal_pump"]
    t_ms = 600_000 * np.arange(20_000, dtype=np.int64)
    true = {name: np.full((20_000, 1), 100.0) for name in machine.asset_type.signal_names}
    read = measure(machine, true, ["pump-001"], 1, t_ms)
    for name, sensor in machine.sensors.items():
        assert np.std(read[name]) == pytest.approx(np.hypot(sensor.noise, 100 * sensor.relative_noise), rel=0.1)
    assert (measure(machine, {name: 0 * v for name, v in true.items()}, ["pump-001"], 1, t_ms)["flow_m3_h"] == 0).all()


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("stuck", 0.0, lambda said, _: len(np.unique(said)) == 1),
        ("missing", 0.0, lambda said, _: np.isnan(said).all()),
        ("constant", -127.0, lambda said, _: (said == -127.0).all()),
        ("offset", 30.0, lambda said, true: np.allclose(said, true + 30.0)),
        ("fahrenheit", 0.0, lambda said, true: np.allclose(said, true * 1.8 + 32.0)),
    ],
)
def test_a_lying_sensor_lies_alone_and_for_its_time(
    pumps: Callable[..., str],
    kind: str,
    value: float,
    says: Callable[[np.ndarray, np.ndarray], bool],
) -> None:
    fault = f"[[sensor_fault]]\nasset='pump-002'\nsignal='bearing_temperature_c'\nkind='{kind}'\nvalue={value}\n"
    honest = recorded(parse_scenario(pumps()))
    lying = recorded(parse_scenario(pumps() + fault + "from_day = 3\nto_day = 5\n"))
    during = slice(3 * 72, 5 * 72)
    name = "bearing_temperature_c"
    assert says(lying.signals[name][during, 1], honest.signals[name][during, 1])
    lying.signals[name][during, 1] = honest.signals[name][during, 1]
    for signal in honest.signals:
        np.testing.assert_array_equal(honest.signals[signal], lying.signals[signal])
