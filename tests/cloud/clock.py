"""A clock for tests."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class FixedClock:
    """Stands still until it is moved. The run's time and the wall's are the same."""

    at_ms: int

    def now_ms(self) -> int:
        return self.at_ms

    def wall_ms(self) -> int:
        return self.at_ms

    def wall_seconds(self, run_seconds: float) -> float:
        return run_seconds

    def advance(self, *, hours: float = 0.0, seconds: float = 0.0) -> None:
        self.at_ms += round(hours * 3_600_000 + seconds * 1000)
