"""Goods received over HTTP."""

from typing import Any

import pytest

from tests.cloud.api.serving import Api, assert_problem
from tests.cloud.world import SEAL, World, advisory

RECEIPTS = f"/api/v1/parts/{SEAL}/receipts"


def test_goods_go_to_the_order_that_waits_for_them(api: Api, world: World) -> None:
    world.hear(advisory("pump-1"))
    world.hear(advisory("pump-2"))
    waiting = world.order("pump-2")
    assert world.reservations(waiting)[SEAL][0] == "BACK_ORDERED"
    part = api.done(RECEIPTS, {"depot": "north", "quantity": 3})
    assert part["stock"] == [{"depot": "north", "on_hand": 4, "reserved": 2, "available": 2}]
    assert part["shortfall"] == 0
    detail = api.get(f"/api/v1/orders/{waiting.id}")
    assert [held["state"] for held in detail["order"]["reservations"]] == ["RESERVED"]
    assert "part_reserved" in [entry["action"] for entry in detail["timeline"]]
    (received,) = api.get("/api/v1/audit", subject="part")["items"]
    assert (received["actor"], received["detail"]) == ("ada", {"depot": "north", "quantity": 3})


def test_a_receipt_takes_only_the_version_it_was_made_for(api: Api, world: World) -> None:
    seen = api.client.get(f"/api/v1/parts/{SEAL}").headers["etag"]
    body = {"depot": "south", "quantity": 1}
    first = api.post(RECEIPTS, body, If_Match=seen)
    assert first.status_code == 200
    assert first.headers["etag"] != seen
    assert_problem(api.post(RECEIPTS, body, If_Match=seen), 412, SEAL)
    assert world.stock(SEAL, "south") == (1, 0)


@pytest.mark.parametrize("quantity", [0, -1, 2**31, 2**63, 10**400, 1.5, 1.0, "1", True, None, [1], {"x": 1}])
def test_a_wrong_quantity_is_refused(refusing: Api, quantity: Any) -> None:
    assert_problem(refusing.post(RECEIPTS, {"depot": "north", "quantity": quantity}), 422, "quantity")


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e400", "01", "0x1", "1" * 5000])
def test_what_is_no_number_in_json_is_refused(refusing: Api, literal: str) -> None:
    raw = f'{{"depot": "north", "quantity": {literal}}}'.encode()
    answer = refusing.client.post(RECEIPTS, content=raw, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert_problem(answer, answer.status_code)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/v1/parts/NO-SUCH/receipts", {"depot": "north", "quantity": 1}, 404, "NO-SUCH"),
        ("/api/v1/parts/a%20b/receipts", {"depot": "north", "quantity": 1}, 422, "part_no"),
        (RECEIPTS, {"depot": "nowhere", "quantity": 1}, 422, "nowhere"),
        (RECEIPTS, {"depot": "../etc", "quantity": 1}, 422, "depot"),
        (RECEIPTS, {"depot": "north"}, 422, "quantity"),
        (RECEIPTS, {"depot": "north", "quantity": 1, "part_no": "PMP-IMP-200"}, 422, "part_no"),
    ],
)
def test_goods_for_what_is_not_there_are_refused(
    refusing: Api, path: str, body: dict[str, Any], status: int, said: str
) -> None:
    assert_problem(refusing.post(path, body), status, said)
