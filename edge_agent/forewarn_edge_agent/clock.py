"""The time of the run: the wall clock, put right by the cloud's, unless the environment says this run is accelerated.

Intervals are never measured with it: it may jump. They are measured with `monotonic_s`, which goes on while the device
sleeps.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from forewarn_edge_agent.cloud_time import CloudTime
from forewarn_models.timebase import Timebase

TOLERATED_MS: Final = 60_000
"""A clock that is less wrong than this is left alone: the times a machine's samples get must not jitter."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def monotonic_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_REAL_TIME: Final = Timebase()


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What time it is, in epoch milliseconds of the run. Tests pass their own `wall` and `monotonic`."""

    timebase: Timebase = _REAL_TIME
    wall: Callable[[], int] = wall_ms
    monotonic: Callable[[], float] = monotonic_s
    cloud: CloudTime = field(default_factory=CloudTime)

    def now_ms(self) -> int:
        """By the wall clock; where that is known to be more than a minute wrong, by what the cloud's must say."""
        now_ms = self.timebase.at(self.wall())
        offset_ms = self.offset_ms()
        return now_ms if offset_ms is None or abs(offset_ms) <= TOLERATED_MS else now_ms + offset_ms

    @property
    def is_wrong(self) -> bool:
        """Whether the wall clock is known to be more than a minute off; `now_ms` then tells the cloud's time."""
        offset_ms = self.offset_ms()
        return offset_ms is not None and abs(offset_ms) > TOLERATED_MS

    def offset_ms(self) -> int | None:
        """How much the cloud's clock is ahead of the wall clock; None while it was never measured."""
        measured = self.cloud.at(self.monotonic())
        # An accelerated run stretches what a message takes: nothing could be told from it.
        return None if measured is None or self.timebase.rate != 1.0 else measured - self.timebase.at(self.wall())

    @property
    def confirmed(self) -> bool:
        """Whether the cloud has told its time, so that `now_ms` can be relied on."""
        return self.offset_ms() is not None

    def wall_seconds_until(self, t_ms: int) -> float:
        """How long a real timer has to wait until the run's time is `t_ms`; 0 if it has passed."""
        return max(0.0, self.timebase.wall_seconds((t_ms - self.now_ms()) / 1000))
