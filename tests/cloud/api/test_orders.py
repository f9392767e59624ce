"""Orders over HTTP: read, worked through, conditional and repeatable."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.adapters.sql.engine import writing
from tests.cloud.api.serving import Api, assert_problem
from tests.cloud.world import HOUR_MS, SEAL, START_MS, World, advisory, normal

VISIT = {"at": "2026-05-30T08:00:00+08:00", "assignee": "Kim"}
"""After the world's start, 2026-05-28T20:26:40Z."""


@pytest.fixture
def order(world: World) -> str:
    """The path of an open order for pump-1."""
    world.hear(advisory())
    return f"/api/v1/orders/{world.order().id}"


def test_the_whole_way_of_an_order(api: Api, world: World, order: str) -> None:
    assert api.done(f"{order}/acknowledge")["state"] == "ACKNOWLEDGED"
    world.clock.advance(hours=1)
    scheduled = api.done(f"{order}/schedule", VISIT)
    assert (scheduled["state"], scheduled["assignee"]) == ("SCHEDULED", "Kim")
    assert scheduled["scheduled_at"] == "2026-05-30T00:00:00.000Z"
    world.clock.advance(hours=30)
    assert api.done(f"{order}/start")["state"] == "IN_PROGRESS"
    finding = {"outcome": "CONFIRMED", "failure_mode": "seal_leak", "note": "face worn\nshaft fine"}
    completed = api.done(f"{order}/complete", finding)
    assert completed["state"] == "COMPLETED"
    assert [(part["part_no"], part["state"]) for part in completed["reservations"]] == [(SEAL, "CONSUMED")]
    detail = api.get(order)
    assert detail["finding"] == {
        **finding,
        "reported_by": "ada",
        "reported_at": completed["closed_at"],
    }
    assert detail["episode"]["close_reason"] == "repaired"
    actions = [entry["action"] for entry in detail["timeline"]]
    assert actions[-4:] == ["acknowledged", "scheduled", "started", "completed"]
    assert {entry["actor"] for entry in detail["timeline"][-4:]} == {"ada"}
    assert [message["kind"] for message in detail["messages"] if message["channel"] == "email"] == [
        "order_opened",
        "order_scheduled",
        "order_completed",
    ]


def test_an_order_shows_what_it_was_decided_from(api: Api, world: World, order: str) -> None:
    detail = api.get(order)
    assert detail["order"]["number"] == "SO-000001"
    assert detail["order"]["customer_name"] == "Acme"
    assert detail["order"]["health"]["rul_hours_p50"] == 100.0
    assert detail["order"]["needed_by_at"] > detail["order"]["opened_at"] == "2026-05-28T20:26:40.000Z"
    assert detail["decision"]["action"] == "order"
    assert detail["decision"]["inputs"]
    assert detail["decision"]["outcome"]
    assert detail["episode"]["advisory"]["failure_modes"]["seal_leak"] == 0.9
    assert detail["episode"]["started_at"] == "2026-05-28T19:26:40.000Z"
    (held,) = detail["order"]["reservations"]
    assert (held["part_no"], held["state"], held["name_zh"]) == (SEAL, "RESERVED", "机械密封")
    assert world.stock(SEAL) == (1, 1)


def test_a_change_says_the_new_version_and_takes_only_the_one_it_was_made_for(api: Api, order: str) -> None:
    seen = api.client.get(order).headers["etag"]
    answer = api.post(f"{order}/acknowledge", If_Match=seen)
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"{answer.json()["version"]}"' != seen
    assert api.client.get(order).headers["etag"] == answer.headers["etag"]
    assert_problem(api.post(f"{order}/schedule", VISIT, If_Match=seen), 412, "read it again")
    assert api.get(order)["order"]["state"] == "ACKNOWLEDGED"
    assert api.post(f"{order}/schedule", VISIT, If_Match=answer.headers["etag"]).status_code == 200
    assert api.post(f"{order}/start", If_Match="*").status_code in (200, 409)


@pytest.mark.parametrize("condition", ["2", 'W/"1"', '"1", "2"', '"x"', '"-1"', '"99999999999999999999"'])
def test_a_condition_that_cannot_be_read_is_refused(refusing: Api, still_world: World, condition: str) -> None:
    order = f"/api/v1/orders/{still_world.order().id}"
    assert_problem(refusing.post(f"{order}/schedule", VISIT, If_Match=condition), 422, "If-Match")


