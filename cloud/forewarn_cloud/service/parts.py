"""Parts: planned, reserved, moved, received, released. A part is locked before its stock or reservations change."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import (
    HOLDING_STATES,
    AuditNote,
    Order,
    Place,
    Reservation,
    ReservationState,
    Sourcing,
)
from forewarn_cloud.errors import Invalid, NotFound
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.principal import Principal
from forewarn_cloud.service.decision import HOUR_MS
from forewarn_cloud.service.episodes import new_id
from forewarn_cloud.service.sourcing import Shelf, Supply, SupplyPlan
from forewarn_models.asset_type import PartNeed

MAX_QUANTITY: Final = 1_000_000
DEFAULT_DISPATCH_HOURS: Final = 8.0
DEFAULT_TIER: Final = 2
"""Where nobody has said at which site the asset stands."""
_HELD_AS: Final[dict[Sourcing, ReservationState]] = {
    "stock": "RESERVED",
    "transfer": "IN_TRANSFER",
    "purchase": "BACK_ORDERED",
    "expedite": "BACK_ORDERED",
}


def lock_shelves(uow: UnitOfWork, tenant: str, needs: Sequence[PartNeed]) -> dict[str, Shelf]:
    """What is known about the parts that are needed and in the catalogue; they are ours until the transaction ends."""
    found = uow.parts.lock(tenant, sorted({need.part_no for need in needs}))
    return {no: Shelf(part=part, levels=uow.parts.levels(tenant, no)) for no, part in found.items()}


def reserve(uow: UnitOfWork, order: Order, plan: SupplyPlan, at: int) -> None:
    """Hold the parts of the plan for the order. The parts are locked."""
    for supply in plan.supplies:
        uow.parts.add_reservation(_reservation(order, supply, at))
        if supply.from_depot is not None:
            uow.parts.change_stock(order.tenant, supply.part_no, supply.from_depot, reserved=supply.quantity)


def release(uow: UnitOfWork, order: Order, actor: str, at: int) -> None:
    """Give back all that the order still holds; what becomes free goes to the orders that wait for it."""
    for held in _lock_held(uow, order):
        uow.parts.update_reservation(replace(held, state="RELEASED"))
        if held.from_depot is not None:
            uow.parts.change_stock(order.tenant, held.part_no, held.from_depot, reserved=-held.quantity)
            fill_back_orders(uow, order.tenant, held.part_no, held.from_depot, actor, at)


def consume(uow: UnitOfWork, order: Order, actor: str, at: int) -> None:
    """Take the reserved parts off the shelf for good; give back what had not arrived."""
    for held in _lock_held(uow, order):
        if held.state == "RESERVED" and held.from_depot is not None:
            uow.parts.update_reservation(replace(held, state="CONSUMED"))
            uow.parts.change_stock(
                order.tenant, held.part_no, held.from_depot, on_hand=-held.quantity, reserved=-held.quantity
            )
    release(uow, order, actor, at)


def missing(uow: UnitOfWork, order: Order) -> list[Reservation]:
    """What the order still waits for."""
    return [part for part in _held(uow, order) if part.state != "RESERVED"]


def dispatch_hours(place: Place | None) -> float:
    """The usual time until a technician is there."""
    return place.site.dispatch_hours if place is not None else DEFAULT_DISPATCH_HOURS


def ready_at(uow: UnitOfWork, order: Order, place: Place | None, at: int) -> int:
    """When all parts and a technician can be there."""
    parts_there = max((part.expected_at for part in _held(uow, order)), default=at)
    return max(parts_there, at) + round(dispatch_hours(place) * HOUR_MS)


def finish_transfer(uow: UnitOfWork, tenant: str, order_id: str, part_no: str, actor: str, at: int) -> bool:
    """A part has come from another depot: the stock moves there and stays reserved; whether there was one due."""
    uow.parts.lock(tenant, [part_no])
    due = [
        part
        for part in uow.parts.reservations(tenant, order_id)
        if part.part_no == part_no and part.state == "IN_TRANSFER" and part.expected_at <= at
    ]
    for part in due:
        assert part.from_depot is not None, "what is in transfer comes from a depot"
        quantity = part.quantity
        uow.parts.change_stock(tenant, part_no, part.from_depot, on_hand=-quantity, reserved=-quantity)
        uow.parts.change_stock(tenant, part_no, part.to_depot, on_hand=quantity, reserved=quantity)
        _now_reserved(uow, part, actor, at, {"arrived_from": part.from_depot})
    return bool(due)


def receive_goods(uow: UnitOfWork, principal: Principal, clock: Clock, part_no: str, depot: str, quantity: int) -> None:
    """Goods came in: more is on hand, and the orders that wait for them get theirs, the most urgent first.

    Raises:
        NotFound: no such part.
        Invalid: no such depot, or a quantity outside 1 to 1,000,000.
    """
    tenant, at = principal.tenant, clock.now_ms()
    if not 0 < quantity <= MAX_QUANTITY:
        raise Invalid("quantity", f"give a whole number from 1 to {MAX_QUANTITY}")
    if not uow.parts.has_depot(tenant, depot):
        raise Invalid("depot", f"{depot!r} does not exist")
    if not uow.parts.lock(tenant, [part_no]):
        raise NotFound("part", part_no)
    uow.parts.change_stock(tenant, part_no, depot, on_hand=quantity)
    uow.records.add_audit(
        AuditNote(
            tenant=tenant,
            at=at,
            actor=principal.name,
            subject="part",
            subject_id=part_no,
            action="received",
            detail={"depot": depot, "quantity": quantity},
        )
    )
    fill_back_orders(uow, tenant, part_no, depot, principal.name, at)


def fill_back_orders(uow: UnitOfWork, tenant: str, part_no: str, depot: str, actor: str, at: int) -> None:
    """Give what is free in a depot to the back-orders there, the most urgent first. The part is locked.

    Urgency is the order's priority (its risk), then the customer's tier, then by when it is needed. Nobody overtakes:
    what the first cannot use yet is kept for it.
    """
    queue = _by_urgency(uow, uow.parts.waiting(tenant, part_no, depot))
    free = sum(level.available for level in uow.parts.levels(tenant, part_no) if level.depot == depot)
    for i, (order, part) in enumerate(queue):
        if part.quantity > free:
            return
        free -= part.quantity
        uow.parts.change_stock(tenant, part_no, depot, reserved=part.quantity)
        why = {"ahead_of": [other.number for other, _ in queue[i + 1 :]], "priority": order.priority}
        _now_reserved(uow, part, actor, at, why)


def _by_urgency(uow: UnitOfWork, waiting: Sequence[Reservation]) -> list[tuple[Order, Reservation]]:
    pairs = [(uow.orders.get(part.tenant, part.order_id), part) for part in waiting]
    found = [(order, part) for order, part in pairs if order is not None]
    return sorted(found, key=lambda pair: _urgency(uow, pair[0]))


def _urgency(uow: UnitOfWork, order: Order) -> tuple[int, int, int, str]:
    """Smaller is more urgent."""
    place = uow.assets.place(order.tenant, order.asset)
    tier = place.customer.tier if place is not None else DEFAULT_TIER
    return order.priority, tier, order.needed_by_at, order.number


def _now_reserved(uow: UnitOfWork, part: Reservation, actor: str, at: int, why: dict[str, Any]) -> None:
    """The part lies in the depot that serves the site; the order learns when it can be ready now."""
    uow.parts.update_reservation(replace(part, state="RESERVED", from_depot=part.to_depot, expected_at=at))
    order = uow.orders.get(part.tenant, part.order_id)
    assert order is not None, "a reservation belongs to an order"
    place = uow.assets.place(order.tenant, order.asset)
    uow.orders.update(replace(order, ready_at=ready_at(uow, order, place, at)))
    uow.records.add_audit(
        AuditNote(
            tenant=part.tenant,
            at=at,
            actor=actor,
            subject="order",
            subject_id=order.id,
            action="part_reserved",
            detail={"part_no": part.part_no, "quantity": part.quantity, "depot": part.to_depot, **why},
        )
    )


def _reservation(order: Order, supply: Supply, at: int) -> Reservation:
    return Reservation(
        id=new_id(),
        tenant=order.tenant,
        order_id=order.id,
        part_no=supply.part_no,
        quantity=supply.quantity,
        state=_HELD_AS[supply.sourcing],
        sourcing=supply.sourcing,
        from_depot=supply.from_depot,
        to_depot=supply.to_depot,
        cost=supply.parts_cost + supply.logistics_cost,
        created_at=at,
        expected_at=at + round(supply.lead_hours * HOUR_MS),
    )


def _held(uow: UnitOfWork, order: Order) -> list[Reservation]:
    return [part for part in uow.parts.reservations(order.tenant, order.id) if part.state in HOLDING_STATES]


def _lock_held(uow: UnitOfWork, order: Order) -> list[Reservation]:
    """What the order holds, read again after the parts are locked: someone may have changed it just before."""
    uow.parts.lock(order.tenant, sorted({part.part_no for part in _held(uow, order)}))
    return _held(uow, order)
