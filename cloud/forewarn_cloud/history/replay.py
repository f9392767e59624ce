"""What would have happened: recorded lives replayed under a rule, against the parts, the crews and the luck of a world.

A discrete-event simulation. All lives share the shelves, so they run together in the order of time. A repair before the
failure renews the machine, and what the recording still holds of that life is not lived. What an event costs follows
the formulas of the decision (service/decision.py), with what really happened in the place of probabilities.

Costs are counted within the recording. Where a life was cut off and its later failure is known, an order that is still
open is followed to its end to tell whether it came in time, but what that costs is no more counted than the failures
that other rules would meet after the recording.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final, Literal

from forewarn_cloud.history.lives import Life
from forewarn_cloud.history.world import HOUR_MS, LOCAL, Luck, Purpose, Shelves, World, needs_of
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.service.sourcing import NO_PARTS, SupplyPlan
from forewarn_models.asset_type import AssetType, PartNeed
from forewarn_models.wire import Advisory

Truth = Literal["fault", "no fault", "not known"]
Outcome = Literal["caught", "late", "missed", "none"]
JobKind = Literal["order", "inspect", "planned"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A life, what the models said during it, and the truth about it."""

    number: int
    life: Life
    advisories: tuple[Advisory, ...]
    """In the order of time."""
    faults_ms: tuple[tuple[int, int], ...]
    """Intervals in which a technician would find the fault."""
    known_until_ms: int
    """Until then it is known whether there was a fault."""
    failure_mode: str = ""
    """What it failed of, or would have; empty where unknown."""

    def truth_at(self, at_ms: int) -> Truth:
        if any(start <= at_ms <= end for start, end in self.faults_ms):
            return "fault"
        return "no fault" if at_ms <= self.known_until_ms else "not known"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule wants done now."""

    action: Literal["order", "inspect", "wait", "withdraw"]
    plan: SupplyPlan = NO_PARTS
    """The parts of an order."""
    revisit_ms: int | None = None
    """When to ask again if no advisory comes before."""


WAIT: Final = Verdict(action="wait")


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """Put to a rule while the machine runs."""

    case: Case
    now_ms: int
    shelves: Shelves
    advisory: Advisory | None = None
    """New evidence; None where the rule is asked again, as it wanted, or the fault was found."""
    found: bool = False
    """An inspection has just found the fault and its failure mode: which parts shall be sent?"""
    order_open: bool = False
    """Someone is on the way."""


Rule = Callable[[Question], Verdict]
"""Who decides. An order or inspection is opened only if none is open; "withdraw" ends the open one."""
Calendar = Callable[[Case], int | None]
"""When a life is ended by the calendar, with parts and crew arranged long before; None: never."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What became of one life under a rule. Costs are in the currency of the policy."""

    asset: str
    outcome: Outcome
    """caught: repaired before it failed; late: it failed with an order open; missed: without one."""
    lead_hours: float | None
    """From opening the order to the failure that was coming."""
    broke_down: bool
    """It failed within the recording."""
    lived_hours: float
    cost: float
    orders: int
    """Opened; each ended repaired, late, false, withdrawn or unresolved."""
    repaired_orders: int
    false_orders: int
    unresolved_orders: int
    withdrawn_orders: int
    transfers: int
    """Times that parts had to come from the central depot."""
    stock_outs: int
    """Times that parts had to be bought because no depot had them."""


@dataclass(kw_only=True)
class _Job:
    kind: JobKind
    opened_ms: int
    needs: tuple[PartNeed, ...]
    plan: SupplyPlan
    parts_ms: int
    ready_ms: int


@dataclass(kw_only=True, eq=False)
class _Running:
    """A life under way."""

    case: Case
    over: bool = False
    job: _Job | None = None
    hold_until_ms: int = 0
    revisit_ms: int = -1
    outcome: Outcome = "none"
    lead_hours: float | None = None
    broke_down: bool = False
    lived_hours: float = 0.0
    cost: float = 0.0
    orders: int = 0
    repaired_orders: int = 0
    false_orders: int = 0
    unresolved_orders: int = 0
    withdrawn_orders: int = 0
    transfers: int = 0
    stock_outs: int = 0


class _Kind(IntEnum):
    """Events; of those at the same instant the lower comes first: a crew that arrives with the failure prevents it."""

    RESTOCK = 0
    VISIT = 1
    FAILURE = 2
    END = 3
    ADVISORY = 4
    REVISIT = 5


@dataclass(frozen=True, order=True)
class _Event:
    at_ms: int
    kind: _Kind
    number: int
    """Of the case, or of the restocking."""
    sequence: int
    subject: _Running | None = field(compare=False)
    detail: Advisory | _Job | tuple[str, str, int] | None = field(compare=False, default=None)


