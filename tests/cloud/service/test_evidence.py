"""What a remaining life adds to an ALERT: a fleet model tells one of every machine, so only a short one is evidence."""

import pytest

from forewarn_cloud.service.evidence import weigh
from forewarn_cloud.service.policy import Policy
from forewarn_models.asset_type import builtin_asset_type
from forewarn_models.wire import RulHours
from tests.cloud.world import advisory

PUMP = builtin_asset_type("centrifugal_pump")


@pytest.mark.parametrize(
    ("rul_hours", "opens"),
    [
        (RulHours(900.0, 1400.0, 2100.0), False),
        (RulHours(73.0, 120.0, 200.0), False),
        (RulHours(71.0, 120.0, 200.0), True),
        (RulHours(5.0, 12.0, 20.0), True),
    ],
)
def test_an_alert_without_a_likely_mode_opens_only_when_little_time_is_left(rul_hours: RulHours, opens: bool) -> None:
    """72 h: a review and the notice of two visits."""
    alert = advisory(condition="ALERT", failure_modes={}, rul_hours=rul_hours)
    assert weigh(alert, PUMP, Policy()).opens == opens


def test_an_alarm_or_a_likely_mode_opens_however_long_the_machine_is_said_to_last() -> None:
    long = RulHours(900.0, 1400.0, 2100.0)
    assert weigh(advisory(condition="ALARM", failure_modes={}, rul_hours=long), PUMP, Policy()).opens
    assert weigh(advisory(condition="ALERT", failure_modes={"seal_leak": 0.8}, rul_hours=long), PUMP, Policy()).opens


def test_a_short_remaining_life_alone_opens_nothing() -> None:
    """A fleet model that has never seen a machine so old tells a short one of healthy machines, too."""
    assert not weigh(advisory(condition="NORMAL", rul_hours=RulHours(5.0, 12.0, 20.0)), PUMP, Policy()).opens
