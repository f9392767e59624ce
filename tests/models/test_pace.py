"""When an ALARM is due: a slow fault waits, but not for ever, and what a fleet knows of the time left decides."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from forewarn_models.assessment import Assessment, Block, Condition
from forewarn_models.asset_type import Signal, generic_asset_type
from forewarn_models.condition import Pace, Signs, judge, new_condition_state
from forewarn_models.kernel import Model, Settings, assess, new_state
from forewarn_models.knowledge import FleetKnowledge, Path, fit_knowledge
from forewarn_models.layout import Floats
from tests.models.test_fleet_model import HOUR_MS, START_MS, fleet_model, knowledge, model
from tests.models.test_knowledge import growing_path

BASELINE_HOURS = 100
USUAL_HOURS = 40.0
MODEL = Model(
    asset_type=generic_asset_type((Signal(name="heat", unit="degC"),)),
    settings=Settings(baseline_samples=BASELINE_HOURS),
)


def judged(score: Floats) -> NDArray[np.int8]:
    """The condition of one machine at hourly scores, whose first ALERT is at 0.75."""
    n, one = len(score), np.ones(1, dtype=np.bool_)
    signs = Signs(
        step_hours=np.ones((n, 1)),
        running=np.ones((n, 1), dtype=np.bool_),
        residual=np.zeros((n, 1, 1)),
        leap=np.zeros((n, 1, 1)),
        suspect=None,
        suspect_samples=None,
        limits=None,
    )
    verdict, _ = judge(
        MODEL.layout,
        new_condition_state(MODEL.layout, 1),
        signs,
        t_ms=START_MS + HOUR_MS * np.arange(n)[:, None],
        score=score[:, None],
        alert=np.array([0.75]),
        calm=np.array([0.7]),
        judged=np.ones((n, 1), dtype=np.bool_),
        armed=one,
        interval_ms=np.array([float(HOUR_MS)]),
        pace=Pace(baseline_samples=BASELINE_HOURS),
    )
    return verdict.condition[:, 0]


def doubling_in(hours: float, *, most: float = 6.0) -> Floats:
    """A score that grows exponentially from 0.25, and up to `most`."""
    score: Floats = np.minimum(0.25 * 2.0 ** (np.arange(12 * hours) / hours), most)
    return score


def first(holds: NDArray[np.bool_]) -> int:
    assert holds.any()
    return int(holds.argmax())


def first_alarm(condition: NDArray[np.int8]) -> int:
    return first(condition == Condition.ALARM)


# --- by its own growth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "low", "high"), [(20.0, 1.0, 1.1), (90.0, 1.0, 1.02), (105.0, 1.2, 1.7), (120.0, 1.5, 2.0)]
)
def test_the_alarm_of_a_fault_that_took_longer_than_a_baseline_from_half_the_level_on_is_further_beyond_it(
    hours: float, low: float, high: float
) -> None:
    score = doubling_in(hours)
    assert low <= score[first_alarm(judged(score))] < high


def test_a_fault_waits_for_a_baseline_at_most_and_is_an_alert_meanwhile() -> None:
    score = doubling_in(400.0, most=1.3)
    condition, beyond = judged(score), first(score >= 1.0)
    assert first_alarm(condition) == beyond + BASELINE_HOURS - 1
    assert (condition[beyond : beyond + BASELINE_HOURS - 1] == Condition.ALERT).all()


def test_a_fault_that_jumps_is_an_alarm_at_once_however_long_its_beginning_took() -> None:
    score = np.concatenate([doubling_in(400.0, most=0.9), np.full(20, 2.0)])
    assert first_alarm(judged(score)) == first(score == 2.0)


def test_a_fault_that_began_slowly_and_went_back_is_judged_by_its_second_growth() -> None:
    score = np.concatenate([doubling_in(400.0, most=0.9), np.full(30, 0.3), doubling_in(20.0)])
    assert score[first_alarm(judged(score))] < 1.1


# --- by what the fleet knows ----------------------------------------------------------------------------------------


def worn(left_hours: float, *, usual_hours: float | None, to: float = 6.0) -> Assessment:
    """A machine with a quick fault that stops growing, of which a fleet model always tells so many hours left."""
    fleet = fleet_model()
    constant = replace(
        fleet.arrays,
        weight_3=np.zeros_like(fleet.arrays.weight_3),
        bias_3=np.full_like(fleet.arrays.bias_3, left_hours / fleet.header.knee_hours),
        curve_offset=np.zeros_like(fleet.arrays.curve_offset),
    )
    known = msgspec.structs.replace(
        knowledge(replace(fleet, arrays=constant)), alarm_hours=usual_hours, failure_log_severity=2.0
    )
    random = np.random.default_rng(5)
    load = random.normal(50, 8, 600)
    growth = to * np.clip((np.arange(600) - 150) / 30, 0, 1)
    values = np.stack([load, 10 + load / 10 + random.normal(0, 1, 600), 40 + random.normal(0, 1, 600) + growth], axis=1)
    kernel = replace(model(None), knowledge=known)
    t_ms = START_MS + HOUR_MS * np.arange(600)[:, None]
    return assess(kernel, new_state(kernel, 1), Block(t_ms=t_ms, values=values[:, None, :]))[0]


def test_a_fault_with_much_time_left_is_an_alarm_only_after_the_usual_time() -> None:
    unknown, long_way = worn(90.0, usual_hours=None), worn(90.0, usual_hours=USUAL_HOURS)
    last_below = first(long_way.anomaly_score[:, 0] >= 1.0) - 1
    assert long_way.anomaly_score.max() < 2.0
    assert first_alarm(unknown.condition[:, 0]) < last_below + 6
    assert last_below + USUAL_HOURS <= first_alarm(long_way.condition[:, 0]) <= last_below + USUAL_HOURS + 10


def test_twice_the_level_is_an_alarm_whatever_the_fleet_says() -> None:
    severe = worn(90.0, usual_hours=USUAL_HOURS, to=15.0)
    assert first_alarm(severe.condition[:, 0]) <= first(severe.anomaly_score[:, 0] >= 2.0) + 1


def test_evidence_of_an_alert_is_an_alarm_where_little_time_is_left() -> None:
    short = worn(20.0, usual_hours=USUAL_HOURS)
    unknown = worn(20.0, usual_hours=None)
    at = first_alarm(short.condition[:, 0])
    assert at < first_alarm(unknown.condition[:, 0])
    assert 0.75 <= short.anomaly_score[at, 0] < 1.0


def test_little_time_left_without_any_evidence_is_no_alarm() -> None:
    healthy = worn(20.0, usual_hours=USUAL_HOURS, to=0.0)
    assert (healthy.condition < Condition.ALARM).all()


# --- what `fit` learns of it ----------------------------------------------------------------------------------------


def alarmed(life_hours: float, left_hours: float | None) -> Path:
    at = None if left_hours is None else life_hours - 1 - left_hours
    return replace(growing_path(life_hours), alarmed_at=at)


@pytest.mark.parametrize(
    ("left", "usual"),
    [((30.0, 40.0, 50.0), 40.0), ((30.0, None, 50.0), 40.0), ((None, None, 50.0), None), ((None, None, None), None)],
)
def test_the_usual_time_is_the_median_of_those_that_had_an_alarm_if_half_of_them_had(
    left: tuple[float | None, ...], usual: float | None
) -> None:
    fitted: FleetKnowledge = fit_knowledge("pump", [alarmed(300.0 + 10 * i, hours) for i, hours in enumerate(left)])
    assert fitted.alarm_hours == usual
