"""The world a policy is tried in: what is on the shelves, how long things take, and luck.

What luck brings depends only on the seed and on what it is drawn for, so that every rule meets the same luck and a
rerun gives the same figures.
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from forewarn_cloud.entities import Part, StockLevel, Transfer
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.service.sourcing import Shelf, SupplyPlan, supply_plans
from forewarn_models.asset_type import AssetType, PartNeed

HOUR_MS: Final = 3_600_000
LOCAL: Final = "local"
CENTRAL: Final = "central"
_TENANT: Final = "backtest"
_Z90: Final = 1.2815515655446004
"""90th percentile of the standard normal distribution."""
GENERIC_PART: Final = PartNeed(part_no="REPAIR-KIT")
"""What is needed where the asset type names no parts for a failure mode."""
Purpose = Literal["lead_time", "dispatch", "second_lead_time", "second_dispatch", "restock"]
_PURPOSES: Final[tuple[Purpose, ...]] = ("lead_time", "dispatch", "second_lead_time", "second_dispatch", "restock")

Amount = Annotated[float, msgspec.Meta(ge=0)]
Duration = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class WorldError(ValueError):
    """The world file cannot be used; the message names the key and the fix."""


class PartSupply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One part: its price, its supplier's median lead times, and what is on hand. What is used is bought again.

    Stock that is not given is what a planner would hold: enough for the demand of the known failures over the
    purchase time nine times out of ten (Poisson), two thirds of it in the local depot, at least one part there.
    """

    unit_cost: Amount = 600.0
    purchase_hours: Duration = 168.0
    expedite_hours: Duration = 48.0
    expedite_cost: Amount = 300.0
    on_hand_local: Count | None = None
    on_hand_central: Count | None = None


class World(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about the trial that is no decision; what things cost stands in the policy.

    `world.toml` explains every key.
    """

    seed: Count = 1
    tier: Annotated[int, msgspec.Meta(ge=1, le=3)] = 2
    """Of the customer all assets belong to."""
    dispatch_hours: Duration = 8.0
    transfer_hours: Duration = 24.0
    """From the central to the local depot."""
    transfer_cost: Amount = 80.0
    part: PartSupply = PartSupply()
    parts: dict[str, PartSupply] = {}
    """Part number -> its own supply instead of `part`."""
    recognisable_hours: Duration = 336.0
    """How long before a failure a technician can find the fault, where neither faults.csv nor the failure mode says."""
    hold_hours: Amount = 168.0
    """After "no fault found" nobody is sent to that machine for this long."""
    threshold_health_index: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    """The rule "fixed threshold" orders as soon as the health index is not above this."""

    def supply_of(self, part_no: str) -> PartSupply:
        return self.parts.get(part_no, self.part)


def parse_world(text: str) -> World:
    """Read a world from TOML; a missing key keeps its default.

    Raises:
        WorldError: not TOML, an unknown key, a wrong type, or a figure out of range; it names the key.
    """
    try:
        return msgspec.convert(tomllib.loads(text), World)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise WorldError(f"world: {error}") from None


def default_world() -> World:
    """The world that ships with forewarn."""
    return parse_world(resources.files(__package__).joinpath("world.toml").read_text("utf-8"))


def needs_of(asset_type: AssetType, failure_mode: str | None) -> tuple[PartNeed, ...]:
    """The parts to repair a failure mode; one repair kit where the type does not say."""
    mode = asset_type.failure_mode(failure_mode or "")
    return mode.parts if mode is not None and mode.parts else (GENERIC_PART,)


class Luck:
    """How long things really take: the median times a lognormal factor."""

    def __init__(self, world: World, policy: Policy) -> None:
        self._seed, self._times = world.seed, policy.times

    def lead_hours(self, median: float, purpose: Purpose, *key: int) -> float:
        return median * self._factor(self._times.lead_time_spread, purpose, *key)

    def dispatch_hours(self, median: float, purpose: Purpose, *key: int) -> float:
        return median * self._factor(self._times.dispatch_spread, purpose, *key)

    def _factor(self, spread: float, purpose: Purpose, *key: int) -> float:
        generator = np.random.default_rng([self._seed, _PURPOSES.index(purpose), *key])
        return math.exp(spread * float(generator.standard_normal()))


class Shelves:
    """Stock in the local depot, which serves all assets, and in the central one: what orders compete for."""

    def __init__(self, world: World, demand_per_hour: Mapping[str, float]) -> None:
        self._world = world
        self._demand = demand_per_hour
        self._on_hand = dict[tuple[str, str], int]()
        self._route = Transfer(from_depot=CENTRAL, to_depot=LOCAL, hours=world.transfer_hours, cost=world.transfer_cost)

    def on_hand(self, part_no: str, depot: str) -> int:
        if (part_no, depot) not in self._on_hand:
            self._on_hand[part_no, depot] = self._first_stock(part_no, depot)
        return self._on_hand[part_no, depot]

    def _first_stock(self, part_no: str, depot: str) -> int:
        supply = self._world.supply_of(part_no)
        given = supply.on_hand_local if depot == LOCAL else supply.on_hand_central
        if given is not None:
            return given
        mean = self._demand.get(part_no, 0.0) * supply.purchase_hours
        needed = math.ceil(mean + _Z90 * math.sqrt(mean))
        local = max(1, math.ceil(needed * 2 / 3))
        return local if depot == LOCAL else max(0, needed - local)

    def plans(self, needs: Sequence[PartNeed]) -> tuple[SupplyPlan, ...]:
        """The ways to get the parts to the local depot now, the fastest first."""
        return supply_plans(needs, {need.part_no: self._shelf(need.part_no) for need in needs}, (self._route,), LOCAL)

    def _shelf(self, part_no: str) -> Shelf:
        supply = self._world.supply_of(part_no)
        part = Part(
            tenant=_TENANT,
            part_no=part_no,
            name_en=part_no,
            name_zh=part_no,
            unit_cost=supply.unit_cost,
            purchase_hours=supply.purchase_hours,
            expedite_hours=supply.expedite_hours,
            expedite_cost=supply.expedite_cost,
        )
        levels = [
            StockLevel(part_no=part_no, depot=depot, on_hand=self.on_hand(part_no, depot), reserved=0)
            for depot in (LOCAL, CENTRAL)
        ]
        return Shelf(part=part, levels=levels)

    def take(self, plan: SupplyPlan) -> None:
        """Take what a plan gets from a shelf; what it buys never lay there."""
        for supply in plan.supplies:
            if supply.from_depot is not None:
                self.put(supply.part_no, supply.from_depot, -supply.quantity)

    def put(self, part_no: str, depot: str, quantity: int) -> None:
        left = self.on_hand(part_no, depot) + quantity
        assert left >= 0, "a plan was made before the shelf was emptied by another"
        self._on_hand[part_no, depot] = left
