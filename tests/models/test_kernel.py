from dataclasses import fields, replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from forewarn_models.assessment import Assessment, Block, Condition, Maturity, Quality
from forewarn_models.asset_type import AssetType, Running, Signal, Text, builtin_asset_type, generic_asset_type
from forewarn_models.kernel import (
    Model,
    Settings,
    State,
    StateError,
    assess,
    dump_state,
    load_state,
    new_state,
    reset_baseline,
)
from tests.models.conftest import BASELINE_SAMPLES, DAY_STEPS, START_MS, STEP_MS, Duty, Fault, pump_history

SIGNALS = builtin_asset_type("centrifugal_pump").signal_names
LEARNED_BY_DAY = 4


def column(name: str) -> int:
    return SIGNALS.index(name)


def assessed(model: Model, block: Block) -> Assessment:
    return assess(model, new_state(model, block.t_ms.shape[1]), block)[0]


def changed(block: Block, signal: str, steps: slice, value: float | NDArray[np.float64]) -> Block:
    values = block.values.copy()
    values[steps, :, column(signal)] = value
    return Block(t_ms=block.t_ms, values=values)


def cut(block: Block, start: int, stop: int, assets: slice = slice(None)) -> Block:
    return Block(t_ms=block.t_ms[start:stop, assets], values=block.values[start:stop, assets])


def largest_difference(a: Assessment, b: Assessment) -> float:
    """Over all numbers of two assessments; everything that is no real number has to be the same."""
    worst = 0.0
    for item in fields(Assessment):
        left, right = getattr(a, item.name), getattr(b, item.name)
        assert left.shape == right.shape, item.name
        if left.dtype.kind == "f":
            assert np.array_equal(np.isnan(left), np.isnan(right)), item.name
            worst = max(worst, float(np.nan_to_num(np.abs(left - right)).max()))
        else:
            assert np.array_equal(left, right), item.name
    return worst


