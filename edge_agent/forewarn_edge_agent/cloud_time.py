"""The cloud's time, from the instants in its acknowledgements.

Cristian (1989), "Probabilistic clock synchronization": an answer that says `at`, and came a time D after the question,
was written between 0 and D ago; the middle is wrong by at most D / 2. So of many answers the fastest is the best.
Both our ends are measured with a monotonic clock, so a jump of the wall clock changes nothing.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 900.0
"""Two quartz clocks part by less than 0.2 s in this time."""
DRIFT_MS: Final = 200.0
MAX_SAMPLES: Final = 256


@dataclass(frozen=True, kw_only=True)
class _Sample:
    received_s: float
    round_trip_ms: float
    origin_ms: float
    """What the cloud's clock said when the monotonic one was at 0."""


class CloudTime:
    """Knows nothing until the first `note`."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=MAX_SAMPLES)
        self._best: _Sample | None = None

    def note(self, *, at_ms: int, sent_s: float, received_s: float) -> None:
        """An answer that says `at_ms`, to what was sent at `sent_s` of the monotonic clock."""
        round_trip_ms = (received_s - sent_s) * 1000.0
        if round_trip_ms < 0:
            return
        origin_ms = at_ms + round_trip_ms / 2 - received_s * 1000.0
        sample = _Sample(received_s=received_s, round_trip_ms=round_trip_ms, origin_ms=origin_ms)
        if self._best is not None and not _agree(self._best, sample):
            self._samples.clear()  # the cloud's clock was set
        self._samples.append(sample)
        while self._samples[0].received_s < received_s - WINDOW_SECONDS:
            self._samples.popleft()
        self._best = min(self._samples, key=lambda known: known.round_trip_ms)

    def at(self, monotonic_s: float) -> int | None:
        """The cloud's time, epoch milliseconds, when the monotonic clock says so."""
        return None if self._best is None else round(self._best.origin_ms + monotonic_s * 1000.0)

    @property
    def error_ms(self) -> int | None:
        """By how much `at` may be wrong, the drift since the measurement not counted."""
        return None if self._best is None else round(self._best.round_trip_ms / 2)


def _agree(one: _Sample, other: _Sample) -> bool:
    apart_ms = abs(one.origin_ms - other.origin_ms)
    return apart_ms <= (one.round_trip_ms + other.round_trip_ms) / 2 + DRIFT_MS
