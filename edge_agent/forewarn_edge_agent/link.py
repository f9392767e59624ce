"""How the connection to the broker is doing, and how long to wait before the next try. Pure: time is passed in."""

from dataclasses import dataclass, field
from typing import Final, Literal

from forewarn_edge_agent.refusals import Trouble

FIRST_BACKOFF_SECONDS: Final = 1.0
SHORT_SECONDS: Final = 60.0
"""A session that ends sooner was no success."""
SUSPICIOUS_SESSIONS: Final = 3
"""So many short ones in a row look like two agents with one name: a broker closes the older of two connections."""
SUSPICION: Final = (
    "connections end soon after they begin, again and again: either the link is unstable, or another agent uses the "
    "same tenant and node; give each agent its own node.node"
)


def backoff_seconds(failures: int, longest: float, chance: float) -> float:
    """How long to wait after so many failures in a row: full jitter, `chance` within 0..1 picks from the range.

    A link that comes back after an outage is met by all its nodes at once; the jitter spreads them.
    """
    ceiling = min(longest, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 32))
    return chance * ceiling


@dataclass(kw_only=True)
class Link:
    """Sessions one after the other. `since_s` is when the present state began, of the monotonic clock."""

    state: Literal["connecting", "connected", "waiting"] = "connecting"
    since_s: float = 0.0
    failures: int = 0
    """In a row."""
    short_sessions: int = 0
    """Broken soon after they began, in a row."""
    sessions: int = 0
    trouble: Trouble | None = None
    """Why the last session ended or did not begin; None while all is well."""
    _progressed: bool = field(default=False, repr=False)

    def trying(self, now_s: float) -> None:
        self.state, self.since_s = "connecting", now_s

    def up(self, now_s: float) -> None:
        self.state, self.since_s = "connected", now_s
        self.sessions += 1
        self._progressed = False
        if not self.is_suspicious:
            self.trouble = None

    def progressed(self) -> None:
        """The cloud has acknowledged something new."""
        self._progressed = True

    def down(self, trouble: Trouble, now_s: float) -> bool:
        """Whether the session that ended is one more reason to tell of the suspicion: every third is."""
        was_up, lasted_s = self.state == "connected", now_s - self.since_s
        if was_up:
            self.short_sessions = 0 if lasted_s >= SHORT_SECONDS else self.short_sessions + 1
        if was_up and (self._progressed or lasted_s >= SHORT_SECONDS) and not self.is_suspicious:
            self.failures = 0
        self.failures += 1
        self.state, self.since_s, self.trouble = "waiting", now_s, trouble
        return was_up and self.is_suspicious and self.short_sessions % SUSPICIOUS_SESSIONS == 0

    @property
    def is_suspicious(self) -> bool:
        """Whether another agent may be using the name of this node."""
        return self.short_sessions >= SUSPICIOUS_SESSIONS
