"""Upkeep of the telemetry store: compaction, retention, and what a store elsewhere needs. In small steps."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from forewarn_cloud.beside import SharedInstant
from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import ServiceError

POLL_SECONDS: Final = 5.0
SHARE: Final = 0.2
"""Of one processor, at most, while there is work: the rest belongs to ingest."""
SHARE_WHILE_CROWDED: Final = 0.05
"""The same while ingest has as much to do as it can: what is left over can wait."""
CROWDED_SECONDS: Final = 2.0
"""So long after it was last so."""
SHARE_WITH_WAITS: Final = 0.5
"""Of the time, at most, with the waits for disk and locks: ingest has its turns where they are slow."""

Step = Callable[[int], bool]
"""`step(now_ms)` does a little and says whether there may be more to do; it may raise ServiceError."""

_log = logging.getLogger(__name__)


def pause_seconds(*, seconds: float, busy_seconds: float, crowded: bool = False) -> float:
    """After steps that took so long, and so much of a processor."""
    share = SHARE_WHILE_CROWDED if crowded else SHARE
    return max(busy_seconds / share, seconds / SHARE_WITH_WAITS) - seconds


@dataclass(frozen=True, kw_only=True)
class TelemetryUpkeep:
    steps: Mapping[str, Step]
    clock: Clock
    crowded: SharedInstant = field(default_factory=SharedInstant)
    """When ingest last was."""

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. For a thread of its own."""
        while not stopping.is_set():
            began, worked = time.monotonic(), time.thread_time()
            has_more = [self._tried(name, step) for name, step in self.steps.items()]
            seconds, busy_seconds = time.monotonic() - began, time.thread_time() - worked
            crowded = self.crowded.seconds_ago < CROWDED_SECONDS
            pause = pause_seconds(seconds=seconds, busy_seconds=busy_seconds, crowded=crowded)
            stopping.wait(pause if any(has_more) else POLL_SECONDS)

    def _tried(self, name: str, step: Step) -> bool:
        try:
            return step(self.clock.now_ms())
        except ServiceError as error:
            _log.warning("%s of telemetry waits: %s", name, error)
            return False
