"""How much a node may send: over its quota it is slowed, and never served less for what others send.

A node is slowed from end to end: the cloud withholds its acknowledgement, on which the agent's window waits, and
advises a slower pace. Nothing is lost by it. A node that sends on regardless floods: what it sends is let go at the
door, without acknowledgement, so that an agent still holds it; the others do not wait behind it.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec

from forewarn_cloud.ingest.messages import NodeKey

BURST_SECONDS: Final = 10.0
"""A node may be so far ahead of its quota: a backlog after a short outage is no offence."""
FLOOD_SECONDS: Final = 15.0
"""Further ahead of its burst than this, a node does not wait for its acknowledgements."""
WITHHELD_SECONDS: Final = 5.0
"""The longest an acknowledgement is withheld: an agent sends everything again after ten without one."""
ADVISED_SHARE: Final = 0.8
MAX_NODES: Final = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one node."""

    records_per_s: float = 20_000.0
    bytes_per_s: float = 32.0 * 1024 * 1024


class _Account(msgspec.Struct, frozen=True):
    paid_until: float
    """Monotonic seconds at which what the node has sent is within its quota."""
    fair_records_per_s: float
    """What the quota comes to for records of the size it sends."""


@dataclass(kw_only=True)
class Quota:
    """Written by the writer's thread, read by the connection's."""

    limits: Limits = field(default_factory=Limits)
    throttled: Counter[str] = field(default_factory=Counter)
    """Node -> how many of its acknowledgements were withheld."""
    let_go: Counter[str] = field(default_factory=Counter)
    """Node -> how many of its messages were let go."""
    _accounts: dict[NodeKey, _Account] = field(default_factory=dict)

    def charge(self, node: NodeKey, *, records: int, size: int, now: float) -> bool:
        """Whether the node is over its quota by now (monotonic seconds), burst included."""
        cost_s = max(records / self.limits.records_per_s, size / self.limits.bytes_per_s)
        earlier = self._accounts.get(node)
        begun = now if earlier is None else max(now, earlier.paid_until)
        self._accounts[node] = _Account(begun + cost_s, records / cost_s)
        if len(self._accounts) > MAX_NODES:
            self._accounts = {key: account for key, account in self._accounts.items() if account.paid_until > now}
        return begun + cost_s - now > BURST_SECONDS

    def wait_seconds(self, node: NodeKey) -> float:
        """How long to withhold an acknowledgement from the node; 0 within the quota."""
        return min(WITHHELD_SECONDS, max(0.0, self._ahead_seconds(node) - BURST_SECONDS))

    def is_flooding(self, node: NodeKey) -> bool:
        return self._ahead_seconds(node) > BURST_SECONDS + FLOOD_SECONDS

    def advised_records_per_s(self, node: NodeKey) -> int | None:
        """A pace for a node over its quota."""
        account = self._accounts.get(node)
        if account is None or self._ahead_seconds(node) <= BURST_SECONDS:
            return None
        return max(1, round(ADVISED_SHARE * account.fair_records_per_s))

    def _ahead_seconds(self, node: NodeKey) -> float:
        account = self._accounts.get(node)
        return 0.0 if account is None else account.paid_until - time.monotonic()
