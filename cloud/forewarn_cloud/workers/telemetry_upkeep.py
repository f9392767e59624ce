"""Upkeep of the telemetry store: compaction, retention, and what a store elsewhere needs. In small steps."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import ServiceError

POLL_SECONDS: Final = 5.0
SHARE: Final = 0.25
"""Of one processor, at most, while there is work: the rest belongs to ingest, which runs in the same process."""

Step = Callable[[int], bool]
"""`step(now_ms)` does a little and says whether there may be more to do; it may raise ServiceError."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TelemetryUpkeep:
    steps: Mapping[str, Step]
    clock: Clock

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set. For a thread of its own."""
        while not stopping.is_set():
            began = time.monotonic()
            has_more = [self._tried(name, step) for name, step in self.steps.items()]
            busy_seconds = time.monotonic() - began
            stopping.wait(busy_seconds * (1 / SHARE - 1) if any(has_more) else POLL_SECONDS)

    def _tried(self, name: str, step: Step) -> bool:
        try:
            return step(self.clock.now_ms())
        except ServiceError as error:
            _log.warning("%s of telemetry waits: %s", name, error)
            return False
