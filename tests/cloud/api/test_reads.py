"""Lists in pages, telemetry, health, stock, places, messages and records."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import writing
from forewarn_cloud.adapters.telemetry_sql import SqlTelemetry
from forewarn_cloud.api.pagination import scope_of
from forewarn_cloud.telemetry import TelemetryRecord
from tests.cloud.api.serving import Api, assert_problem
from tests.cloud.world import HOUR_MS, SEAL, START_MS, TENANT, World, advisory, normal

LISTS = [
    "assets",
    "assets/pump-1/health",
    "nodes",
    "orders",
    "parts",
    "depots",
    "customers",
    "sites",
    "notifications",
    "mailbox",
    "quarantine",
    "gaps",
    "audit",
]


def fill(world: World) -> None:
    """At least three of everything that is listed."""
    world.hear(*(advisory(f"pump-{i}", at_hours=i) for i in (1, 2, 3)))
    world.hear(*(normal(at_hours=10 + i) for i in range(4)))
    own = {"tenant": TENANT}
    with writing(world.engine) as connection:
        for i in range(3):
            mail = {"message_id": f"<{i}@x>", "received_at": 7, "sender": "s", "recipient": "r", "subject": "s"}
            connection.execute(insert(schema.mailbox).values(own | mail | {"body": "text"}))
            refused = {"topic": "t", "digest": bytes([i] * 16), "reason": "empty", "body": bytes([i, 255]) + b"<b>"}
            connection.execute(insert(schema.quarantine).values(own | refused | {"received_at": 7}))
            gap = {"node": "edge-1", "lane": "telemetry", "epoch": "e", "seq": i, "digest": bytes(16)}
            dropped = {"first_seq": 1, "last_seq": 9, "reason": "full", "received_at": 7}
            connection.execute(insert(schema.gaps).values(own | gap | dropped))
            connection.execute(insert(schema.nodes).values(own | {"node": f"more-{i}", "enrolled_at": START_MS}))
            connection.execute(insert(schema.depots).values(own | {"depot": f"more-{i}", "name": "n"}))
            connection.execute(insert(schema.customers).values(own | {"customer": f"more-{i}", "name": "n"}))
            site = {"site": f"more-{i}", "name": "n", "customer": "acme", "depot": "north"}
            connection.execute(insert(schema.sites).values(own | site))


def pages(api: Api, path: str, **query: Any) -> list[Any]:
    found: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(path, **query, **cursor)
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        assert len(page["items"]) == query["limit"]
        cursor = {"cursor": page["next_cursor"]}


def test_every_list_gives_the_same_in_pages_as_at_once(api: Api, world: World) -> None:
    fill(world)
    for name in LISTS:
        whole = api.get(f"/api/v1/{name}")["items"]
        assert len(whole) >= 3, name
        for limit in (1, 2):
            assert pages(api, f"/api/v1/{name}", limit=limit) == whole, name
    for sort in ("needed_by", "-opened", "opened", "-priority", "number"):
        assert pages(api, "/api/v1/orders", sort=sort, limit=1) == api.get("/api/v1/orders", sort=sort)["items"]


def test_a_page_stays_right_while_rows_come_and_go(api: Api, world: World) -> None:
    first = api.get("/api/v1/assets", limit=2)
    api.done("/api/v1/assets", {"asset": "pump-0", "asset_type": "x", "node": "edge-1"})
    api.client.delete("/api/v1/assets/pump-1").raise_for_status()
    rest = api.get("/api/v1/assets", limit=2, cursor=first["next_cursor"])
    assert [asset["asset"] for asset in first["items"]] == ["pump-1", "pump-2"]
    assert [asset["asset"] for asset in rest["items"]] == ["pump-3"]
    assert len(world.rows(schema.assets)) == 4, "deleted machines are kept"


@pytest.mark.parametrize("limit", ["0", "-1", "1.5", "x", "", "1e3", "true"])
def test_a_wrong_limit_is_refused(refusing: Api, limit: str) -> None:
    assert_problem(refusing.client.get("/api/v1/orders", params={"limit": limit}), 422, "limit")


def test_a_huge_limit_is_capped(api: Api, world: World) -> None:
    rows = [{"tenant": TENANT, "node": f"n{i:04}", "enrolled_at": 1} for i in range(300)]
    with writing(world.engine) as connection:
        connection.execute(insert(schema.nodes), rows)
    assert len(api.get("/api/v1/nodes", limit=10**9)["items"]) == 200


def test_a_cursor_belongs_to_its_list_its_filters_and_its_sort(api: Api, world: World) -> None:
    fill(world)
    cursor = api.get("/api/v1/orders", limit=1, sort="opened")["next_cursor"]
    assert api.client.get("/api/v1/orders", params={"sort": "opened", "cursor": cursor, "limit": 7}).is_success
    for path, query in (
        ("orders", {}),
        ("orders", {"sort": "-opened"}),
        ("orders", {"sort": "opened", "asset": "pump-1"}),
        ("assets", {"sort": "opened"}),
    ):
        assert_problem(api.client.get(f"/api/v1/{path}", params=query | {"cursor": cursor}), 422, "cursor")


@pytest.mark.parametrize(
    "key",
    [
        [],
        ["x"],
        [1, 2],
        [1.5, "x"],
        [2**63, "x"],
        [-(2**70), "x"],
        [True, "x"],
        [None, "x"],
        [1, "x", 3],
        [1, "\u0000"],
        [1, "\ud800"],
        [1, {"x": 1}],
        [[1], "x"],
        [2**60, "' OR 1=1 --"],
    ],
)
def test_a_forged_cursor_is_refused_or_harmless(refusing: Api, key: list[Any]) -> None:
    forged = json.dumps([scope_of("/api/v1/orders", []), *key]).encode()
    cursor = base64.urlsafe_b64encode(forged).decode().rstrip("=")
    answer = refusing.client.get("/api/v1/orders", params={"cursor": cursor})
    if key == [2**60, "' OR 1=1 --"]:
        assert answer.json()["items"] == []
    else:
        assert_problem(answer, 422, "cursor")


@pytest.mark.parametrize("cursor", ["x", "!", "AAAA", "=", "a" * 2001, "W10", "bnVsbA", "e30", "é"])
def test_what_is_no_cursor_is_refused(refusing: Api, cursor: str) -> None:
    assert_problem(refusing.client.get("/api/v1/orders", params={"cursor": cursor}), 422, "cursor")


@pytest.mark.parametrize("sort", ["password", "needed_by; DROP TABLE orders", "", "-number", "(a+)+$"])
def test_only_known_sorts(refusing: Api, sort: str) -> None:
    assert_problem(refusing.client.get("/api/v1/orders", params={"sort": sort}), 422, "sort")


def test_an_asset_with_its_place_health_and_open_order(api: Api, world: World) -> None:
    assert api.get("/api/v1/assets/pump-1")["health"] is None
    world.hear(advisory())
    asset = api.get("/api/v1/assets/pump-1")
    assert (asset["name"], asset["site_name"], asset["customer_name"]) == ("Feed pump 1", "Works", "Acme")
    health = asset["health"]
    assert (health["condition"], health["health_index"], health["failure_mode"]) == ("ALARM", 0.6, "seal_leak")
    assert health["observed_at"] == "2026-05-28T20:26:40.000Z"
    assert [order["number"] for order in asset["open_orders"]] == ["SO-000001"]
    assert [a["asset"] for a in api.get("/api/v1/assets", condition="ALARM")["items"]] == ["pump-1"]
    assert [a["asset"] for a in api.get("/api/v1/assets", customer="small")["items"]] == ["pump-2"]


def test_the_history_of_health_is_within_the_range_latest_first(api: Api, world: World) -> None:
    world.hear(*(normal(at_hours=hours, health_index=1 - hours / 100) for hours in range(6)))
    path = "/api/v1/assets/pump-1/health"
    assert [entry["health_index"] for entry in api.get(path)["items"]] == [0.95, 0.96, 0.97, 0.98, 0.99, 1.0]
    query = {"from": "2026-05-28T21:26:40Z", "to": "2026-05-28T23:26:40Z"}
    assert [entry["health_index"] for entry in api.get(path, **query)["items"]] == [0.97, 0.98, 0.99]


def measure(world: World, hours: int, **more: list[float | None]) -> None:
    t_ms = START_MS + np.arange(hours, dtype=np.int64) * HOUR_MS
    flow = np.arange(hours, dtype=np.float32)
    flow[1] = np.nan
    record = TelemetryRecord(
        tenant=TENANT,
        node="edge-1",
        epoch="e",
        seq=1,
        digest=bytes(16),
        asset="pump-1",
        t_ms=t_ms,
        signals={"flow_m3_h": flow, "speed_rpm": np.full(hours, 2900, dtype=np.float32), "other": flow}
        | {name: np.array(values, dtype=np.float32) for name, values in more.items()},
    )
    with writing(world.engine) as connection:
        SqlTelemetry(connection).append([record])


def test_telemetry_of_some_signals_in_a_range(api: Api, world: World) -> None:
    measure(world, 6)
    world.clock.advance(hours=10)
    path = "/api/v1/assets/pump-1/telemetry"
    found = api.get(path, signals="flow_m3_h,speed_rpm", to="2026-05-28T23:26:40Z")
    assert found["times"] == [f"2026-05-28T{hour}:26:40.000Z" for hour in (20, 21, 22, 23)]
    columns = {column["signal"]: (column["unit"], column["values"]) for column in found["signals"]}
    assert columns == {"flow_m3_h": ("m3/h", [0.0, None, 2.0, 3.0]), "speed_rpm": ("rpm", [2900.0] * 4)}
    whole = api.get(path)
    assert (whole["samples"], len(whole["signals"])) == (6, 3)
    assert {column["signal"]: column["unit"] for column in whole["signals"]}["other"] is None


def test_telemetry_is_told_as_measured_not_as_float32_looks(api: Api, world: World) -> None:
    measured = [41.2, 0.1, 16777216.0, 1e-45, 3.4028235e38, -0.3000001, None]
    measure(world, len(measured), temperature_c=measured)
    world.clock.advance(hours=10)
    _, column = api.get("/api/v1/assets/pump-1/telemetry", signals="speed_rpm,temperature_c")["signals"]
    assert column["values"] == measured


def test_telemetry_is_decimated_to_what_a_plot_can_show(api: Api, world: World) -> None:
    measure(world, 150)
    world.clock.advance(hours=160)
    found = api.get("/api/v1/assets/pump-1/telemetry", signals="flow_m3_h", max_points=10)
    assert found["samples"] == 149  # one of them had no flow
    assert len(found["times"]) <= 10
    assert found["bucket_ms"] == 24 * 3_600_000
    (column,) = found["signals"]
    assert (column["low"][0], column["high"][-1]) == (0.0, 149.0)
    assert all(
        low < mean < high for low, mean, high in zip(*(column[k] for k in ("low", "values", "high")), strict=True)
    )


@pytest.mark.parametrize(
    "query",
    [
        {"signals": "a b"},
        {"signals": ""},
        {"signals": "a,,b"},
        {"signals": "x" * 5000},
        {"from": "2026-05-28"},
        {"from": "2026-05-28T20:00:00"},
        {"from": "2026-05-30T00:00:00Z", "to": "2026-05-29T00:00:00Z"},
        {"to": "-1"},
        {"max_points": "1"},
        {"max_points": "-5"},
    ],
)
def test_a_wrong_range_is_refused(refusing: Api, query: dict[str, str]) -> None:
    assert_problem(refusing.client.get("/api/v1/assets/pump-1/telemetry", params=query), 422)


def test_a_node_says_how_far_its_lanes_are_stored(api: Api, world: World) -> None:
    lane = {"tenant": TENANT, "node": "edge-1", "lane": "telemetry", "epoch": "e1", "ahead": []}
    stored = {"contiguous_seq": 41, "records_stored": 40, "records_quarantined": 1, "first_at": 1, "updated_at": 2}
    with writing(world.engine) as connection:
        connection.execute(insert(schema.lane_progress).values(lane | stored))
    node = api.get("/api/v1/nodes/edge-1")
    assert (node["assets"], node["online"]) == (3, False)
    (found,) = node["lanes"]
    assert (found["lane"], found["epoch"], found["records_stored"], found["contiguous_seq"]) == (
        "telemetry",
        "e1",
        40,
        41,
    )


def test_stock_says_who_holds_it_and_what_is_short(api: Api, world: World) -> None:
    world.hear(advisory("pump-1"))
    world.hear(advisory("pump-2"))
    part = api.get(f"/api/v1/parts/{SEAL}")
    assert part["stock"] == [{"depot": "north", "on_hand": 1, "reserved": 1, "available": 0}]
    assert (part["on_hand"], part["available"], part["shortfall"]) == (1, 0, 1)
    assert {held["order_number"]: held["state"] for held in part["reservations"]} == {
        "SO-000001": "RESERVED",
        "SO-000002": "BACK_ORDERED",
    }


def test_places_are_listed_without_secrets(api: Api, world: World) -> None:
    with writing(world.engine) as connection:
        connection.execute(schema.customers.update().values(webhook_secret="whsec_hidden"))
    answer = api.client.get("/api/v1/customers")
    assert [customer["customer"] for customer in answer.json()["items"]] == ["acme", "small"]
    assert "hidden" not in answer.text
    assert [depot["name"] for depot in api.get("/api/v1/depots")["items"]] == ["North", "South"]
    assert [site["dispatch_hours"] for site in api.get("/api/v1/sites")["items"]] == [6.0, 8.0]


def test_quarantine_shows_any_bytes_as_text(api: Api, world: World) -> None:
    body = b"\x00\xff\xfe<script>=1+1\r\n" + "您好".encode()
    row = {"tenant": TENANT, "topic": "fw/v1/x", "digest": bytes(16), "reason": "random bytes", "security": True}
    with writing(world.engine) as connection:
        connection.execute(insert(schema.quarantine).values(row | {"body": body, "received_at": 7}))
    (found,) = api.get("/api/v1/quarantine", security="true")["items"]
    assert found["body_text"] == "\\x00\\xff\\xfe<script>=1+1\\r\\n您好"
    assert api.get("/api/v1/quarantine", security="false")["items"] == []


def test_a_dead_message_can_be_replayed_once(api: Api, world: World) -> None:
    world.hear(advisory())
    message = next(m for m in api.get("/api/v1/notifications")["items"] if m["channel"] == "email")
    path = f"/api/v1/notifications/{message['id']}"
    assert (message["state"], message["recipient"]) == ("PENDING", "ops@acme.example")
    assert_problem(api.post(f"{path}/replay"), 409, "PENDING")
    with writing(world.engine) as connection:
        dead = {"state": "DEAD", "attempts": 8, "last_error": "451", "next_attempt_wall_ms": 2**50}
        connection.execute(schema.outbox.update().where(schema.outbox.c.id == message["id"]).values(dead))
    assert [m["id"] for m in api.get("/api/v1/notifications", state="DEAD")["items"]] == [message["id"]]
    replayed = api.done(f"{path}/replay")
    assert (replayed["state"], replayed["attempts"]) == ("PENDING", 0)
    (row,) = [row for row in world.rows(schema.outbox) if row.id == message["id"]]
    assert row.next_attempt_wall_ms == 0
    assert api.get("/api/v1/audit", subject="order", limit=1)["items"][0]["action"] == "message_replayed"
    assert_problem(api.post(f"{path}/replay"), 409)


def test_a_mail_is_read_by_its_message_id(api: Api, world: World) -> None:
    mail = {"tenant": TENANT, "message_id": "<a+b@x.y>", "received_at": 7, "sender": "s", "recipient": "r"}
    with writing(world.engine) as connection:
        connection.execute(insert(schema.mailbox).values(mail | {"subject": "Über", "body": "<b>text</b>\n"}))
    (listed,) = api.get("/api/v1/mailbox", recipient="r")["items"]
    assert "body" not in listed
    found = api.get("/api/v1/mailbox/%3Ca%2Bb%40x.y%3E")
    assert (found["subject"], found["body"]) == ("Über", "<b>text</b>\n")
    assert_problem(api.client.get("/api/v1/mailbox/%3Cno@x%3E"), 404)
