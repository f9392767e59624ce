"""What would this policy have done with these machines? Assess, replay, count."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from forewarn_cloud.history.assess import Advance, assess_dataset
from forewarn_cloud.history.cells import DatasetError
from forewarn_cloud.history.dataset import Dataset, Fault
from forewarn_cloud.history.lives import Life, split_lives
from forewarn_cloud.history.replay import Calendar, Case, CaseResult, Rule, never, replay, wait
from forewarn_cloud.history.rules import (
    ExpectedCost,
    best_interval_hours,
    fixed_interval,
    fixed_threshold,
    perfect_foresight,
)
from forewarn_cloud.history.scorecard import (
    Bill,
    Breakdowns,
    Orders,
    Quantiles,
    bill,
    count_breakdowns,
    count_orders,
    lead_time_hours,
)
from forewarn_cloud.history.world import HOUR_MS, World
from forewarn_cloud.service.policy import Policy
from forewarn_models.advisory import AdvisoryMemory, advise
from forewarn_models.asset_type import AssetType
from forewarn_models.kernel import Model
from forewarn_models.wire import Advisory, ModelRef

SCHEMA: Final = 1


@dataclass(frozen=True, kw_only=True)
class PolicyRef:
    name: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class IntervalBill:
    """`interval_hours` is the best there is, chosen with hindsight; None: never renewing costs least."""

    interval_hours: float | None
    bill: Bill


@dataclass(frozen=True, kw_only=True)
class ThresholdBill:
    health_index: float
    bill: Bill


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The policy and what it is compared with, all under the same luck."""

    policy: Bill
    run_to_failure: Bill
    fixed_interval: IntervalBill
    fixed_threshold: ThresholdBill
    perfect_foresight: Bill
    share_of_possible_saving: float | None
    """0: no better than running to failure; 1: as good as knowing every failure beforehand."""


@dataclass(frozen=True, kw_only=True)
class Scorecard:
    """The result of a backtest. Hours are hours of the machines' own time; costs in the currency of the policy."""

    schema: int
    dataset: str
    asset_type: str
    assets: int
    lives: int
    samples: int
    advisories: int
    seed: int
    model: ModelRef
    policy: PolicyRef
    breakdowns: Breakdowns
    orders: Orders
    lead_time_hours: Quantiles | None
    transfers: int
    """Times that parts had to come from the central depot."""
    stock_outs: int
    """Times that parts had to be bought because no depot had them."""
    costs: Costs


def score(dataset: Dataset, model: Model, cases: Sequence[Case], policy: Policy, world: World) -> Scorecard:
    """The scorecard of a policy on the cases that `build_cases` made of a dataset with this model."""
    asset_type = dataset.asset_type
    results = replay(cases, world, policy, asset_type, rule=ExpectedCost(world, policy, asset_type))
    return Scorecard(
        schema=SCHEMA,
        dataset=dataset.description.name,
        asset_type=asset_type.asset_type,
        assets=len(dataset.telemetry.assets),
        lives=len(cases),
        samples=len(dataset.telemetry.t_ms),
        advisories=sum(len(case.advisories) for case in cases),
        seed=world.seed,
        model=model.ref,
        policy=PolicyRef(name=policy.name, hash=policy.hash),
        breakdowns=count_breakdowns(results),
        orders=count_orders(results),
        lead_time_hours=lead_time_hours(results),
        transfers=sum(result.transfers for result in results),
        stock_outs=sum(result.stock_outs for result in results),
        costs=_costs(cases, results, world, policy, asset_type),
    )


def check_truth(dataset: Dataset) -> None:
    """Whether a scorecard is possible.

    Raises:
        DatasetError: nothing in the dataset tells what really happened.
    """
    if dataset.failures is None and dataset.faults is None and not dataset.remaining_lives:
        raise DatasetError(
            "backtest: nothing tells what really happened; add failures.csv (asset_id, failed_at, failure_mode), "
            "with the header alone if nothing failed, or faults.csv, or remaining_life.csv"
        )


# --- cases ----------------------------------------------------------------------------------------------------------


def build_cases(dataset: Dataset, model: Model, world: World, advance: Advance = lambda _: None) -> list[Case]:
    """Every life with what the models said during it and the truth about it."""
    lives = split_lives(dataset)
    advisories = _advisories(dataset, model, lives, advance)
    return [_case(dataset, world, number, life, advisories[number]) for number, life in enumerate(lives)]


