"""What a backtest takes for the truth, and how the policy's rule follows the evidence."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from forewarn_cloud.history.assess import model_for
from forewarn_cloud.history.backtest import build_cases
from forewarn_cloud.history.dataset import Failure, read_dataset
from forewarn_cloud.history.lives import Life
from forewarn_cloud.history.replay import WAIT, Case, Question, Verdict
from forewarn_cloud.history.rules import ExpectedCost, best_interval_hours, fixed_threshold
from forewarn_cloud.history.world import GENERIC_PART, PartSupply, Shelves, World
from forewarn_cloud.service.policy import Policy
from forewarn_models.asset_type import builtin_asset_type, generic_asset_type
from forewarn_models.wire import Advisory

from .fleets import Fleet
from .folders import write_folder

HOUR = 3_600_000
T0 = 1_767_225_600_000
PUMP = builtin_asset_type("centrifugal_pump")


# --- the truth ------------------------------------------------------------------------------------------------------


def _case(folder: Path, **events: str) -> Case:
    """The only life of one fan, recorded from hour 0 to hour 9."""
    rows = "".join(f"f1,2026-01-01T{hour:02}:00:00Z,{hour}\n" for hour in range(10))
    dataset = read_dataset(
        write_folder(
            folder / "d",
            description='name = "d"\nasset_type = "fan"\n[[signals]]\nname = "x"\nunit = "1"\n',
            telemetry="asset_id,observed_at,x\n" + rows,
            **events,
        )
    )
    (case,) = build_cases(dataset, model_for(dataset, None), World(recognisable_hours=4.0))
    return case


def _truths(case: Case, *hours: float) -> list[str]:
    return [case.truth_at(T0 + round(hour * HOUR)) for hour in hours]


FAILURE = "asset_id,failed_at,failure_mode\nf1,2026-01-01T12:00:00Z,seal\n"
HEADER_ONLY = "asset_id,failed_at,failure_mode\n"
FAULTS = "asset_id,started_at,ended_at,failure_mode\nf1,2026-01-01T02:00:00Z,2026-01-01T{}:00:00Z,belt\n"
REMAINING = "asset_id,as_of,rul_hours\nf1,2026-01-01T09:00:00Z,3\n"


def test_before_a_failure_the_fault_can_be_found_for_some_hours(tmp_path: Path) -> None:
    case = _case(tmp_path, failures=FAILURE)
    assert _truths(case, 7.9, 8, 12) == ["no fault", "fault", "fault"]
    assert case.failure_mode == "seal"


def test_a_label_that_covers_the_failure_says_exactly_since_when(tmp_path: Path) -> None:
    case = _case(tmp_path, failures=FAILURE, faults=FAULTS.format("12"))
    assert _truths(case, 1.9, 2, 12) == ["no fault", "fault", "fault"]


def test_a_passing_fault_does_not_hide_the_failure(tmp_path: Path) -> None:
    case = _case(tmp_path, failures=FAILURE, faults=FAULTS.format("03"))
    assert _truths(case, 1, 2.5, 4, 9) == ["no fault", "fault", "no fault", "fault"]


def test_the_known_end_of_a_life_that_was_cut_off_counts_like_a_failure(tmp_path: Path) -> None:
    case = _case(tmp_path, remaining_life=REMAINING)
    assert _truths(case, 7.9, 8, 12, 12.1) == ["no fault", "fault", "fault", "not known"]


def test_a_fault_present_at_the_end_of_the_recording_lasts_until_the_known_end(tmp_path: Path) -> None:
    remaining = REMAINING.replace(",3", ",30")
    case = _case(tmp_path, remaining_life=remaining, faults=FAULTS.format("09"))
    assert _truths(case, 1.9, 2, 20, 39, 39.1) == ["no fault", "fault", "fault", "fault", "not known"]
    assert case.failure_mode == "belt"


def test_without_labels_the_last_hours_of_a_recording_are_not_known(tmp_path: Path) -> None:
    assert _truths(_case(tmp_path, failures=HEADER_ONLY), 5, 5.1, 9) == ["no fault", "not known", "not known"]


def test_labels_tell_the_truth_to_the_end_of_the_recording(tmp_path: Path) -> None:
    case = _case(tmp_path, failures=HEADER_ONLY, faults=FAULTS.format("03"))
    assert _truths(case, 2, 4, 9, 9.1) == ["fault", "no fault", "no fault", "not known"]


def test_advisories_belong_to_the_life_they_were_told_in(tmp_path: Path) -> None:
    fleet = Fleet().add("a", 500, fails=True).add("a", 400, fails=False, start_hour=500)
    dataset = read_dataset(fleet.write(tmp_path / "d"))
    first, second = build_cases(dataset, model_for(dataset, None), World())
    for case in (first, second):
        times = [advisory.observed_at for advisory in case.advisories]
        assert times == sorted(times)
        assert case.life.started_ms <= times[0]
        assert times[-1] <= case.life.ended_ms
    assert any(advisory.condition == "ALARM" for advisory in first.advisories)
    assert second.advisories[0].reason == "reset"


# --- the rules ------------------------------------------------------------------------------------------------------


def _advisory(hour: float, condition: str, *, modes: dict[str, float] | None = None, p50: float = 60.0) -> Advisory:
    return msgspec.convert(
        {
            "asset": "p1",
            "asset_type": "centrifugal_pump",
            "observed_at": T0 + round(hour * HOUR),
            "condition": condition,
            "health_index": 0.4,
            "anomaly_score": 2.0,
            "contributions": {},
            "failure_modes": modes or {},
            "rul_hours": {"p10": p50 / 2, "p50": p50, "p90": p50 * 2},
            "maturity": "MATURE",
            "model": {"id": "m", "hash": "0"},
            "since": T0,
        },
        Advisory,
    )


def _pump_case() -> Case:
    life = Life(asset="p1", rows=np.arange(1), started_ms=T0, ended_ms=T0 + 900 * HOUR)
    return Case(number=0, life=life, advisories=(), faults_ms=(), known_until_ms=0, failure_mode="seal_leak")


def _question(advisory: Advisory | None, hour: float, shelves: Shelves, *, found: bool = False) -> Question:
    return Question(case=_pump_case(), now_ms=T0 + round(hour * HOUR), shelves=shelves, advisory=advisory, found=found)


@pytest.fixture
def shelves() -> Shelves:
    return Shelves(World(part=PartSupply(on_hand_local=1, on_hand_central=1)), {})


@pytest.fixture
def rule() -> ExpectedCost:
    return ExpectedCost(World(), Policy(), PUMP)


def _parts(verdict: Verdict) -> list[str]:
    return sorted(supply.part_no for supply in verdict.plan.supplies)


def test_the_policy_orders_the_parts_of_the_failure_mode(rule: ExpectedCost, shelves: Shelves) -> None:
    alarm = _advisory(48, "ALARM", modes={"bearing_wear": 0.9})
    verdict = rule(_question(alarm, 48, shelves))
    assert verdict.action == "order"
    assert _parts(verdict) == ["PMP-BRG-6309"]


def test_without_evidence_the_policy_waits(rule: ExpectedCost, shelves: Shelves) -> None:
    verdict = rule(_question(_advisory(48, "NORMAL"), 48, shelves))
    assert (verdict.action, verdict.revisit_ms) == ("wait", None)


def test_an_unknown_fault_is_inspected_and_then_repaired_with_the_right_parts(
    rule: ExpectedCost, shelves: Shelves
) -> None:
    assert rule(_question(_advisory(48, "ALARM"), 48, shelves)).action == "inspect"
    found = rule(_question(None, 80, shelves, found=True))
    assert found.action == "order"
    assert _parts(found) == ["PMP-SEAL-45"]


def test_a_fault_that_the_asset_type_does_not_know_is_repaired_with_a_kit(shelves: Shelves) -> None:
    unknown = generic_asset_type(PUMP.signals, "mystery")
    rule = ExpectedCost(World(), Policy(), unknown)
    assert rule(_question(_advisory(48, "ALARM"), 48, shelves)).action == "inspect"
    assert _parts(rule(_question(None, 80, shelves, found=True))) == [GENERIC_PART.part_no]


def test_evidence_that_stays_away_withdraws_the_order(rule: ExpectedCost, shelves: Shelves) -> None:
    assert rule(_question(_advisory(48, "ALARM", modes={"bearing_wear": 0.9}), 48, shelves)).action == "order"
    clear_hours = Policy().times.clear_hours
    assert rule(_question(_advisory(50, "NORMAL"), 50, shelves)).action != "withdraw"
    cleared = 50 + clear_hours
    assert rule(_question(_advisory(cleared, "NORMAL"), cleared, shelves)).action == "withdraw"
    assert rule(_question(None, cleared + 1, shelves)).action == "wait"


def test_an_order_outlives_a_baseline_that_the_machine_began_anew_by_itself(
    rule: ExpectedCost, shelves: Shelves
) -> None:
    assert rule(_question(_advisory(48, "ALARM", modes={"bearing_wear": 0.9}), 48, shelves)).action == "order"
    anew = msgspec.structs.replace(_advisory(50, "UNKNOWN"), maturity="LEARNING", reason="reset")
    asked = [anew, _advisory(400, "NORMAL"), _advisory(600, "NORMAL")]
    questions = [_question(advisory, (advisory.observed_at - T0) / HOUR, shelves) for advisory in asked]
    assert [rule(replace(question, order_open=True)).action == "withdraw" for question in questions] == [False] * 3
    again = [rule(question).action == "withdraw" for question in questions]
    assert again[-1], "without one the evidence has cleared"


def test_nothing_is_ordered_while_the_evidence_clears_as_in_the_service(rule: ExpectedCost, shelves: Shelves) -> None:
    far_off = _advisory(48, "ALERT", modes={"bearing_wear": 0.9}, p50=2000.0)
    waits = rule(_question(far_off, 48, shelves))
    assert (waits.action, waits.revisit_ms) == ("wait", T0 + round((48 + Policy().times.review_hours) * HOUR))
    assert rule(_question(_advisory(50, "NORMAL"), 50, shelves)) == WAIT, "not to be asked again before more is known"
    assert rule(_question(None, 72, shelves)) == WAIT
    worse = _advisory(73, "ALARM", modes={"bearing_wear": 0.9})
    assert rule(_question(worse, 73, shelves)).action == "order"


def test_the_fixed_threshold_looks_at_the_health_index_only(shelves: Shelves) -> None:
    rule = fixed_threshold(0.5, Policy(), PUMP)
    sick = _advisory(1, "NORMAL", modes={"seal_leak": 0.8})
    verdict = rule(_question(sick, 1, shelves))
    assert (verdict.action, _parts(verdict)) == ("order", ["PMP-SEAL-45"])
    for other in (
        msgspec.structs.replace(sick, health_index=0.51),
        msgspec.structs.replace(sick, condition="UNKNOWN"),
        None,
    ):
        assert rule(_question(other, 1, shelves)).action == "wait"


def _lives(*hours: float) -> list[Case]:
    return [
        Case(
            number=n,
            life=Life(
                asset=f"p{n}",
                rows=np.arange(1),
                started_ms=T0,
                ended_ms=T0 + round(h * HOUR),
                failure=Failure(asset=f"p{n}", failed_ms=T0 + round(h * HOUR), failure_mode=""),
            ),
            advisories=(),
            faults_ms=(),
            known_until_ms=0,
        )
        for n, h in enumerate(hours)
    ]


def test_the_best_interval_lies_just_before_failures_that_come_at_one_age() -> None:
    assert best_interval_hours(_lives(100, 101, 102), 1000.0, 10.0) == pytest.approx(99.9)


def test_no_interval_is_best_where_a_renewal_saves_nothing() -> None:
    assert best_interval_hours(_lives(10, 100, 200), 100.0, 100.0) is None
    assert best_interval_hours([], 100.0, 90.0) is None
