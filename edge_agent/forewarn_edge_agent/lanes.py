"""What to send next, and what has to be sent again. Pure: no I/O, no clock of its own.

Advisories go first, and what tells of a gap before everything else of its lane: the cloud acknowledges nothing beyond
an untold hole. Telemetry goes in the order of its sequence until the cloud answers and turns out to be behind; from
then on what is recorded, live, goes beside the backlog, three messages for one, so that neither waits for the other.
The backlog keeps to a pace. Last come records that the cloud asked for once more (see resends.py).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from forewarn_edge_agent.pacing import Pace
from forewarn_edge_agent.spool import Chunk
from forewarn_models import wire

WINDOW_RECORDS: Final = 5000
WINDOW_BYTES: Final = 4 * 1024 * 1024
"""How much of a lane's backlog may be on its way: as much as a busy cloud takes until it answers."""
BEHIND_RECORDS: Final = wire.MAX_RECORDS
"""With more than one message to catch up, live telemetry goes its own way."""
LIVE_IN_A_ROW: Final = 3
LONGEST_PATIENCE_SECONDS: Final = 300.0
"""While the cloud is away the broker holds for it what was sent: what is sent again only fills it up."""
LANES_BY_URGENCY: Final[tuple[wire.Lane, ...]] = ("advisory", "telemetry")


@dataclass(frozen=True, kw_only=True)
class Read:
    """What may be sent next, if the spool has it: records of `after_seq` < sequence <= `up_to_seq`."""

    lane: wire.Lane
    after_seq: int
    up_to_seq: int = wire.MAX_SEQ
    max_records: int = wire.MAX_RECORDS
    way: str = "backlog"
    """gap, earlier, backlog, live, or again: acknowledged or not. In earlier epochs `after_seq` is a mark."""


