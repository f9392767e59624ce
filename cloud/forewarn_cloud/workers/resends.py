"""Holes are asked for again: a record that its node believes delivered, or that a broker lost, does not come by itself.

A hole that stays open is asked for once, and again after ever longer pauses for as long as it is open and no request
is. A node answers with the records, or with a gap record about those it no longer holds; both close the hole.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Final, Protocol

from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import Unavailable
from forewarn_models import wire

HOLE_SECONDS: Final = 15.0
"""How long a hole may be open before it is asked for: what is on its way in another order needs less."""
LONGEST_PAUSE_SECONDS: Final = 3600.0
NO_REPLY_SECONDS: Final = 7 * 86_400.0
"""When a request without reply is given up; a hole that is still open is then asked for anew."""
POLL_SECONDS: Final = 5.0
MAX_RANGES: Final = 20
"""Of a lane at once. Beyond that, one request spans all; what came of it is absorbed."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Hole:
    """A lane in which records are missing below others that came. Instants are epoch milliseconds of the run."""

    tenant: str
    node: str
    lane: wire.Lane
    epoch: str
    ranges: tuple[tuple[int, int], ...]
    requests: int
    """How often the first of them was asked for before."""
    last_request_at: int | None
    request_open: bool


class Resends(Protocol):
    """All may raise Unavailable."""

    def holes(self, opened_before: int) -> Sequence[Hole]:
        """Lanes of enrolled nodes whose first hole was open before that; some, if there are many."""
        ...

    def request(self, hole: Hole, ranges: Sequence[tuple[int, int]], at: int) -> int:
        """Queue requests for these; how many were not queued already."""
        ...

    def settle(self, asked_before: int) -> int:
        """End requests whose records have all come, and those without reply that were asked before; how many."""
        ...


@dataclass(frozen=True, kw_only=True)
class HoleWatch:
    """Any number of these may run."""

    resends: Resends
    clock: Clock
    hole_seconds: float = HOLE_SECONDS
    poll_seconds: float = POLL_SECONDS

    def run(self, stopping: Event) -> None:
        """Work until `stopping` is set. For a thread of its own."""
        while not stopping.wait(self.poll_seconds):
            try:
                self.look()
            except Unavailable as error:
                _log.warning("requests to send again wait for the database: %s", error)

    def look(self) -> int:
        """Ask for what is due now; how many requests were queued."""
        at = self.clock.now_ms()
        self.resends.settle(at - self._run_ms(NO_REPLY_SECONDS))
        due = [hole for hole in self.resends.holes(at - self._run_ms(self.hole_seconds)) if self._is_due(hole, at)]
        return sum(self._ask(hole, at) for hole in due)

    def _is_due(self, hole: Hole, at: int) -> bool:
        if hole.request_open:
            return False
        pause = min(LONGEST_PAUSE_SECONDS, self.hole_seconds * 2.0 ** min(hole.requests, 30))
        return hole.last_request_at is None or at - hole.last_request_at >= self._run_ms(pause)

    def _ask(self, hole: Hole, at: int) -> int:
        ranges = hole.ranges
        if len(ranges) > MAX_RANGES:
            ranges = ((ranges[0][0], ranges[-1][1]),)
        _log.info("asking %s/%s for %s records %s again", hole.tenant, hole.node, hole.lane, ranges)
        return self.resends.request(hole, ranges, at)

    def _run_ms(self, wall_seconds: float) -> int:
        """The network keeps real time, whatever the run's clock does."""
        return round(1000 * wall_seconds / self.clock.wall_seconds(1.0))
