"""Where samples come from.

A source delivers on the agent's event loop and goes on until it is cancelled or has nothing more to say. It never
waits for a delivery to be handled except through the bounded queue it puts it in, never loses one it put there, and
never raises for a bad message: that is a delivery with its refusals.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from forewarn_models import wire


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something that could not be used. `kind` is one of a few words, counted; `detail` is for the log."""

    kind: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a replay has come, committed together with its records: `row` is the next, times move by `shift_ms`."""

    source: str
    row: int
    shift_ms: int


def _nothing() -> None:
    pass


@dataclass(frozen=True, kw_only=True, eq=False)
class Delivery:
    """What a source hands over at once. `confirm` is called on the event loop once it is durable, and not before."""

    records: tuple[wire.Telemetry, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()
    """Things to count that are no refusal, such as a sample timed on receipt."""
    position: Position | None = None
    confirm: Callable[[], None] = field(default=_nothing)


Deliveries = asyncio.Queue[Delivery]


class Source(Protocol):
    async def run(self, deliveries: Deliveries) -> None:
        """Deliver until cancelled or at the end. When cancelled, take no more and wait for what was delivered."""
