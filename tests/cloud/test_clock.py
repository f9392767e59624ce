"""The run's time and the wall's."""

import time

from forewarn_cloud.clock import SystemClock
from forewarn_models.timebase import Timebase


def test_the_systems_clock_tells_real_time_by_default() -> None:
    before = time.time_ns() // 1_000_000
    clock = SystemClock()
    assert before <= clock.wall_ms() <= clock.now_ms() <= time.time_ns() // 1_000_000


def test_an_accelerated_run_has_its_own_time_and_the_walls_beside_it() -> None:
    now = time.time_ns() // 1_000_000
    timebase = Timebase(origin_ms=now - 1000, start_ms=5_000_000, rate=3600.0)
    clock = SystemClock(timebase=timebase)
    before, found, after = clock.wall_ms(), clock.now_ms(), clock.wall_ms()
    assert 8_600_000 <= timebase.at(before) <= found <= timebase.at(after)
    assert now <= before
    assert clock.wall_seconds(7200.0) == 2.0
