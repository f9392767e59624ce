from collections.abc import Callable
from pathlib import Path

import pytest

from forewarn_device_simulator.scenario import ScenarioError, load_scenario, parse_scenario, shipped_names


@pytest.mark.parametrize("name", shipped_names())
def test_what_ships_can_be_used(name: str) -> None:
    assert load_scenario(name).name == name


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("dayz = 3\n", "dayz"),
        ("[[fleet]]\nasset_type = 'centrifugal_pump'\nprefix = 'p'\ncount = 1\ncolour = 'red'\n", "colour"),
        ("[[fleet]]\nasset_type = 'submarine'\nprefix = 'p'\ncount = 1\n", "submarine"),
        ("[[fleet]]\nasset_type = 'motor_fan'\nprefix = 'p'\ncount = 0\n", "fleet[1].count"),
        ("[[fleet]]\nasset_type = 'motor_fan'\nprefix = 'pump'\ncount = 1\n", "prefix"),
        ("[[fleet]]\nasset_type = 'motor_fan'\nprefix = 'f'\ncount = 1\nlife_hours = {rust = 4}\n", "life_hours.rust"),
        (
            "[[sensor_fault]]\nasset = 'pump-009'\nsignal = 'flow_m3_h'\nkind = 'stuck'\nfrom_day = 1\nto_day = 2\n",
            "pump-009",
        ),
        (
            "[[sensor_fault]]\nasset = 'pump-001'\nsignal = 'colour'\nkind = 'stuck'\nfrom_day = 1\nto_day = 2\n",
            "colour",
        ),
        (
            "[[sensor_fault]]\nasset = 'pump-001'\nsignal = 'flow_m3_h'\nkind = 'rusty'\nfrom_day = 1\nto_day = 2\n",
            "rusty",
        ),
        ("days = 3\n", "overwrite"),
    ],
)
def test_a_mistake_is_named(pumps: Callable[..., str], line: str, named: str) -> None:
    text = line + pumps() if line.startswith("day") else pumps() + line
    with pytest.raises(ScenarioError) as refused:
        parse_scenario(text)
    assert named in str(refused.value)


def test_an_unknown_name_lists_what_ships() -> None:
    with pytest.raises(ScenarioError, match="pumps-one-year"):
        load_scenario("no-such-scenario")


def test_a_start_without_a_time_zone_is_refused(pumps: Callable[..., str]) -> None:
    with pytest.raises(ScenarioError, match="start"):
        parse_scenario(pumps().replace("00:00:00Z", "00:00:00"))


def test_the_scenario_in_the_documentation_can_be_used() -> None:
    documentation = Path(__file__).parents[2] / "docs" / "simulator.md"
    example = documentation.read_text("utf-8").split("```toml\n")[1].split("```")[0]
    scenario = parse_scenario(example)
    assert scenario.fleet[0].duty == "two_shift"
    assert scenario.sensor_fault[0].kind == "stuck"
