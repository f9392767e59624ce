"""Nodes and assets come and go; what is deleted stays as history."""

from typing import Any

import pytest

from forewarn_cloud.adapters.sql import schema
from forewarn_cloud.errors import Conflict, Invalid, NotFound
from forewarn_cloud.principal import Principal
from forewarn_cloud.service import registry
from tests.cloud.world import DESK, SEAL, TENANT, World, advisory, normal


def create(world: World, asset: str = "fan-9", **changes: Any) -> None:
    given: dict[str, Any] = {"node": "edge-1", "asset_type": "motor_fan", "name": "Fan 9", "site": "works", **changes}
    world.run(lambda uow: registry.create_asset(uow, DESK, world.clock, asset, **given))


def test_a_node_is_enrolled_deleted_and_enrolled_again(world: World) -> None:
    def enrol() -> None:
        world.run(lambda uow: registry.enrol_node(uow, DESK, world.clock, "edge-2", declares_assets=False))

    enrol()
    with pytest.raises(Conflict, match="enrolled already"):
        enrol()
    world.run(lambda uow: registry.delete_node(uow, DESK, world.clock, "edge-2"))
    with pytest.raises(NotFound):
        world.run(lambda uow: registry.delete_node(uow, DESK, world.clock, "edge-2"))
    enrol()
    (node,) = [row for row in world.rows(schema.nodes) if row.node == "edge-2"]
    assert (node.deleted_at, node.declares_assets) == (None, False)
    assert [row.action for row in world.rows(schema.audit)] == ["enrolled", "deleted", "enrolled"]


def test_an_asset_is_created_changed_and_deleted(world: World) -> None:
    create(world)
    with pytest.raises(Conflict, match="exists already"):
        create(world)
    changed = world.run(lambda uow: registry.update_asset(uow, DESK, world.clock, "fan-9", name="Fan nine"))
    assert (changed.name, changed.site, changed.asset_type) == ("Fan nine", "works", "motor_fan")
    world.run(lambda uow: registry.delete_asset(uow, DESK, world.clock, "fan-9"))
    with pytest.raises(NotFound):
        world.run(lambda uow: registry.update_asset(uow, DESK, world.clock, "fan-9", name="x"))
    create(world)
    assert [row.deleted_at for row in world.rows(schema.assets) if row.asset == "fan-9"] == [None]


@pytest.mark.parametrize(
    ("asset", "changes", "field"),
    [
        ("../x", {}, "asset"),
        ("fan-9", {"asset_type": "a.b"}, "asset_type"),
        ("fan-9", {"node": "ghost"}, "node"),
        ("fan-9", {"site": "nowhere"}, "site"),
        ("fan-9", {"name": "Fan\r\nBcc: x@example.org"}, "name"),
        ("fan-9", {"name": " "}, "name"),
        ("fan-9", {"name": "x" * 201}, "name"),
    ],
)
def test_an_asset_that_makes_no_sense_is_refused(world: World, asset: str, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as refused:
        create(world, asset, **changes)
    assert refused.value.field == field


def test_a_name_is_only_ever_text(world: World) -> None:
    create(world, name="{{7*7}} <script> '; DROP TABLE assets")
    (row,) = [row for row in world.rows(schema.assets) if row.asset == "fan-9"]
    assert row.name == "{{7*7}} <script> '; DROP TABLE assets"


def test_an_asset_with_an_open_order_is_not_deleted(world: World) -> None:
    world.hear(advisory())
    with pytest.raises(Conflict, match="open order SO-000001"):
        world.run(lambda uow: registry.delete_asset(uow, DESK, world.clock, "pump-1"))


def test_what_a_deleted_asset_still_says_has_no_effect(world: World) -> None:
    world.run(lambda uow: registry.delete_asset(uow, DESK, world.clock, "pump-1"))
    world.hear(advisory(), normal(at_hours=1))
    assert world.orders() == []
    assert world.stock(SEAL) == (1, 0)
    assert world.rows(schema.asset_health) == []
    assert all(row.handled_at is not None for row in world.rows(schema.advisories))


def test_the_assets_of_one_tenant_do_not_exist_for_another(world: World) -> None:
    stranger = Principal(name="eve", tenant="other", role="admin")
    with pytest.raises(NotFound):
        world.run(lambda uow: registry.delete_asset(uow, stranger, world.clock, "pump-1"))
    with pytest.raises(Invalid, match="'edge-1' is not enrolled"):
        world.run(
            lambda uow: registry.create_asset(
                uow, stranger, world.clock, "pump-1", node="edge-1", asset_type="centrifugal_pump"
            )
        )
    assert {row.tenant for row in world.rows(schema.assets)} == {TENANT}
