"""Records that the cloud asked for once more, after it had them or lost them. Pure.

A request is answered when its records are out, so one that a restart interrupts is asked for again by the cloud. They
go last, at the pace of the backlog.
"""

from collections import deque
from dataclasses import dataclass
from typing import Final

from forewarn_edge_agent.lanes import Read
from forewarn_edge_agent.pacing import Pace
from forewarn_edge_agent.spool import Chunk
from forewarn_models import wire

MAX_REQUESTS: Final = 100


@dataclass(kw_only=True)
class Asked:
    command: wire.Resend
    after_seq: int
    records: int = 0
    """Sent so far."""


class Resends:
    def __init__(self) -> None:
        self._asked: deque[Asked] = deque()

    def add(self, command: wire.Resend) -> None:
        """Unless it is on the list; what is too much is asked for again later."""
        known = any(asked.command.id == command.id for asked in self._asked)
        if not known and len(self._asked) < MAX_REQUESTS:
            self._asked.append(Asked(command=command, after_seq=command.first_seq - 1))

    def read(self, pace: Pace, now_s: float) -> Read | None:
        """What to try when there is nothing more urgent."""
        room = pace.available(now_s)
        if not self._asked or room < 1:
            return None
        first = self._asked[0]
        return Read(
            lane=first.command.lane,
            after_seq=first.after_seq,
            up_to_seq=first.command.last_seq,
            max_records=min(wire.MAX_RECORDS, room),
            way="again",
        )

    def sent(self, chunk: Chunk, pace: Pace) -> None:
        self._asked[0].after_seq = chunk.last_seq
        self._asked[0].records += len(chunk.bodies)
        pace.take(len(chunk.bodies))

    def finished(self) -> Asked:
        """The first one: nothing more of it is to be had."""
        return self._asked.popleft()
