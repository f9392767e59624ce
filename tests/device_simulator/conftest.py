"""Small scenarios for the tests of the simulator."""

from collections.abc import Callable

import pytest

PUMPS = """
name = "pumps"
seed = 5
start = 2025-01-06T00:00:00Z
days = 40
sample_minutes = 20
after_failure = "{after_failure}"

[[fleet]]
asset_type = "centrifugal_pump"
prefix = "pump"
count = {count}
life_hours = {{ bearing_wear = 420, seal_leak = 520, impeller_wear = 480 }}
"""


@pytest.fixture
def pumps() -> Callable[..., str]:
    """Text of a scenario of pumps that fail within weeks."""

    def text(count: int = 3, after_failure: str = "repair") -> str:
        return PUMPS.format(count=count, after_failure=after_failure)

    return text


@pytest.fixture
def mixed() -> str:
    """Text of a scenario with machines of every type that last."""
    lines = ['name = "mixed"', "seed = 6", "start = 2025-01-06T00:00:00Z", "days = 30", "sample_minutes = 30"]
    for asset_type, prefix in (("centrifugal_pump", "pump"), ("air_compressor", "compressor"), ("motor_fan", "fan")):
        lines += [
            "[[fleet]]",
            f'asset_type = "{asset_type}"',
            f'prefix = "{prefix}"',
            "count = 2",
            'duty = "two_shift"',
        ]
    return "\n".join(lines)
