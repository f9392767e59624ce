"""What a technician can tell a simulated machine over MQTT: `machines-control/{asset}`."""

from typing import Final

import msgspec

from forewarn_device_simulator.live.state import OrderedRepair

CONTROL_TOPIC: Final = "machines-control"
MAX_REPAIR_HOURS: Final = 8760.0


class ControlError(ValueError):
    """The command cannot be carried out; the message names the field."""


class RepairCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Out of service from `at` (epoch ms, or when the command arrives if that is later) for `hours`, then as new.

    Without `failure_mode` every component is renewed.
    """

    at: int
    hours: float = 0.0
    failure_mode: str | None = None


class ControlMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A command; one that comes twice with the same `id` is carried out once."""

    id: str
    repair: RepairCommand


def read_command(asset: str, payload: bytes, known_modes: dict[str, set[str]], earliest_ms: int) -> OrderedRepair:
    """The repair a message orders for `asset`, moved to `earliest_ms` if it was to begin before.

    Raises:
        ControlError: the message or what it asks for makes no sense.
    """
    try:
        message = msgspec.json.decode(payload, type=ControlMessage)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ControlError(str(error)) from None
    wanted = message.repair
    if asset not in known_modes:
        raise ControlError(f"asset: {asset!r} is not in the fleet")
    if wanted.failure_mode is not None and wanted.failure_mode not in known_modes[asset]:
        raise ControlError(f"repair.failure_mode: {wanted.failure_mode!r} does not occur in {asset}")
    if not 0 <= wanted.hours <= MAX_REPAIR_HOURS:
        raise ControlError(f"repair.hours: {wanted.hours:g} is not within 0..{MAX_REPAIR_HOURS:g}")
    return OrderedRepair(
        id=message.id,
        asset=asset,
        at_ms=max(wanted.at, earliest_ms),
        hours=wanted.hours,
        failure_mode=wanted.failure_mode,
    )
