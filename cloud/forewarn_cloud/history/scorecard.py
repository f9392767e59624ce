"""The scorecard of a backtest: what was caught, what it cost, and what other rules would have cost. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from forewarn_cloud.history.replay import CaseResult

HOURS_PER_MONTH: Final = 720.0


@dataclass(frozen=True, kw_only=True)
class Breakdowns:
    """Failures that were coming while the machine was watched. caught + late + missed = total."""

    total: int
    caught: int
    """Repaired before the failure."""
    late: int
    """An order was open, but the failure came before parts and crew."""
    missed: int


@dataclass(frozen=True, kw_only=True)
class Orders:
    """opened = repaired + late + false + withdrawn + unresolved."""

    opened: int
    repaired: int
    late: int
    """The machine failed before parts and crew were there."""
    false: int
    """There was no fault, neither when it was opened nor when the technician came."""
    withdrawn: int
    """The evidence cleared before the visit."""
    unresolved: int
    """The fault had passed by the visit, or the recording does not tell whether something was wrong."""
    false_per_100_asset_months: float | None


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What a rule costs within the recording."""

    cost: float
    asset_months: float
    cost_per_asset_month: float | None
    breakdowns: int
    """Failures within the recording under this rule."""


def count_breakdowns(results: Sequence[CaseResult]) -> Breakdowns:
    outcomes = [result.outcome for result in results]
    caught, late, missed = (outcomes.count(outcome) for outcome in ("caught", "late", "missed"))
    return Breakdowns(total=caught + late + missed, caught=caught, late=late, missed=missed)


def count_orders(results: Sequence[CaseResult]) -> Orders:
    months = asset_months(results)
    false = sum(result.false_orders for result in results)
    return Orders(
        opened=sum(result.orders for result in results),
        repaired=sum(result.repaired_orders for result in results),
        late=sum(result.outcome == "late" for result in results),
        false=false,
        withdrawn=sum(result.withdrawn_orders for result in results),
        unresolved=sum(result.unresolved_orders for result in results),
        false_per_100_asset_months=100.0 * false / months if months > 0 else None,
    )


def lead_time_hours(results: Sequence[CaseResult]) -> Quantiles | None:
    """From opening the order to the failure that was coming, over the breakdowns that had an order."""
    hours = [result.lead_hours for result in results if result.lead_hours is not None]
    if not hours:
        return None
    p10, p25, p50, p75, p90 = np.quantile(hours, [0.1, 0.25, 0.5, 0.75, 0.9]).tolist()
    return Quantiles(p10=p10, p25=p25, p50=p50, p75=p75, p90=p90)


def bill(results: Sequence[CaseResult]) -> Bill:
    months, cost = asset_months(results), sum(result.cost for result in results)
    return Bill(
        cost=cost,
        asset_months=months,
        cost_per_asset_month=cost / months if months > 0 else None,
        breakdowns=sum(result.broke_down for result in results),
    )


def asset_months(results: Sequence[CaseResult]) -> float:
    return sum(result.lived_hours for result in results) / HOURS_PER_MONTH