def wait(_: Question) -> Verdict:
    """The rule that never orders anything."""
    return WAIT


def never(_: Case) -> None:
    """The calendar that plans nothing."""


def replay(
    cases: Sequence[Case],
    world: World,
    policy: Policy,
    asset_type: AssetType,
    *,
    rule: Rule = wait,
    calendar: Calendar = never,
) -> list[CaseResult]:
    """What becomes of every case, in the order given, if `rule` decides and `calendar` plans."""
    shelves = Shelves(world, demand_per_hour(cases, asset_type))
    return _Replay(rule, world, policy, asset_type, shelves).run(cases, calendar)


def demand_per_hour(cases: Sequence[Case], asset_type: AssetType) -> dict[str, float]:
    """Part number -> how many the failures known of take per hour, if nothing is done before them."""
    demand = Counter[str]()
    first = min((case.life.started_ms for case in cases), default=0)
    last = max((case.life.ended_ms for case in cases), default=0)
    for case in cases:
        if case.life.would_fail_ms is not None:
            last = max(last, case.life.would_fail_ms)
            for need in needs_of(asset_type, case.failure_mode):
                demand[need.part_no] += need.quantity
    hours = max(_hours(first, last), 1.0)
    return {part_no: quantity / hours for part_no, quantity in demand.items()}


