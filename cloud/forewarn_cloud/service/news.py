"""What people are told, and once: messages are queued in the transaction of what they tell.

`news` names the fact. One fact is told once to each recipient on each channel, however often it is stated.
"""

from typing import Any, Literal

from forewarn_cloud.entities import (
    HOLDING_STATES,
    Asset,
    Customer,
    Episode,
    Finding,
    Order,
    OutboxMessage,
    Place,
    Reservation,
)
from forewarn_cloud.ports import UnitOfWork
from forewarn_cloud.service.catalogue import asset_type_of
from forewarn_cloud.service.episodes import new_id
from forewarn_models.explain import explanation

Kind = Literal[
    "order_opened", "order_scheduled", "order_rescheduled", "order_completed", "order_withdrawn", "order_cancelled"
]


def tell_customer(
    uow: UnitOfWork, kind: Kind, order: Order, episode: Episode, *, at: int, finding: Finding | None = None
) -> None:
    """Queue the news about an order for the customer of its asset, on every channel they have.

    Nobody is told of a proposal: the desk has not taken it up yet.
    """
    asset = uow.assets.get(order.tenant, order.asset)
    place = uow.assets.place(order.tenant, order.asset)
    if asset is None or place is None or order.state == "PROPOSED":
        return
    payload = order_facts(uow, order, episode, asset, place, finding)
    for channel, recipient in _channels(place.customer):
        uow.records.add_message(
            OutboxMessage(
                id=new_id(),
                tenant=order.tenant,
                news=_news_key(kind, order),
                channel=channel,
                recipient=recipient,
                kind=kind,
                language=place.customer.language,
                payload=payload,
                order_id=order.id,
                created_at=at,
            )
        )


def order_facts(
    uow: UnitOfWork, order: Order, episode: Episode, asset: Asset, place: Place, finding: Finding | None
) -> dict[str, Any]:
    """Plain facts for the templates and for webhooks; words in the customer's language, instants as `*_ms`."""
    language = place.customer.language
    asset_type = asset_type_of(asset.asset_type)
    mode = asset_type.failure_mode(order.failure_mode)
    rul = episode.advisory.rul_hours
    return {
        "order": order.id,
        "number": order.number,
        "state": order.state,
        "asset": asset.asset,
        "asset_name": asset.name,
        "asset_type_title": asset_type.title.in_language(language),
        "site_name": place.site.name,
        "time_zone": place.site.time_zone,
        "customer": place.customer.customer,
        "customer_name": place.customer.name,
        "failure_mode": order.failure_mode,
        "failure_mode_title": mode.title.in_language(language) if mode is not None else None,
        "action": mode.action.in_language(language) if mode is not None else None,
        "explanation": explanation(episode.advisory, asset_type, language),
        "since_ms": episode.started_at,
        "health_index": episode.advisory.health_index,
        "rul_hours": None if rul is None else {"p10": rul.p10, "p50": rul.p50, "p90": rul.p90},
        "visit_by_ms": _visit_by(order),
        "needed_by_ms": order.needed_by_at,
        "ready_ms": order.ready_at,
        "scheduled_ms": order.scheduled_at,
        "assignee": order.assignee,
        "parts": [_part_facts(uow, part, language) for part in uow.parts.reservations(order.tenant, order.id)],
        "close_reason": order.close_reason,
        "finding": None if finding is None else _finding_facts(finding, asset.asset_type, language),
    }


def _visit_by(order: Order) -> int:
    """Until when we come: before the failure is likely, or as soon as parts and technician can be there."""
    return order.needed_by_at if order.ready_at is None else max(order.needed_by_at, order.ready_at)


def _part_facts(uow: UnitOfWork, reservation: Reservation, language: str) -> dict[str, Any]:
    part = uow.parts.get(reservation.tenant, reservation.part_no)
    return {
        "part_no": reservation.part_no,
        "name": (part.name_zh if language.startswith("zh") else part.name_en) if part is not None else "",
        "quantity": reservation.quantity,
        "state": reservation.state,
        "sourcing": reservation.sourcing,
        "expected_ms": reservation.expected_at if reservation.state in HOLDING_STATES else None,
    }


def _finding_facts(finding: Finding, asset_type: str, language: str) -> dict[str, Any]:
    mode = asset_type_of(asset_type).failure_mode(finding.failure_mode or "")
    return {
        "outcome": finding.outcome,
        "failure_mode": finding.failure_mode,
        "failure_mode_title": mode.title.in_language(language) if mode is not None else None,
    }


def _channels(customer: Customer) -> list[tuple[Literal["email", "webhook"], str]]:
    channels: list[tuple[Literal["email", "webhook"], str]] = []
    if customer.email:
        channels.append(("email", customer.email))
    if customer.webhook_url:
        channels.append(("webhook", customer.webhook_url))
    return channels


def _news_key(kind: Kind, order: Order) -> str:
    """What makes the news the same news: an order is opened once, but scheduled for a time each time it is moved."""
    match kind:
        case "order_scheduled" | "order_rescheduled":
            return f"order:{order.id}:scheduled:{order.scheduled_at}:{order.version}"
        case _:
            return f"order:{order.id}:{kind.removeprefix('order_')}"
