"""The expected-cost decision: what it prefers, how it moves with each input, and that it is exact."""

import json
import math
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forewarn_cloud.entities import DecisionRecord
from forewarn_cloud.service.decision import (
    HOUR_MS,
    Decision,
    Method,
    Situation,
    decide,
    false_alarm_probability,
    life_quantile,
    time_to_failure,
)
from forewarn_cloud.service.ordering import replay
from forewarn_cloud.service.policy import Policy, Times
from forewarn_cloud.service.sourcing import NO_PARTS, Supply, SupplyPlan
from forewarn_models.prognosis import failure_probability
from forewarn_models.wire import RulHours

NOW_MS = 1_780_000_000_000
POLICY = Policy()


def plan(lead_hours: float = 0.0, logistics_cost: float = 0.0, parts_cost: float = 500.0) -> SupplyPlan:
    sourcing = "stock" if lead_hours == 0 else "purchase"
    supply = Supply(
        part_no="P",
        quantity=1,
        sourcing="stock" if sourcing == "stock" else "purchase",
        from_depot="north" if sourcing == "stock" else None,
        to_depot="north",
        lead_hours=lead_hours,
        logistics_cost=logistics_cost,
        parts_cost=parts_cost,
    )
    return SupplyPlan(supplies=(supply,))


def situation(**changes: Any) -> Situation:
    usual = Situation(
        now_ms=NOW_MS,
        asset="pump-1",
        asset_type="centrifugal_pump",
        failure_mode="seal_leak",
        failure_mode_probability=0.9,
        evidence_since_ms=NOW_MS - 48 * HOUR_MS,
        condition="ALARM",
        maturity="MATURE",
        trusted=True,
        rul_hours=RulHours(100.0, 200.0, 400.0),
        rul_as_of_ms=NOW_MS,
        p_f_interval_hours=250.0,
        repair_hours=4.0,
        tier=2,
        dispatch_hours=8.0,
        plans=(plan(),),
    )
    return replace(usual, **changes)


def costs(decision: Decision) -> dict[str, float]:
    return {option.option: option.expected_cost for option in decision.expected_costs}


def test_it_acts_while_there_is_time_to_act() -> None:
    decision = decide(situation(), POLICY)
    assert (decision.action, decision.option) == ("order", "act:stock")
    assert decision.needed_by_ms == pytest.approx(NOW_MS + 100 * HOUR_MS, abs=HOUR_MS)
    assert decision.ready_at_ms == pytest.approx(NOW_MS + 32 * HOUR_MS, abs=1000)
    assert decision.p_failure_before_ready < 0.01


def test_it_waits_while_there_is_much_time() -> None:
    decision = decide(situation(rul_hours=RulHours(900.0, 1200.0, 1600.0)), POLICY)
    assert decision.action == "wait"
    assert decision.plan == NO_PARTS
    assert decision.revisit_at_ms == NOW_MS + 24 * HOUR_MS


@pytest.mark.parametrize("rul", [RulHours(13.0, 16.0, 19.0), RulHours(0.0, 0.0, 900.0)])
def test_it_never_waits_for_a_failure_that_it_can_no_longer_prevent(rul: RulHours) -> None:
    """No order can be in time, so that all options cost a breakdown; but the machine may outlive its prognosis."""
    late = situation(rul_hours=rul, evidence_since_ms=NOW_MS)
    decision = decide(late, POLICY)
    assert decision.expected_costs[0].option == "wait", "it would save a visit if the evidence were false"
    assert (decision.action, decision.option, decision.reason) == ("order", "act:stock", "last_moment")
    assert decide(late, POLICY, method=1).action == "wait", "as it was decided before"
    assert decide(replace(late, trusted=False), POLICY).action == "wait"


def test_where_a_breakdown_costs_no_more_than_a_visit_there_is_no_last_moment() -> None:
    costly = msgspec.structs.replace(POLICY, visit_cost=1e6, inspection_cost=1e6)
    decision = decide(situation(rul_hours=RulHours(13.0, 16.0, 19.0), evidence_since_ms=NOW_MS), costly)
    assert (decision.action, decision.reason) == ("wait", "least_expected_cost")


def test_a_longer_lead_time_makes_it_act_earlier() -> None:
    rul = RulHours(350.0, 500.0, 700.0)
    assert decide(situation(rul_hours=rul, plans=(plan(0.0),)), POLICY).action == "wait"
    assert decide(situation(rul_hours=rul, plans=(plan(240.0),)), POLICY).action == "order"


