"""Is a false-alarm budget kept? Healthy simulated machines over a year, assessed under several budgets.

Pumps, compressors and fans in continuous, two-shift and weekday duty, with seasons and stops, sampled every ten
minutes; nothing wears and no sensor lies, so every ALARM is a false one. Counted are raised ALARMs after each machine's
baseline, by asset and month of 720 observed hours; an ALARM that is interrupted by a stop is one. The machines are
simulated and assessed group by group, so that memory stays small. The default seed is for reporting: choose settings on
others. The last line is one JSON object.
Usage: python tests/benchmarks/bench_budget.py [--assets 200] [--months 12] [--seed 1]
"""

import argparse
import json
import resource
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_device_simulator.fleet import Recording, instants, simulate, units_of
from forewarn_device_simulator.scenario import DutyKind, Group, Scenario
from forewarn_models import evaluation as metrics
from forewarn_models.assessment import Block, Condition, Maturity
from forewarn_models.asset_type import AssetType, Signal, builtin_asset_type, generic_asset_type
from forewarn_models.kernel import Model, Settings, assess, new_state

START: Final = datetime(2025, 1, 6, tzinfo=UTC)
DAYS_PER_MONTH: Final = 30.4375
BLOCK_STEPS: Final = 2048
GROUPS: Final[tuple[tuple[str, DutyKind], ...]] = (
    ("centrifugal_pump", "continuous"),
    ("air_compressor", "two_shift"),
    ("motor_fan", "weekdays"),
    ("centrifugal_pump", "two_shift"),
    ("air_compressor", "continuous"),
    ("motor_fan", "continuous"),
)
LEVEL: Final = 0.9
"""Of the interval around a realised rate, raised ALARMs taken as a Poisson process."""


@dataclass
class Count:
    """What happened under one budget."""

    raised: int = 0
    hours: float = 0.0
    alarm_samples: int = 0
    samples: int = 0
    alarmed_assets: int = 0
    by_group: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, group: str, t_ms: NDArray[np.int64], condition: NDArray[np.int8]) -> None:
        """One asset's samples after its baseline."""
        raised = len(metrics.raised_steps(condition))
        self.raised += raised
        self.hours += metrics.observed_hours(t_ms)
        self.alarm_samples += int((condition == Condition.ALARM).sum())
        self.samples += len(condition)
        self.alarmed_assets += raised > 0
        self.by_group[group] += raised

    def told(self, budget: float) -> dict[str, object]:
        months = self.hours / metrics.HOURS_PER_MONTH
        low, high = metrics.poisson_interval(self.raised, LEVEL)
        return {
            "budget": budget,
            "raised": self.raised,
            "asset_months": round(months, 1),
            "per_asset_month": round(self.raised / months, 4),
            "ratio": round(self.raised / months / budget, 3),
            "ratio_90": [round(low / months / budget, 3), round(high / months / budget, 3)],
            "alarmed_assets": self.alarmed_assets,
            "share_of_samples_in_alarm": round(self.alarm_samples / max(self.samples, 1), 5),
            "raised_by_group": dict(self.by_group),
        }


def healthy_fleet(assets: int, months: float, seed: int) -> Scenario:
    """`assets` machines in the groups, as evenly as possible; none of them wears."""
    counts = [assets // len(GROUPS) + (i < assets % len(GROUPS)) for i in range(len(GROUPS))]
    groups = tuple(
        Group(asset_type=name, prefix=f"{name}-{duty}", count=count, duty=duty, life_hours={})
        for (name, duty), count in zip(GROUPS, counts, strict=True)
        if count
    )
    return Scenario(name="budget", fleet=groups, seed=seed, start=START, days=months * DAYS_PER_MONTH)


def asset_type_of(name: str, generic: bool) -> AssetType:
    """The built-in type, or one that knows no more than the signals' names, units and roles."""
    builtin = builtin_asset_type(name)
    if not generic:
        return builtin
    return generic_asset_type(
        tuple(Signal(name=signal.name, unit=signal.unit, role=signal.role) for signal in builtin.signals)
    )


def assess_group(recording: Recording, group: str, model: Model, count: Count) -> None:
    """Stream the recording through the kernel and count what it raises."""
    assets, names = len(recording.units), model.asset_type.signal_names
    steps = len(recording.t_ms)
    condition, told = np.zeros((steps, assets), np.int8), np.zeros((steps, assets), np.bool_)
    state = new_state(model, assets)
    for start in range(0, steps, BLOCK_STEPS):
        rows = slice(start, start + BLOCK_STEPS)
        values = np.stack([recording.signals[name][rows] for name in names], axis=2)
        t_ms = np.repeat(recording.t_ms[rows, None], assets, axis=1)
        assessment, state = assess(model, state, Block(t_ms=t_ms, values=values))
        condition[rows], told[rows] = assessment.condition, assessment.maturity > Maturity.LEARNING
    for asset in range(assets):
        after = np.maximum.accumulate(told[:, asset])
        count.add(group, recording.t_ms[after], condition[after, asset])


def measure(scenario: Scenario, budgets: Sequence[float], generic: bool) -> dict[str, object]:
    counts = {budget: Count() for budget in budgets}
    t_ms, units = instants(scenario, scenario.start_ms), units_of(scenario)
    for group in scenario.fleet:
        began = time.perf_counter()
        recording = simulate(scenario, [unit for unit in units if unit.group is group], t_ms)
        asset_type = asset_type_of(group.asset_type, generic)
        for budget, count in counts.items():
            settings = Settings(false_alarms_per_asset_month=budget)
            assess_group(recording, group.prefix, Model(asset_type=asset_type, settings=settings), count)
        raised = {f"{budget:g}": count.by_group[group.prefix] for budget, count in counts.items()}
        spent = time.perf_counter() - began
        print(f"{group.prefix}: {group.count} assets, raised under each budget: {raised} ({spent:.0f} s)", flush=True)
    return {f"{budget:g}": count.told(budget) for budget, count in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--assets", type=int, default=200)
    parser.add_argument("--months", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=1, help="1 is for reporting; choose settings on others")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.1, 1.0, 10.0], help="per asset and month")
    parser.add_argument("--generic", action="store_true", help="the models know nothing of the machine type")
    arguments = parser.parse_args()
    began = time.perf_counter()
    found = measure(
        healthy_fleet(arguments.assets, arguments.months, arguments.seed), arguments.budgets, arguments.generic
    )
    result = {
        "assets": arguments.assets,
        "months": arguments.months,
        "seed": arguments.seed,
        "generic": arguments.generic,
        "budgets": found,
        "seconds": round(time.perf_counter() - began, 1),
        "resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