def test_what_the_state_does_not_allow_is_a_conflict(api: Api, order: str) -> None:
    assert_problem(api.post(f"{order}/complete", {"outcome": "CONFIRMED"}), 409, "SO-000001", "OPEN")
    api.done(f"{order}/cancel", {"reason": "duplicate of a planned overhaul"})
    assert_problem(api.post(f"{order}/acknowledge"), 409, "CANCELLED")


def test_a_start_without_the_parts_is_a_conflict_that_names_them(api: Api, world: World) -> None:
    world.hear(advisory("pump-1"))
    world.hear(advisory("pump-2"))
    late = f"/api/v1/orders/{world.order('pump-2').id}"
    api.done(f"{late}/acknowledge")
    assert_problem(api.post(f"{late}/start"), 409, SEAL)


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("acknowledge", {"by": "me"}),
        ("acknowledge", []),
        ("acknowledge", "x"),
        ("schedule", {}),
        ("schedule", {"assignee": "Kim"}),
        ("schedule", VISIT | {"at": "2026-05-30T08:00:00"}),
        ("schedule", VISIT | {"at": "tomorrow"}),
        ("schedule", VISIT | {"at": 1780000000}),
        ("schedule", VISIT | {"at": "1999-01-01T00:00:00Z"}),
        ("schedule", VISIT | {"at": "9999-12-31T23:59:59-23:59"}),
        ("schedule", VISIT | {"at": None}),
        ("schedule", VISIT | {"assignee": "Kim\r\nBcc: all@example.com"}),
        ("schedule", VISIT | {"assignee": ""}),
        ("schedule", VISIT | {"assignee": "  "}),
        ("schedule", VISIT | {"assignee": "x" * 201}),
        ("schedule", VISIT | {"assignee": 7}),
        ("schedule", VISIT | {"assignee": "Kim\x00"}),
        ("schedule", VISIT | {"order": "other"}),
        ("complete", {"outcome": "MAYBE"}),
        ("complete", {"outcome": "CONFIRMED", "note": "x" * 4001}),
        ("complete", {"outcome": "CONFIRMED", "note": "\x00"}),
        ("complete", {"outcome": "CONFIRMED", "failure_mode": "no such mode"}),
        ("cancel", {}),
        ("cancel", {"reason": "a\nb"}),
    ],
)
def test_a_wrong_body_is_refused_with_the_field(refusing: Api, still_world: World, action: str, body: Any) -> None:
    problem = assert_problem(refusing.post(f"/api/v1/orders/{still_world.order().id}/{action}", body), 422)
    assert all(error["field"] and error["fix"] for error in problem["errors"])


def test_an_order_that_is_not_there_is_not_found(refusing: Api) -> None:
    assert_problem(refusing.client.get("/api/v1/orders/00000000-0000-0000-0000-000000000000"), 404)
    assert_problem(refusing.post("/api/v1/orders/00000000-0000-0000-0000-000000000000/acknowledge"), 404)


def test_the_queue_is_sorted_and_filtered(api: Api, world: World) -> None:
    world.hear(advisory("pump-1"))
    world.hear(advisory("pump-2", at_hours=1, rul_hours={"p10": 20.0, "p50": 40.0, "p90": 60.0}))
    urgent, first = world.order("pump-2"), world.order("pump-1")
    assert [order["id"] for order in api.get("/api/v1/orders")["items"]] == [urgent.id, first.id]
    by = {sort: [o["asset"] for o in api.get("/api/v1/orders", sort=sort)["items"]] for sort in ("opened", "-opened")}
    assert by == {"opened": ["pump-1", "pump-2"], "-opened": ["pump-2", "pump-1"]}
    for query in ({"asset": "pump-1"}, {"customer": "acme"}, {"site": "works"}):
        assert [order["id"] for order in api.get("/api/v1/orders", **query)["items"]] == [first.id], query
    api.done(f"/api/v1/orders/{first.id}/cancel", {"reason": "test"})
    assert [o["id"] for o in api.get("/api/v1/orders", state=["OPEN", "ACKNOWLEDGED"])["items"]] == [urgent.id]
    assert api.get("/api/v1/orders", failure_mode="bearing_wear")["items"] == []


def test_a_withdrawn_order_can_be_read(api: Api, world: World, order: str) -> None:
    world.hear(normal(at_hours=1))
    world.hear(*(normal(at_hours=hours) for hours in range(2, 200, 12)))
    assert api.get(order)["order"]["state"] == "WITHDRAWN"
    assert world.clock.now_ms() > START_MS + HOUR_MS


# --- Idempotency-Key ----------------------------------------------------------------------------------------------


