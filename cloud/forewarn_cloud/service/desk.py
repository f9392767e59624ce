"""What people do with an order: acknowledge, schedule, start, complete, cancel.

Each is one transaction, and each may raise: NotFound (no such order in this tenant), VersionConflict (the caller saw
another version), Conflict (the order's state does not allow it), Invalid (a field is wrong).
"""

from dataclasses import replace
from typing import Any, Final

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import UNSPECIFIED, Asset, Episode, Finding, NodeCommand, Order, OrderState
from forewarn_cloud.errors import Conflict, Invalid, NotFound, VersionConflict
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service import parts
from forewarn_cloud.service.catalogue import asset_type_of
from forewarn_cloud.service.decision import HOUR_MS
from forewarn_cloud.service.diagnosis import learn_from
from forewarn_cloud.service.episodes import close, new_id
from forewarn_cloud.service.news import Kind, tell_customer
from forewarn_cloud.service.ordering import note_order

MAX_NAME: Final = 200
MAX_REASON: Final = 500
MAX_NOTE: Final = 10_000
_LATEST_VISIT_MS: Final = 366 * 24 * HOUR_MS
_CANCELLABLE: Final[tuple[OrderState, ...]] = ("PROPOSED", "OPEN", "ACKNOWLEDGED", "SCHEDULED")


def acknowledge(
    uow: UnitOfWork, principal: Principal, clock: Clock, order_id: str, expected_version: int | None
) -> Order:
    """Someone looks after it. A proposal becomes an order, and the customer is told."""
    order = _order(uow, principal, order_id, expected_version)
    _require_state(order, "acknowledge", "PROPOSED", "OPEN")
    at = clock.now_ms()
    changed = uow.orders.update(replace(order, state="ACKNOWLEDGED", acknowledged_at=at))
    _tell(uow, "order_opened", changed, at)  # once only: told already unless this was a proposal
    return _noted(uow, principal, changed, "acknowledged", at)


def schedule(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    order_id: str,
    expected_version: int | None,
    *,
    visit_at: int,
    assignee: str,
) -> Order:
    """Agree on a visit at `visit_at` by `assignee`, or move it; the customer is told."""
    order = _order(uow, principal, order_id, expected_version)
    _require_state(order, "schedule", "ACKNOWLEDGED", "SCHEDULED")
    at = clock.now_ms()
    if not at <= visit_at <= at + _LATEST_VISIT_MS:
        raise Invalid("at", "give an instant from now to a year ahead")
    assignee = _one_line("assignee", assignee, MAX_NAME)
    if (order.scheduled_at, order.assignee) == (visit_at, assignee):
        return order
    moved = order.scheduled_at is not None
    changed = uow.orders.update(replace(order, state="SCHEDULED", scheduled_at=visit_at, assignee=assignee))
    _tell(uow, "order_rescheduled" if moved else "order_scheduled", changed, at)
    return _noted(uow, principal, changed, "scheduled", at, {"visit_at": visit_at, "assignee": assignee})


def start(uow: UnitOfWork, principal: Principal, clock: Clock, order_id: str, expected_version: int | None) -> Order:
    """Work begins. All parts have to be there."""
    order = _order(uow, principal, order_id, expected_version)
    _require_state(order, "start", "ACKNOWLEDGED", "SCHEDULED")
    missing = parts.missing(uow, order)
    if missing:
        names = ", ".join(f"{part.quantity} x {part.part_no}" for part in missing)
        raise Conflict(f"order {order.number} still waits for {names}: start when they have arrived")
    at = clock.now_ms()
    changed = uow.orders.update(replace(order, state="IN_PROGRESS", started_at=at))
    return _noted(uow, principal, changed, "started", at)


def complete(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    order_id: str,
    expected_version: int | None,
    *,
    finding: Finding,
) -> Order:
    """Work is done, and this was found.

    A confirmed fault has used up the parts; otherwise they go back to the shelf. The episode is closed, its diagnosis
    learns from what was found, and the node is told to learn anew what is normal for the machine.
    """
    order = _order(uow, principal, order_id, expected_version)
    _require_state(order, "complete", "IN_PROGRESS")
    asset = _asset(uow, order)
    finding = _checked(finding, order, asset)
    at = clock.now_ms()
    if finding.outcome == "CONFIRMED":
        parts.consume(uow, order, principal.name, at)
    else:
        parts.release(uow, order, principal.name, at)
    changed = uow.orders.update(replace(order, state="COMPLETED", closed_at=at, close_reason=finding.outcome))
    uow.orders.add_finding(changed, finding, reported_by=principal.name, reported_at=at)
    episode = _episode(uow, order)
    uow.episodes.save(close(episode, "repaired", at))
    learn_from(uow, order, episode, asset, finding, at)
    uow.records.add_command(_reset_baseline(order, asset, at))
    _tell(uow, "order_completed", changed, at, finding)
    detail = {"outcome": finding.outcome, "failure_mode": finding.failure_mode, "note": finding.note}
    return _noted(uow, principal, changed, "completed", at, detail)


