"""The replay, case by case, in a world without luck: every hour and every coin can be checked by hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from forewarn_cloud.history.dataset import Failure
from forewarn_cloud.history.lives import Life
from forewarn_cloud.history.replay import WAIT, Case, CaseResult, Question, Rule, Verdict, replay
from forewarn_cloud.history.rules import fixed_interval, perfect_foresight
from forewarn_cloud.history.world import GENERIC_PART, PartSupply, World, needs_of
from forewarn_cloud.service.policy import Policy, Times
from forewarn_models.asset_type import AssetType, FailureMode, PartNeed, Signal, Text
from forewarn_models.wire import Advisory, ModelRef

HOUR = 3_600_000
T0 = 1_767_225_600_000
EXACT = Policy(times=Times(lead_time_spread=0.0, dispatch_spread=0.0))
"""A visit needs 24 hours' notice, then 8 hours of travel. A visit costs 400, an hour of downtime 600."""
PLENTY = World(part=PartSupply(on_hand_local=50, on_hand_central=0))
FAN = AssetType(
    asset_type="fan",
    title=Text(en="Fan", zh="风机"),
    signals=(Signal(name="x", unit="1"),),
    failure_modes=tuple(
        FailureMode(
            code=code,
            title=Text(en=code, zh=code),
            symptoms={"x": 1.0},
            parts=(PartNeed(part_no=part),),
            repair_hours=4.0,
        )
        for code, part in (("bearing", "BRG"), ("belt", "BLT"))
    ),
)
REPAIR = 4 * 600.0
TRIP = 400.0 + 600.0
PLANNED = TRIP + 0.25 * REPAIR
BROKEN = TRIP + 5000.0 + REPAIR


def _advisory(hour: float) -> Advisory:
    return Advisory(
        asset="f1",
        asset_type="fan",
        observed_at=T0 + round(hour * HOUR),
        condition="ALARM",
        health_index=0.4,
        anomaly_score=2.0,
        contributions={"x": 2.0},
        failure_modes={},
        rul_hours=None,
        maturity="MATURE",
        model=ModelRef(id="m", hash="0" * 64),
    )


def _case(
    *,
    number: int = 0,
    fails: float | None = None,
    ended: float | None = None,
    rul: float | None = None,
    told: Sequence[float] = (),
    recognisable: float = 336.0,
    mode: str = "",
) -> Case:
    """A life from hour 0, with advisories at the hours `told`."""
    failure = None
    if fails is not None:
        failure = Failure(asset="f1", failed_ms=T0 + round(fails * HOUR), failure_mode=mode)
    end = fails if ended is None else ended
    assert end is not None
    ended_ms = T0 + round(end * HOUR)
    life = Life(asset="f1", rows=np.arange(1), started_ms=T0, ended_ms=ended_ms, failure=failure, rul_hours=rul)
    truth_ms = life.would_fail_ms
    return Case(
        number=number,
        life=life,
        advisories=tuple(_advisory(hour) for hour in told),
        faults_ms=() if truth_ms is None else ((truth_ms - round(recognisable * HOUR), truth_ms),),
        known_until_ms=ended_ms if truth_ms is None else truth_ms,
        failure_mode=mode,
    )


def _order_for(mode: str = "") -> Rule:
    """Order at every advisory, the fastest way."""
    return lambda q: Verdict(action="order", plan=q.shelves.plans(needs_of(FAN, mode))[0])


def _inspect(question: Question) -> Verdict:
    if question.found:
        return Verdict(action="order", plan=question.shelves.plans(needs_of(FAN, question.case.failure_mode))[0])
    return Verdict(action="inspect")


def _run(cases: Sequence[Case], world: World = PLENTY, policy: Policy = EXACT, **rule: Any) -> list[CaseResult]:
    return replay(cases, world, policy, FAN, **rule)


def test_an_order_early_enough_prevents_the_failure_and_renews_the_machine() -> None:
    (result,) = _run([_case(fails=100, told=[10])], rule=_order_for())
    assert (result.outcome, result.broke_down) == ("caught", False)
    assert result.lead_hours == 90.0
    assert result.lived_hours == 10 + 24 + 8
    assert result.cost == PLANNED
    assert (result.orders, result.repaired_orders) == (1, 1)


def test_a_crew_that_arrives_at_the_very_moment_of_the_failure_is_in_time() -> None:
    (result,) = _run([_case(fails=42, told=[10])], rule=_order_for())
    assert result.outcome == "caught"


def test_an_order_too_late_shortens_the_downtime_but_does_not_prevent_it() -> None:
    (result,) = _run([_case(fails=100, told=[96])], rule=_order_for())
    assert (result.outcome, result.broke_down, result.lead_hours) == ("late", True, 4.0)
    assert result.lived_hours == 100.0
    assert result.cost == BROKEN + 8 * 600.0  # the parts are there, the crew needs its 8 hours
    (sooner,) = _run([_case(fails=100, told=[70])], rule=_order_for())
    assert sooner.cost == BROKEN + 2 * 600.0  # the crew was to come 2 hours after the failure anyway


