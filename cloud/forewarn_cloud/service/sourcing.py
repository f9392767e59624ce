"""Where a part can come from, how fast and at what price. Pure: stock in, options out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from forewarn_cloud.entities import Part, Sourcing, StockLevel, Transfer
from forewarn_models.asset_type import PartNeed


@dataclass(frozen=True, kw_only=True)
class Supply:
    """One way to get the whole quantity of one part to the depot that serves the site."""

    part_no: str
    quantity: int
    sourcing: Sourcing
    from_depot: str | None
    to_depot: str
    lead_hours: float
    """Median hours until it is there."""
    logistics_cost: float
    """Money on top of the price of the part."""
    parts_cost: float

    @property
    def label(self) -> str:
        return f"transfer:{self.from_depot}" if self.sourcing == "transfer" else self.sourcing


@dataclass(frozen=True, kw_only=True)
class SupplyPlan:
    """A supply for every part that is needed."""

    supplies: tuple[Supply, ...] = ()

    @property
    def name(self) -> str:
        return "+".join(sorted({supply.label for supply in self.supplies})) or "no parts"

    @property
    def lead_hours(self) -> float:
        return max((supply.lead_hours for supply in self.supplies), default=0.0)

    @property
    def logistics_cost(self) -> float:
        return sum(supply.logistics_cost for supply in self.supplies)

    @property
    def parts_cost(self) -> float:
        return sum(supply.parts_cost for supply in self.supplies)


NO_PARTS = SupplyPlan()


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """What is known about one part when a decision is made."""

    part: Part
    levels: Sequence[StockLevel]


def supplies(need: PartNeed, shelf: Shelf, routes: Sequence[Transfer], depot: str) -> tuple[Supply, ...]:
    """Every way to get `need` to `depot`: from its own stock, another depot's, or the supplier."""
    levels = {level.depot: level for level in shelf.levels if level.available >= need.quantity}
    found = [_supply(need, shelf.part, depot, "stock", depot, 0.0, 0.0)] if depot in levels else []
    found += [
        _supply(need, shelf.part, depot, "transfer", route.from_depot, route.hours, route.cost)
        for route in routes
        if route.to_depot == depot and route.from_depot in levels and route.from_depot != depot
    ]
    found.append(_supply(need, shelf.part, depot, "purchase", None, shelf.part.purchase_hours, 0.0))
    if shelf.part.expedite_hours is not None:
        cost = (shelf.part.expedite_cost or 0.0) * need.quantity
        found.append(_supply(need, shelf.part, depot, "expedite", None, shelf.part.expedite_hours, cost))
    return tuple(found)


def supply_plans(
    needs: Sequence[PartNeed], shelves: Mapping[str, Shelf], routes: Sequence[Transfer], depot: str
) -> tuple[SupplyPlan, ...]:
    """The plans worth comparing: for each deadline one could set, the cheapest that meets it. The fastest comes first.

    Parts that are not in the catalogue are left out: see `unknown_parts`. Without parts there is one empty plan.
    """
    options = [supplies(need, shelves[need.part_no], routes, depot) for need in needs if need.part_no in shelves]
    deadlines = sorted({supply.lead_hours for choices in options for supply in choices})
    plans = [_cheapest_within(options, hours) for hours in deadlines]
    return tuple(dict.fromkeys(plan for plan in plans if plan is not None)) or (NO_PARTS,)


def unknown_parts(needs: Sequence[PartNeed], shelves: Mapping[str, Shelf]) -> tuple[str, ...]:
    """Part numbers the asset type asks for and the catalogue does not have."""
    return tuple(need.part_no for need in needs if need.part_no not in shelves)


def _cheapest_within(options: Sequence[Sequence[Supply]], hours: float) -> SupplyPlan | None:
    chosen = []
    for choices in options:
        in_time = [supply for supply in choices if supply.lead_hours <= hours]
        if not in_time:
            return None
        chosen.append(min(in_time, key=lambda supply: (supply.logistics_cost, supply.lead_hours, supply.label)))
    return SupplyPlan(supplies=tuple(chosen))


def _supply(
    need: PartNeed, part: Part, depot: str, sourcing: Sourcing, source: str | None, hours: float, cost: float
) -> Supply:
    return Supply(
        part_no=need.part_no,
        quantity=need.quantity,
        sourcing=sourcing,
        from_depot=source,
        to_depot=depot,
        lead_hours=hours,
        logistics_cost=cost,
        parts_cost=part.unit_cost * need.quantity,
    )
