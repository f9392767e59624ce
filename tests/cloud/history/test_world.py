"""The world of a backtest: read from TOML, stocked as a planner would, and the same luck for the same seed."""

import math
import re

import numpy as np
import pytest

from forewarn_cloud.history.world import (
    CENTRAL,
    GENERIC_PART,
    LOCAL,
    Luck,
    PartSupply,
    Shelves,
    World,
    WorldError,
    default_world,
    needs_of,
    parse_world,
)
from forewarn_cloud.service.policy import Policy
from forewarn_models.asset_type import PartNeed, builtin_asset_type


def test_the_shipped_world_is_the_default() -> None:
    assert default_world() == World()


def test_a_part_may_have_its_own_figures() -> None:
    world = parse_world("[part]\nunit_cost = 5\n[parts.SEAL]\nunit_cost = 7\non_hand_local = 3\n")
    assert (world.supply_of("SEAL").unit_cost, world.supply_of("OTHER").unit_cost) == (7.0, 5.0)
    shelves = Shelves(world, {})
    assert (shelves.on_hand("SEAL", LOCAL), shelves.on_hand("OTHER", LOCAL)) == (3, 1)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("seed = -1", "`int` >= 0 - at `$.seed`"),
        ("tier = 4", "at `$.tier`"),
        ("[part]\npurchase_hours = 0", "at `$.part.purchase_hours`"),
        ("[part]\nprice = 1", "unknown field `price` - at `$.part`"),
        ("seed = x", "at line 1"),
    ],
)
def test_mistakes_in_a_world_are_told(text: str, wrong: str) -> None:
    with pytest.raises(WorldError, match=re.escape(wrong)):
        parse_world(text)


@pytest.mark.parametrize(("mean", "local", "central"), [(0.0, 1, 0), (1.0, 2, 1), (9.0, 9, 4)])
def test_a_planner_stocks_for_the_demand_of_the_purchase_time(mean: float, local: int, central: int) -> None:
    shelves = Shelves(World(), {"BRG": mean / 168.0})
    assert (shelves.on_hand("BRG", LOCAL), shelves.on_hand("BRG", CENTRAL)) == (local, central)


def test_what_lies_on_no_shelf_is_bought() -> None:
    shelves = Shelves(World(part=PartSupply(on_hand_local=1, on_hand_central=0)), {})
    needs = (PartNeed(part_no="A"), PartNeed(part_no="B", quantity=2))
    for plan in shelves.plans(needs):
        sourcing = {supply.part_no: supply.sourcing for supply in plan.supplies}
        assert (sourcing["A"], sourcing["B"] in ("purchase", "expedite")) == ("stock", True)
    shelves.take(shelves.plans(needs)[0])
    assert (shelves.on_hand("A", LOCAL), shelves.on_hand("B", LOCAL)) == (0, 1)


def test_luck_is_lognormal_around_the_median_and_the_same_for_the_same_key() -> None:
    luck = Luck(World(seed=3), Policy())
    hours = np.array([luck.lead_hours(100.0, "lead_time", n, 1) for n in range(2000)])
    assert luck.lead_hours(100.0, "lead_time", 5, 1) == hours[5]
    assert luck.lead_hours(100.0, "restock", 5, 1) != hours[5]
    assert math.exp(np.log(hours).mean()) == pytest.approx(100.0, rel=0.03)
    assert np.log(hours).std() == pytest.approx(Policy().times.lead_time_spread, rel=0.06)


def test_parts_follow_the_failure_mode_and_a_kit_serves_what_is_unknown() -> None:
    pump = builtin_asset_type("centrifugal_pump")
    assert needs_of(pump, "seal_leak") == (PartNeed(part_no="PMP-SEAL-45"),)
    assert needs_of(pump, "earthquake") == needs_of(pump, None) == (GENERIC_PART,)