def joined(parts: list[Assessment]) -> Assessment:
    names = [item.name for item in fields(Assessment)]
    return Assessment(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


@pytest.fixture(scope="module")
def worn(pump_model: Model) -> tuple[Block, Assessment]:
    """Four pumps over 30 days: three wear out in different ways on day 28, one stays healthy."""
    faults = {
        0: Fault(failure_mode="impeller_wear", from_day=14, to_day=28),
        1: Fault(failure_mode="bearing_wear", from_day=14, to_day=28),
        2: Fault(failure_mode="seal_leak", from_day=14, to_day=28),
    }
    block = pump_history(30, seed=5, assets=4, duty=Duty(faults=faults))
    return block, assessed(pump_model, block)


# --- what it detects ------------------------------------------------------------------------------------------------


def test_healthy_machines_with_stops_and_changing_duty_raise_no_more_alarms_than_twice_the_budget(
    pump_model: Model,
) -> None:
    assessment = assessed(pump_model, pump_history(60, seed=1, assets=12))

    alarm = assessment.condition == Condition.ALARM
    asset_months = 12 * 60 / 30
    assert (alarm[1:] & ~alarm[:-1]).sum() <= 2 * pump_model.settings.false_alarms_per_asset_month * asset_months
    assert (assessment.condition[-1] == Condition.NORMAL).all()
    assert (assessment.maturity[-1] == Maturity.MATURE).all()


def test_a_growing_fault_is_an_alarm_three_days_before_the_failure(worn: tuple[Block, Assessment]) -> None:
    _, assessment = worn
    for asset in range(3):
        alarms = np.flatnonzero(assessment.condition[:, asset] == Condition.ALARM)
        assert 14 * DAY_STEPS < alarms[0] < 25 * DAY_STEPS
    assert not (assessment.condition[:, 3] >= Condition.ALERT).any()


def test_the_failure_mode_is_recognised(worn: tuple[Block, Assessment]) -> None:
    _, assessment = worn
    for asset, mode in enumerate(("impeller_wear", "bearing_wear", "seal_leak")):
        probability = assessment.failure_mode_probability[26 * DAY_STEPS, asset]
        codes = [known.code for known in builtin_asset_type("centrifugal_pump").failure_modes]
        assert codes[int(np.argmax(probability))] == mode
        assert probability.max() > 0.8
        assert probability.sum() <= 1 + 1e-12
    assert not assessment.failure_mode_probability[:, 3].any()


def test_the_signals_that_deviate_are_named(worn: tuple[Block, Assessment]) -> None:
    _, assessment = worn
    on_last_day = assessment.contribution[26 * DAY_STEPS]
    assert SIGNALS[int(np.argmax(on_last_day[2]))] == "seal_leakage_ml_h"
    assert SIGNALS[int(np.argmax(on_last_day[1]))] in ("vibration_rms_mm_s", "bearing_temperature_c")


def test_the_deviation_is_what_the_fault_adds_in_the_unit_of_the_signal(worn: tuple[Block, Assessment]) -> None:
    _, assessment = worn
    true_c = 12.0 * ((24 - 14) / 14) ** 1.5
    told_c = assessment.deviation[24 * DAY_STEPS, 1, column("bearing_temperature_c")]
    assert told_c == pytest.approx(true_c, abs=1.5)


def test_health_falls_and_remaining_life_is_an_interval_that_shrinks(worn: tuple[Block, Assessment]) -> None:
    _, assessment = worn
    for asset in range(3):
        assert assessment.health_index[10 * DAY_STEPS, asset] == 1.0
        assert assessment.health_index[26 * DAY_STEPS, asset] < 0.7
        known = np.flatnonzero(np.isfinite(assessment.rul_hours[: 28 * DAY_STEPS, asset, 1]))
        assert len(known)
        p10, p50, p90 = assessment.rul_hours[known[-1], asset]
        assert 0 <= p10 < p50 < p90
        assert p50 < assessment.rul_hours[known[0], asset, 1]
    assert np.isnan(assessment.rul_hours[:, 3]).all()


def test_the_run_of_evidence_began_before_it_became_an_alarm(worn: tuple[Block, Assessment]) -> None:
    block, assessment = worn
    first = int(np.flatnonzero(assessment.condition[:, 1] == Condition.ALARM)[0])
    assert START_MS + 14 * DAY_STEPS * STEP_MS < assessment.since_ms[first, 1] < block.t_ms[first, 1]
    assert assessment.since_ms[10 * DAY_STEPS, 1] == -1


def test_an_alarm_that_is_held_after_the_repair_still_tells_that_its_evidence_began_before_it(
    pump_model: Model,
) -> None:
    """The machine is well again and the reset has not come yet: what is still said is about the old machine."""
    fault = Fault(failure_mode="bearing_wear", from_day=8, to_day=14)
    before, state = assess(
        pump_model, new_state(pump_model, 1), pump_history(12, seed=21, duty=Duty(faults={0: fault}))
    )
    assert before.condition[-1, 0] == Condition.ALARM
    repaired_ms = int(before.t_ms[-1, 0])
    well = pump_history(14, seed=21)
    after, _ = assess(pump_model, state, cut(well, 12 * DAY_STEPS, 14 * DAY_STEPS))
    held = after.condition[:, 0] >= Condition.ALERT
    assert (held & (after.health_index[:, 0] == 1.0)).any(), "held although the score has come down"
    assert (after.since_ms[held, 0] >= 0).all()
    assert (after.since_ms[held, 0] < repaired_ms).all()
    assert after.condition[-1, 0] == Condition.NORMAL
    assert after.since_ms[-1, 0] == -1, "the run of evidence ends when the condition is cleared"


@pytest.mark.parametrize(("from_day", "to_day", "alarm_by_day"), [(3.5, 17, 12), (20, 80, 45)])
def test_a_slow_fault_is_not_learned_as_normal(
    pump_model: Model, from_day: float, to_day: float, alarm_by_day: float
) -> None:
    """Neither one that begins as soon as the baseline is complete, nor one that takes two months."""
    fault = Fault(failure_mode="bearing_wear", from_day=from_day, to_day=to_day)
    block = pump_history(to_day, seed=8, assets=3, duty=Duty(faults={0: fault, 1: fault, 2: fault}))
    condition = assessed(pump_model, block).condition
    for asset in range(3):
        alarms = np.flatnonzero(condition[:, asset] == Condition.ALARM)
        assert len(alarms)
        assert alarms[0] < alarm_by_day * DAY_STEPS


def test_a_duty_never_seen_before_is_no_fault(pump_model: Model) -> None:
    """Until it has been learned: then a fault shows in it as in any other."""
    fault = Fault(failure_mode="seal_leak", from_day=25, to_day=35)
    duty = Duty(slower_from_day=12.0, faults={0: fault})
    condition = assessed(pump_model, pump_history(34, seed=27, assets=6, duty=duty)).condition
    assert not (condition[:, 1:] == Condition.ALARM).any()
    assert not (condition[: 25 * DAY_STEPS, 0] == Condition.ALARM).any()
    assert (condition[:, 0] == Condition.ALARM).any()


def test_a_small_budget_of_false_alarms_raises_the_threshold(pump_model: Model) -> None:
    block = pump_history(20, seed=2)
    scores = []
    for budget in (0.01, 0.5, 50.0):
        settings = msgspec.structs.replace(pump_model.settings, false_alarms_per_asset_month=budget)
        scores.append(assessed(replace(pump_model, settings=settings), block).anomaly_score[-DAY_STEPS:].mean())
    assert scores[0] < scores[1] < scores[2]


# --- the identities an assessment keeps -----------------------------------------------------------------------------


def test_contributions_sum_to_the_score(worn: tuple[Block, Assessment]) -> None:
    _, assessment = worn
    assert np.allclose(assessment.contribution.sum(axis=2), assessment.anomaly_score, rtol=0, atol=1e-9)
    assert (assessment.contribution >= 0).all()
    regime = [column(name) for name in ("speed_rpm", "valve_position_pct", "ambient_temperature_c")]
    assert not assessment.contribution[:, :, regime].any()


def test_no_number_is_infinite_and_every_index_is_in_its_range(worn: tuple[Block, Assessment]) -> None:
    _, assessment = worn
    for name in ("anomaly_score", "contribution", "deviation", "health_index", "failure_mode_probability"):
        assert np.isfinite(getattr(assessment, name)).all(), name
    assert ((assessment.health_index >= 0) & (assessment.health_index <= 1)).all()


def test_inputs_are_never_changed(pump_model: Model) -> None:
    block = pump_history(5, seed=3, assets=2)
    state = new_state(pump_model, 2)
    t_ms, values, before = block.t_ms.copy(), block.values.copy(), dump_state(pump_model, state)
    _, after = assess(pump_model, state, block)
    kept = dump_state(pump_model, after)
    assess(pump_model, after, Block(t_ms=t_ms + 10 * DAY_STEPS * STEP_MS, values=values))
    assert np.array_equal(block.t_ms, t_ms)
    assert np.array_equal(block.values, values)
    assert dump_state(pump_model, state) == before
    assert dump_state(pump_model, after) == kept


@pytest.mark.parametrize("length", [1, 7, 100])
def test_blocks_of_any_length_give_the_same_answer(pump_model: Model, length: int) -> None:
    fault = Fault(failure_mode="seal_leak", from_day=5, to_day=8)
    block = changed(pump_history(8, seed=4, assets=2, duty=Duty(faults={1: fault})), "flow_m3_h", slice(600, 640), 77.0)
    whole, end = assess(pump_model, new_state(pump_model, 2), block)
    state, parts = new_state(pump_model, 2), []
    for start in range(0, len(block.t_ms), length):
        part, state = assess(pump_model, state, cut(block, start, start + length))
        parts.append(part)
    assert largest_difference(whole, joined(parts)) < 1e-9
    assert state.step == end.step


@pytest.mark.parametrize("length", [7, 50])
def test_a_long_block_says_what_short_ones_say_also_where_much_is_learned_on_the_way(
    pump_model: Model, length: int
) -> None:
    """A speed never seen before, a fault, an overhaul while learning, and a sensor that was connected late."""
    fault = Fault(failure_mode="seal_leak", from_day=20, to_day=30)
    block = pump_history(28, seed=42, duty=Duty(slower_from_day=12.0, faults={0: fault}))
    t_ms, values = block.t_ms.copy(), block.values.copy()
    t_ms[100:] += 3 * DAY_STEPS * STEP_MS
    values[:100, 0, column("flow_m3_h")] += 30.0
    values[:900, 0, column("vibration_rms_mm_s")] = np.nan
    block = Block(t_ms=t_ms, values=values)
    state, parts = new_state(pump_model, 1), []
    for start in range(0, len(t_ms), length):
        part, state = assess(pump_model, state, cut(block, start, start + length))
        parts.append(part)
    whole = assessed(pump_model, block)
    assert set(np.unique(whole.condition)) == set(Condition)
    assert largest_difference(whole, joined(parts)) < 1e-9


def test_a_fleet_gives_the_same_as_each_asset_alone(pump_model: Model) -> None:
    faults = {1: Fault(failure_mode="impeller_wear", from_day=6, to_day=12)}
    block = pump_history(14, seed=6, assets=3, duty=Duty(faults=faults))
    block.values[700:760, 2, column("vibration_rms_mm_s")] = np.nan
    fleet = assessed(pump_model, block)
    for asset in range(3):
        alone = assessed(pump_model, cut(block, 0, len(block.t_ms), slice(asset, asset + 1)))
        same = {item.name: getattr(fleet, item.name)[:, asset : asset + 1] for item in fields(Assessment)}
        assert largest_difference(Assessment(**same), alone) < 1e-9


def test_the_same_input_gives_the_same_bytes(pump_model: Model) -> None:
    block = pump_history(6, seed=7)
    dumps = {dump_state(pump_model, assess(pump_model, new_state(pump_model, 1), block)[1]) for _ in range(2)}
    assert len(dumps) == 1


# --- machines that stand still, sensors that lie --------------------------------------------------------------------


def test_a_machine_that_stands_still_is_unknown_and_no_anomaly(pump_model: Model) -> None:
    block = pump_history(14, seed=9)
    assessment = assessed(pump_model, block)
    off = block.values[:, 0, column("speed_rpm")] == 0
    assert off.any()
    late = np.arange(len(off)) > LEARNED_BY_DAY * DAY_STEPS
    assert (assessment.condition[off & late, 0] == Condition.UNKNOWN).all()
    assert not assessment.anomaly_score[off, 0].any()


def test_15_a_sensor_stuck_for_a_day_is_flagged_and_no_alarm(pump_model: Model) -> None:
    block, stuck = pump_history(14, seed=10), slice(10 * DAY_STEPS, 11 * DAY_STEPS)
    for signal, frozen in (
        ("bearing_temperature_c", block.values[stuck.start - 1, 0, column("bearing_temperature_c")]),
        ("flow_m3_h", 71.25),
        ("vibration_rms_mm_s", 0.0),
    ):
        assessment = assessed(pump_model, changed(block, signal, stuck, frozen))
        quality = assessment.quality[stuck, 0, column(signal)]
        assert (quality[10:] == Quality.STUCK).all()
        assert not (assessment.condition[stuck, 0] == Condition.ALARM).any()
        assert (assessment.condition[stuck, 0][10:] <= Condition.NORMAL).all()
        assert assessment.quality[stuck.stop, 0, column(signal)] == Quality.GOOD


@pytest.mark.parametrize(
    ("value", "quality"),
    [
        (-127.0, Quality.SENTINEL),
        (65535.0, Quality.OUT_OF_RANGE),
        (-32768.0, Quality.OUT_OF_RANGE),
        (np.nan, Quality.MISSING),
        (np.inf, Quality.MISSING),
    ],
)
def test_16_17_what_is_no_measurement_is_flagged_and_counts_as_missing(
    pump_model: Model, value: float, quality: Quality
) -> None:
    steps = slice(10 * DAY_STEPS, 11 * DAY_STEPS)
    block = changed(pump_history(12, seed=11), "bearing_temperature_c", steps, value)
    assessment = assessed(pump_model, block)
    assert (assessment.quality[steps, 0, column("bearing_temperature_c")] == quality).all()
    assert np.isnan(assessment.residual[steps, 0, column("bearing_temperature_c")]).all()
    assert (assessment.condition[steps, 0] <= Condition.NORMAL).all()
    assert assessment.condition[-1, 0] == Condition.NORMAL


def test_18_a_changed_unit_is_a_suspect_sensor_and_no_fault(pump_model: Model) -> None:
    block, steps = pump_history(16, seed=12, duty=Duty(never_stops=True)), slice(10 * DAY_STEPS, 14 * DAY_STEPS)
    celsius = block.values[steps, :, column("bearing_temperature_c")]
    assessment = assessed(pump_model, changed(block, "bearing_temperature_c", steps, celsius * 1.8 + 32))
    assert (assessment.quality[steps, 0, column("bearing_temperature_c")] == Quality.LEAP).all()
    assert (assessment.condition[steps, 0][5:] == Condition.ALERT).all()
    assert not assessment.failure_mode_probability[steps].any()
    assert np.isnan(assessment.rul_hours[steps]).all()
    assert assessment.condition[-1, 0] == Condition.NORMAL


def test_a_fault_that_starts_with_a_leap_and_goes_on_growing_is_an_alarm(pump_model: Model) -> None:
    block, steps = pump_history(16, seed=13, duty=Duty(never_stops=True)), slice(10 * DAY_STEPS, 16 * DAY_STEPS)
    growth = np.linspace(40.0, 200.0, steps.stop - steps.start)[:, None]
    leak = block.values[steps, :, column("seal_leakage_ml_h")] + growth
    assessment = assessed(pump_model, changed(block, "seal_leakage_ml_h", steps, leak))
    assert assessment.condition[steps.start + 12, 0] == Condition.ALERT
    assert assessment.condition[-1, 0] == Condition.ALARM


def test_single_spikes_are_no_alarm(pump_model: Model) -> None:
    block = pump_history(14, seed=14)
    for step in range(9 * DAY_STEPS, 14 * DAY_STEPS, 50):
        block.values[step, 0, column("vibration_rms_mm_s")] = 30.0
    assert not (assessed(pump_model, block).condition[9 * DAY_STEPS :] >= Condition.ALERT).any()


def test_limits_hold_before_anything_is_learned(pump_model: Model) -> None:
    block = changed(pump_history(1, seed=15), "vibration_rms_mm_s", slice(20, 40), 9.0)
    assessment = assessed(pump_model, block)
    assert (assessment.maturity == Maturity.LEARNING).all()
    assert assessment.condition[19, 0] == Condition.NORMAL
    assert assessment.condition[22, 0] == Condition.ALARM
    assert assessment.limit_exceeded[22, 0].nonzero()[0].tolist() == [column("vibration_rms_mm_s")]
    assert assessment.health_index[22, 0] <= 0.3


def test_a_sensor_that_has_told_the_impossible_exceeds_no_limit_at_the_next_start(pump_model: Model) -> None:
    """As a temperature in another unit: at every start it passes the limit on its way out of range."""
    block, hour = pump_history(28, seed=19), DAY_STEPS // 24
    starts = [round((week * 7 + 6.25) * DAY_STEPS) + 1 for week in range(1, 4)]
    for start in starts:
        block = changed(block, "vibration_rms_mm_s", slice(start, start + hour - 1), 30.0)
    lying = changed(block, "vibration_rms_mm_s", slice(starts[0] + hour, starts[1]), 1000.0)
    exceeded = assessed(pump_model, lying).limit_exceeded[:, 0, column("vibration_rms_mm_s")]
    warming_up = [bool(exceeded[start : start + hour].any()) for start in starts]
    assert warming_up == [True, False, True], "believed, then not, and again after a week of credible readings"
    assert not exceeded[starts[0] + hour : starts[2]].any()

    first, state = assess(pump_model, new_state(pump_model, 1), cut(lying, 0, starts[1] - 50))
    rest, _ = assess(pump_model, state, cut(lying, starts[1] - 50, len(lying.t_ms)))
    assert largest_difference(joined([first, rest]), assessed(pump_model, lying)) == 0.0


@pytest.mark.parametrize("seed", range(40, 44))
def test_a_stuck_speed_leaves_no_evidence_behind_when_it_moves_again(pump_model: Model, seed: int) -> None:
    """The speed swings on while its sensor stands: until that is known, pressure and power look wrong."""
    block = pump_history(10, seed=seed)
    start = 8 * DAY_STEPS + 36
    speed = float(block.values[start, 0, column("speed_rpm")])
    rounded = changed(block, "speed_rpm", slice(None), np.round(block.values[:, :, column("speed_rpm")] / 4) * 4)
    stuck = changed(rounded, "speed_rpm", slice(start, start + 120), round(speed / 4) * 4)
    assessment = assessed(pump_model, stuck)
    assert (assessment.quality[start + 119, 0, column("speed_rpm")]) == Quality.STUCK
    assert not (assessment.condition[start + 120 :, 0] >= Condition.ALERT).any()


def test_what_exceeds_a_limit_is_not_learned_as_normal(pump_model: Model) -> None:
    block = changed(pump_history(6, seed=16), "vibration_rms_mm_s", slice(None), 9.0)
    assert (assessed(pump_model, block).maturity == Maturity.LEARNING).all()


def test_late_and_repeated_samples_are_not_judged(pump_model: Model) -> None:
    block = pump_history(6, seed=17)
    t_ms = block.t_ms.copy()
    t_ms[700] = t_ms[690]
    assessment = assessed(pump_model, Block(t_ms=t_ms, values=block.values))
    assert assessment.condition[700, 0] == Condition.UNKNOWN
    assert assessment.condition[701, 0] == Condition.NORMAL


def test_a_day_without_samples_is_no_evidence(pump_model: Model) -> None:
    block = pump_history(20, seed=18)
    keep = np.r_[0 : 10 * DAY_STEPS, 12 * DAY_STEPS : 20 * DAY_STEPS]
    assessment = assessed(pump_model, Block(t_ms=block.t_ms[keep], values=block.values[keep]))
    assert not (assessment.condition[10 * DAY_STEPS :] >= Condition.ALERT).any()


def test_an_unknown_machine_with_constant_signals_is_assessed() -> None:
    random = np.random.default_rng(19)
    model = Model(
        asset_type=generic_asset_type((Signal(name="a", unit="1"), Signal(name="b", unit="1"))),
        settings=Settings(baseline_samples=50),
    )
    n = 400
    values = np.stack([random.normal(5, 0.1, n), np.full(n, 7.0)], axis=1)[:, None]
    values[300:, 0, 0] += np.linspace(0, 3, 100)
    assessment = assessed(model, Block(t_ms=START_MS + STEP_MS * np.arange(n, dtype=np.int64)[:, None], values=values))
    assert (assessment.condition[60:300, 0] == Condition.NORMAL).all()
    assert assessment.condition[-1, 0] == Condition.ALARM
    assert (assessment.quality[:, 0, 1] == Quality.GOOD).all()


# --- maturity and repairs -------------------------------------------------------------------------------------------


def test_nothing_is_judged_while_learning(pump_model: Model) -> None:
    assessment = assessed(pump_model, pump_history(12, seed=20))
    learning = assessment.maturity[:, 0] == Maturity.LEARNING
    assert BASELINE_SAMPLES <= learning.sum() < BASELINE_SAMPLES + 60
    assert not assessment.anomaly_score[learning].any()
    assert (np.diff(assessment.maturity[:, 0]) >= 0).all()


def test_a_repaired_machine_learns_anew_and_its_neighbour_does_not_notice(pump_model: Model) -> None:
    fault = Fault(failure_mode="bearing_wear", from_day=8, to_day=14)
    block = pump_history(14, seed=21, assets=2, duty=Duty(faults={0: fault}))
    before, state = assess(pump_model, new_state(pump_model, 2), block)
    assert before.condition[-1, 0] == Condition.ALARM
    at_ms = int(block.t_ms[-1, 0]) + 5 * STEP_MS
    repaired = reset_baseline(pump_model, state, 0, at_ms)

    later = pump_history(10, seed=22, assets=2)
    later = Block(t_ms=later.t_ms + 14 * DAY_STEPS * STEP_MS, values=later.values)
    after, _ = assess(pump_model, repaired, later)
    untouched, _ = assess(pump_model, state, later)
    assert (after.condition[:5, 0] == Condition.UNKNOWN).all()
    assert after.maturity[10, 0] == Maturity.LEARNING
    assert after.condition[-1, 0] == Condition.NORMAL
    assert after.maturity[-1, 0] > Maturity.LEARNING
    neighbours = [
        Assessment(**{item.name: getattr(told, item.name)[:, 1:] for item in fields(Assessment)})
        for told in (after, untouched)
    ]
    assert largest_difference(*neighbours) == 0.0


# --- state on disk --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lived(pump_model: Model) -> State:
    faults = {0: Fault(failure_mode="bearing_wear", from_day=8, to_day=14)}
    block = pump_history(13.1, seed=23, assets=2, duty=Duty(faults=faults))
    return assess(pump_model, new_state(pump_model, 2), block)[1]


def test_a_state_comes_back_to_the_last_bit_and_goes_on_the_same(pump_model: Model, lived: State) -> None:
    blob = dump_state(pump_model, lived)
    restored = load_state(pump_model, blob)
    assert dump_state(pump_model, restored) == blob
    later = pump_history(2, seed=24, assets=2)
    later = Block(t_ms=later.t_ms + 14 * DAY_STEPS * STEP_MS, values=later.values)
    assert largest_difference(assess(pump_model, lived, later)[0], assess(pump_model, restored, later)[0]) == 0.0


@pytest.mark.parametrize("regimes", range(8))
def test_the_state_of_an_asset_is_small(regimes: int) -> None:
    signals = tuple(Signal(name=f"s{i}", unit="1", role="regime" if i < regimes else "condition") for i in range(8))
    model = Model(asset_type=generic_asset_type(signals), settings=Settings(baseline_samples=5000))
    assert len(dump_state(model, new_state(model, 1))) <= 16 * 1024


@pytest.mark.parametrize("at", [0, 20, 400, -1])
def test_a_damaged_state_is_refused(pump_model: Model, lived: State, at: int) -> None:
    blob = bytearray(dump_state(pump_model, lived))
    blob[at] ^= 1
    with pytest.raises(StateError):
        load_state(pump_model, bytes(blob))


@pytest.mark.parametrize("length", [0, 10, 200, -1])
def test_a_truncated_state_is_refused(pump_model: Model, lived: State, length: int) -> None:
    with pytest.raises(StateError):
        load_state(pump_model, dump_state(pump_model, lived)[:length])


def test_the_state_of_another_model_is_refused(pump_model: Model, lived: State) -> None:
    other = replace(pump_model, settings=Settings(baseline_samples=401))
    with pytest.raises(StateError, match="another model"):
        load_state(other, dump_state(pump_model, lived))


def test_nan_in_a_state_is_refused(pump_model: Model, lived: State) -> None:
    spoilt = lived.evidence.deviation.copy()
    spoilt[0, 0] = np.nan
    with pytest.raises(StateError, match=r"evidence\.deviation"):
        load_state(
            pump_model, dump_state(pump_model, replace(lived, evidence=replace(lived.evidence, deviation=spoilt)))
        )


# --- models and what they refuse ------------------------------------------------------------------------------------


def test_a_model_is_known_by_what_it_consists_of(pump_model: Model) -> None:
    again = Model(
        asset_type=builtin_asset_type("centrifugal_pump"), settings=Settings(baseline_samples=BASELINE_SAMPLES)
    )
    assert again.hash == pump_model.hash
    assert len(again.ref.hash) == 64
    assert replace(again, settings=Settings(baseline_samples=401)).hash != pump_model.hash
    assert again.ref.id == "centrifugal_pump-v1"


@pytest.mark.parametrize(
    ("field", "value"),
    [("baseline_samples", 3), ("false_alarms_per_asset_month", 0.0), ("settling_hours", -1.0)],
)
def test_settings_out_of_range_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        msgspec.convert({field: value}, Settings)


def test_blocks_of_the_wrong_shape_are_refused(pump_model: Model) -> None:
    block = pump_history(1, seed=25)
    state = new_state(pump_model, 1)
    with pytest.raises(ValueError, match="9 signals"):
        assess(pump_model, state, Block(t_ms=block.t_ms, values=block.values[:, :, :4]))
    with pytest.raises(ValueError, match="1 assets, the state has 2"):
        assess(pump_model, new_state(pump_model, 2), block)
    with pytest.raises(ValueError, match="no sample"):
        assess(pump_model, state, cut(block, 0, 0))


def test_a_type_without_regime_or_modes_and_one_without_condition_signals(pump_model: Model) -> None:
    for role in ("condition", "regime"):
        only = AssetType(
            asset_type="only",
            title=pump_model.asset_type.title,
            signals=(Signal(name="x", unit="1", role=role),),
        )
        model = Model(asset_type=only, settings=Settings(baseline_samples=20))
        values = np.random.default_rng(26).normal(size=(200, 1, 1))
        t_ms = START_MS + STEP_MS * np.arange(200, dtype=np.int64)[:, None]
        assessment = assessed(model, Block(t_ms=t_ms, values=values))
        assert np.isfinite(assessment.anomaly_score).all()


def test_an_alarm_survives_a_machine_that_stops_for_one_sample() -> None:
    """The residual before the stop, not 0, is what the one after it is compared with."""
    asset_type = AssetType(
        asset_type="fan",
        title=Text(en="Fan", zh="风机"),
        running=Running(signal="speed", above=0.05),
        signals=(Signal(name="speed", unit="1", role="regime"), Signal(name="v", unit="1"), Signal(name="w", unit="1")),
    )
    model = Model(asset_type=asset_type, settings=Settings(baseline_samples=200, settling_hours=0.0))
    random = np.random.default_rng(1)
    speed = random.uniform(0.1, 1, 900)
    v = 3 + speed + random.normal(0, 0.1, 900)
    v[700:] += np.minimum(np.arange(200) * 0.02, 3.0)
    speed[880] = 0.0
    values = np.stack([speed, v, random.normal(0, 1, 900)], axis=1)[:, None]
    assessment = assessed(model, Block(t_ms=STEP_MS * np.arange(900, dtype=np.int64)[:, None], values=values))

    assert (assessment.condition[[879, 881, 899], 0] == Condition.ALARM).all()
    assert assessment.condition[880, 0] == Condition.UNKNOWN


def test_a_signal_first_read_late_begins_the_baseline_anew_and_is_then_watched() -> None:
    """What was missing while the others were learned must not be remembered as if it had been read."""
    model = Model(
        asset_type=generic_asset_type((Signal(name="a", unit="1"), Signal(name="b", unit="1"))),
        settings=Settings(baseline_samples=400),
    )
    random = np.random.default_rng(0)
    values = np.stack([random.normal(5, 0.1, 1500), random.normal(50, 0.3, 1500)], axis=1)[:, None]
    values[:125, 0, 1] = np.nan
    values[1000:, 0, 1] += 3
    assessment = assessed(model, Block(t_ms=STEP_MS * np.arange(1500, dtype=np.int64)[:, None], values=values))

    assert np.flatnonzero(assessment.maturity[:, 0] > Maturity.LEARNING)[0] > 500
    assert abs(np.mean(assessment.residual[700:1000, 0, 1])) < 0.1
    assert not (assessment.condition[:1000] == Condition.ALARM).any()
    assert assessment.condition[1050, 0] == Condition.ALARM


def test_a_machine_set_up_anew_in_a_long_break_of_its_baseline_learns_from_there() -> None:
    model = Model(
        asset_type=generic_asset_type((Signal(name="a", unit="1"), Signal(name="b", unit="1"))),
        settings=Settings(baseline_samples=400),
    )
    random = np.random.default_rng(3)
    values = random.normal(10, 0.1, (1200, 1, 2))
    values[150:] += 2.0
    t_ms = STEP_MS * np.arange(1200, dtype=np.int64)
    t_ms[150:] += 6 * DAY_STEPS * STEP_MS
    values[800:, 0, 0] += 0.5
    assessment = assessed(model, Block(t_ms=t_ms[:, None], values=values))

    assert 550 <= np.flatnonzero(assessment.maturity[:, 0] > Maturity.LEARNING)[0] <= 600
    assert not (assessment.condition[:800] == Condition.ALARM).any()
    assert assessment.condition[850, 0] == Condition.ALARM


def test_a_new_normal_is_learned_after_three_baselines_and_a_growing_fault_never() -> None:
    model = Model(
        asset_type=generic_asset_type((Signal(name="a", unit="1"), Signal(name="b", unit="1"))),
        settings=Settings(baseline_samples=100),
    )
    random = np.random.default_rng(4)
    steps = 1200
    values = random.normal(10, 0.1, (steps, 2, 2))
    values[300:, 0, 0] += 1.0
    values[300:, 1, 0] += 1.0 + 0.02 * np.arange(steps - 300)
    t_ms = np.repeat(STEP_MS * np.arange(steps, dtype=np.int64)[:, None], 2, axis=1)
    assessment = assessed(model, Block(t_ms=t_ms, values=values))

    assert (assessment.condition[320] == Condition.ALARM).all()
    began_anew = np.flatnonzero(np.diff(assessment.maturity[300:, 0]) < 0)
    assert len(began_anew) == 1
    assert began_anew[0] >= 300
    assert assessment.condition[-1, 0] == Condition.NORMAL
    assert (assessment.condition[320:, 1] == Condition.ALARM).all()


def test_signals_that_wander_by_nature_are_followed_and_steady_ones_are_not() -> None:
    """The same drift: no alarm where the baseline drifted like that all the time, an alarm where it stood still."""
    model = Model(
        asset_type=generic_asset_type((Signal(name="a", unit="1"), Signal(name="b", unit="1"))),
        settings=Settings(baseline_samples=400),
    )
    random = np.random.default_rng(5)
    walk = np.cumsum(random.normal(0, 0.05, (1600, 8)), axis=0)
    values = 20.0 + random.normal(0, 0.05, (1600, 16, 2))
    values[:, :8, 0] += walk
    values[600:, 8:, 0] += walk[600:] - walk[600]
    t_ms = np.repeat(STEP_MS * np.arange(1600, dtype=np.int64)[:, None], 16, axis=1)
    alarmed = (assessed(model, Block(t_ms=t_ms, values=values)).condition == Condition.ALARM).any(axis=0)

    assert alarmed[:8].sum() <= 1
    assert alarmed[8:].all()


def test_missing_readings_drew_the_reference_of_a_wandering_signal_back_to_its_baseline() -> None:
    """What is missing was taken to be where the signal was while it was learned: the evidence grew by a fifth."""
    model = Model(
        asset_type=generic_asset_type((Signal(name="a", unit="1"), Signal(name="b", unit="1"))),
        settings=Settings(baseline_samples=400),
    )
    random = np.random.default_rng(5)
    values = 20.0 + random.normal(0, 0.05, (1600, 16, 2))
    values[:, :, 0] += np.cumsum(random.normal(0, 0.05, (1600, 16)), axis=0)
    thinned = np.where(random.random(values.shape) < 0.3, np.nan, values)
    t_ms = np.repeat(STEP_MS * np.arange(1600, dtype=np.int64)[:, None], 16, axis=1)
    whole, missing = (assessed(model, Block(t_ms=t_ms, values=each)).anomaly_score[500:] for each in (values, thinned))
    assert missing.mean() < 1.05 * whole.mean()


def test_what_wanders_is_not_estimated_again_in_a_new_duty(pump_model: Model) -> None:
    """It was, from the ramp of a fault that grew meanwhile; the reference then followed the fault to the end."""
    fault = Fault(failure_mode="bearing_wear", from_day=12.5, to_day=40)
    history = pump_history(20, seed=41, assets=1, duty=Duty(slower_from_day=12.0, faults={0: fault}))
    _, learned = assess(pump_model, new_state(pump_model, 1), cut(history, 0, 10 * DAY_STEPS))
    _, later = assess(pump_model, learned, cut(history, 10 * DAY_STEPS, 20 * DAY_STEPS))

    assert later.evidence.deviation.tobytes() != learned.evidence.deviation.tobytes()
    for name in ("persistence", "innovation", "freedom", "wander", "home", "range"):
        assert np.array_equal(getattr(later.reference, name), getattr(learned.reference, name)), name


def test_the_threshold_follows_the_machine_after_years_too() -> None:
    """It was worked out again only when there were more windows; what is remembered of them has a bound."""
    model = Model(
        asset_type=generic_asset_type((Signal(name="a", unit="1"), Signal(name="b", unit="1"))),
        settings=Settings(baseline_samples=50, false_alarms_per_asset_month=1.0),
    )
    random = np.random.default_rng(8)
    state, thresholds = new_state(model, 1), []
    for start in range(0, 12_000, 1_000):
        t_ms = STEP_MS * np.arange(start, start + 1_000, dtype=np.int64)[:, None]
        _, state = assess(model, state, Block(t_ms=t_ms, values=random.normal(10, 0.1, (1_000, 1, 2))))
        thresholds.append(float(state.evidence.threshold[0]))

    assert state.evidence.maxima[0, 0] < 1_100
    assert thresholds[-1] != thresholds[-2]


def test_with_the_shortest_baseline_allowed_nothing_was_ever_judged() -> None:
    """Ten samples are two windows, the first of which shows no scatter yet: a machine was called mature without any."""
    signals = (Signal(name="flow", unit="m3/h"), Signal(name="heat", unit="degC"))
    model = Model(asset_type=generic_asset_type(signals), settings=Settings(baseline_samples=10))
    values = np.random.default_rng(3).normal(0, 1, (300, 1, 2))
    values[200:] += 50.0
    told = assessed(model, Block(t_ms=START_MS + STEP_MS * np.arange(300)[:, None], values=values))
    learned = told.maturity[:, 0] > Maturity.LEARNING
    assert 10 <= learned.argmax() <= 20
    assert (told.anomaly_score[learned, 0] > 0).all()
    assert told.condition[-1, 0] == Condition.ALARM


def test_a_regime_signal_that_never_moves_changed_what_was_told() -> None:
    signals = (Signal(name="load", unit="%", role="regime"), Signal(name="heat", unit="degC"))
    constant = Signal(name="setpoint", unit="%", role="regime")
    settings = Settings(baseline_samples=60)
    random = np.random.default_rng(4)
    load = random.normal(50, 8, 500)
    heat = 20 + 0.5 * load + random.normal(0, 1, 500) + 3.0 * (np.arange(500) > 300)
    t_ms = START_MS + STEP_MS * np.arange(500)[:, None]
    alone, beside = (
        assessed(
            Model(asset_type=generic_asset_type(kinds), settings=settings),
            Block(t_ms=t_ms, values=np.stack(columns, axis=1)[:, None, :]),
        )
        for kinds, columns in (
            (signals, (load, heat)),
            ((*signals, constant), (load, heat, np.full(500, 70.0))),
        )
    )
    assert np.abs(alone.anomaly_score - beside.anomaly_score).max() < 1e-9
    assert np.array_equal(alone.condition, beside.condition)


@pytest.mark.parametrize(("unit", "factor", "offset"), [("K", 1, 273.15), ("degF", 1.8, 32), ("degR", 1.8, 491.67)])
def test_temperatures_were_judged_by_the_zero_of_their_unit(unit: str, factor: float, offset: float) -> None:
    """What is less than a step of the sensor was noise in kelvins and a fault in degrees Celsius."""
    random = np.random.default_rng(6)
    ambient = np.round(20 + random.normal(0, 0.15, 400), 1)
    heat = np.round(2 * ambient + random.normal(0, 0.04, 400) + 0.3 * (np.arange(400) > 300), 1)
    constant = np.full(400, 8.0) + 0.2 * (np.arange(400) > 350)
    scores = []
    for name, size, zero in (("degC", 1.0, 0.0), (unit, factor, offset)):
        signals = (
            Signal(name="ambient", unit=name, role="regime"),
            Signal(name="heat", unit=name),
            Signal(name="oil", unit=name),
        )
        model = Model(asset_type=generic_asset_type(signals), settings=Settings(baseline_samples=100))
        values = size * np.stack([ambient, heat, constant], axis=1)[:, None, :] + zero
        scores.append(assessed(model, Block(t_ms=START_MS + STEP_MS * np.arange(400)[:, None], values=values)))
    assert np.abs(scores[0].anomaly_score - scores[1].anomaly_score).max() < 1e-6
    assert scores[0].anomaly_score.max() > 0.5


def test_the_size_of_the_unit_mattered_where_readings_were_tiny() -> None:
    signals = (Signal(name="leak", unit="m3/s"), Signal(name="flow", unit="m3/s", role="regime"))
    model = Model(asset_type=generic_asset_type(signals), settings=Settings(baseline_samples=100))
    values = 5 + np.random.default_rng(6).normal(0, 0.01, (400, 1, 2))
    values[:, :, 0] += values[:, :, 1]
    t_ms = START_MS + STEP_MS * np.arange(400)[:, None]
    large, tiny = (assessed(model, Block(t_ms=t_ms, values=size * values)).anomaly_score for size in (1.0, 1e-12))
    assert np.abs(large - tiny).max() < 1e-6
