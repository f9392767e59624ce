"""From an episode to an order: decide, record why, open the order with its parts, keep it true, withdraw it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from forewarn_cloud.entities import (
    OPEN_STATES,
    Asset,
    AuditNote,
    DecisionRecord,
    Episode,
    Order,
    OrderState,
    Place,
)
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service import parts
from forewarn_cloud.service.catalogue import asset_type_of
from forewarn_cloud.service.decision import HOUR_MS, METHOD, Decision, Method, Situation, decide
from forewarn_cloud.service.episodes import new_id
from forewarn_cloud.service.evidence import situation_of, weigh
from forewarn_cloud.service.news import tell_customer
from forewarn_cloud.service.policy import Policy
from forewarn_cloud.service.sourcing import NO_PARTS, SupplyPlan, supply_plans, unknown_parts
from forewarn_models.asset_type import FailureMode, PartNeed

ACTOR: Final = "forewarn"
_MATERIAL_MS: Final = 12 * HOUR_MS
"""A date that moves less than this is no news for the desk."""
_NOT_STARTED: Final[tuple[OrderState, ...]] = ("PROPOSED", "OPEN", "ACKNOWLEDGED", "SCHEDULED")


def decide_on(uow: UnitOfWork, episode: Episode, asset: Asset, policy: Policy, now_ms: int) -> Episode:
    """Decide what to do about an open episode, as far as nobody has decided already; the episode with its next date.

    An order someone works on is left alone, and one the desk has cancelled is not opened again for this episode and
    failure mode. The asset is locked.
    """
    orders = uow.orders.of_episode(episode.tenant, episode.id)
    present = next((order for order in orders if order.state in OPEN_STATES), None)
    refused = any(order.state == "CANCELLED" and order.failure_mode == episode.failure_mode for order in orders)
    if (present is not None and present.state not in _NOT_STARTED) or (present is None and refused):
        return replace(episode, revisit_at=None)
    place = uow.assets.place(asset.tenant, asset.asset)
    mode = asset_type_of(asset.asset_type).failure_mode(episode.failure_mode)
    if present is not None and present.failure_mode != episode.failure_mode:
        parts.release(uow, present, ACTOR, now_ms)  # before the new plan is made: it may need the very same parts
    situation = _situation(uow, episode, asset, mode, place, policy, now_ms)
    decision = decide(situation, policy)
    if present is None:
        _act(uow, episode, asset, place, situation, decision, policy)
    else:
        _keep_true(uow, present, episode, place, situation, decision, policy)
    return replace(episode, revisit_at=decision.revisit_at_ms)


def has_open_order(uow: UnitOfWork, episode: Episode) -> bool:
    return any(order.state in OPEN_STATES for order in uow.orders.of_episode(episode.tenant, episode.id))


def note_begun_anew(uow: UnitOfWork, episode: Episode, at: int) -> None:
    """The machine has begun a new baseline unasked: an open order stays, and says so."""
    for order in uow.orders.of_episode(episode.tenant, episode.id):
        if order.state in OPEN_STATES:
            note_order(uow, order, "baseline_begun_anew", at, {})


def withdraw(uow: UnitOfWork, episode: Episode, reason: str, at: int) -> None:
    """The evidence has cleared: an order nobody has started is taken back, its parts are free, the customer is told."""
    for order in uow.orders.of_episode(episode.tenant, episode.id):
        if order.state not in _NOT_STARTED:
            continue
        parts.release(uow, order, ACTOR, at)
        withdrawn = uow.orders.update(replace(order, state="WITHDRAWN", closed_at=at, close_reason=reason))
        if order.state != "PROPOSED":
            tell_customer(uow, "order_withdrawn", withdrawn, episode, at=at)
        note_order(uow, withdrawn, "withdrawn", at, {"reason": reason})


def note_order(uow: UnitOfWork, order: Order, action: str, at: int, detail: dict[str, Any], actor: str = ACTOR) -> None:
    uow.records.add_audit(
        AuditNote(
            tenant=order.tenant,
            at=at,
            actor=actor,
            subject="order",
            subject_id=order.id,
            action=action,
            detail={"number": order.number, "asset": order.asset, **detail},
        )
    )


def replay(record: DecisionRecord) -> dict[str, Any]:
    """Decide again from what a decision was made from, and how: equals its `outcome`, or it was changed."""
    situation = msgspec.convert(record.inputs["situation"], Situation)
    policy = msgspec.convert(record.inputs["policy"], Policy)
    method = msgspec.convert(record.inputs.get("method", 1), Method)
    return _plain(decide(situation, policy, method))


def _situation(
    uow: UnitOfWork,
    episode: Episode,
    asset: Asset,
    mode: FailureMode | None,
    place: Place | None,
    policy: Policy,
    now_ms: int,
) -> Situation:
    evidence = weigh(episode.advisory, asset_type_of(asset.asset_type), policy)
    return situation_of(
        episode.advisory,
        mode,
        policy,
        now_ms=now_ms,
        since_ms=episode.started_at,
        trusted=evidence.trusted,
        tier=place.customer.tier if place is not None else parts.DEFAULT_TIER,
        dispatch_hours=parts.dispatch_hours(place),
        plans=_plans(uow, asset, mode, place, now_ms),
    )


def _plans(
    uow: UnitOfWork, asset: Asset, mode: FailureMode | None, place: Place | None, now_ms: int
) -> tuple[SupplyPlan, ...]:
    """The ways to get the parts; they stay as they are until the transaction ends."""
    needs = merged(mode.parts) if mode is not None else ()
    if place is None or not needs:
        return (NO_PARTS,)
    shelves = parts.lock_shelves(uow, asset.tenant, needs)
    for part_no in unknown_parts(needs, shelves):
        uow.records.add_audit(
            AuditNote(
                tenant=asset.tenant,
                at=now_ms,
                actor=ACTOR,
                subject="part",
                subject_id=part_no,
                action="not_in_catalogue",
                detail={"asset": asset.asset},
            )
        )
    depot = place.site.depot
    return supply_plans(needs, shelves, uow.parts.transfers_to(asset.tenant, depot), depot)


def merged(needs: Sequence[PartNeed]) -> tuple[PartNeed, ...]:
    """One need per part number."""
    quantities = dict[str, int]()
    for need in needs:
        quantities[need.part_no] = quantities.get(need.part_no, 0) + need.quantity
    return tuple(PartNeed(part_no=part_no, quantity=quantity) for part_no, quantity in quantities.items())


def _act(
    uow: UnitOfWork,
    episode: Episode,
    asset: Asset,
    place: Place | None,
    situation: Situation,
    decision: Decision,
    policy: Policy,
) -> None:
    decision_id = _record(uow, episode, situation, decision, policy)
    autonomy = policy.autonomy.of(asset.asset_type)
    if decision.action == "wait" or autonomy == "observe":
        return
    at = situation.now_ms
    order = Order(
        id=new_id(),
        tenant=episode.tenant,
        number=uow.orders.next_number(episode.tenant),
        episode_id=episode.id,
        decision_id=decision_id,
        asset=asset.asset,
        failure_mode=episode.failure_mode,
        state="OPEN" if autonomy == "auto" else "PROPOSED",
        priority=decision.priority,
        opened_at=at,
        needed_by_at=decision.needed_by_ms,
        ready_at=at + round((decision.plan.lead_hours + parts.dispatch_hours(place)) * HOUR_MS),
    )
    uow.orders.add(order)
    parts.reserve(uow, order, decision.plan, at)
    tell_customer(uow, "order_opened", order, episode, at=at)
    detail = {"decision": decision_id, "option": decision.option, "failure_mode": order.failure_mode}
    note_order(uow, order, order.state.lower(), at, detail)


def _keep_true(
    uow: UnitOfWork,
    order: Order,
    episode: Episode,
    place: Place | None,
    situation: Situation,
    decision: Decision,
    policy: Policy,
) -> None:
    """An order nobody has started follows what is known: another failure mode needs other parts, urgency moves."""
    at = situation.now_ms
    rediagnosed = order.failure_mode != episode.failure_mode
    no_parts_yet = not uow.parts.reservations(order.tenant, order.id) and decision.action == "order"
    if rediagnosed or (no_parts_yet and decision.plan.supplies):
        decision_id = _record(uow, episode, situation, decision, policy)
        parts.reserve(uow, order, _plan_to_act(situation, decision), at)
        order = replace(order, failure_mode=episode.failure_mode, decision_id=decision_id)
        order = replace(order, ready_at=parts.ready_at(uow, order, place, at))
    elif order.priority == decision.priority and abs(order.needed_by_at - decision.needed_by_ms) < _MATERIAL_MS:
        return
    changed = uow.orders.update(replace(order, priority=decision.priority, needed_by_at=decision.needed_by_ms))
    detail = {"failure_mode": order.failure_mode, "priority": decision.priority, "needed_by_at": decision.needed_by_ms}
    note_order(uow, changed, "rediagnosed" if rediagnosed else "updated", at, detail)


def _plan_to_act(situation: Situation, decision: Decision) -> SupplyPlan:
    """The cheapest way to act, also where waiting would cost less: the order is there already."""
    by_option = {f"act:{plan.name}": plan for plan in reversed(situation.plans)}
    acts = (by_option[cost.option] for cost in decision.expected_costs if cost.option in by_option)
    return decision.plan if decision.action == "order" else next(acts, NO_PARTS)


def _record(uow: UnitOfWork, episode: Episode, situation: Situation, decision: Decision, policy: Policy) -> str:
    record = DecisionRecord(
        id=new_id(),
        tenant=episode.tenant,
        episode_id=episode.id,
        decided_at=decision.decided_at_ms,
        action=decision.action,
        inputs={
            "situation": _plain(situation),
            "policy": _plain(policy),
            "diagnosis": _diagnosis(episode),
            "method": METHOD,
        },
        outcome=_plain(decision),
        model_hash=episode.advisory.model.hash,
        policy_hash=policy.hash,
    )
    uow.episodes.add_decision(record)
    return record.id


def _diagnosis(episode: Episode) -> dict[str, Any]:
    """The probabilities decided on, and how many findings have revised them."""
    return {"version": episode.diagnosis_version, "failure_modes": dict(episode.advisory.failure_modes)}


def _plain(value: object) -> dict[str, Any]:
    """As JSON would have it."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(value))
    return plain
