"""What was delivered by the broker, and what it turned out to be."""

from typing import Final

import msgspec

from forewarn_models import wire

NodeKey = tuple[str, str]
"""(tenant, node)."""
Sender = tuple[str, str]
"""The tenant and node that a topic names, enrolled or not."""
AssetKey = tuple[str, str]
"""(tenant, asset)."""
LaneKey = tuple[str, str, wire.Lane, str]
"""(tenant, node, lane, epoch)."""
NO_RECEIPT: Final = (0, 0)


class Delivery(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A message as the broker gave it to us. `receipt` is what the broker wants back (its PUBACK)."""

    topic: str
    payload: bytes
    retained: bool = False
    receipt: tuple[int, int] = NO_RECEIPT


class LaneMessage(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Records of one lane of one node."""

    delivery: Delivery
    node: NodeKey
    lane: LaneKey
    message: wire.Message

    assets: set[AssetKey]
    """Whom the records are about."""

    gaps: list[wire.Gap]
    """Of which they tell."""


class ControlMessage(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A node's presence, or its reply to a command."""

    delivery: Delivery
    node: NodeKey
    body: wire.Presence | wire.Reply


class Unreadable(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Neither of them, and why. `node` where the topic named one."""

    delivery: Delivery
    node: NodeKey | None
    reason: str


Incoming = LaneMessage | ControlMessage | Unreadable


def sender_of(topic: str) -> Sender:
    """Of a topic that names none: nobody."""
    levels = topic.split("/", 4)
    return (levels[2], levels[3]) if len(levels) == 5 else ("", "")


def read_delivery(delivery: Delivery, *, now_ms: int) -> Incoming | None:
    """What a delivery says; None for one to be ignored: a message kept by the broker is no news on a lane."""
    try:
        address = wire.parse_topic(delivery.topic)
    except wire.WireError as error:
        return Unreadable(delivery=delivery, node=None, reason=str(error))
    node = (address.tenant, address.node)
    try:
        return _read_body(delivery, address, node, now_ms)
    except wire.WireError as error:
        return Unreadable(delivery=delivery, node=node, reason=str(error))


def _read_body(delivery: Delivery, address: wire.Address, node: NodeKey, now_ms: int) -> Incoming | None:
    match address.channel:
        case "telemetry" | "advisory" as lane:
            if delivery.retained:
                return None
            message = wire.decode_message(lane, delivery.payload, now_ms=now_ms)
            return _lane_message(delivery, node, lane, message)
        case "presence":
            presence = wire.decode_control(delivery.payload, wire.Presence)
            return ControlMessage(delivery=delivery, node=node, body=presence)
        case "reply":
            reply = wire.decode_control(delivery.payload, wire.Reply)
            return ControlMessage(delivery=delivery, node=node, body=reply)
        case channel:
            raise wire.WireError(f"topic: {channel} goes down to the nodes, not up")


def _lane_message(delivery: Delivery, node: NodeKey, lane: wire.Lane, message: wire.Message) -> LaneMessage:
    assets, gaps = set[AssetKey](), list[wire.Gap]()
    for received in message.records:
        record = received.record
        if isinstance(record, wire.Gap):
            gaps.append(record)
        elif not isinstance(record, wire.Rejected):
            assets.add((node[0], record.asset))
    of_epoch = (*node, lane, message.epoch)
    return LaneMessage(delivery=delivery, node=node, lane=of_epoch, message=message, assets=assets, gaps=gaps)
