"""What the technician and the warehouse of the demo do next. Pure: what they see in, what they do out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from forewarn_device_simulator.demo.desk import Asset, Health, Order, Reservation
from forewarn_device_simulator.live.truth import Repaired, Truth, WouldFail
from forewarn_models.asset_type import builtin_asset_type

TECHNICIAN: Final = "Ana Ruiz"
REACTION: Final = timedelta(hours=2)
"""How long it takes the service desk to look at a new order."""
PARTS_DECIDED: Final = timedelta(hours=24)
"""An order to inspect waits so long for a decision on parts."""
LONGEST_TEST: Final = timedelta(hours=24)
LOOK_HOURS: Final = 1.0
"""How long it takes to find that nothing is wrong."""
EARLY_NOTICE_MS: Final = 72 * 3_600_000
"""A trained eye sees a fault this much before it stands out from the noise of the sensors."""


@dataclass(frozen=True, kw_only=True)
class OrderStep:
    """An action of the service desk or the technician on an order."""

    order: Order
    action: str
    body: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RepairStep:
    """Work on the machine itself; sent again until it is known to be done."""

    order: Order
    failure_mode: str | None
    hours: float
    at_ms: int


@dataclass(frozen=True, kw_only=True)
class ReceiptStep:
    """Goods that were ordered have come in."""

    reservation: Reservation


Step = OrderStep | RepairStep | ReceiptStep


def next_steps(
    orders: Iterable[Order], assets: Iterable[Asset], truths: Sequence[Truth], now_ms: int
) -> Iterator[Step]:
    """Everything there is to do now: what has come in is received, and each order goes one step on."""
    health = {asset.asset: asset.health for asset in assets}
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    for order in orders:
        for reservation in order.reservations:
            if reservation.state == "BACK_ORDERED" and reservation.expected_at <= now:
                yield ReceiptStep(reservation=reservation)
        step = _technician(order, health.get(order.asset), truths, now)
        if step is not None:
            yield step


def fault_in(asset: str, truths: Iterable[Truth], at_ms: int) -> WouldFail | None:
    """The fault a technician finds in a machine at an instant: the one that leads to the next failure, if any."""
    repairs = [truth for truth in truths if isinstance(truth, Repaired) and truth.asset == asset]
    found = [
        truth
        for truth in truths
        if isinstance(truth, WouldFail)
        and truth.asset == asset
        and truth.started_at - EARLY_NOTICE_MS <= at_ms
        and not _averted(truth, repairs, at_ms)
    ]
    return min(found, key=lambda truth: truth.would_fail_at, default=None)


def _averted(failure: WouldFail, repairs: Iterable[Repaired], at_ms: int) -> bool:
    """Whether a repair before `at_ms` renewed the component that was going to fail."""
    return any(
        repair.at <= at_ms
        and repair.failure_mode in (None, failure.failure_mode)
        and (failure.twin or failure.started_at <= repair.at)
        for repair in repairs
    )


def _technician(order: Order, health: Health | None, truths: Sequence[Truth], now: datetime) -> Step | None:
    match order.state:
        case "PROPOSED" | "OPEN" if now >= order.opened_at + REACTION:
            return OrderStep(order=order, action="acknowledge", body={})
        case "ACKNOWLEDGED":
            earliest = now + REACTION if order.reservations else order.opened_at + PARTS_DECIDED
            visit_at = max(order.ready_at or now, earliest, now)
            return OrderStep(order=order, action="schedule", body={"at": _iso(visit_at), "assignee": TECHNICIAN})
        case "SCHEDULED" if order.scheduled_at is not None and now >= order.scheduled_at and _all_there(order):
            return OrderStep(order=order, action="start", body={})
        case "IN_PROGRESS" if order.started_at is not None:
            return _at_the_machine(order, health, truths, order.started_at, now)
    return None


def _at_the_machine(
    order: Order, health: Health | None, truths: Sequence[Truth], started_at: datetime, now: datetime
) -> Step | None:
    """Repair what is really wrong, test it under load, and complete with what was found."""
    done = next((truth for truth in truths if isinstance(truth, Repaired) and truth.id == order.id), None)
    started_ms = round(started_at.timestamp() * 1000)
    if done is not None:
        found = OrderStep(
            order=order, action="complete", body=_finding(order, fault_in(order.asset, truths, done.at - 1))
        )
        return found if _tested(done, health, now) else None
    fault = fault_in(order.asset, truths, started_ms)
    if fault is None:
        looked = now >= started_at + timedelta(hours=LOOK_HOURS)
        return OrderStep(order=order, action="complete", body=_finding(order, None)) if looked else None
    mode = builtin_asset_type(order.asset_type).failure_mode(fault.failure_mode)
    hours = mode.repair_hours if mode is not None else LOOK_HOURS
    return RepairStep(order=order, failure_mode=fault.failure_mode, hours=hours, at_ms=started_ms)


def _tested(done: Repaired, health: Health | None, now: datetime) -> bool:
    """Whether the repaired machine has shown that it is well again, or has run for long enough to judge by hand."""
    back_at = datetime.fromtimestamp(done.back_at / 1000, UTC)
    well = health is not None and health.condition == "NORMAL" and health.observed_at > back_at
    return well or now >= back_at + LONGEST_TEST


def _finding(order: Order, fault: WouldFail | None) -> dict[str, Any]:
    if fault is None:
        return {"outcome": "NO_FAULT_FOUND", "note": "Inspected; nothing is wrong."}
    confirmed = fault.failure_mode == order.failure_mode or order.failure_mode == "unspecified"
    outcome = "CONFIRMED" if confirmed else "OTHER_FAULT"
    return {"outcome": outcome, "failure_mode": fault.failure_mode, "note": "Repaired and tested under load."}


def _all_there(order: Order) -> bool:
    return all(part.state in ("RESERVED", "RELEASED", "CONSUMED") for part in order.reservations)


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
