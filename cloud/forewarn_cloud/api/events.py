"""/api/v1/events: what changed, as server-sent events, so that a page knows when to look again.

The database says it: a few numbers that move with the audit, the machines' health, the messages, the nodes and the
quarantine are a high-water mark, and where it differs from the caller's own, something changed. So it does not matter
which process wrote it, and a caller that comes back with `Last-Event-ID` (or `after`, at first) misses nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import Connection, Select, func, literal_column, select

from forewarn_cloud.adapters.sql.schema import asset_health, audit, nodes, outbox, quarantine
from forewarn_cloud.api.access import ApiDeps, Deps, Reader
from forewarn_cloud.api.fields import to_iso
from forewarn_cloud.errors import Invalid, Unavailable

router = APIRouter(tags=["events"])

POLL_SECONDS: Final = 1.0
HEALTH_EVERY_POLLS: Final = 3
"""Machines report all the time; pages need not be redrawn for each."""
RETRY_MS: Final = 2000
_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_MAX_MARK: Final = 10**18


@dataclass(frozen=True, kw_only=True)
class HighWater:
    """How far everything a page may show has come, one number for each kind of event."""

    orders: int = 0
    health: int = 0
    messages: int = 0
    nodes: int = 0
    quarantine: int = 0

    @property
    def text(self) -> str:
        return "-".join(str(getattr(self, field.name)) for field in fields(self))

    def differs_in(self, later: "HighWater") -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(later, field.name)]


def parse_high_water(text: str) -> HighWater:
    """The mark in an event id.

    Raises:
        Invalid: it is not one of ours.
    """
    names = [field.name for field in fields(HighWater)]
    numbers = text.split("-")
    if len(numbers) != len(names) or not all(n.isascii() and n.isdigit() and int(n) <= _MAX_MARK for n in numbers):
        raise Invalid("after", "give the id of the last event you have seen, or none")
    return HighWater(**{name: int(number) for name, number in zip(names, numbers, strict=True)})


def high_water(connection: Connection, tenant: str) -> HighWater:
    """Where everything stands now. Read every second, so each is a step into an index or a sum over few rows."""
    return HighWater(
        orders=_number(connection, select(func.max(audit.c.position)).where(audit.c.tenant == tenant)),
        health=_number(connection, select(func.sum(asset_health.c.observed_at)).where(asset_health.c.tenant == tenant)),
        messages=_number(connection, _to_be_sent(tenant)),
        nodes=_number(connection, select(func.sum(nodes.c.presence_at)).where(nodes.c.tenant == tenant)),
        quarantine=_number(connection, select(func.max(quarantine.c.id)).where(quarantine.c.tenant == tenant)),
    )


def _to_be_sent(tenant: str) -> Select[Any]:
    """Moves with every message that is queued, tried or delivered, and reads only those that still wait."""
    # The state is spelt out and the tenant an expression, or SQLite reads every message and not the partial index.
    is_pending = outbox.c.state == literal_column("'PENDING'")
    moves = func.count() + func.sum(outbox.c.attempts) + func.max(outbox.c.created_at)
    return select(moves).where(is_pending, outbox.c.tenant.concat("") == tenant)


def _number(connection: Connection, query: Select[Any]) -> int:
    return int(connection.execute(query).scalar() or 0)


def _given_mark(
    after: Annotated[str | None, Query(max_length=200, description="The id to start after; default now.")] = None,
    last_event_id: Annotated[str | None, Header(max_length=200)] = None,
) -> HighWater | None:
    given = last_event_id or after
    return parse_high_water(given) if given else None


@router.get("/events", response_class=EventSourceResponse)
async def events(
    deps: Deps, principal: Reader, given: Annotated[HighWater | None, Depends(_given_mark)]
) -> AsyncIterator[ServerSentEvent]:
    """An event for each kind of thing that changed: `orders`, `health`, `messages`, `nodes`, `quarantine`; and `clock`
    when the time of the run has moved on by a minute. The data says what time it is there."""
    seen = given or await _read(deps, principal.tenant)
    yield ServerSentEvent(event="clock", data=_clock(deps), id=seen.text, retry=RETRY_MS)
    minute, polls = deps.clock.now_ms() // _MINUTE_MS, 0
    while True:
        await asyncio.sleep(POLL_SECONDS)
        polls += 1
        try:
            now = await _read(deps, principal.tenant)
        except Unavailable:
            continue  # the listener stays; what changed meanwhile is seen when the database answers again
        if polls % HEALTH_EVERY_POLLS:
            now = replace(now, health=seen.health)
        changed = seen.differs_in(now)
        seen = now
        for kind in changed:
            yield ServerSentEvent(event=kind, data=_clock(deps), id=seen.text)
        if deps.clock.now_ms() // _MINUTE_MS != minute:
            minute = deps.clock.now_ms() // _MINUTE_MS
            yield ServerSentEvent(event="clock", data=_clock(deps), id=seen.text)


async def _read(deps: ApiDeps, tenant: str) -> HighWater:
    return await run_in_threadpool(_read_now, deps, tenant)


def _read_now(deps: ApiDeps, tenant: str) -> HighWater:
    with deps.reading() as connection:
        return high_water(connection, tenant)


def _clock(deps: ApiDeps) -> dict[str, str]:
    return {"now": to_iso(deps.clock.now_ms())}
