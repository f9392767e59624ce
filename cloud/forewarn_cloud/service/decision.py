"""Act now, inspect, or wait: the option with the least expected cost. Pure: the same inputs, the same decision.

Two distributions meet. The time to failure T comes from the remaining life (given that the machine still runs), or,
where none is known yet, from the failure mode's P-F interval since the evidence began. The time R until parts and
technician are there comes from the part's lead time, the notice a visit needs, and the dispatch time. For a job that is
started after s hours, with p the probability that nothing is wrong at all:

    cost = p x (visit and logistics for nothing)
         + (1 - p) x (visit + parts + logistics
                      + P(T < s + R) x (secondary damage + unplanned repair)
                      + E[hours down until R] x downtime cost
                      + share of the part's life thrown away + P(wrong failure mode) x second visit)

"Act now" is s = 0 with each supply plan; "inspect" spends a visit to learn whether and what is wrong before parts are
sent; "wait" is the better of the two at s = the review interval, by which false evidence may have cleared: a one-step
look-ahead (Chow, Robbins and Siegmund 1971), in which P(T < s + R) says what the later job could still prevent.

Waiting has an end. Once

    P(T < review interval + R) > 1/2

the next review would more likely than not decide about a broken machine. Then the cheapest job is begun now, even where
waiting would cost a little less, if what it saves when it is in time outweighs a visit for nothing:

    (1 - p) x (secondary damage + unplanned - planned downtime of the repair) > p x cost of the visit for nothing

Without this limit every option costs one breakdown as soon as no job can be ready in time; what waiting saves on visits
for nothing then decides alone, review after review, and a machine that outlives a remaining life told too short is
never visited. Bounding P(failure before the next opportunity) is a failure-limit policy (Wang 2002, European Journal of
Operational Research 139); remaining life against the lead time of parts: Elwany and Gebraeel 2008, IIE Transactions 40.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Final, Literal

from forewarn_cloud.service.policy import Policy
from forewarn_cloud.service.sourcing import NO_PARTS, SupplyPlan
from forewarn_models.prognosis import failure_probability
from forewarn_models.wire import RulHours

Action = Literal["order", "inspect", "wait"]
Reason = Literal["least_expected_cost", "last_moment", "evidence_not_trusted"]
Method = Literal[1, 2]
METHOD: Final[Method] = 2
"""How new decisions are made. 1, in which waiting has no end, is kept so that past decisions can be made again."""
HOUR_MS: Final = 3_600_000
NEEDED_BY_PROBABILITY: Final = 0.1
"""`needed_by` is where the failure has become this likely: the P10 of the remaining life."""
LAST_MOMENT_PROBABILITY: Final = 0.5
_LEVELS: Final = 9
_Z: Final = tuple(NormalDist().inv_cdf((i + 0.5) / _LEVELS) for i in range(_LEVELS))
"""Mid-points of equal slices of a normal distribution: the readiness time is averaged over them."""
_STEPS: Final = 240
_MAX_HOURS: Final = 1e6


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything a decision is made from, besides the policy. Instants are epoch milliseconds."""

    now_ms: int
    asset: str
    asset_type: str
    failure_mode: str | None
    """None: the evidence points to no known failure mode."""
    failure_mode_probability: float
    evidence_since_ms: int
    condition: Literal["UNKNOWN", "NORMAL", "ALERT", "ALARM"]
    maturity: Literal["LEARNING", "PROVISIONAL", "MATURE"]
    trusted: bool
    """Whether this evidence may open an order at all: a model still learning or a suspect sensor may not."""
    rul_hours: RulHours | None
    rul_as_of_ms: int
    p_f_interval_hours: float
    repair_hours: float
    tier: int
    dispatch_hours: float
    plans: tuple[SupplyPlan, ...]
    """At least one; one without parts where none are needed or known."""