def test_a_failure_without_an_order_is_missed() -> None:
    (result,) = _run([_case(fails=100)])
    assert (result.outcome, result.broke_down, result.lead_hours) == ("missed", True, None)
    assert result.cost == BROKEN + 8 * 600.0


def test_an_empty_shelf_makes_the_downtime_longer() -> None:
    empty = World(part=PartSupply(on_hand_local=0, on_hand_central=0))
    (result,) = _run([_case(fails=100)], empty)
    assert result.cost == BROKEN + 300.0 + (48 + 8) * 600.0  # the part is expedited
    assert (result.transfers, result.stock_outs) == (0, 1)


def test_a_failure_does_not_wait_for_a_part_that_was_bought_the_slow_way() -> None:
    empty = World(part=PartSupply(on_hand_local=0, on_hand_central=0))
    (result,) = _run(
        [_case(fails=100, told=[90])],
        empty,
        rule=lambda q: Verdict(action="order", plan=q.shelves.plans([GENERIC_PART])[-1]),
    )
    assert result.outcome == "late"
    assert result.cost == BROKEN + 300.0 + (48 + 8) * 600.0
    assert result.stock_outs == 2


def test_an_order_long_before_anything_can_be_found_is_false_and_is_not_repeated_at_once() -> None:
    case = _case(fails=1000, told=[10, 100, 700], recognisable=336)
    (result,) = _run([case], rule=_order_for())
    assert (result.orders, result.false_orders, result.repaired_orders) == (2, 1, 1)
    assert (result.outcome, result.lead_hours) == ("caught", 300.0)
    assert result.cost == 400.0 + 0.1 * 600.0 + PLANNED
    assert result.lived_hours == 700 + 32


def test_an_inspection_finds_the_fault_and_a_second_visit_repairs_it() -> None:
    (result,) = _run([_case(fails=100, told=[10], mode="belt")], rule=_inspect)
    assert (result.outcome, result.lived_hours) == ("caught", 10 + 24 + 8 + 8)
    assert result.cost == 250.0 + PLANNED
    (nothing,) = _run([_case(fails=900, ended=900, told=[10])], rule=_inspect)
    assert (nothing.outcome, nothing.false_orders) == ("missed", 1)
    assert nothing.cost == 250.0 + BROKEN + 8 * 600.0


def test_the_wrong_parts_cost_a_second_trip() -> None:
    (result,) = _run([_case(fails=100, told=[10], mode="belt")], rule=_order_for("bearing"))
    assert (result.outcome, result.lived_hours) == ("caught", 10 + 24 + 8 + 8)
    assert result.cost == 400.0 + PLANNED
    (right,) = _run([_case(fails=100, told=[10], mode="belt")], rule=_order_for("belt"))
    assert right.cost == PLANNED


def test_the_wrong_part_is_there_for_another_machine() -> None:
    one = World(part=PartSupply(on_hand_local=1, on_hand_central=0, purchase_hours=5000.0))
    cases = [_case(fails=100, told=[10], mode="belt"), _case(number=1, fails=90, mode="bearing")]
    _, other = _run(cases, one, rule=_order_for("bearing"))
    assert (other.outcome, other.stock_outs) == ("missed", 0)


def test_evidence_that_clears_withdraws_the_order_and_frees_its_part() -> None:
    def rule(question: Question) -> Verdict:
        started = question.now_ms == T0 + 10 * HOUR
        return _order_for()(question) if started else Verdict(action="withdraw")

    one = World(part=PartSupply(on_hand_local=1, on_hand_central=0))
    cases = [_case(ended=200, told=[10, 20]), _case(number=1, fails=100)]
    withdrawn, other = _run(cases, one, rule=rule)
    assert (withdrawn.orders, withdrawn.withdrawn_orders, withdrawn.cost) == (1, 1, 0.1 * 600.0)
    assert withdrawn.lived_hours == 200.0
    assert other.cost == BROKEN + 8 * 600.0  # it found the part on the shelf


def test_two_machines_cannot_have_the_same_part() -> None:
    two = World(part=PartSupply(on_hand_local=1, on_hand_central=1, purchase_hours=5000.0))
    first, second = _run([_case(number=n, fails=500, told=[200 + n]) for n in range(2)], two, rule=_order_for())
    assert (first.transfers, second.transfers) == (0, 1)
    assert second.cost == first.cost + 80.0


def test_a_used_part_is_bought_again() -> None:
    one = World(part=PartSupply(on_hand_local=1, on_hand_central=0, purchase_hours=100.0))
    cases = [_case(fails=50), _case(number=1, fails=149), _case(number=2, fails=260)]
    assert [result.stock_outs for result in _run(cases, one)] == [0, 1, 0]


