"""The arithmetic of the scorecard."""

from typing import Any

from forewarn_cloud.history.replay import CaseResult
from forewarn_cloud.history.scorecard import (
    Bill,
    Breakdowns,
    Orders,
    bill,
    count_breakdowns,
    count_orders,
    lead_time_hours,
)


def _result(**given: Any) -> CaseResult:
    values: dict[str, Any] = {
        "asset": "f1",
        "outcome": "none",
        "lead_hours": None,
        "broke_down": False,
        "lived_hours": 720.0,
        "cost": 0.0,
        "orders": 0,
        "repaired_orders": 0,
        "false_orders": 0,
        "withdrawn_orders": 0,
        "unresolved_orders": 0,
        "transfers": 0,
        "stock_outs": 0,
    }
    return CaseResult(**(values | given))


RESULTS = [
    _result(outcome="caught", lead_hours=100.0, orders=3, repaired_orders=1, false_orders=2, cost=10.0),
    _result(outcome="late", lead_hours=20.0, orders=1, broke_down=True, cost=200.0),
    _result(outcome="missed", broke_down=True, cost=300.0),
    _result(orders=2, withdrawn_orders=1, unresolved_orders=1, lived_hours=1440.0),
]


def test_breakdowns_add_up() -> None:
    assert count_breakdowns(RESULTS) == Breakdowns(total=3, caught=1, late=1, missed=1)


def test_orders_add_up_and_false_ones_are_told_per_100_asset_months() -> None:
    assert count_orders(RESULTS) == Orders(
        opened=6, repaired=1, late=1, false=2, withdrawn=1, unresolved=1, false_per_100_asset_months=40.0
    )


def test_lead_time_is_over_breakdowns_that_had_an_order() -> None:
    quantiles = lead_time_hours(RESULTS)
    assert quantiles is not None
    assert (quantiles.p10, quantiles.p50, quantiles.p90) == (28.0, 60.0, 92.0)
    assert lead_time_hours([_result()]) is None


def test_the_bill_counts_cost_per_month_lived() -> None:
    assert bill(RESULTS) == Bill(cost=510.0, asset_months=5.0, cost_per_asset_month=102.0, breakdowns=2)
    assert bill([]) == Bill(cost=0.0, asset_months=0.0, cost_per_asset_month=None, breakdowns=0)
