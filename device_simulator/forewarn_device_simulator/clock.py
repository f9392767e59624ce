"""What time it is in this run: the wall clock seen through the timebase all processes of the run share."""

import os
import time

from forewarn_models.timebase import Timebase, timebase_from_environment


class Clock:
    """Run time from the wall clock; real time unless FOREWARN_CLOCK_* are set."""

    def __init__(self, timebase: Timebase) -> None:
        self.timebase = timebase

    def now_ms(self) -> int:
        return self.timebase.at(round(time.time() * 1000))

    def wall_seconds_until(self, at_ms: int) -> float:
        """Real seconds until the run's time is `at_ms`; 0 if it has passed."""
        return max(0.0, self.timebase.wall_seconds((at_ms - self.now_ms()) / 1000))


def clock_from_environment() -> Clock:
    """The clock of this process.

    Raises:
        ValueError: a FOREWARN_CLOCK_* variable is missing or cannot be read; the message names it.
    """
    return Clock(timebase_from_environment(os.environ))
