"""The scorecard of a backtest and the evaluation of the models, for people."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from forewarn_cloud.history.backtest import Scorecard
from forewarn_cloud.history.cells import counted
from forewarn_cloud.history.evaluate import (
    Evaluation,
    FalseAlarms,
    FaultDetection,
    FirstAlarms,
    RowAgreement,
    RulAlongLives,
    RulAtLastSample,
    RulErrors,
    Rules,
)
from forewarn_cloud.history.scorecard import Bill, Quantiles


def print_scorecard(card: Scorecard, console: Console | None = None) -> None:
    out = console or Console()
    out.print(
        f"[bold]{card.dataset}[/bold]: {counted(card.assets, 'asset')} ({card.asset_type}), "
        f"{card.lives} {'life' if card.lives == 1 else 'lives'}, {counted(card.samples, 'sample')}; "
        f"policy {card.policy.name}, seed {card.seed}"
    )
    out.print(_facts(card))
    out.print(_bills(card))
    if card.costs.share_of_possible_saving is not None:
        out.print(f"Share of the possible saving: {card.costs.share_of_possible_saving:.0%}")


def print_evaluation(found: Evaluation, console: Console | None = None) -> None:
    out = console or Console()
    out.print(
        f"[bold]{found.dataset}[/bold]: {counted(found.assets, 'asset')} ({found.asset_type}), "
        f"{counted(found.samples, 'sample')}; "
        f"{'with' if found.fitted else 'without'} fleet knowledge"
    )
    table = Table("", "", show_header=False)
    for row in _evaluation_rows(found):
        table.add_row(*row)
    out.print(table if table.row_count else "No label to judge by: add failures.csv, faults.csv or remaining_life.csv.")


Rows = Iterator[tuple[str, str]]


def _evaluation_rows(found: Evaluation) -> Rows:
    if found.first_alarms is not None:
        yield from _first_alarms(found.first_alarms, found.rules)
    if found.rul_along_lives is not None:
        yield from _rul_along_lives(found.rul_along_lives)
    if found.rul_at_last_sample is not None:
        yield from _rul_at_last_sample(found.rul_at_last_sample, found.rules)
    if found.faults is not None:
        yield from _fault_detection(found.faults, found.rules)
    if found.false_alarms is not None:
        yield from _false_alarms(found.false_alarms)


def _first_alarms(first: FirstAlarms, rules: Rules) -> Rows:
    yield "Lives that ended in a failure", str(first.lives)
    yield (
        f"  first ALARM {rules.lead_min_hours:g} to {rules.lead_max_hours:g} h before",
        _of(first.in_time, first.lives),
    )
    yield "  earlier / later / missed", f"{first.earlier} / {first.later} / {first.missed}"
    yield "  hours before, P10 / P50 / P90", _quantiles(first.hours_before_failure)
    if first.never_failing:
        yield "Assets that never fail: ALARM in the first 75 %", _of(first.never_failing_alarmed, first.never_failing)


def _rul_along_lives(rul: RulAlongLives) -> Rows:
    yield "Remaining life along the lives", f"{rul.samples} samples of {_of(rul.lives_with_rul, rul.lives)} lives"
    yield "  CRPS / within P10 to P90", f"{rul.crps_hours:.1f} h / {rul.p10_p90_coverage:.0%}"
    yield "  within 20 % half-way (alpha-lambda)", f"{rul.alpha_lambda:.0%}"
    yield "  prognostic horizon (10 %), median", f"{rul.prognostic_horizon_hours:.0f} h"


def _rul_at_last_sample(rul: RulAtLastSample, rules: Rules) -> Rows:
    yield "Remaining life at the last sample", f"told for {_of(rul.units - rul.without_rul, rul.units)} assets"
    yield "  as told", _rul_errors(rul.raw)
    yield f"  clipped to {rules.rul_cap_hours:g} h", _rul_errors(rul.clipped)
    yield f"  the same; where none is told, {rules.rul_cap_hours:g} h", _rul_errors(rul.clipped_all)


def _rul_errors(errors: RulErrors | None) -> str:
    if errors is None:
        return "none"
    return (
        f"RMSE {errors.rmse_hours:.2f} h, PHM08 score {errors.phm08_score:,.0f}, CRPS {errors.crps_hours:.2f} h, "
        f"within P10 to P90 {errors.p10_p90_coverage:.0%} ({errors.units} assets)"
    )


def _fault_detection(faults: FaultDetection, rules: Rules) -> Rows:
    delay = "none" if faults.median_delay_s is None else f"{faults.median_delay_s:.0f} s"
    yield "Faults raised", f"{_of(faults.raised, faults.faults)}, after {delay} (median)"
    yield f"  within {rules.within_s:g} s", _of(faults.raised_within, faults.faults)
    yield "Assets with an ALARM before their first fault", _of(faults.assets_with_early_alarm, faults.assets)
    yield "Row by row, all rows", _agreement(faults.all_rows)
    yield "  after the baseline", _agreement(faults.after_baseline)


def _agreement(rows: RowAgreement) -> str:
    rates = rows.rates
    named = {
        "AUC": rows.auc,
        "F1": rates.f1,
        "at a false alarm rate of": rates.false_alarm_rate,
        "precision": rates.precision,
        "recall": rates.recall,
    }
    told = ", ".join(f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in named.items())
    return f"{told} ({rates.rows} rows)"


def _false_alarms(alarms: FalseAlarms) -> Rows:
    yield "Assets without any fault", f"{alarms.assets}, {alarms.asset_months:.2f} asset-months after the baseline"
    yield "  ALARMs raised / samples in ALARM", f"{alarms.raised} / {alarms.rows}"
    yield "  ALARMs per asset-month", _number(alarms.per_asset_month)


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}"


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
