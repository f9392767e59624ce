"""Arithmetic of an accelerated clock, shared by all processes of one run.

Nothing here reads a clock. A program passes in what its wall clock says and gets the time of the run, so that the demo
can let several processes live through a month in a minute and still agree on what time it is, also after a restart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

MS = 1000
ENV_START = "FOREWARN_CLOCK_START"
ENV_ORIGIN = "FOREWARN_CLOCK_ORIGIN"
ENV_RATE = "FOREWARN_CLOCK_RATE"


@dataclass(frozen=True, kw_only=True)
class Timebase:
    """Maps wall time to run time: at wall `origin_ms` the run's time is `start_ms`, and it passes `rate` times as fast.

    The default is real time. All instants are milliseconds since 1970-01-01T00:00:00Z.
    """

    origin_ms: int = 0
    start_ms: int = 0
    rate: float = 1.0

    def at(self, wall_ms: int) -> int:
        """The run's time, in epoch milliseconds, when the wall clock says `wall_ms`."""
        return self.start_ms + round((wall_ms - self.origin_ms) * self.rate)

    def wall_seconds(self, run_seconds: float) -> float:
        """How long a real timer has to wait for `run_seconds` of the run to pass."""
        return run_seconds / self.rate


def timebase_from_environment(environment: Mapping[str, str]) -> Timebase:
    """Real time, unless FOREWARN_CLOCK_START, _ORIGIN (aware ISO 8601 instants) and _RATE are all set.

    Raises:
        ValueError: one of the three is missing while another is set, or cannot be read; the message names it.
    """
    given = {name: environment[name] for name in (ENV_START, ENV_ORIGIN, ENV_RATE) if environment.get(name)}
    if not given:
        return Timebase()
    if len(given) < 3:
        missing = sorted({ENV_START, ENV_ORIGIN, ENV_RATE} - given.keys())
        raise ValueError(f"{' and '.join(missing)} must be set together with {' and '.join(sorted(given))}")
    try:
        rate = float(given[ENV_RATE])
    except ValueError:
        raise ValueError(f"{ENV_RATE}: {given[ENV_RATE]!r} is not a number") from None
    if not 0 < rate <= 1e6:
        raise ValueError(f"{ENV_RATE}: {rate:g} is outside (0, 1000000]")
    return Timebase(origin_ms=_instant(ENV_ORIGIN, given), start_ms=_instant(ENV_START, given), rate=rate)


def _instant(name: str, given: Mapping[str, str]) -> int:
    try:
        instant = datetime.fromisoformat(given[name])
    except ValueError:
        raise ValueError(f"{name}: {given[name]!r} is not an ISO 8601 instant") from None
    if instant.tzinfo is None:
        raise ValueError(f"{name}: {given[name]!r} has no time zone; write 2026-01-01T00:00:00Z")
    return round(instant.timestamp() * MS)