def receipts(world: World) -> int:
    return len([row for row in world.rows(schema.audit) if row.action == "received"])


def test_a_repeat_gets_the_same_answer_and_has_no_second_effect(api: Api, world: World) -> None:
    path, body = f"/api/v1/parts/{SEAL}/receipts", {"depot": "north", "quantity": 5}
    first = api.post(path, body, Idempotency_Key="k-1")
    api.done(path, {"depot": "north", "quantity": 100})
    again = api.post(path, body, Idempotency_Key="k-1")
    assert (again.status_code, again.content, again.headers["etag"]) == (200, first.content, first.headers["etag"])
    assert world.stock(SEAL) == (106, 0)
    assert receipts(world) == 2


def test_a_repeat_of_a_change_of_state_is_answered_and_not_refused(api: Api, order: str) -> None:
    first = api.done(f"{order}/acknowledge", Idempotency_Key="k")
    api.done(f"{order}/schedule", VISIT)
    assert api.done(f"{order}/acknowledge", Idempotency_Key="k") == first
    assert_problem(api.post(f"{order}/acknowledge"), 409)


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (f"/api/v1/parts/{SEAL}/receipts", {"depot": "north", "quantity": 6}, {}),
        (f"/api/v1/parts/{SEAL}/receipts", {"depot": "north", "quantity": 5}, {"If_Match": '"1"'}),
        ("/api/v1/parts/PMP-IMP-200/receipts", {"depot": "north", "quantity": 5}, {}),
    ],
)
def test_a_key_stands_for_one_request(
    api: Api, world: World, path: str, body: dict[str, object], headers: dict[str, str]
) -> None:
    api.done(f"/api/v1/parts/{SEAL}/receipts", {"depot": "north", "quantity": 5}, Idempotency_Key="k")
    assert_problem(api.post(path, body, Idempotency_Key="k", **headers), 422, "Idempotency-Key", "take a new one")
    assert receipts(world) == 1


def test_a_key_whose_request_failed_is_free_again(api: Api, world: World) -> None:
    path = f"/api/v1/parts/{SEAL}/receipts"
    assert_problem(api.post(path, {"depot": "nowhere", "quantity": 1}, Idempotency_Key="k"), 422, "depot")
    api.done(path, {"depot": "north", "quantity": 1}, Idempotency_Key="k")
    assert world.stock(SEAL) == (2, 0)


def test_a_key_is_forgotten_after_a_day(api: Api, world: World) -> None:
    path, body = f"/api/v1/parts/{SEAL}/receipts", {"depot": "north", "quantity": 1}
    api.done(path, body, Idempotency_Key="k")
    world.clock.advance(hours=25)
    api.done(path, body, Idempotency_Key="k")
    assert world.stock(SEAL) == (3, 0)


@pytest.mark.parametrize("key", ["", "x" * 201, "a b", "k\u00e9y".encode().decode("latin-1")])
def test_a_key_that_cannot_be_kept_is_refused(refusing: Api, key: str) -> None:
    answer = refusing.client.post(
        f"/api/v1/parts/{SEAL}/receipts",
        json={"depot": "north", "quantity": 1},
        headers=[(b"Idempotency-Key", key.encode("latin-1"))],
    )
    assert_problem(answer, 422, "Idempotency-Key")


def test_of_two_requests_with_one_key_at_once_one_is_told_to_wait(api: Api, world: World) -> None:
    path, body = f"/api/v1/parts/{SEAL}/receipts", {"depot": "north", "quantity": 1}
    answers: list[httpx.Response] = []
    refused = threading.Event()

    def send() -> None:
        answer = api.post(path, body, Idempotency_Key="k")
        answers.append(answer)
        if answer.status_code == 409:
            refused.set()

    threads = [threading.Thread(target=send) for _ in range(2)]
    with writing(world.engine) as connection:  # whoever comes first waits for this transaction
        connection.execute(schema.parts.update().values(unit_cost=1.0))
        for thread in threads:
            thread.start()
        assert refused.wait(10)
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert_problem(next(answer for answer in answers if answer.status_code == 409), 409, "being worked on")
    assert receipts(world) == 1


def test_many_repeats_at_once_have_one_effect(api: Api, world: World) -> None:
    path, body = f"/api/v1/parts/{SEAL}/receipts", {"depot": "north", "quantity": 1}
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: api.post(path, body, Idempotency_Key="k"), range(40)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    assert receipts(world) == 1
    assert world.stock(SEAL) == (2, 0)
