"""The scorecard for people."""

from rich.console import Console
from rich.table import Table

from forewarn_cloud.history.backtest import Scorecard
from forewarn_cloud.history.scorecard import Bill, Quantiles


def print_scorecard(card: Scorecard, console: Console | None = None) -> None:
    out = console or Console()
    out.print(
        f"[bold]{card.dataset}[/bold]: {card.assets} assets ({card.asset_type}), {card.lives} lives, "
        f"{card.samples} samples; policy {card.policy.name}, seed {card.seed}"
    )
    out.print(_facts(card))
    out.print(_bills(card))
    if card.costs.share_of_possible_saving is not None:
        out.print(f"Share of the possible saving: {card.costs.share_of_possible_saving:.0%}")


def _facts(card: Scorecard) -> Table:
    table = Table("", "", show_header=False)
    breakdowns, orders = card.breakdowns, card.orders
    table.add_row("Breakdowns coming", str(breakdowns.total))
    table.add_row("  repaired before", str(breakdowns.caught))
    table.add_row("  order came too late", str(breakdowns.late))
    table.add_row("  missed", str(breakdowns.missed))
    table.add_row("Orders opened", str(orders.opened))
    table.add_row("  ended in a repair", str(orders.repaired))
    table.add_row("  came too late", str(orders.late))
    table.add_row("  false", f"{orders.false} ({_number(orders.false_per_100_asset_months)} per 100 asset-months)")
    table.add_row("  withdrawn", str(orders.withdrawn))
    table.add_row("  unresolved", str(orders.unresolved))
    table.add_row("Lead time, hours (P10 / P50 / P90)", _quantiles(card.lead_time_hours))
    table.add_row("Transfers between depots", str(card.transfers))
    table.add_row("Stock-outs", str(card.stock_outs))
    return table


def _bills(card: Scorecard) -> Table:
    costs = card.costs
    interval, threshold = costs.fixed_interval, costs.fixed_threshold
    age = "never" if interval.interval_hours is None else f"{interval.interval_hours:.0f} h"
    table = Table("Rule", "Cost", "per asset-month", "Breakdowns", title="Against other rules")
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("this policy", *_bill(costs.policy), style="bold")
    table.add_row("run to failure", *_bill(costs.run_to_failure))
    table.add_row(f"fixed interval ({age}, best with hindsight)", *_bill(interval.bill))
    table.add_row(f"fixed threshold (health {threshold.health_index:g})", *_bill(threshold.bill))
    table.add_row("perfect foresight", *_bill(costs.perfect_foresight))
    return table


def _bill(bill: Bill) -> tuple[str, str, str]:
    return f"{bill.cost:,.0f}", _number(bill.cost_per_asset_month), str(bill.breakdowns)


def _quantiles(hours: Quantiles | None) -> str:
    return "none" if hours is None else f"{hours.p10:.0f} / {hours.p50:.0f} / {hours.p90:.0f}"


def _number(value: float | None) -> str:
    return "not known" if value is None else f"{value:,.1f}"
