"""Where parts can come from, and which plans are worth comparing."""

from forewarn_cloud.entities import Part, StockLevel, Transfer
from forewarn_cloud.service.sourcing import NO_PARTS, Shelf, supplies, supply_plans, unknown_parts
from forewarn_models.asset_type import PartNeed

ROUTE = Transfer(from_depot="south", to_depot="north", hours=24.0, cost=50.0)


def shelf(part_no: str, purchase_hours: float = 96.0, expedite_hours: float | None = None, **on_hand: int) -> Shelf:
    return Shelf(
        part=Part(
            tenant="t",
            part_no=part_no,
            name_en=part_no,
            name_zh=part_no,
            unit_cost=100.0,
            purchase_hours=purchase_hours,
            expedite_hours=expedite_hours,
            expedite_cost=40.0 if expedite_hours is not None else None,
        ),
        levels=[StockLevel(part_no=part_no, depot=depot, on_hand=n, reserved=0) for depot, n in on_hand.items()],
    )


def test_every_way_to_get_a_part_is_found_with_its_time_and_cost() -> None:
    found = supplies(PartNeed("A", 2), shelf("A", 96.0, 48.0, north=2, south=5), [ROUTE], "north")
    assert [(s.label, s.lead_hours, s.logistics_cost, s.parts_cost) for s in found] == [
        ("stock", 0.0, 0.0, 200.0),
        ("transfer:south", 24.0, 50.0, 200.0),
        ("purchase", 96.0, 0.0, 200.0),
        ("expedite", 48.0, 80.0, 200.0),
    ]


def test_what_is_reserved_or_too_few_is_no_supply() -> None:
    reserved = [StockLevel(part_no="A", depot="north", on_hand=2, reserved=1)]
    found = supplies(PartNeed("A", 2), Shelf(part=shelf("A").part, levels=reserved), [], "north")
    assert [s.label for s in found] == ["purchase"]


def test_plans_are_the_cheapest_for_each_deadline_the_fastest_first() -> None:
    shelves = {"A": shelf("A", 96.0, 48.0, south=1), "B": shelf("B", 24.0, north=1)}
    plans = supply_plans([PartNeed("A"), PartNeed("B")], shelves, [ROUTE], "north")
    assert [(plan.name, plan.lead_hours, plan.logistics_cost) for plan in plans] == [
        ("stock+transfer:south", 24.0, 50.0),
        ("expedite+stock", 48.0, 40.0),
        ("purchase+stock", 96.0, 0.0),
    ]


def test_an_unknown_part_is_left_out_and_named() -> None:
    needs = [PartNeed("A"), PartNeed("GHOST")]
    shelves = {"A": shelf("A", north=1)}
    assert [plan.name for plan in supply_plans(needs, shelves, [], "north")] == ["stock"]
    assert unknown_parts(needs, shelves) == ("GHOST",)


def test_without_parts_there_is_one_empty_plan() -> None:
    assert supply_plans([], {}, [], "north") == (NO_PARTS,)
    assert (NO_PARTS.name, NO_PARTS.lead_hours, NO_PARTS.parts_cost) == ("no parts", 0.0, 0.0)