@dataclass(frozen=True, kw_only=True)
class OptionCost:
    """One option and what it is expected to cost. "wait": what then follows is included."""

    option: str
    """"act:" and the name of the supply plan, "inspect", or "wait"."""
    expected_cost: float
    p_failure_before_ready: float
    ready_hours_p50: float
    ready_hours_p90: float


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to do, and why. Instants are epoch milliseconds."""

    action: Action
    option: str
    reason: Reason
    plan: SupplyPlan
    """The parts to reserve; empty unless the action is "order"."""
    decided_at_ms: int
    revisit_at_ms: int
    needed_by_ms: int
    ready_at_ms: int
    priority: int
    """1 (most urgent) to 4."""
    p_failure_before_ready: float
    p_false_alarm: float
    median_life_hours: float
    expected_costs: tuple[OptionCost, ...]
    """Every option that was compared, the cheapest first."""


def decide(situation: Situation, policy: Policy, method: Method = METHOD) -> Decision:
    """The option with the least expected cost; a tie goes to the one that is ready sooner. Waiting ends in time."""
    within = time_to_failure(situation, policy)
    offers = _Offers(situation, policy, within).all()
    ranked = sorted(offers, key=lambda offer: (offer.cost.expected_cost, offer.cost.ready_hours_p50))
    chosen, reason = _choice(ranked, situation, policy, method)
    needed_by_hours = life_quantile(within, NEEDED_BY_PROBABILITY)
    return Decision(
        action=chosen.action,
        option=chosen.cost.option,
        reason=reason,
        plan=chosen.plan,
        decided_at_ms=situation.now_ms,
        revisit_at_ms=_after(situation, policy.times.review_hours),
        needed_by_ms=_after(situation, needed_by_hours),
        ready_at_ms=_after(situation, chosen.cost.ready_hours_p50),
        priority=_priority(needed_by_hours - chosen.cost.ready_hours_p90, situation.tier),
        p_failure_before_ready=chosen.cost.p_failure_before_ready,
        p_false_alarm=false_alarm_probability(situation, policy),
        median_life_hours=life_quantile(within, 0.5),
        expected_costs=tuple(offer.cost for offer in ranked),
    )


def _choice(
    ranked: Sequence["_Offer"], situation: Situation, policy: Policy, method: Method
) -> tuple["_Offer", Reason]:
    wait = next(offer for offer in ranked if offer.action == "wait")
    if not situation.trusted:
        return wait, "evidence_not_trusted"
    if method > 1 and ranked[0] is wait and _is_last_moment(wait, ranked[1], situation, policy):
        return ranked[1], "last_moment"
    return ranked[0], "least_expected_cost"


def _is_last_moment(wait: "_Offer", job: "_Offer", situation: Situation, policy: Policy) -> bool:
    repair = situation.repair_hours * policy.downtime_cost_per_hour.of_tier(situation.tier)
    saved_in_time = policy.secondary_damage_cost + (1 - policy.planned_downtime_share) * repair
    p_false = false_alarm_probability(situation, policy)
    worth_it = (1 - p_false) * saved_in_time > p_false * job.cost_of_nothing
    return wait.cost.p_failure_before_ready > LAST_MOMENT_PROBABILITY and worth_it


def time_to_failure(situation: Situation, policy: Policy) -> Callable[[float], float]:
    """P(failure within h hours from now), given that the machine still runs now."""
    rul = situation.rul_hours
    if rul is not None:
        known: RulHours = rul
        elapsed = max(0.0, (situation.now_ms - situation.rul_as_of_ms) / HOUR_MS)
        return _given_survival(lambda hours: failure_probability(known, hours), elapsed)
    elapsed = max(0.0, (situation.now_ms - situation.evidence_since_ms) / HOUR_MS)
    prior = NormalDist(math.log(situation.p_f_interval_hours), max(policy.times.prior_spread, 1e-6))
    return _given_survival(lambda hours: prior.cdf(math.log(hours)) if hours > 0 else 0.0, elapsed)


def life_quantile(within: Callable[[float], float], probability: float) -> float:
    """The hours within which the failure comes with that probability (by bisection; at most 1e6)."""
    low, high = 0.0, 1.0
    while within(high) < probability and high < _MAX_HOURS:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < probability else (low, middle)
    return min(high, _MAX_HOURS)


def false_alarm_probability(situation: Situation, policy: Policy) -> float:
    """P(nothing is wrong): halves with every `false_alarm_half_life_hours` that the evidence has lasted."""
    belief = policy.belief
    fresh = belief.false_alarm_at_alarm if situation.condition == "ALARM" else belief.false_alarm_at_alert
    if situation.maturity != "MATURE":
        fresh = min(1.0, fresh * belief.provisional_factor)
    lasted_hours = max(0, situation.now_ms - situation.evidence_since_ms) / HOUR_MS
    return fresh * _remaining_share(lasted_hours, policy)


@dataclass(frozen=True, kw_only=True)
class _Offer:
    action: Action
    plan: SupplyPlan
    cost: OptionCost
    cost_of_nothing: float
    """What it costs if nothing is wrong."""


class _Offers:
    """The options of one situation, priced."""

    def __init__(self, situation: Situation, policy: Policy, within: Callable[[float], float]) -> None:
        self.situation, self.policy = situation, policy
        self.p_false = false_alarm_probability(situation, policy)
        self.rate = policy.downtime_cost_per_hour.of_tier(situation.tier)
        self.median_life = life_quantile(within, 0.5)
        self.ready = {plan: _ready_hours(plan, situation, policy) for plan in situation.plans}
        self.inspected_after = policy.times.planning_hours + situation.dispatch_hours
        latest = max(max(hours) for hours in self.ready.values())
        self.curve = _FailureCurve(within, latest + policy.times.review_hours + self.inspected_after)

    def all(self) -> list[_Offer]:
        review = self.policy.times.review_hours
        later = min(
            self._jobs(review, self.p_false * _remaining_share(review, self.policy)),
            key=lambda offer: offer.cost.expected_cost,
        )
        wait = replace(later, action="wait", plan=NO_PARTS, cost=replace(later.cost, option="wait"))
        return [*self._jobs(0.0, self.p_false), wait]

    def _jobs(self, start_hours: float, p_false: float) -> list[_Offer]:
        """What one can do from `start_hours` on, when evidence that is false is still there with `p_false`."""
        plans = self.situation.plans if self.situation.failure_mode is not None else ()
        return [*(self._act(plan, start_hours, p_false) for plan in plans), self._inspect(start_hours, p_false)]

    def _act(self, plan: SupplyPlan, start_hours: float, p_false: float) -> _Offer:
        policy = self.policy
        for_nothing = policy.visit_cost + plan.logistics_cost + policy.restocking_share * plan.parts_cost
        real = self._cost_if_real(plan, start_hours, self.situation.failure_mode_probability)
        cost = p_false * for_nothing + (1 - self.p_false) * real
        return self._offer("order", f"act:{plan.name}", plan, start_hours, cost, for_nothing)

    def _inspect(self, start_hours: float, p_false: float) -> _Offer:
        """Look first; if it is real, fetch the parts for what was found."""
        start_hours += self.inspected_after
        priced = [(self._cost_if_real(plan, start_hours, 1.0), i) for i, plan in enumerate(self.situation.plans)]
        real, index = min(priced)
        inspection = self.policy.inspection_cost
        cost = p_false * inspection + (1 - self.p_false) * (inspection + real)
        plan = self.situation.plans[index]
        return replace(self._offer("inspect", "inspect", plan, start_hours, cost, inspection), plan=NO_PARTS)

    def _cost_if_real(self, plan: SupplyPlan, start_hours: float, p_mode: float) -> float:
        policy, trip = self.policy, self.policy.visit_cost + plan.logistics_cost
        p_failure = self._p_failure(plan, start_hours)
        repair = self.situation.repair_hours * self.rate
        wasted = max(0.0, self.median_life - start_hours - _mean(self.ready[plan])) / policy.part_life_hours
        return (
            trip
            + plan.parts_cost * (1 + min(1.0, wasted))
            + (1 - p_failure) * policy.planned_downtime_share * repair
            + p_failure * (policy.secondary_damage_cost + repair)
            + self._hours_down(plan, start_hours) * self.rate
            + (1 - p_mode) * trip
        )

    def _p_failure(self, plan: SupplyPlan, start_hours: float) -> float:
        return _mean([self.curve.within(start_hours + ready) for ready in self.ready[plan]])

    def _hours_down(self, plan: SupplyPlan, start_hours: float) -> float:
        """E[hours between the failure and the repair crew with parts].

        Once it has failed nobody needs notice: the crew comes after lead time and dispatch at the latest. With
        a = s + R and c that latest wait, E[min((a - T)+, c)] is the integral of P(T <= t) from a - c to a.
        """
        situation, times = self.situation, self.policy.times
        waits = [
            plan.lead_hours * _spread(times.lead_time_spread, z)
            + situation.dispatch_hours * _spread(times.dispatch_spread, z)
            for z in _Z
        ]
        return _mean(
            [
                self.curve.integral(max(0.0, start_hours + ready - wait), start_hours + ready)
                for ready, wait in zip(self.ready[plan], waits, strict=True)
            ]
        )

    def _offer(
        self, action: Action, option: str, plan: SupplyPlan, start_hours: float, cost: float, cost_of_nothing: float
    ) -> _Offer:
        ready = self.ready[plan]
        return _Offer(
            action=action,
            plan=plan,
            cost=OptionCost(
                option=option,
                expected_cost=cost,
                p_failure_before_ready=self._p_failure(plan, start_hours),
                ready_hours_p50=start_hours + ready[_LEVELS // 2],
                ready_hours_p90=start_hours + ready[-1],
            ),
            cost_of_nothing=cost_of_nothing,
        )


class _FailureCurve:
    """P(T <= h) and its integral, tabulated once over [0, horizon] and read with linear interpolation."""

    def __init__(self, within: Callable[[float], float], horizon_hours: float) -> None:
        self.step = max(horizon_hours, 1.0) / _STEPS
        self.p = [within(i * self.step) for i in range(_STEPS + 1)]
        self.area = [0.0]
        for left, right in pairwise(self.p):
            self.area.append(self.area[-1] + (left + right) / 2 * self.step)

    def within(self, hours: float) -> float:
        i, share = self._place(hours)
        return self.p[i] + share * (self.p[i + 1] - self.p[i])

    def integral(self, start_hours: float, end_hours: float) -> float:
        return self._area_to(end_hours) - self._area_to(start_hours)

    def _area_to(self, hours: float) -> float:
        i, share = self._place(hours)
        return self.area[i] + share * self.step * (self.p[i] + share * (self.p[i + 1] - self.p[i]) / 2)

    def _place(self, hours: float) -> tuple[int, float]:
        position = min(max(hours / self.step, 0.0), float(_STEPS))
        i = min(int(position), _STEPS - 1)
        return i, position - i


def _ready_hours(plan: SupplyPlan, situation: Situation, policy: Policy) -> list[float]:
    """Hours until parts and technician are there, at equally likely levels: long leads and long trips together."""
    times = policy.times
    return [
        max(plan.lead_hours * _spread(times.lead_time_spread, z), times.planning_hours)
        + situation.dispatch_hours * _spread(times.dispatch_spread, z)
        for z in _Z
    ]


def _given_survival(within: Callable[[float], float], elapsed_hours: float) -> Callable[[float], float]:
    gone = within(elapsed_hours)
    if gone >= 1.0:
        return lambda hours: 1.0 if hours > 0 else 0.0
    return lambda hours: min(1.0, max(0.0, (within(elapsed_hours + hours) - gone) / (1 - gone))) if hours > 0 else 0.0


def _priority(slack_hours: float, tier: int) -> int:
    """By how much time is left between being ready at the latest and being needed; tier 1 goes one step ahead."""
    rank = 1 if slack_hours < 0 else 2 if slack_hours < 72 else 3 if slack_hours < 240 else 4
    return max(1, rank - 1) if tier == 1 else rank


def _remaining_share(hours: float, policy: Policy) -> float:
    return float(0.5 ** (hours / policy.belief.false_alarm_half_life_hours))


def _after(situation: Situation, hours: float) -> int:
    return situation.now_ms + round(hours * HOUR_MS)


def _spread(sigma: float, z: float) -> float:
    return math.exp(sigma * z)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
