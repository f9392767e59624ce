"""The time of the run: the wall clock, unless the environment says that this run is accelerated."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from forewarn_models.timebase import Timebase


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


_REAL_TIME: Final = Timebase()


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What time it is, in epoch milliseconds of the run. Tests pass their own `wall`."""

    timebase: Timebase = _REAL_TIME
    wall: Callable[[], int] = wall_ms

    def now_ms(self) -> int:
        return self.timebase.at(self.wall())

    def wall_seconds_until(self, t_ms: int) -> float:
        """How long a real timer has to wait until the run's time is `t_ms`; 0 if it has passed."""
        return max(0.0, self.timebase.wall_seconds((t_ms - self.now_ms()) / 1000))