class LaneProgress:
    """How far a lane has come in this session. `last_seq`: what the spool holds when the session begins."""

    def __init__(self, lane: wire.Lane) -> None:
        self.lane = lane
        self.acknowledged_seq = 0
        self.sent_seq = 0
        self.gap_seq = 0
        self.earlier_mark = 0
        """Up to where records of earlier epochs were sent."""
        self.live_from: int | None = None
        """First record that goes the live way, beside the backlog; None while all goes in order."""
        self.live_seq = 0
        """Last record sent that way."""
        self.moved_at_s = 0.0
        self._in_vain = 0
        """Times in a row that it was sent again and nothing acknowledged, over all sessions."""
        self._sent_before = 0
        """Up to here a record may have been sent once already: how long its answer took is not known."""
        self._sent_at: deque[tuple[int, int, float]] = deque()
        """First and last record of each message that went in order, and when."""
        self._in_flight: deque[tuple[int, int]] = deque()
        """Last record and bytes of each message of the backlog that is not acknowledged."""
        self._in_flight_bytes = 0
        self._live_in_a_row = 0

    def start_over(self, acknowledged_seq: int, now_s: float, *, last_seq: int | None = None) -> None:
        """Send what is not acknowledged: in a new session (`last_seq`: of the spool), or again."""
        self._sent_before = max(self._sent_before, self.sent_seq, self.live_seq, last_seq or 0)
        self.acknowledged_seq = self.sent_seq = self.gap_seq = acknowledged_seq
        self.earlier_mark = 0
        self.live_from, self.live_seq = None, 0
        self.moved_at_s = now_s
        self._sent_at.clear()
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def send_again(self, acknowledged_seq: int, now_s: float) -> None:
        """After a stall."""
        self._in_vain += 1
        self.start_over(acknowledged_seq, now_s)

    def reads(self, pace: Pace, now_s: float) -> Iterator[Read]:
        """What to try, the most urgent first."""
        yield Read(lane=self.lane, after_seq=self.gap_seq, way="gap")
        backlog = self._backlog(pace, now_s)
        if self.live_from is None:
            yield from backlog
            return
        live = Read(lane=self.lane, after_seq=max(self.live_seq, self.live_from - 1), way="live")
        if self._live_in_a_row >= LIVE_IN_A_ROW:
            yield from backlog
            yield live
        else:
            yield live
            yield from backlog

    def _backlog(self, pace: Pace, now_s: float) -> list[Read]:
        allowed = pace.available(now_s) if self.lane == "telemetry" else wire.MAX_RECORDS
        if allowed < 1:
            return []
        most = min(wire.MAX_RECORDS, allowed)
        reads = [Read(lane=self.lane, after_seq=self.earlier_mark, max_records=most, way="earlier")]
        room = WINDOW_RECORDS - (self.sent_seq - self.acknowledged_seq)
        up_to = wire.MAX_SEQ if self.live_from is None else self.live_from - 1
        if room >= 1 and self.sent_seq < up_to and self._in_flight_bytes < WINDOW_BYTES:
            most = min(most, room)
            reads.append(Read(lane=self.lane, after_seq=self.sent_seq, up_to_seq=up_to, max_records=most))
        return reads

    def sent(self, read: Read, chunk: Chunk, pace: Pace, now_s: float) -> None:
        """What a read brought is on its way."""
        if read.way == "gap":
            self.gap_seq = chunk.last_seq
            return
        if read.way == "earlier":
            self.moved_at_s = self.moved_at_s if self.earlier_mark else now_s
            self.earlier_mark = chunk.mark
            self._live_in_a_row = 0
            pace.take(len(chunk.bodies) if self.lane == "telemetry" else 0)
            return
        if read.way == "live":
            self.live_seq = chunk.last_seq
            self._live_in_a_row += 1
            return
        if chunk.seq > self._sent_before:
            self._sent_at.append((chunk.seq, chunk.last_seq, now_s))
        self._live_in_a_row = 0
        if self.sent_seq <= self.acknowledged_seq:
            self.moved_at_s = now_s
        self.sent_seq = chunk.last_seq
        self._in_flight.append((chunk.last_seq, sum(map(len, chunk.bodies))))
        self._in_flight_bytes += self._in_flight[-1][1]
        if self.lane == "telemetry":
            pace.take(len(chunk.bodies))
        self._join()

    def delivered(self, chunk: Chunk, now_s: float) -> None:
        """The broker has it. Only then does the cloud's time to answer begin: on a slow link a message takes long."""
        if chunk.seq <= self.acknowledged_seq + 1 <= chunk.last_seq:
            self.moved_at_s = now_s

    def acknowledged(self, seq: int, last_seq: int, now_s: float) -> float | None:
        """The cloud has committed everything up to `seq`; the spool holds records up to `last_seq`.

        Returns when the record `seq` was sent, None where that is not known for sure.
        """
        sent_at_s = None
        while self._sent_at and self._sent_at[0][0] <= seq:
            first, last, at_s = self._sent_at.popleft()
            sent_at_s = at_s if first <= seq <= last else None
        while self._in_flight and self._in_flight[0][0] <= seq:
            self._in_flight_bytes -= self._in_flight.popleft()[1]
        self.acknowledged_seq = seq
        self.sent_seq = max(self.sent_seq, seq)
        self.moved_at_s = now_s
        self._in_vain = 0
        self._join()
        if self.live_from is None and self.lane == "telemetry" and last_seq - self.sent_seq > BEHIND_RECORDS:
            self.live_from = last_seq + 1
        return sent_at_s

    def acknowledged_earlier(self, now_s: float) -> None:
        """The cloud has committed some records of an earlier epoch."""
        self.moved_at_s, self._in_vain = now_s, 0

    def is_stalled(self, now_s: float, patience_seconds: float, has_earlier: bool = False) -> bool:
        """Whether something was sent and nothing acknowledged for so long: twice as long each time it was in vain."""
        patience_seconds = min(patience_seconds * 2.0**self._in_vain, max(patience_seconds, LONGEST_PATIENCE_SECONDS))
        awaits = self.sent_seq > self.acknowledged_seq or (has_earlier and self.earlier_mark > 0)
        return awaits and now_s - self.moved_at_s >= patience_seconds

    def _join(self) -> None:
        """The backlog has caught up with where the live way began."""
        if self.live_from is not None and self.sent_seq >= self.live_from - 1:
            self.sent_seq = max(self.sent_seq, self.live_seq)
            self.live_from = None
