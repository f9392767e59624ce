"""Messages set apart from the others, because some of them cannot be stored: what is wrong with them is their matter.

A batch fails as a whole. A search finds the nodes to blame; what they sent waits here and is tried in slices between
the batches of the others, and for a while what more they send comes here at once, so that one node's fault costs the
others one search and no more.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from forewarn_cloud.ingest.messages import Delivery, Sender, sender_of

SUSPECT_SECONDS: Final = 60.0
"""How long a node is kept apart after its last fault."""
SEARCH_SECONDS: Final = 0.6
"""How long is searched in a batch; what is not found by then is set apart with its neighbours."""
SLICE_SECONDS: Final = 0.2
"""How long the others wait for those set apart, each time."""
MAX_SUSPECTS: Final = 4000


@dataclass(kw_only=True)
class Suspects:
    """`mixed`: batches in which others wait with those to blame, and which therefore come first; `alone`: of one node
    each, in the order in which they came."""

    mixed: deque[Sequence[Delivery]] = field(default_factory=deque)
    alone: deque[Sequence[Delivery]] = field(default_factory=deque)
    _until: dict[Sender, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.mixed)) + sum(map(len, self.alone))

    def set_apart(self, batches: Sequence[Sequence[Delivery]]) -> None:
        """Each of one node, or of several that could not be told apart; they come before what is here already."""
        alone = [batch for batch in batches if len(by_sender(batch)) == 1]
        self.alone.extendleft(reversed(alone))
        self.mixed.extendleft(batch for batch in batches if len(by_sender(batch)) > 1)
        for batch in alone:
            self.suspect(batch[0])

    def suspect(self, delivery: Delivery) -> None:
        """Set apart what its sender sends from now on."""
        self._until[sender_of(delivery.topic)] = time.monotonic() + SUSPECT_SECONDS

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

    def take_some(self) -> Iterator[Sequence[Delivery]]:
        """For one slice of time, or longer while there are too many. Whoever takes them may set them apart again."""
        deadline = time.monotonic() + SLICE_SECONDS
        while len(self) and (time.monotonic() < deadline or len(self) > MAX_SUSPECTS):
            yield (self.mixed or self.alone).popleft()


def parts_to_blame(batch: Sequence[Delivery]) -> list[list[Delivery]]:
    """What each node sent; of one node, each message."""
    groups = by_sender(batch)
    return groups if len(groups) > 1 else [[delivery] for delivery in batch]


def halves(batch: Sequence[Delivery]) -> list[list[Delivery]]:
    """Two parts, each in the order of the batch; no sender is in both, unless there is one only."""
    parts = parts_to_blame(batch)
    middle = len(parts) // 2
    return [[one for part in some for one in part] for some in (parts[:middle], parts[middle:]) if some]


def by_sender(batch: Iterable[Delivery]) -> list[list[Delivery]]:
    groups = dict[Sender, list[Delivery]]()
    for delivery in batch:
        groups.setdefault(sender_of(delivery.topic), []).append(delivery)
    return list(groups.values())
