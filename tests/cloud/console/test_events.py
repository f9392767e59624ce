"""/api/v1/events: every change is told, also one made by another process, also one made while nobody listened."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, create_engine, event, insert, text

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import reading, writing
from forewarn_cloud.api.events import HighWater, high_water, parse_high_water
from forewarn_cloud.errors import Invalid, Unavailable
from forewarn_cloud.principal import LOCAL_PRINCIPAL
from tests.browser.world import HOUR_MS, NOW_MS, World, healthy, leaking_valve, serving


@dataclass(frozen=True)
class Event:
    kind: str
    id: str
    now: str


@contextmanager
def listening(client: httpx.Client, after: str = "", **headers: str) -> Iterator[Iterator[Event]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    query = {"after": after} if after else {}
    with client.stream("GET", "/api/v1/events", params=query, headers=named) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_in(answer.iter_lines())


def events_in(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Event(kind=fields["event"], id=fields["id"], now=json.loads(fields["data"])["now"])
            fields = {}


def mark_of(desk: World) -> str:
    with reading(desk.engine) as connection:
        return high_water(connection, "local").text


def test_a_listener_is_greeted_with_the_time_and_its_mark(desk: World, client: httpx.Client) -> None:
    with listening(client) as events:
        assert next(events) == Event(kind="clock", id=mark_of(desk), now="2026-03-05T08:00:00.000Z")


def test_a_new_order_is_told(desk: World, client: httpx.Client) -> None:
    with listening(client) as events:
        next(events)
        desk.say(leaking_valve())
        told = {next(events).kind, next(events).kind}
    assert told == {"orders", "messages"}


def test_health_is_told_too(desk: World, client: httpx.Client) -> None:
    with listening(client) as events:
        next(events)
        desk.say(healthy("fan-1", "motor_fan", at_ms=NOW_MS - HOUR_MS))
        assert next(events).kind == "health"


def test_what_another_process_wrote_is_told(desk: World, client: httpx.Client) -> None:
    other = create_engine(desk.engine.url)
    with listening(client) as events:
        next(events)
        with other.begin() as connection:
            connection.execute(text("UPDATE nodes SET presence_at = :at, online = 1"), {"at": NOW_MS})
        assert next(events).kind == "nodes"
    other.dispose()


def test_a_refusal_is_told(desk: World, client: httpx.Client) -> None:
    row = {"tenant": "local", "topic": "t", "digest": b"1" * 16, "reason": "r", "body": b"", "received_at": NOW_MS}
    with listening(client) as events:
        next(events)
        with writing(desk.engine) as connection:
            connection.execute(insert(schema.quarantine).values(row))
        assert next(events).kind == "quarantine"


@pytest.mark.parametrize("how", ["after", "last_event_id"])
def test_what_happened_while_nobody_listened_is_told(desk: World, client: httpx.Client, how: str) -> None:
    seen = mark_of(desk)
    desk.say(leaking_valve())
    with listening(client, **{how: seen}) as events:
        next(events)
        told = {next(events).kind for _ in range(2)}
    assert told == {"orders", "messages"}


def test_the_last_event_a_browser_saw_counts_more_than_where_its_page_began(desk: World, client: httpx.Client) -> None:
    began = mark_of(desk)
    desk.say(leaking_valve())
    with listening(client, after=began, last_event_id=mark_of(desk)) as events:
        next(events)
        desk.clock.at_ms += HOUR_MS
        assert next(events).kind == "clock", "the order was seen already"


def test_the_clock_ticks_with_the_minutes_of_the_run(desk: World, client: httpx.Client) -> None:
    with listening(client) as events:
        next(events)
        desk.clock.at_ms += 8 * HOUR_MS
        ticked = next(events)
    assert (ticked.kind, ticked.now) == ("clock", "2026-03-05T16:00:00.000Z")


def test_a_listener_outlives_a_database_that_is_away(desk: World) -> None:
    away = [Unavailable("the database is restarting")] * 2

    @contextmanager
    def sometimes_reading() -> Iterator[Connection]:
        if away:
            raise away.pop()
        with reading(desk.engine) as connection:
            yield connection

    deps = replace(desk.deps(), reading=sometimes_reading)
    with (
        serving(desk, deps=deps) as home,
        httpx.Client(base_url=home, timeout=20.0) as client,
        listening(client, after=mark_of(desk)) as events,
    ):
        next(events)
        desk.say(leaking_valve())
        assert next(events).kind == "orders"
    assert away == []


def test_another_tenants_changes_are_not_told(desk: World) -> None:
    stranger = replace(LOCAL_PRINCIPAL, tenant="other")
    with (
        serving(desk, principal=stranger) as home,
        httpx.Client(base_url=home, timeout=20.0) as client,
        listening(client) as events,
    ):
        first = next(events)
        desk.say(leaking_valve())
        desk.clock.at_ms += HOUR_MS
        second = next(events)
    assert (second.kind, second.id) == ("clock", first.id)


@pytest.mark.parametrize("mark", ["1", "a-b-c-d-e", "1-2-3-4-5-6", "-1-2-3-4-5", "1-2-3-4-٣", "1-2-3-4-" + "9" * 30])
def test_a_mark_that_is_not_ours_is_refused(client: httpx.Client, mark: str) -> None:
    answer = client.get("/api/v1/events", params={"after": mark})
    assert answer.status_code == 422
    assert "after: give the id of the last event" in answer.text
    with pytest.raises(Invalid):
        parse_high_water(mark)


def test_a_mark_reads_back_as_it_was_written() -> None:
    mark = HighWater(orders=7, health=1_772_697_600_000, messages=3, nodes=0, quarantine=12)
    assert parse_high_water(mark.text) == mark


def test_looking_for_changes_reads_no_table_from_end_to_end(desk: World) -> None:
    """It happens every second for as long as somebody looks at a page."""
    asked = list[tuple[str, Any]]()
    with reading(desk.engine) as connection:
        event.listen(connection, "before_cursor_execute", lambda *said: asked.append((said[2], said[3])))
        high_water(connection, "local")
    with desk.engine.connect() as connection:
        plans = [
            str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", given).all())
            for sql, given in asked
            if sql.startswith("SELECT")
        ]
    assert len(plans) == 5, "one look at each kind of event"
    assert [plan for plan in plans if "SCAN" in plan and "ix_outbox_due" not in plan] == []
    assert [plan for plan in plans if "outbox" in plan and "ix_outbox_due" not in plan] == []
