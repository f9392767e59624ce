"""Who decides in a replay: the policy, or one of the rules it is compared with."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from forewarn_cloud.entities import Episode
from forewarn_cloud.history.replay import WAIT, Calendar, Case, Question, Rule, Verdict
from forewarn_cloud.history.world import HOUR_MS, World, needs_of
from forewarn_cloud.service.decision import Situation, decide
from forewarn_cloud.service.episodes import Event, follow
from forewarn_cloud.service.evidence import likeliest_mode, situation_of, weigh
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.service.sourcing import SupplyPlan
from forewarn_models.asset_type import AssetType
from forewarn_models.wire import Advisory

_TENANT: Final = "backtest"
_FOUND: Final = "found on site"


class ExpectedCost:
    """The rule of the service: episodes follow the evidence, and the option of least expected cost is taken."""

    def __init__(self, world: World, policy: Policy, asset_type: AssetType) -> None:
        self.world, self.policy, self.asset_type = world, policy, asset_type
        self.episodes = dict[int, Episode]()
        """Case number -> its open episode."""

    def __call__(self, question: Question) -> Verdict:
        number = question.case.number
        if question.advisory is not None and self._follow(question, question.advisory) == "cleared":
            return Verdict(action="withdraw")
        if number not in self.episodes:
            return WAIT
        if question.found:
            return self._found(question)
        clearing = self.episodes[number].cleared_at is not None
        return WAIT if clearing else self._decided(question)

    def _follow(self, question: Question, advisory: Advisory) -> Event:
        number = question.case.number
        step = follow(
            self.episodes.get(number),
            advisory,
            self.asset_type,
            self.policy,
            tenant=_TENANT,
            now_ms=question.now_ms,
            repaired_at=None,
            reset_pending=False,
            order_open=question.order_open,
            make_id=lambda: str(number),
        )
        if step.episode is not None and step.episode.state == "OPEN":
            self.episodes[number] = step.episode
        else:
            self.episodes.pop(number, None)
        return step.event

    def _decided(self, question: Question) -> Verdict:
        mode = self.episodes[question.case.number].failure_mode
        decision = decide(self._situation(question, mode), self.policy)
        return Verdict(action=decision.action, plan=decision.plan, revisit_ms=decision.revisit_at_ms)

    def _found(self, question: Question) -> Verdict:
        """The cheapest way to act, now that the failure mode is certain."""
        situation = self._situation(question, question.case.failure_mode)
        certain = replace(situation, failure_mode=_FOUND, failure_mode_probability=1.0)
        options = [cost.option for cost in decide(certain, self.policy).expected_costs]
        best = next(option for option in options if option.startswith("act:"))
        return Verdict(action="order", plan=next(plan for plan in situation.plans if f"act:{plan.name}" == best))

    def _situation(self, question: Question, failure_mode: str) -> Situation:
        episode = self.episodes[question.case.number]
        return situation_of(
            episode.advisory,
            self.asset_type.failure_mode(failure_mode),
            self.policy,
            now_ms=question.now_ms,
            since_ms=episode.started_at,
            trusted=weigh(episode.advisory, self.asset_type, self.policy).trusted,
            tier=self.world.tier,
            dispatch_hours=self.world.dispatch_hours,
            plans=question.shelves.plans(needs_of(self.asset_type, failure_mode)),
        )


def fixed_threshold(health_index: float, policy: Policy, asset_type: AssetType) -> Rule:
    """Order as soon as the health index is not above a fixed value, whatever it costs, with the cheapest parts."""

    def rule(question: Question) -> Verdict:
        advisory = question.advisory
        if advisory is None or advisory.condition == "UNKNOWN" or advisory.health_index > health_index:
            return WAIT
        mode, _ = likeliest_mode(advisory, asset_type, policy)
        needs = needs_of(asset_type, None if mode is None else mode.code)
        return Verdict(action="order", plan=_cheapest(question.shelves.plans(needs)))

    return rule


def fixed_interval(hours: float) -> Calendar:
    """Renew every machine at the same age."""
    return lambda case: case.life.started_ms + round(hours * HOUR_MS)


def perfect_foresight(case: Case) -> int | None:
    """Renew every machine at the very moment it would fail."""
    return case.life.would_fail_ms


def best_interval_hours(cases: Sequence[Case], failure_cost: float, renewal_cost: float) -> float | None:
    """The age at which renewing these very lives would have cost the least per hour lived; None: never.

    Chosen with hindsight, so no interval anyone could have chosen before does better. Candidates are the recorded ages
    at failure (just before which nothing is gained) and those between.
    """
    ages = sorted({case.life.hours for case in cases if case.life.failure is not None})
    if not ages:
        return None
    candidates = [share * age for age in ages for share in (0.999, 0.9, 0.75)]
    best = min(candidates, key=lambda hours: _cost_rate(cases, hours, failure_cost, renewal_cost))
    never = _cost_rate(cases, float("inf"), failure_cost, renewal_cost)
    return best if _cost_rate(cases, best, failure_cost, renewal_cost) < never else None


def _cost_rate(cases: Sequence[Case], interval_hours: float, failure_cost: float, renewal_cost: float) -> float:
    """Cost per hour lived of renewal at an age (renewal-reward theorem)."""
    lived = cost = 0.0
    for case in cases:
        lived += min(case.life.hours, interval_hours)
        if case.life.hours >= interval_hours:
            cost += renewal_cost
        elif case.life.failure is not None:
            cost += failure_cost
    return cost / lived if lived > 0 else float("inf")


def _cheapest(plans: Sequence[SupplyPlan]) -> SupplyPlan:
    return min(plans, key=lambda plan: (plan.logistics_cost, plan.lead_hours))
