"""What goes wrong, and when: drawn from the seed alone, so that the same seed repeats the same schedule. Pure."""

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final

KILLS_PER_SECOND: Final = 0.46
"""220 in eight minutes."""
PAUSES_PER_SECOND: Final = 0.04
LINK_FAULTS_PER_SECOND: Final = 0.3
PAUSE_SECONDS: Final = (0.5, 5.0)
LINK_FAULT_SECONDS: Final = (1.0, 12.0)
SLOW_BYTES_PER_SECOND: Final = (500.0, 20_000.0)
FLAP_SECONDS: Final = 2.0
INGEST_LINK_SHARE: Final = 0.07
INGEST: Final = "ingest"
BROKER: Final = "broker"
"""The program that keeps the broker running."""
NATS: Final = "nats"
"""The broker proper."""
_VICTIMS: Final = {"agents": 0.85, INGEST: 0.06, NATS: 0.06, BROKER: 0.03}
"""Shares of the kills. The ingest takes seconds to come up, and the broker waits ten seconds before it delivers again
what was under way: killed more often, nothing would ever be stored between the kills."""


class Action(Enum):
    KILL = "kill"
    PAUSE = "pause"
    CUT = "cut"
    REFUSE = "refuse"
    BLACKHOLE = "blackhole"
    SLOW = "slow"
    FLAP = "flap"


_LINK_ACTIONS: Final = (Action.CUT, Action.CUT, Action.REFUSE, Action.BLACKHOLE, Action.SLOW, Action.FLAP)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`target`: a process or, for a link fault, the process whose link it is. A cut and a kill last no time."""

    at_seconds: float
    action: Action
    target: str
    seconds: float = 0.0
    bytes_per_second: float = 0.0


def agent_name(number: int) -> str:
    return f"agents-{number:02d}"


def schedule(seed: int, *, seconds: float, agents: int, kills: int | None = None) -> tuple[Fault, ...]:
    """The faults of a run, in order of time. `agents` is how many agent processes there are.

    Kills are spread evenly with some chance in each. On one link, and for one process, no fault that lasts overlaps
    another.
    """
    rng = random.Random(seed)
    kills = round(seconds * KILLS_PER_SECOND) if kills is None else kills
    found = [
        Fault(at_seconds=at, action=Action.KILL, target=_victim(rng, agents)) for at in _times(rng, kills, seconds)
    ]
    busy = dict[str, float]()
    for at in _times(rng, round(seconds * PAUSES_PER_SECOND), seconds):
        found += _lasting(busy, _pause(rng, at, agents), seconds)
    busy.clear()
    for at in _times(rng, round(seconds * LINK_FAULTS_PER_SECOND), seconds):
        found += _lasting(busy, _link_fault(rng, at, agents), seconds)
    return tuple(sorted(found, key=lambda fault: fault.at_seconds))


def _times(rng: random.Random, count: int, seconds: float) -> list[float]:
    return [(i + rng.random()) / count * seconds for i in range(count)]


def _victim(rng: random.Random, agents: int) -> str:
    (kind,) = rng.choices(list(_VICTIMS), list(_VICTIMS.values()))
    return agent_name(rng.randrange(agents)) if kind == "agents" else kind


def _pause(rng: random.Random, at: float, agents: int) -> Fault:
    target, seconds = _victim(rng, agents), rng.uniform(*PAUSE_SECONDS)
    return Fault(at_seconds=at, action=Action.PAUSE, target=NATS if target == BROKER else target, seconds=seconds)


def _link_fault(rng: random.Random, at: float, agents: int) -> Fault:
    target = INGEST if rng.random() < INGEST_LINK_SHARE else agent_name(rng.randrange(agents))
    action, seconds, rate = rng.choice(_LINK_ACTIONS), rng.uniform(*LINK_FAULT_SECONDS), rng.uniform(0.0, 1.0)
    slowest, fastest = SLOW_BYTES_PER_SECOND
    return Fault(
        at_seconds=at,
        action=action,
        target=target,
        seconds=0.0 if action is Action.CUT else seconds,
        bytes_per_second=slowest * (fastest / slowest) ** rate if action is Action.SLOW else 0.0,
    )


def _lasting(busy: dict[str, float], fault: Fault, seconds: float) -> list[Fault]:
    """The fault, unless its target still has another one; `busy` knows until when. It ends with the run."""
    if fault.at_seconds < busy.get(fault.target, 0.0):
        return []
    ends = min(fault.at_seconds + fault.seconds, seconds)
    busy[fault.target] = ends
    return [Fault(**{**vars(fault), "seconds": ends - fault.at_seconds})]
