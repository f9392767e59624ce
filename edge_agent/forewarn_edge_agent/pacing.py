"""How fast and in what sizes to send. Pure: the caller says what time it is, in seconds of a monotonic clock."""

from typing import Final

BURST_SECONDS: Final = 0.25


class Pace:
    """At most `per_s` records a second, with bursts of a quarter of a second."""

    def __init__(self, per_s: float, now_s: float) -> None:
        self._per_s = per_s
        self._tokens = self._burst
        self._at_s = now_s

    @property
    def per_s(self) -> float:
        return self._per_s

    @property
    def _burst(self) -> float:
        return max(1.0, self._per_s * BURST_SECONDS)

    def change(self, per_s: float, now_s: float) -> None:
        self._refill(now_s)
        self._per_s = per_s
        self._tokens = min(self._tokens, self._burst)

    def available(self, now_s: float) -> int:
        """How many may be sent now."""
        self._refill(now_s)
        return max(0, int(self._tokens))

    def take(self, records: int) -> None:
        """Those were sent. What was sent beyond what was available is paid back later."""
        self._tokens -= records

    def wait_seconds(self, now_s: float) -> float:
        """Until one may be sent."""
        self._refill(now_s)
        return max(0.0, (1.0 - self._tokens) / self._per_s)

    def _refill(self, now_s: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now_s - self._at_s) * self._per_s)
        self._at_s = max(self._at_s, now_s)


FIRST_BYTES: Final = 4 * 1024
LEAST_BYTES: Final = 1024
MOST_BYTES: Final = 128 * 1024
AIM_SECONDS: Final = 1.0
"""How long a message may take: an advisory that has just been found waits behind it."""


class MessageSize:
    """How many bytes of records to put into a message, by how long the last ones took to the broker and back.

    Begins small: on a link of 1 kB/s a large message would hold up everything else, and outlast the keep-alive.
    """

    def __init__(self) -> None:
        self.limit_bytes = FIRST_BYTES

    def took(self, size_bytes: int, seconds: float) -> None:
        if seconds > AIM_SECONDS:
            self.limit_bytes = max(LEAST_BYTES, min(self.limit_bytes, int(size_bytes * AIM_SECONDS / seconds)))
        elif size_bytes * 2 >= self.limit_bytes and seconds < AIM_SECONDS / 2:
            self.limit_bytes = min(MOST_BYTES, self.limit_bytes * 2)
