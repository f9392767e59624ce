"""The births of a node tell whether its link holds, and whether its name is its own. Pure.

Two agents under one name take the broker's connection from each other, so that each is born again and again, in turn.
Each has a spool file of its own: an epoch that comes back after another was born is a second agent, or a spool file put
back from a copy.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Final, Literal

KEPT: Final = 10
WINDOW_MS: Final = 600_000
MANY: Final = 6

Trouble = Literal["none", "unstable", "two_agents"]
Birth = tuple[int, str]
"""(epoch milliseconds, spool epoch)."""


def with_birth(births: Sequence[Birth], at: int, epoch: str) -> list[Birth]:
    """The last few births, this one included."""
    return [*births, (at, epoch)][-KEPT:]


def trouble_of(births: Sequence[Birth], now_ms: int) -> Trouble:
    """What the births of the last ten minutes look like."""
    recent = [epoch for at, epoch in births if at > now_ms - WINDOW_MS]
    turns = [epoch for epoch, _ in groupby(recent)]
    if len(turns) > len(set(turns)):
        return "two_agents"
    return "unstable" if len(recent) >= MANY else "none"