class _Replay:
    def __init__(self, rule: Rule, world: World, policy: Policy, asset_type: AssetType, shelves: Shelves) -> None:
        self.rule, self.world, self.policy, self.asset_type = rule, world, policy, asset_type
        self.luck = Luck(world, policy)
        self.shelves = shelves
        self.rate = policy.downtime_cost_per_hour.of_tier(world.tier)
        self.queue = list[_Event]()
        self.now_ms = 0
        self.pushed = 0
        self.restocks = 0

    def run(self, cases: Sequence[Case], calendar: Calendar) -> list[CaseResult]:
        running = [_Running(case=case) for case in cases]
        for subject in running:
            self._enter(subject, calendar(subject.case))
        while self.queue:
            event = heapq.heappop(self.queue)
            self.now_ms = event.at_ms
            self._handle(event)
        return [_result(subject) for subject in running]

    def _enter(self, subject: _Running, planned_ms: int | None) -> None:
        case = subject.case
        for advisory in case.advisories:
            self._push(advisory.observed_at, _Kind.ADVISORY, subject, advisory)
        if case.life.would_fail_ms is not None:
            self._push(case.life.would_fail_ms, _Kind.FAILURE, subject)
        if case.life.failure is None:
            self._push(case.life.ended_ms, _Kind.END, subject)
        if planned_ms is not None:
            subject.job = self._job("planned", self._true_needs(case), NO_PARTS)
            self._arrive(subject, subject.job, planned_ms)

    def _handle(self, event: _Event) -> None:
        subject, detail = event.subject, event.detail
        if isinstance(detail, tuple):
            self.shelves.put(*detail)
        elif subject is None or subject.over:
            return
        elif isinstance(detail, _Job):
            if detail is subject.job:
                self._visit(subject, detail)
        elif event.kind is _Kind.FAILURE:
            self._fail(subject)
        elif event.kind is _Kind.END:
            self._end(subject)
        elif event.kind is _Kind.ADVISORY or event.at_ms == subject.revisit_ms:
            self._consider(subject, detail)

    def _push(
        self,
        at_ms: int,
        kind: _Kind,
        subject: _Running | None,
        detail: Advisory | _Job | tuple[str, str, int] | None = None,
    ) -> None:
        self.pushed += 1
        number = subject.case.number if subject is not None else self.restocks
        heapq.heappush(self.queue, _Event(at_ms, kind, number, self.pushed, subject, detail))

    # --- deciding ---

    def _consider(self, subject: _Running, advisory: Advisory | None) -> None:
        verdict = self._ask(subject, advisory)
        if verdict.action == "withdraw":
            self._withdraw(subject)
        elif subject.job is not None:
            return
        elif verdict.action == "wait" or self.now_ms < subject.hold_until_ms:
            self._ask_again(subject, verdict.revisit_ms)
        else:
            needs = tuple(PartNeed(part_no=s.part_no, quantity=s.quantity) for s in verdict.plan.supplies)
            subject.job = self._job(verdict.action, needs, verdict.plan)
            subject.orders += 1
            self._send(subject, subject.job, "lead_time", "dispatch", notice=True)

    def _ask(self, subject: _Running, advisory: Advisory | None = None, *, found: bool = False) -> Verdict:
        return self.rule(
            Question(
                case=subject.case,
                now_ms=self.now_ms,
                shelves=self.shelves,
                advisory=advisory,
                found=found,
                order_open=subject.job is not None,
            )
        )

    def _ask_again(self, subject: _Running, revisit_ms: int | None) -> None:
        if revisit_ms is not None:
            subject.revisit_ms = max(revisit_ms, self.now_ms + 1)
            self._push(subject.revisit_ms, _Kind.REVISIT, subject)

    def _withdraw(self, subject: _Running) -> None:
        """The evidence has cleared before the crew set out; what was fetched goes onto the shelf."""
        job = subject.job
        if job is not None and job.kind != "planned":
            self._charge(subject, job.plan.logistics_cost + self.policy.restocking_share * job.plan.parts_cost)
            subject.withdrawn_orders += 1
            self._drop_job(subject, job)

    def _job(self, kind: JobKind, needs: tuple[PartNeed, ...], plan: SupplyPlan) -> _Job:
        now_ms = self.now_ms
        return _Job(kind=kind, opened_ms=now_ms, needs=needs, plan=plan, parts_ms=now_ms, ready_ms=now_ms)

    def _send(self, subject: _Running, job: _Job, lead: Purpose, dispatch: Purpose, *, notice: bool) -> None:
        """Get the parts of the job's plan on their way, and the crew after them."""
        lead_hours = self._fetch(subject, job.plan, lead)
        planning_hours = self.policy.times.planning_hours if notice else 0.0
        travel_hours = self._travel(subject, dispatch)
        job.parts_ms = _after(self.now_ms, lead_hours)
        self._arrive(subject, job, _after(self.now_ms, max(lead_hours, planning_hours) + travel_hours))

    def _arrive(self, subject: _Running, job: _Job, at_ms: int) -> None:
        job.ready_ms = at_ms
        self._push(at_ms, _Kind.VISIT, subject, job)

    def _fetch(self, subject: _Running, plan: SupplyPlan, purpose: Purpose) -> float:
        """Take a plan's parts and buy again what left the shelves; the hours until they are at hand."""
        sourcing = {supply.sourcing for supply in plan.supplies}
        subject.transfers += "transfer" in sourcing
        subject.stock_outs += bool(sourcing & {"purchase", "expedite"})
        self.shelves.take(plan)
        for supply in plan.supplies:
            if supply.from_depot is not None:
                self.restocks += 1
                usual = self.world.supply_of(supply.part_no).purchase_hours
                hours = self.luck.lead_hours(usual, "restock", self.restocks)
                arrival = (supply.part_no, supply.from_depot, supply.quantity)
                self._push(_after(self.now_ms, hours), _Kind.RESTOCK, None, arrival)
        return self.luck.lead_hours(plan.lead_hours, purpose, subject.case.number, subject.orders)

    # --- what comes of it ---

    def _visit(self, subject: _Running, job: _Job) -> None:
        """The crew is on site, and the machine still runs."""
        truth = "fault" if job.kind == "planned" else subject.case.truth_at(self.now_ms)
        if truth != "fault":
            self._close_without_fault(subject, job, truth)
        elif job.kind == "inspect":
            self._charge(subject, self.policy.inspection_cost)
            self._return_with(subject, job, self._ask(subject, found=True).plan)
        elif self._has_the_wrong_parts(subject, job):
            self._charge(subject, self.policy.visit_cost + job.plan.logistics_cost)
            self._put_back(job)
            self._return_with(subject, job, self.shelves.plans(self._true_needs(subject.case))[0])
        else:
            self._repair_in_time(subject, job)

    def _close_without_fault(self, subject: _Running, job: _Job, truth: Truth) -> None:
        self._charge(subject, self._cost_of_nothing(job))
        is_false = truth == "no fault" and subject.case.truth_at(job.opened_ms) == "no fault"
        subject.false_orders += is_false
        subject.unresolved_orders += not is_false
        subject.hold_until_ms = _after(self.now_ms, self.world.hold_hours)
        self._drop_job(subject, job)

    def _drop_job(self, subject: _Running, job: _Job) -> None:
        self._put_back(job)
        subject.job = None
        if subject.case.life.failure is None and self.now_ms >= subject.case.life.ended_ms:
            self._finish(subject)

    def _return_with(self, subject: _Running, job: _Job, plan: SupplyPlan) -> None:
        """A second visit, with the parts the fault really needs; the customer expects it, so no notice is needed."""
        again = replace(job, kind="order", needs=self._true_needs(subject.case), plan=plan)
        subject.job = again
        self._send(subject, again, "second_lead_time", "second_dispatch", notice=False)

    def _has_the_wrong_parts(self, subject: _Running, job: _Job) -> bool:
        known = self.asset_type.failure_mode(subject.case.failure_mode) is not None
        return job.kind == "order" and known and set(job.needs) != set(self._true_needs(subject.case))

    def _repair_in_time(self, subject: _Running, job: _Job) -> None:
        fails_ms = subject.case.life.would_fail_ms
        self._charge(subject, self._cost_of_trip(job.plan, job.needs))
        self._charge(subject, self.policy.planned_downtime_share * self._repair(subject))
        if fails_ms is not None and job.kind != "planned":
            subject.outcome, subject.lead_hours = "caught", _hours(job.opened_ms, fails_ms)
        subject.repaired_orders += job.kind != "planned"
        self._finish(subject)

    def _fail(self, subject: _Running) -> None:
        job, needs = subject.job, self._true_needs(subject.case)
        subject.outcome, subject.broke_down = "missed", self.now_ms <= subject.case.life.ended_ms
        if job is not None and job.kind != "planned":
            subject.outcome, subject.lead_hours = "late", _hours(job.opened_ms, self.now_ms)
        plan, down_hours = self._emergency(subject, needs)
        self._charge(subject, self._cost_of_trip(plan, needs) + self.policy.secondary_damage_cost)
        self._charge(subject, self._repair(subject) + down_hours * self.rate)
        self._finish(subject)

    def _emergency(self, subject: _Running, needs: Sequence[PartNeed]) -> tuple[SupplyPlan, float]:
        """Parts for a machine that has failed, and the hours it stands: those of its order, or faster ones."""
        job, plan = subject.job, self.shelves.plans(needs)[0]
        travel_hours = self._travel(subject, "second_dispatch")
        if job is not None and job.kind == "order" and not self._has_the_wrong_parts(subject, job):
            wait_hours = max(0.0, _hours(self.now_ms, job.parts_ms))
            if wait_hours <= plan.lead_hours:
                return job.plan, min(wait_hours + travel_hours, _hours(self.now_ms, job.ready_ms))
        if job is not None:
            self._put_back(job)
        return plan, self._fetch(subject, plan, "second_lead_time") + travel_hours

    def _end(self, subject: _Running) -> None:
        """The recording is over. A life that would fail later goes on only for the order that is open."""
        job = subject.job
        if job is not None and job.kind != "planned" and subject.case.life.would_fail_ms is not None:
            return
        if job is not None and job.kind != "planned":
            self._charge(subject, self._cost_of_nothing(job))
            subject.unresolved_orders += 1
        self._finish(subject)

    def _finish(self, subject: _Running) -> None:
        subject.lived_hours = _hours(subject.case.life.started_ms, min(self.now_ms, subject.case.life.ended_ms))
        subject.over = True

    def _put_back(self, job: _Job) -> None:
        for supply in job.plan.supplies:
            parts = (supply.part_no, LOCAL, supply.quantity)
            self._push(max(self.now_ms, job.parts_ms), _Kind.RESTOCK, None, parts)

    # --- what it costs ---

    def _charge(self, subject: _Running, amount: float) -> None:
        if self.now_ms <= subject.case.life.ended_ms:
            subject.cost += amount

    def _true_needs(self, case: Case) -> tuple[PartNeed, ...]:
        return needs_of(self.asset_type, case.failure_mode)

    def _repair(self, subject: _Running) -> float:
        mode = self.asset_type.failure_mode(subject.case.failure_mode)
        hours = self.policy.belief.default_repair_hours if mode is None else mode.repair_hours
        return hours * self.rate

    def _cost_of_trip(self, plan: SupplyPlan, needs: Sequence[PartNeed]) -> float:
        price = sum(self.world.supply_of(need.part_no).unit_cost * need.quantity for need in needs)
        return self.policy.visit_cost + plan.logistics_cost + price

    def _cost_of_nothing(self, job: _Job) -> float:
        if job.kind == "inspect":
            return self.policy.inspection_cost
        return self.policy.visit_cost + job.plan.logistics_cost + self.policy.restocking_share * job.plan.parts_cost

    def _travel(self, subject: _Running, purpose: Purpose) -> float:
        return self.luck.dispatch_hours(self.world.dispatch_hours, purpose, subject.case.number, subject.orders)


def _result(subject: _Running) -> CaseResult:
    return CaseResult(
        asset=subject.case.life.asset,
        outcome=subject.outcome,
        lead_hours=subject.lead_hours,
        broke_down=subject.broke_down,
        lived_hours=subject.lived_hours,
        cost=subject.cost,
        orders=subject.orders,
        repaired_orders=subject.repaired_orders,
        false_orders=subject.false_orders,
        unresolved_orders=subject.unresolved_orders,
        withdrawn_orders=subject.withdrawn_orders,
        transfers=subject.transfers,
        stock_outs=subject.stock_outs,
    )


def _after(at_ms: int, hours: float) -> int:
    return at_ms + round(hours * HOUR_MS)


def _hours(start_ms: int, end_ms: int) -> float:
    return (end_ms - start_ms) / HOUR_MS
