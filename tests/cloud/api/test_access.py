"""Who may do what, over every route there is: a new route is covered by being there."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts
from sqlalchemy import select

from forewarn_cloud.adapters.sql.engine import writing
from forewarn_cloud.adapters.sql.schema import lane_progress, mailbox, outbox, quarantine
from forewarn_cloud.api.access import current_principal
from forewarn_cloud.api.app import create_app
from forewarn_cloud.console.pages import router as console
from forewarn_cloud.seed import parse_master_data, seed
from tests.cloud.api.serving import ADMIN, STRANGER, Api, assert_problem, deps_of, serving
from tests.cloud.world import MASTER_DATA, SEAL, START_MS, TENANT, World, advisory

OPEN_TO_ALL = {"/healthz", "/readyz", "/api/v1/openapi.json"}
STREAMS = {"/api/v1/events"}
BODIES: dict[str, Any] = {
    "/api/v1/orders/{order_id}/acknowledge": {},
    "/api/v1/orders/{order_id}/schedule": {"at": "2026-05-30T08:00:00Z", "assignee": "Kim"},
    "/api/v1/orders/{order_id}/start": {},
    "/api/v1/orders/{order_id}/complete": {"outcome": "CONFIRMED"},
    "/api/v1/orders/{order_id}/cancel": {"reason": "x"},
    "/api/v1/parts/{part_no}/receipts": {"depot": "north", "quantity": 1},
    "/api/v1/notifications/{notification_id}/replay": {},
    "/api/v1/assets": {"asset": "pump-9", "asset_type": "centrifugal_pump", "node": "edge-1"},
    "/api/v1/assets/{asset}": {"name": "Other"},
    "/api/v1/nodes": {"node": "edge-9"},
    "/api/v1/nodes/{node}/resend": {"first_seq": 1},
}


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    dependant: Dependant | None = field(repr=False)


def routes(app: FastAPI) -> list[Route]:
    found = []
    for context in iter_route_contexts(app.routes):
        dependant = getattr(context, "dependant", None)
        found += [Route(method, str(context.path), dependant) for method in sorted(context.methods or ())]
    return [route for route in found if route.method not in ("HEAD", "OPTIONS")]


def depends_on(dependant: Dependant | None, wanted: object) -> bool:
    if dependant is None:
        return False
    return any(each.call is wanted or depends_on(each, wanted) for each in dependant.dependencies)


@pytest.fixture
def filled(world: World) -> dict[str, str]:
    """A world with something behind every path parameter; parameter -> its value."""
    world.hear(advisory())
    with writing(world.engine) as connection:
        notification = connection.execute(select(outbox.c.id).limit(1)).scalar_one()
        connection.execute(outbox.update().where(outbox.c.id == notification).values(state="DEAD"))
        mail = {"message_id": "<m@x>", "tenant": TENANT, "received_at": START_MS, "sender": "a", "recipient": "b"}
        connection.execute(mailbox.insert().values(mail | {"subject": "s", "body": "b"}))
        refused = {"tenant": TENANT, "topic": "t", "digest": b"d" * 16, "reason": "r", "body": b"b"}
        kept = quarantine.insert().values(refused | {"received_at": START_MS}).returning(quarantine.c.id)
        refused_id = connection.execute(kept).scalar_one()
    return {
        "order_id": world.order().id,
        "asset": "pump-1",
        "node": "edge-1",
        "part_no": SEAL,
        "notification_id": notification,
        "message_id": "%3Cm%40x%3E",
        "refused_id": str(refused_id),
    }


def api_routes(world: World) -> Iterator[Route]:
    """Those that read come first."""
    found = routes(create_app(deps_of(world)))
    for route in sorted(found, key=lambda route: route.method != "GET"):
        if route.path.startswith("/api/v1/") and route.path not in OPEN_TO_ALL | STREAMS:
            yield route


def test_every_route_depends_on_a_principal(world: World) -> None:
    found = routes(create_app(deps_of(world), [console]))
    assert len(found) > 40
    without = {
        route.path
        for route in found
        if route.path not in OPEN_TO_ALL
        and not route.path.startswith("/static")
        and not depends_on(route.dependant, current_principal)
    }
    assert without == set()


def test_a_stranger_sees_nothing_and_changes_nothing(world: World, filled: dict[str, str]) -> None:
    with serving(deps_of(world)) as own:
        for route in api_routes(world):
            if route.method == "GET":
                assert own.client.get(route.path.format(**filled)).status_code == 200, route.path
    before = world.everything()
    with serving(deps_of(world, STRANGER)) as foreign:
        for route in api_routes(world):
            path = route.path.format(**filled)
            answer = foreign.client.request(route.method, path, json=BODIES.get(route.path))
            if "{" in route.path:
                assert_problem(answer, 404)
            elif route.method == "GET":
                assert answer.json() == {"items": [], "next_cursor": None}, path
        metrics = foreign.client.get("/metrics").text
        assert "forewarn_assets 0.0" in metrics
        assert "forewarn_orders{" not in metrics
        foreign.post("/api/v1/nodes", BODIES["/api/v1/nodes"])
    after = world.everything()
    own_rows = {table: [row for row in rows if f"'{STRANGER.tenant}'" not in row] for table, rows in after.items()}
    assert own_rows == before


def test_a_tenant_with_the_same_names_sees_only_its_own(world: World) -> None:
    seed(world.engine, STRANGER.tenant, parse_master_data(MASTER_DATA), START_MS)
    names = {"asset": "pump-1", "node": "edge-1", "part_no": SEAL}

    def seen(api: Api) -> dict[str, str]:
        paths = [r.path for r in api_routes(world) if r.method == "GET" and "_id}" not in r.path]
        return {path: api.client.get(path.format(**names)).text for path in paths}

    with serving(deps_of(world)) as own, serving(deps_of(world, STRANGER)) as other:
        before, own_before = seen(other), seen(own)
        world.hear(advisory())
        own.done(f"/api/v1/parts/{SEAL}/receipts", {"depot": "south", "quantity": 7})
        lane = {"tenant": TENANT, "node": "edge-1", "lane": "telemetry", "epoch": "e", "ahead": []}
        with writing(world.engine) as connection:
            connection.execute(lane_progress.insert().values(lane | {"first_at": 1, "updated_at": 1}))
        assert seen(other) == before
        changed = {path for path, text in seen(own).items() if text != own_before[path]}
    assert changed >= {f"/api/v1/{noun}" for noun in ("assets", "nodes", "orders", "parts", "notifications", "audit")}


def test_a_stranger_cannot_reach_in_through_a_body(world: World, filled: dict[str, str]) -> None:
    with serving(deps_of(world, STRANGER)) as foreign:
        assert_problem(foreign.post("/api/v1/assets", BODIES["/api/v1/assets"]), 422, "edge-1", "not enrolled")
        foreign.done("/api/v1/nodes", {"node": "edge-1"})
        asset = {"asset": "pump-1", "asset_type": "x", "node": "edge-1"}
        assert_problem(foreign.post("/api/v1/assets", asset | {"site": "works"}), 422, "site")
        assert foreign.done("/api/v1/assets", asset)["health"] is None
        assert foreign.get("/api/v1/orders", asset="pump-1")["items"] == []
    assert filled


def test_a_viewer_reads_and_changes_nothing(world: World, filled: dict[str, str]) -> None:
    before = world.everything()
    with serving(deps_of(world, replace(ADMIN, role="viewer"))) as viewer:
        for route in api_routes(world):
            path = route.path.format(**filled)
            answer = viewer.client.request(route.method, path, json=BODIES.get(route.path))
            if route.method == "GET":
                assert answer.status_code == 200, path
            else:
                assert_problem(answer, 403, "viewer")
    assert world.everything() == before


def test_a_technician_works_on_orders_and_does_not_cancel_or_enrol(world: World, filled: dict[str, str]) -> None:
    with serving(deps_of(world, replace(ADMIN, name="tom", role="technician"))) as technician:
        order = f"/api/v1/orders/{filled['order_id']}"
        assert technician.done(f"{order}/acknowledge")["state"] == "ACKNOWLEDGED"
        assert_problem(technician.post(f"{order}/cancel", {"reason": "no"}), 403, "admin or desk")
        assert_problem(technician.post("/api/v1/nodes", {"node": "edge-2"}), 403, "admin")


def test_a_page_of_another_site_or_under_another_name_is_refused(api: Api, world: World) -> None:
    before = world.everything()
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}):
        answer = api.client.post("/api/v1/nodes", json={"node": "edge-2"}, headers=headers)
        assert_problem(answer, 403, "Origin")
    assert_problem(api.client.get("/api/v1/orders", headers={"Host": "evil.example"}), 421, "Host")
    assert world.everything() == before
    own = {"Origin": str(api.client.base_url).rstrip("/")}
    assert api.client.post("/api/v1/nodes", json={"node": "edge-2"}, headers=own).status_code == 201
    for name in ("localhost", "[::1]", "127.0.0.1:1"):
        assert api.client.get("/api/v1/orders", headers={"Host": name}).status_code == 200


def test_a_form_of_another_site_cannot_post(api: Api) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        answer = api.client.post("/api/v1/nodes", content=b'{"node": "edge-2"}', headers={"Content-Type": kind})
        assert_problem(answer, 422)
