"""Does the diagnosis name the right failure mode, and do the contributions name the right signal?

Failure modes: machines of every type run to failure by one mode at a time; the likeliest mode at the first ALARM of the
fault, and at the last ALARM sample before the failure, against the true one ("none of these" counts as wrong).

Single-signal faults: a ramp, a step or more noise is put on one condition signal of a healthy machine while it runs, in
multiples of the spread of that signal's residual; the greatest contribution at the first ALARM from the onset on,
against the true signal. Machines with an ALARM before the onset are left out, and counted.

The last line is one JSON object. Usage: python tests/benchmarks/bench_faults.py [--machines 12] [--seed 1]
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from forewarn_device_simulator.fleet import Recording, instants, simulate, units_of
from forewarn_device_simulator.machines import MACHINES
from forewarn_device_simulator.scenario import DutyKind, Group, Scenario
from forewarn_models.assessment import Assessment, Block, Condition
from forewarn_models.asset_type import AssetType
from forewarn_models.kernel import Model, assess, new_state

START: Final = datetime(2025, 1, 6, tzinfo=UTC)
DUTIES: Final[tuple[DutyKind, ...]] = ("continuous", "two_shift", "weekdays")
FAULT_DAYS: Final = 150.0
LIFE_HOURS: Final = 1000.0
"""Median, at rated load: long enough for a baseline and the whole P-F interval."""
INJECTED_DAYS: Final = 50.0
ONSET_DAY: Final = 30.0
RAMP_DAYS: Final = 10.0
RAMP_SPREADS: Final = 8.0
STEP_SPREADS: Final = 4.0
NOISE_TIMES: Final = 3.0
"""Spread of the residual with more noise, as a multiple of the healthy one."""
KINDS: Final = ("ramp", "step", "noise")
BLOCK_STEPS: Final = 1024
DAY_MS: Final = 86_400_000

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What was assessed of some machines: (n, assets) unless stated."""

    condition: NDArray[np.int8]
    mode_probability: Floats
    """(n, assets, failure modes)"""
    contribution: Floats
    """(n, assets, signals)"""
    residual: Floats
    """(n, assets, signals)"""