def test_it_pays_for_speed_only_when_speed_is_needed() -> None:
    slow, fast = plan(120.0), plan(24.0, logistics_cost=600.0)
    hurried = decide(situation(rul_hours=RulHours(60.0, 90.0, 140.0), plans=(slow, fast)), POLICY)
    relaxed = decide(situation(rul_hours=RulHours(320.0, 420.0, 560.0), plans=(slow, fast)), POLICY)
    assert hurried.plan == fast
    assert costs(relaxed)["act:purchase"] < 10_000
    act = min((c for c in relaxed.expected_costs if c.option.startswith("act:")), key=lambda c: c.expected_cost)
    assert act.ready_hours_p50 == pytest.approx(128.0)


def test_a_doubtful_failure_mode_is_inspected_before_dear_parts_are_sent() -> None:
    dear = plan(parts_cost=8000.0, logistics_cost=900.0)
    early: dict[str, Any] = {"rul_hours": RulHours(110.0, 150.0, 220.0), "plans": (dear,), "evidence_since_ms": NOW_MS}
    assert decide(situation(failure_mode_probability=0.4, condition="ALERT", **early), POLICY).action == "inspect"
    certain = costs(decide(situation(failure_mode_probability=0.99, **early), POLICY))
    assert certain["act:stock"] < certain["inspect"]


def test_without_a_failure_mode_there_is_nothing_to_repair_but_something_to_inspect() -> None:
    decision = decide(
        situation(failure_mode=None, failure_mode_probability=0.0, plans=(NO_PARTS,), rul_hours=RulHours(20, 45, 90)),
        POLICY,
    )
    assert decision.action == "inspect"
    assert {option.option for option in decision.expected_costs} == {"inspect", "wait"}


def test_evidence_that_is_not_trusted_waits_whatever_it_costs() -> None:
    decision = decide(situation(trusted=False, rul_hours=RulHours(5.0, 10.0, 20.0)), POLICY)
    assert (decision.action, decision.reason) == ("wait", "evidence_not_trusted")
    assert decision.expected_costs[0].option == "act:stock", "and says what would have been cheapest"


def test_evidence_that_lasts_is_less_likely_to_be_false() -> None:
    fresh = false_alarm_probability(situation(evidence_since_ms=NOW_MS), POLICY)
    assert fresh == pytest.approx(0.1)
    lasting = false_alarm_probability(situation(evidence_since_ms=NOW_MS - 48 * HOUR_MS), POLICY)
    assert lasting == pytest.approx(0.025)
    assert false_alarm_probability(situation(condition="ALERT", evidence_since_ms=NOW_MS), POLICY) == pytest.approx(0.4)
    immature = situation(maturity="PROVISIONAL", evidence_since_ms=NOW_MS)
    assert false_alarm_probability(immature, POLICY) == pytest.approx(0.15)


def test_a_prognosis_that_has_aged_is_read_from_now_on() -> None:
    """40 h after it was made, what is left is what it said, given that the machine still runs."""
    rul = RulHours(100.0, 200.0, 400.0)
    within = time_to_failure(situation(rul_hours=rul, rul_as_of_ms=NOW_MS - 40 * HOUR_MS), POLICY)
    gone = failure_probability(rul, 40.0)
    assert within(60.0) == pytest.approx((failure_probability(rul, 100.0) - gone) / (1 - gone))
    assert within(0.0) == 0.0


def test_without_a_prognosis_the_p_f_interval_counts_from_when_the_evidence_began() -> None:
    unknown = situation(rul_hours=None, evidence_since_ms=NOW_MS, p_f_interval_hours=250.0)
    assert life_quantile(time_to_failure(unknown, POLICY), 0.5) == pytest.approx(250.0, rel=1e-3)
    later = replace(unknown, evidence_since_ms=NOW_MS - 200 * HOUR_MS)
    assert life_quantile(time_to_failure(later, POLICY), 0.5) < 150.0


def test_the_expected_cost_of_acting_is_what_one_computes_by_hand() -> None:
    """With no spread and no chance of an early failure, every term of the formula can be written down."""
    policy = msgspec.structs.replace(POLICY, times=Times(lead_time_spread=0.0, dispatch_spread=0.0))
    sure = situation(
        failure_mode_probability=0.8,
        evidence_since_ms=NOW_MS,
        rul_hours=RulHours(2000.0, 2000.0, 2000.0),
        plans=(plan(100.0, logistics_cost=70.0, parts_cost=500.0),),
    )
    decision = decide(sure, policy)
    ready, median_life = 108.0, decision.median_life_hours
    real = (400 + 70) + 500 * (1 + (median_life - ready) / 17520) + 0.25 * 4 * 600 + (1 - 0.8) * (400 + 70)
    false = 400 + 70 + 0.1 * 500
    assert costs(decision)["act:purchase"] == pytest.approx(0.1 * false + 0.9 * real, rel=1e-9)
    assert [option.ready_hours_p50 for option in decision.expected_costs if option.option == "act:purchase"] == [ready]


