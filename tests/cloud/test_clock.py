"""The run's time and the wall's."""

import time

from forewarn_cloud.clock import FixedClock, SystemClock
from forewarn_models.timebase import Timebase


def test_the_systems_clock_tells_real_time_by_default() -> None:
    before = time.time_ns() // 1_000_000
    clock = SystemClock()
    assert before <= clock.wall_ms() <= clock.now_ms() <= time.time_ns() // 1_000_000


def test_an_accelerated_run_has_its_own_time_and_the_walls_beside_it() -> None:
    now = time.time_ns() // 1_000_000
    clock = SystemClock(timebase=Timebase(origin_ms=now - 1000, start_ms=5_000_000, rate=3600.0))
    assert 5_000_000 + 3_600_000 <= clock.now_ms() < 5_000_000 + 2 * 3_600_000
    assert now <= clock.wall_ms() < now + 1000
    assert clock.wall_seconds(7200.0) == 2.0


def test_a_fixed_clock_moves_only_when_told() -> None:
    clock = FixedClock(at_ms=1000)
    clock.advance(hours=1, seconds=2)
    assert clock.now_ms() == clock.wall_ms() == 3_603_000