def simulated(asset_type: str, machines: int, seed: int, days: float, life_hours: dict[str, float]) -> Recording:
    """`machines` of one type, in the three duties by turns."""
    counts = [machines // len(DUTIES) + (i < machines % len(DUTIES)) for i in range(len(DUTIES))]
    fleet = tuple(
        Group(asset_type=asset_type, prefix=duty, count=count, duty=duty, life_hours=life_hours, life_spread=0.15)
        for duty, count in zip(DUTIES, counts, strict=True)
        if count
    )
    scenario = Scenario(name="faults", fleet=fleet, seed=seed, start=START, days=days, after_failure="end")
    return simulate(scenario, units_of(scenario), instants(scenario, scenario.start_ms))


def readings_of(recording: Recording, asset_type: AssetType) -> Floats:
    """(n, assets, signals)"""
    return np.stack([recording.signals[name] for name in asset_type.signal_names], axis=2)


def assessed(model: Model, t_ms: NDArray[np.int64], values: Floats) -> Said:
    """`t_ms` (n,), `values` (n, assets, signals), block by block."""
    state, parts = new_state(model, values.shape[1]), list[Assessment]()
    for start in range(0, len(t_ms), BLOCK_STEPS):
        rows = slice(start, start + BLOCK_STEPS)
        times = np.repeat(t_ms[rows, None], values.shape[1], axis=1)
        part, state = assess(model, state, Block(t_ms=times, values=values[rows]))
        parts.append(part)
    return Said(
        condition=np.concatenate([part.condition for part in parts]),
        mode_probability=np.concatenate([part.failure_mode_probability for part in parts]),
        contribution=np.concatenate([part.contribution for part in parts]),
        residual=np.concatenate([part.residual for part in parts]),
    )


def share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


# --- failure modes --------------------------------------------------------------------------------------------------


def failure_mode_first(asset_type: str, mode: str, machines: int, seed: int) -> dict[str, int]:
    """Of the machines that failed within the recording: how many raised an ALARM, and what it was called."""
    recording = simulated(asset_type, machines, seed, FAULT_DAYS, {mode: LIFE_HOURS})
    model = Model(asset_type=MACHINES[asset_type].asset_type)
    said = assessed(model, recording.t_ms, readings_of(recording, model.asset_type))
    true = [each.code for each in model.asset_type.failure_modes].index(mode)
    count = dict.fromkeys(("failed", "alarmed", "first_right", "first_none", "last_right", "last_none"), 0)
    for asset, life in enumerate(recording.lives):
        if not life.failures:
            continue
        count["failed"] += 1
        in_fault = (life.severity[mode] > 0) & (recording.t_ms <= life.failures[0].failed_at_ms)
        alarms = np.flatnonzero(in_fault & (said.condition[:, asset] == Condition.ALARM))
        if len(alarms):
            first, last = (likeliest(said.mode_probability[step, asset]) for step in (alarms[0], alarms[-1]))
            count["alarmed"] += 1
            count["first_right"] += first == true
            count["first_none"] += first == -1
            count["last_right"] += last == true
            count["last_none"] += last == -1
    return count


def likeliest(probability: Floats) -> int:
    """The failure mode (M,) that comes first; -1 if "none of these" is at least as likely."""
    best = int(probability.argmax())
    return best if probability[best] > 1.0 - probability.sum() else -1


# --- single-signal faults -------------------------------------------------------------------------------------------


def injected(kind: str, t_ms: NDArray[np.int64], spread: Floats, sign: Floats, random: np.random.Generator) -> Floats:
    """(n, assets) what is added to a signal whose residual has this `spread` (assets,)."""
    since_days = (t_ms - t_ms[0]) / DAY_MS - ONSET_DAY
    if kind == "ramp":
        shape = RAMP_SPREADS * np.clip(since_days / RAMP_DAYS, 0.0, 1.0)[:, None] * sign
    elif kind == "step":
        shape = STEP_SPREADS * (since_days >= 0)[:, None] * sign
    else:
        noise = random.standard_normal((len(t_ms), len(spread))) * np.sqrt(NOISE_TIMES**2 - 1.0)
        shape = noise * (since_days >= 0)[:, None]
    return np.asarray(shape * spread)


def signal_first(model: Model, recording: Recording, name: str, seed: int) -> dict[str, dict[str, int]]:
    """Per kind of injection into the signal `name`: machines, ALARMs before the onset, raised after it, and right."""
    asset_type = model.asset_type
    healthy, column = readings_of(recording, asset_type), asset_type.signal_names.index(name)
    machines, t_ms = healthy.shape[1], recording.t_ms
    spread = np.nanstd(assessed(model, t_ms, healthy).residual[:, :, column], axis=0)
    sign = directions(asset_type, column, machines)
    random = np.random.default_rng([seed, column])
    faulty = [with_fault(asset_type, healthy, column, injected(k, t_ms, spread, sign, random)) for k in KINDS]
    said = assessed(model, t_ms, np.concatenate(faulty, axis=1))
    onset = int(np.searchsorted(t_ms, t_ms[0] + round(ONSET_DAY * DAY_MS)))
    return {kind: judged(said, range(i * machines, (i + 1) * machines), onset, column) for i, kind in enumerate(KINDS)}


def directions(asset_type: AssetType, column: int, machines: int) -> Floats:
    """(assets,) +1 or -1: the bad direction of the signal, both by turns where both are bad."""
    worse = asset_type.signals[column].worse
    if worse == "both":
        return np.where(np.arange(machines) % 2 == 0, 1.0, -1.0)
    return np.full(machines, 1.0 if worse == "up" else -1.0)


def with_fault(asset_type: AssetType, healthy: Floats, column: int, added: Floats) -> Floats:
    """The readings with `added` on one signal while the machine runs; never below what the sensor can read."""
    assert asset_type.running is not None
    running = healthy[:, :, asset_type.signal_names.index(asset_type.running.signal)] > asset_type.running.above
    lowest = asset_type.signals[column].valid_min
    changed = healthy.copy()
    changed[:, :, column] += np.where(running, added, 0.0)
    np.maximum(changed[:, :, column], -np.inf if lowest is None else lowest, out=changed[:, :, column])
    return changed


def judged(said: Said, assets: Sequence[int], onset: int, column: int) -> dict[str, int]:
    count = {"machines": len(assets), "alarmed_before": 0, "raised": 0, "right": 0}
    for asset in assets:
        alarms = np.flatnonzero(said.condition[:, asset] == Condition.ALARM)
        if len(alarms) and alarms[0] < onset:
            count["alarmed_before"] += 1
        elif len(alarms):
            count["raised"] += 1
            count["right"] += int(said.contribution[alarms[0], asset].argmax()) == column
    return count


# --- all ------------------------------------------------------------------------------------------------------------


def measure_modes(machines: int, seed: int) -> dict[str, object]:
    counts = dict[str, dict[str, int]]()
    for asset_type, machine in MACHINES.items():
        for mode in machine.life_hours:
            began = time.perf_counter()
            counts[f"{asset_type}.{mode}"] = count = failure_mode_first(asset_type, mode, machines, seed)
            print(f"{asset_type}.{mode}: {count} ({time.perf_counter() - began:.0f} s)", flush=True)
    total = summed(list(counts.values()))
    return {
        **total,
        "first_right_share": share(total["first_right"], total["alarmed"]),
        "last_right_share": share(total["last_right"], total["alarmed"]),
        "by_mode": counts,
    }


def measure_signals(machines: int, seed: int) -> dict[str, object]:
    counts = dict[str, dict[str, dict[str, int]]]()
    for asset_type, machine in MACHINES.items():
        recording = simulated(asset_type, machines, seed, INJECTED_DAYS, {})
        model = Model(asset_type=machine.asset_type)
        for signal in model.asset_type.signals:
            if signal.role == "condition":
                began, name = time.perf_counter(), f"{asset_type}.{signal.name}"
                counts[name] = count = signal_first(model, recording, signal.name, seed)
                print(f"{name}: {count} ({time.perf_counter() - began:.0f} s)", flush=True)
    kinds = {kind: summed([count[kind] for count in counts.values()]) for kind in KINDS}
    total = summed(list(kinds.values()))
    by_kind = {kind: {**count, "right_share": share(count["right"], count["raised"])} for kind, count in kinds.items()}
    return {**total, "right_share": share(total["right"], total["raised"]), "by_kind": by_kind, "by_signal": counts}


def summed(counts: Sequence[dict[str, int]]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in counts[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--machines", type=int, default=12, help="per failure mode, and per signal and kind")
    parser.add_argument("--seed", type=int, default=1, help="1 is for reporting; choose settings on others")
    arguments = parser.parse_args()
    result = {
        "machines": arguments.machines,
        "seed": arguments.seed,
        "failure_modes": measure_modes(arguments.machines, arguments.seed),
        "single_signal": measure_signals(arguments.machines, arguments.seed),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