def cancel(
    uow: UnitOfWork,
    principal: Principal,
    clock: Clock,
    order_id: str,
    expected_version: int | None,
    *,
    reason: str,
) -> Order:
    """The desk decides against it: parts are free again, and this episode opens no other order for the failure mode."""
    order = _order(uow, principal, order_id, expected_version)
    _require_state(order, "cancel", *_CANCELLABLE)
    reason = _one_line("reason", reason, MAX_REASON)
    at = clock.now_ms()
    parts.release(uow, order, principal.name, at)
    changed = uow.orders.update(replace(order, state="CANCELLED", closed_at=at, close_reason=reason))
    if order.state != "PROPOSED":
        _tell(uow, "order_cancelled", changed, at)
    return _noted(uow, principal, changed, "cancelled", at, {"reason": reason})


def _order(uow: UnitOfWork, principal: Principal, order_id: str, expected_version: int | None) -> Order:
    """The order as the caller saw it; its asset is locked, so no worker changes it meanwhile."""
    found = uow.orders.get(principal.tenant, order_id)
    if found is None:
        raise NotFound("order", order_id)
    uow.assets.lock(principal.tenant, found.asset)
    order = uow.orders.get(principal.tenant, order_id)
    assert order is not None, "orders are never deleted"
    if expected_version is not None and order.version != expected_version:
        raise VersionConflict("order", order.number, expected=expected_version, found=order.version)
    return order


def _require_state(order: Order, action: str, *allowed: OrderState) -> None:
    if order.state not in allowed:
        raise Conflict(f"cannot {action} order {order.number}: it is {order.state}, not {' or '.join(allowed)}")


def _asset(uow: UnitOfWork, order: Order) -> Asset:
    asset = uow.assets.get(order.tenant, order.asset)
    assert asset is not None, "an order belongs to an asset"
    return asset


def _episode(uow: UnitOfWork, order: Order) -> Episode:
    episode = uow.episodes.get(order.tenant, order.episode_id)
    assert episode is not None, "an order belongs to an episode"
    return episode


def _checked(finding: Finding, order: Order, asset: Asset) -> Finding:
    """The finding with the failure mode it is about: a confirmed one is the order's own, "no fault" has none."""
    known = asset_type_of(asset.asset_type).failure_mode
    mode = finding.failure_mode
    if mode is not None and mode != UNSPECIFIED and known(mode) is None:
        raise Invalid("failure_mode", f"{mode!r} is no failure mode of {asset.asset_type}")
    if finding.outcome == "NO_FAULT_FOUND" and mode is not None:
        raise Invalid("failure_mode", "leave it out when no fault was found")
    if finding.outcome == "OTHER_FAULT" and mode == order.failure_mode:
        raise Invalid("outcome", "the failure mode is the one the order is about: that is CONFIRMED")
    if finding.outcome == "CONFIRMED" and mode not in (None, order.failure_mode) and order.failure_mode != UNSPECIFIED:
        raise Invalid("outcome", f"the order is about {order.failure_mode}: another failure mode is OTHER_FAULT")
    if len(finding.note) > MAX_NOTE or "\0" in finding.note:
        raise Invalid("note", f"at most {MAX_NOTE} characters, and no NUL")
    return replace(finding, failure_mode=mode or order.failure_mode) if finding.outcome == "CONFIRMED" else finding


def _one_line(field: str, text: str, longest: int) -> str:
    text = text.strip()
    if not 0 < len(text) <= longest or not text.isprintable():
        raise Invalid(field, f"give one line of 1 to {longest} characters")
    return text


def _reset_baseline(order: Order, asset: Asset, at: int) -> NodeCommand:
    return NodeCommand(
        id=new_id(),
        tenant=order.tenant,
        node=asset.node,
        asset=asset.asset,
        command="reset_baseline",
        at=at,
        created_at=at,
    )


def _tell(uow: UnitOfWork, kind: Kind, order: Order, at: int, finding: Finding | None = None) -> None:
    tell_customer(uow, kind, order, _episode(uow, order), at=at, finding=finding)


def _noted(
    uow: UnitOfWork, principal: Principal, order: Order, action: str, at: int, detail: dict[str, Any] | None = None
) -> Order:
    note_order(uow, order, action, at, detail or {}, actor=principal.name)
    return order
