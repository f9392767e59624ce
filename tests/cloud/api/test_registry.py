"""Nodes and assets over HTTP."""

from typing import Any

import pytest

from tests.cloud.api.serving import Api, assert_problem
from tests.cloud.world import World, advisory

FAN = {"asset": "fan-1", "asset_type": "motor_fan", "node": "edge-1", "name": "屋顶风机 {{7*7}} =1+1", "site": "works"}


def test_an_asset_comes_changes_and_goes_and_may_come_back(api: Api) -> None:
    created = api.post("/api/v1/assets", FAN)
    assert created.status_code == 201
    assert {name: created.json()[name] for name in FAN} == FAN
    changed = api.client.patch("/api/v1/assets/fan-1", json={"name": "Roof fan"})
    assert (changed.status_code, changed.json()["name"], changed.json()["site"]) == (200, "Roof fan", "works")
    gone = api.client.delete("/api/v1/assets/fan-1")
    assert (gone.status_code, gone.content) == (204, b"")
    assert_problem(api.client.get("/api/v1/assets/fan-1"), 404)
    assert_problem(api.client.get("/api/v1/assets/fan-1/telemetry"), 404)
    assert_problem(api.client.get("/api/v1/assets/fan-1/health"), 404)
    assert_problem(api.client.patch("/api/v1/assets/fan-1", json={"name": "x"}), 404)
    assert_problem(api.client.delete("/api/v1/assets/fan-1"), 404)
    assert api.done("/api/v1/assets", FAN)["name"] == FAN["name"]
    actions = [entry["action"] for entry in api.get("/api/v1/audit", subject="asset", subject_id="fan-1")["items"]]
    assert actions == ["created", "deleted", "updated", "created"]


def test_an_asset_with_an_open_order_stays(api: Api, world: World) -> None:
    world.hear(advisory())
    assert_problem(api.client.delete("/api/v1/assets/pump-1"), 409, "SO-000001")
    api.done(f"/api/v1/orders/{world.order().id}/cancel", {"reason": "scrapped"})
    assert api.client.delete("/api/v1/assets/pump-1").status_code == 204
    assert api.get(f"/api/v1/orders/{world.order().id}")["order"]["asset_name"] == "Feed pump 1", "history stays"


@pytest.mark.parametrize(
    ("changes", "status", "said"),
    [
        ({"asset": "pump-1"}, 409, "exists already"),
        ({"asset": "a.b"}, 422, "asset"),
        ({"asset": "../x"}, 422, "asset"),
        ({"asset": "x" * 65}, 422, "asset"),
        ({"asset": "a+b"}, 422, "asset"),
        ({"asset": ""}, 422, "asset"),
        ({"asset": "fan\n"}, 422, "asset"),
        ({"node": "edge-9"}, 422, "not enrolled"),
        ({"site": "nowhere"}, 422, "site"),
        ({"name": "a\r\nBcc: b@c"}, 422, "one line"),
        ({"name": "a\u2028b"}, 422, "one line"),
        ({"name": "\x00"}, 422, "name"),
        ({"name": "x" * 201}, 422, "name"),
        ({"name": 7}, 422, "name"),
        ({"asset_type": None}, 422, "asset_type"),
        ({"tenant": "other"}, 422, "tenant"),
    ],
)
def test_a_wrong_asset_is_refused(refusing: Api, changes: dict[str, Any], status: int, said: str) -> None:
    assert_problem(refusing.post("/api/v1/assets", FAN | changes), status, said)


def test_a_name_that_is_half_a_character_is_refused(refusing: Api) -> None:
    raw = b'{"asset": "fan-1", "asset_type": "motor_fan", "node": "edge-1", "name": "\\ud800"}'
    answer = refusing.client.post("/api/v1/assets", content=raw, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "name")


def test_a_node_is_enrolled_once_and_deleted_once(api: Api) -> None:
    enrolled = api.post("/api/v1/nodes", {"node": "edge-2", "declares_assets": False})
    assert enrolled.status_code == 201
    assert (enrolled.json()["node"], enrolled.json()["declares_assets"]) == ("edge-2", False)
    assert_problem(api.post("/api/v1/nodes", {"node": "edge-2"}), 409, "enrolled already")
    assert api.client.delete("/api/v1/nodes/edge-2").status_code == 204
    assert_problem(api.client.get("/api/v1/nodes/edge-2"), 404)
    assert_problem(api.client.delete("/api/v1/nodes/edge-2"), 404)
    assert api.post("/api/v1/nodes", {"node": "edge-2"}).status_code == 201


@pytest.mark.parametrize("node", ["", "a/b", "a+b", "#", "$SYS", "x" * 65, "a b", "é", 7, None])
def test_a_node_with_a_name_that_mqtt_would_misread_is_refused(refusing: Api, node: Any) -> None:
    assert_problem(refusing.post("/api/v1/nodes", {"node": node}), 422, "node")
