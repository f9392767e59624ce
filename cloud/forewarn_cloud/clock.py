"""What time it is: the run's time, which a demo may accelerate, and the wall's, which protects the network."""

import time
from dataclasses import dataclass
from typing import Protocol

from forewarn_models.timebase import Timebase


class Clock(Protocol):
    """Instants are milliseconds since 1970-01-01T00:00:00Z."""

    def now_ms(self) -> int:
        """The run's time: what events, orders and the audit are stamped with."""
        ...

    def wall_ms(self) -> int:
        """Real time: what leases and backoffs are counted in."""
        ...

    def wall_seconds(self, run_seconds: float) -> float:
        """How long a real timer has to wait for `run_seconds` of the run to pass."""
        ...


@dataclass(frozen=True, kw_only=True)
class SystemClock:
    """The machine's clock, seen through the run's timebase."""

    timebase: Timebase = Timebase()  # noqa: RUF009 - frozen, so one instance may be shared

    def now_ms(self) -> int:
        return self.timebase.at(self.wall_ms())

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def wall_seconds(self, run_seconds: float) -> float:
        return self.timebase.wall_seconds(run_seconds)
