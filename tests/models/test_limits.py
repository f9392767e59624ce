"""Absolute limits hold from the first sample on, upwards and downwards, in the signal's own unit."""

import numpy as np
import pytest

from forewarn_models.assessment import Assessment, Block, Condition
from forewarn_models.asset_type import AssetType, Running, Signal, Text, generic_asset_type
from forewarn_models.kernel import Model, assess, new_state

START_MS = 1_770_000_000_000
OIL = Signal(name="oil_pressure_bar", unit="bar", limit_alert_low=1.5, limit_alarm_low=1.0)
SPEED = Signal(name="speed_rpm", unit="rpm", role="regime")
HOUSING = Signal(name="housing", unit="mm/s", machine_class="iso_20816_3_group_2_rigid")


def assessed(asset_type: AssetType, *columns: list[float]) -> Assessment:
    values = np.array(columns, dtype=np.float64).T[:, None, :]
    t_ms = START_MS + 600_000 * np.arange(len(values), dtype=np.int64)[:, None]
    model = Model(asset_type=asset_type)
    return assess(model, new_state(model, 1), Block(t_ms=t_ms, values=values))[0]


@pytest.mark.parametrize(
    ("reading", "condition"),
    [(2.0, Condition.NORMAL), (1.5, Condition.ALERT), (1.2, Condition.ALERT), (1.0, Condition.ALARM)],
)
def test_a_lower_limit_is_exceeded_downwards_before_anything_is_learned(reading: float, condition: Condition) -> None:
    assessment = assessed(generic_asset_type((OIL,)), [2.0] * 4 + [reading] * 3)
    assert assessment.condition[-1, 0] == condition
    assert assessment.limit_exceeded[-1, 0, 0] == (condition > Condition.NORMAL)


def test_only_an_alarm_limit_is_an_alarm_at_once() -> None:
    oil = Signal(name="oil", unit="bar", limit_alarm_low=1.0)
    assert assessed(generic_asset_type((oil,)), [2.0, 0.9, 0.9, 0.9]).condition[-1, 0] == Condition.ALARM


@pytest.mark.parametrize("dip", [[0.5], [0.5, 0.5]])
def test_a_dip_shorter_than_three_samples_exceeds_nothing(dip: list[float]) -> None:
    assessment = assessed(generic_asset_type((OIL,)), [2.0, 2.0, *dip, 2.0, 2.0])
    assert not assessment.limit_exceeded.any()


def test_both_sides_of_one_signal_are_watched() -> None:
    level = Signal(name="level", unit="%", limit_alert_low=20.0, limit_alarm=90.0)
    low, high = assessed(generic_asset_type((level,)), [10.0] * 3), assessed(generic_asset_type((level,)), [95.0] * 3)
    assert (low.condition[-1, 0], high.condition[-1, 0]) == (Condition.ALERT, Condition.ALARM)


def test_a_machine_that_stands_still_may_be_below_its_lower_limits() -> None:
    engine = AssetType(
        asset_type="engine",
        title=Text(en="Engine", zh="发动机"),
        signals=(SPEED, OIL),
        running=Running(signal="speed_rpm", above=100.0),
    )
    assessment = assessed(engine, [0.0] * 5 + [1500.0] * 12, [0.0] * 5 + [2.0] * 12)
    assert not assessment.limit_exceeded.any()
    failing = assessed(engine, [0.0] * 5 + [1500.0] * 12, [0.0] * 17)
    assert failing.limit_exceeded[-1, 0, 1]
    assert failing.condition[7, 0] == Condition.ALERT, "while it warms up"
    assert failing.condition[-1, 0] == Condition.ALARM


@pytest.mark.parametrize(
    ("velocity", "condition"),
    [(1.0, Condition.NORMAL), (2.7, Condition.NORMAL), (3.0, Condition.ALERT), (4.6, Condition.ALARM)],
)
def test_the_vibration_zones_of_a_machine_class_hold_from_the_first_samples(
    velocity: float, condition: Condition
) -> None:
    assert assessed(generic_asset_type((HOUSING,)), [velocity] * 3).condition[-1, 0] == condition
