"""Messages set apart from the others, because some of them cannot be stored: what is wrong with them is their matter.

A batch fails as a whole. Halving it finds the nodes to blame; what they sent waits here and is tried in slices between
the batches of the others, and for a while what more they send comes here at once, so that one node's fault costs the
others one search and no more.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from forewarn_cloud.ingest.messages import Delivery, sender_of

SUSPECT_SECONDS: Final = 60.0
"""How long a node is kept apart after its last fault."""
SEARCH_SECONDS: Final = 0.4
"""How long a batch may be halved; what is not found by then is set apart with its neighbours."""
SLICE_SECONDS: Final = 0.2
"""How long the others wait for those set apart, each time."""
MAX_SUSPECTS: Final = 4000

Sender = tuple[str, str]


@dataclass(kw_only=True)
class Suspects:
    """`mixed`: batches in which others wait with those to blame, and which therefore come first; `alone`: of one node
    each, in the order in which they came."""

    mixed: deque[Sequence[Delivery]] = field(default_factory=deque)
    alone: deque[Sequence[Delivery]] = field(default_factory=deque)
    _until: dict[Sender, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.mixed)) + sum(map(len, self.alone))

    def set_apart(self, batch: Sequence[Delivery]) -> None:
        """Messages of one node, or of several that could not be told apart in time."""
        senders = {sender_of(delivery.topic) for delivery in batch}
        if len(senders) == 1:
            self._until[senders.pop()] = time.monotonic() + SUSPECT_SECONDS
            self.alone.append(batch)
        else:
            self.mixed.append(batch)

    def sift(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Set apart what suspects have sent; the rest."""
        now = time.monotonic()
        self._until = {sender: until for sender, until in self._until.items() if until > now}
        if not self._until:
            return batch
        apart = [delivery for delivery in batch if sender_of(delivery.topic) in self._until]
        for group in by_sender(apart):
            self.alone.append(group)
        return [delivery for delivery in batch if sender_of(delivery.topic) not in self._until]

    def try_some(self, commit: Callable[[Sequence[Delivery]], bool], give_up: Callable[[Delivery], None]) -> None:
        """For one slice of time, or longer while there are too many: what cannot be committed whole by halves, and what
        cannot be committed alone is given up."""
        deadline = time.monotonic() + SLICE_SECONDS
        while len(self) and (time.monotonic() < deadline or len(self) > MAX_SUSPECTS):
            batch = (self.mixed or self.alone).popleft()
            if commit(batch):
                continue
            if len(by_sender(batch)) == 1:
                self._until[sender_of(batch[0].topic)] = time.monotonic() + SUSPECT_SECONDS
                if len(batch) == 1:
                    give_up(batch[0])
                else:
                    self.alone.extendleft(reversed(halves(batch)))
            else:
                for half in halves(batch):
                    (self.mixed if len(by_sender(half)) > 1 else self.alone).append(half)


def halves(batch: Sequence[Delivery]) -> list[list[Delivery]]:
    """Two parts, each in the order of the batch; no sender is in both, unless there is one only."""
    groups = by_sender(batch)
    if len(groups) == 1:
        return [list(batch[: len(batch) // 2]), list(batch[len(batch) // 2 :])]
    middle = len(groups) // 2
    return [[one for group in part for one in group] for part in (groups[:middle], groups[middle:])]


def by_sender(batch: Iterable[Delivery]) -> list[list[Delivery]]:
    groups = dict[Sender, list[Delivery]]()
    for delivery in batch:
        groups.setdefault(sender_of(delivery.topic), []).append(delivery)
    return list(groups.values())