def _advisories(dataset: Dataset, model: Model, lives: Sequence[Life], advance: Advance) -> dict[int, list[Advisory]]:
    """Life number -> what an agent would have told during it."""
    life_of_row = np.full(len(dataset.telemetry.t_ms), -1)
    for number, life in enumerate(lives):
        life_of_row[life.rows] = number
    memories = dict[str, AdvisoryMemory]()
    told = defaultdict[int, list[Advisory]](list)
    for piece in assess_dataset(dataset, model, advance):
        memory = memories.get(piece.asset)
        advisories, memories[piece.asset] = advise(model, piece.asset, 0, piece.assessment, memory)
        told[int(life_of_row[piece.rows[0]])].extend(advisories)
    return told


def _case(dataset: Dataset, world: World, number: int, life: Life, advisories: Sequence[Advisory]) -> Case:
    return Case(
        number=number,
        life=life,
        advisories=tuple(advisories),
        faults_ms=_faults_of(dataset, world, life),
        known_until_ms=_known_until(dataset, world, life),
        failure_mode=_failure_mode(dataset, life),
    )


def _failure_mode(dataset: Dataset, life: Life) -> str:
    """What ended the life; for one that was cut off, the last labelled fault."""
    if life.failure is not None:
        return life.failure.failure_mode
    modes = [fault.failure_mode for fault in dataset.faults or () if _overlaps(fault, life, life.ended_ms)]
    return modes[-1] if modes else ""


def _faults_of(dataset: Dataset, world: World, life: Life) -> tuple[tuple[int, int], ...]:
    """When a technician would find something: as labelled, and before a failure that no label covers."""
    end_ms = life.ended_ms if life.would_fail_ms is None else life.would_fail_ms
    labelled = [_until(fault, life, end_ms) for fault in dataset.faults or () if _overlaps(fault, life, end_ms)]
    if life.would_fail_ms is None or any(start <= life.would_fail_ms <= end for start, end in labelled):
        return tuple(labelled)
    return (*labelled, (life.would_fail_ms - _recognisable_ms(dataset, world, life), life.would_fail_ms))


def _overlaps(fault: Fault, life: Life, end_ms: int) -> bool:
    return fault.asset == life.asset and fault.started_ms <= end_ms and fault.ended_ms >= life.started_ms


def _until(fault: Fault, life: Life, end_ms: int) -> tuple[int, int]:
    """The interval of a fault; one that was there when the recording ended goes on until the failure."""
    return fault.started_ms, end_ms if fault.ended_ms >= life.ended_ms else fault.ended_ms


def _known_until(dataset: Dataset, world: World, life: Life) -> int:
    if life.would_fail_ms is not None:
        return life.would_fail_ms
    if dataset.faults is not None:
        return life.ended_ms
    return life.ended_ms - _recognisable_ms(dataset, world, life)


def _recognisable_ms(dataset: Dataset, world: World, life: Life) -> int:
    mode = dataset.asset_type.failure_mode(_failure_mode(dataset, life))
    return round((world.recognisable_hours if mode is None else mode.p_f_interval_hours) * HOUR_MS)


# --- comparison -----------------------------------------------------------------------------------------------------


def _costs(
    cases: Sequence[Case], results: Sequence[CaseResult], world: World, policy: Policy, asset_type: AssetType
) -> Costs:
    def run(rule: Rule = wait, calendar: Calendar = never) -> Bill:
        return bill(replay(cases, world, policy, asset_type, rule=rule, calendar=calendar))

    policy_bill, to_failure, foreseen = bill(results), run(), run(calendar=perfect_foresight)
    interval = _best_interval(cases, to_failure, foreseen)
    at_interval = to_failure if interval is None else run(calendar=fixed_interval(interval))
    threshold = world.threshold_health_index
    return Costs(
        policy=policy_bill,
        run_to_failure=to_failure,
        fixed_interval=IntervalBill(interval_hours=interval, bill=at_interval),
        fixed_threshold=ThresholdBill(
            health_index=threshold, bill=run(rule=fixed_threshold(threshold, policy, asset_type))
        ),
        perfect_foresight=foreseen,
        share_of_possible_saving=_share_of_saving(policy_bill, to_failure, foreseen),
    )


def _best_interval(cases: Sequence[Case], to_failure: Bill, foreseen: Bill) -> float | None:
    failures = sum(case.life.would_fail_ms is not None and case.life.failure is not None for case in cases)
    if failures == 0:
        return None
    return best_interval_hours(cases, to_failure.cost / failures, foreseen.cost / failures)


def _share_of_saving(policy: Bill, to_failure: Bill, foreseen: Bill) -> float | None:
    rates = [one.cost_per_asset_month for one in (policy, to_failure, foreseen)]
    if any(rate is None for rate in rates):
        return None
    mine, worst, best = (rate or 0.0 for rate in rates)
    return (worst - mine) / (worst - best) if worst > best else None
