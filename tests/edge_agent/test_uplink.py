"""The waiting between tries to reach the broker."""

from hypothesis import given
from hypothesis import strategies as st

from forewarn_edge_agent.clock import Clock
from forewarn_edge_agent.uplink import backoff_seconds
from forewarn_models.timebase import Timebase


def test_the_range_doubles_up_to_the_longest() -> None:
    assert [backoff_seconds(n, 60.0, 1.0) for n in (1, 2, 3, 7, 1000)] == [1.0, 2.0, 4.0, 60.0, 60.0]


@given(st.integers(1, 10_000), st.floats(1, 3600), st.floats(0, 1))
def test_chance_spreads_over_the_whole_range(failures: int, longest: float, chance: float) -> None:
    assert backoff_seconds(failures, longest, chance) == chance * backoff_seconds(failures, longest, 1.0)
    assert 0 <= backoff_seconds(failures, longest, chance) <= longest


def test_an_accelerated_clock_shortens_real_waits() -> None:
    clock = Clock(timebase=Timebase(origin_ms=1000, start_ms=50_000, rate=60.0), wall=lambda: 2000)
    assert clock.now_ms() == 110_000
    assert clock.wall_seconds_until(170_000) == 1.0
    assert clock.wall_seconds_until(0) == 0.0