def test_a_machine_sure_to_fail_at_once_costs_the_whole_breakdown() -> None:
    policy = msgspec.structs.replace(POLICY, times=Times(lead_time_spread=0.0, dispatch_spread=0.0))
    doomed = situation(
        evidence_since_ms=NOW_MS - 10_000 * HOUR_MS,
        failure_mode_probability=1.0,
        rul_hours=RulHours(0.0, 0.0, 0.0),
        plans=(plan(100.0, parts_cost=500.0),),
    )
    act = costs(decide(doomed, policy))["act:purchase"]
    hours_down = 108.0  # until parts and crew are there
    assert act == pytest.approx(400 + 500 + 5000 + 4 * 600 + hours_down * 600, rel=0.01)


def test_the_inputs_survive_json_and_decide_the_same_again() -> None:
    inputs = situation(rul_hours=RulHours(1 / 3, 100 / 7, math.pi * 100), plans=(plan(), plan(71.3)))
    stored = json.loads(json.dumps(msgspec.to_builtins(inputs)))
    read = msgspec.convert(stored, Situation)
    assert read == inputs
    outcome = decide(inputs, POLICY)
    assert decide(read, POLICY) == outcome
    assert msgspec.convert(json.loads(msgspec.json.encode(outcome)), Decision) == outcome


@pytest.mark.parametrize(("inputs", "method"), [({}, 1), ({"method": 1}, 1), ({"method": 2}, 2)])
def test_a_past_decision_is_made_again_as_it_was_made_then(inputs: dict[str, Any], method: Method) -> None:
    late = situation(rul_hours=RulHours(13.0, 16.0, 19.0), evidence_since_ms=NOW_MS)
    then = decide(late, POLICY, method)
    assert then.action == ("wait" if method == 1 else "order")
    record = DecisionRecord(
        id="d",
        tenant="t",
        episode_id="e",
        decided_at=NOW_MS,
        action=then.action,
        inputs={"situation": msgspec.to_builtins(late), "policy": msgspec.to_builtins(POLICY)} | inputs,
        outcome=json.loads(msgspec.json.encode(then)),
        model_hash="",
        policy_hash=POLICY.hash,
    )
    assert replay(record) == record.outcome


hours = st.floats(0.0, 5000.0)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    p10, p50, p90 = sorted(draw(st.tuples(hours, hours, hours)))
    leads = draw(st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=4, unique=True))
    return situation(
        rul_hours=draw(st.sampled_from([None, RulHours(p10, p50, p90)])),
        rul_as_of_ms=NOW_MS - draw(st.integers(0, 500)) * HOUR_MS,
        evidence_since_ms=NOW_MS - draw(st.integers(0, 2000)) * HOUR_MS,
        condition=draw(st.sampled_from(["ALERT", "ALARM"])),
        failure_mode=draw(st.sampled_from([None, "seal_leak"])),
        failure_mode_probability=draw(st.floats(0.0, 1.0)),
        tier=draw(st.integers(1, 3)),
        dispatch_hours=draw(st.floats(0.0, 100.0)),
        plans=tuple(plan(lead, logistics_cost=draw(st.floats(0.0, 1000.0))) for lead in leads),
    )


@given(situations())
def test_every_decision_is_the_cheapest_in_time_finite_and_consistent(inputs: Situation) -> None:
    decision = decide(inputs, POLICY)
    amounts = [option.expected_cost for option in decision.expected_costs]
    assert all(math.isfinite(amount) and amount >= 0 for amount in amounts)
    assert amounts == sorted(amounts)
    wait = next(option for option in decision.expected_costs if option.option == "wait")
    if decision.reason == "last_moment":
        assert wait == decision.expected_costs[0]
        assert wait.p_failure_before_ready > 0.5
        assert decision.option == decision.expected_costs[1].option
    else:
        assert decision.option == decision.expected_costs[0].option
    assert 0.0 <= decision.p_failure_before_ready <= 1.0
    assert 1 <= decision.priority <= 4
    assert decision.needed_by_ms >= NOW_MS
    assert (decision.plan in inputs.plans) == (decision.action == "order") or decision.plan == NO_PARTS


@given(situations(), st.floats(1.0, 500.0))
def test_a_part_that_comes_later_never_makes_acting_cheaper(inputs: Situation, delay: float) -> None:
    one = replace(inputs, failure_mode="seal_leak", plans=inputs.plans[:1])
    supply = one.plans[0].supplies[0]
    later = replace(one, plans=(SupplyPlan(supplies=(replace(supply, lead_hours=supply.lead_hours + delay),)),))
    # A later repair uses up more of the old part's life: that gain is at most the part's price.
    gain_at_most = supply.parts_cost
    act, act_later = (min(c for o, c in costs(decide(s, POLICY)).items() if o.startswith("act:")) for s in (one, later))
    assert act_later >= act - gain_at_most * delay / POLICY.part_life_hours * 2 - 0.02 * act