def test_a_life_that_was_cut_off_is_judged_by_its_known_end_but_billed_to_the_end_of_the_recording() -> None:
    in_time = _case(ended=100, rul=50, told=[90])
    too_late = _case(number=1, ended=100, rul=10, told=[90])
    unseen = _case(number=2, ended=100, rul=10)
    caught, late, none = _run([in_time, too_late, unseen], rule=_order_for())
    assert [caught.outcome, late.outcome, none.outcome] == ["caught", "late", "none"]
    assert [caught.lead_hours, late.lead_hours] == [60.0, 20.0]
    for result in (caught, late, none):
        assert (result.cost, result.lived_hours, result.broke_down) == (0.0, 100.0, False)


def test_an_order_that_is_open_when_a_healthy_recording_ends_is_unresolved() -> None:
    (result,) = _run([_case(ended=100, told=[90])], rule=_order_for())
    assert (result.outcome, result.orders, result.unresolved_orders) == ("none", 1, 1)


def test_calendars_renew_at_an_age_or_at_the_last_moment() -> None:
    cases = [_case(fails=100, told=[10]), _case(number=1, fails=300), _case(number=2, ended=80)]
    by_age = _run(cases, calendar=fixed_interval(150.0))
    assert [result.outcome for result in by_age] == ["missed", "none", "none"]
    assert [result.lived_hours for result in by_age] == [100.0, 150.0, 80.0]
    assert [result.cost for result in by_age] == [BROKEN + 8 * 600.0, PLANNED, 0.0]
    foreseen = _run(cases, calendar=perfect_foresight)
    assert [result.lived_hours for result in foreseen] == [100.0, 300.0, 80.0]
    assert [result.cost for result in foreseen] == [PLANNED, PLANNED, 0.0]
    assert not any(result.broke_down for result in foreseen)


def test_a_rule_that_wants_to_be_asked_again_is_asked_once_at_that_time() -> None:
    asked = list[float]()

    def rule(question: Question) -> Verdict:
        hour = (question.now_ms - T0) / HOUR
        asked.append(hour)
        return Verdict(action="wait", revisit_ms=question.now_ms + 24 * HOUR) if hour < 60 else WAIT

    _run([_case(fails=200, told=[10, 20])], rule=rule)
    assert asked == [10.0, 20.0, 44.0, 68.0]


def test_luck_depends_on_the_seed_only() -> None:
    cases = [_case(number=n, fails=100 + n, told=[40]) for n in range(20)]
    policy = Policy()

    def lived(seed: int) -> list[float]:
        world = World(seed=seed, part=PartSupply(on_hand_local=50))
        return [result.lived_hours for result in replay(cases, world, policy, FAN, rule=_order_for())]

    assert lived(1) == lived(1)
    assert lived(1) != lived(2)


@settings(deadline=None)
@given(
    fleet=st.lists(
        st.tuples(
            st.floats(1, 2000),
            st.sampled_from(["fails", "cut off", "known"]),
            st.lists(st.floats(0, 2000), max_size=6),
            st.sampled_from(["bearing", "belt", "other", ""]),
        ),
        min_size=1,
        max_size=6,
    ),
    choices=st.lists(st.sampled_from(["order", "inspect", "wait", "withdraw"]), min_size=1, max_size=12),
    on_hand=st.integers(0, 2),
)
def test_every_order_has_one_end_and_every_failure_one_outcome(
    fleet: list[tuple[float, str, list[float], str]], choices: list[str], on_hand: int
) -> None:
    cases = [
        _case(
            number=n,
            fails=end if how == "fails" else None,
            ended=end,
            rul=100.0 if how == "known" else None,
            told=sorted(hour for hour in told if hour < end),
            mode=mode,
        )
        for n, (end, how, told, mode) in enumerate(fleet)
    ]
    left = iter(choices * 1000)

    def rule(question: Question) -> Verdict:
        plans = question.shelves.plans(needs_of(FAN, question.case.failure_mode if question.found else "belt"))
        action = "order" if question.found else next(left)
        plan = plans[question.now_ms % len(plans)]
        return Verdict(action=action, plan=plan, revisit_ms=question.now_ms + 30 * HOUR)  # type: ignore[arg-type]

    world = World(part=PartSupply(on_hand_local=on_hand, on_hand_central=on_hand))
    results = replay(cases, world, Policy(), FAN, rule=rule)
    for case, result in zip(cases, results, strict=True):
        ends = result.repaired_orders + result.false_orders + result.withdrawn_orders + result.unresolved_orders
        assert result.orders == ends + (result.outcome == "late")
        assert (result.outcome == "none") <= (case.life.failure is None)
        assert (result.lead_hours is not None) == (result.outcome in ("caught", "late"))
        assert 0 <= result.lived_hours <= case.life.hours
        assert result.broke_down == (case.life.failure is not None and result.outcome in ("late", "missed"))
