"""Commands to the nodes: sent until the node has replied.

A command goes out when it is new, when its node is born, and again and again: a node answers each but acts on it once.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Final, Protocol

from forewarn_cloud.clock import Clock
from forewarn_cloud.entities import NodeCommand
from forewarn_cloud.errors import Unavailable
from forewarn_models import wire

ONLINE_REPEAT_MS: Final = 30_000
OFFLINE_REPEAT_MS: Final = 900_000
"""Rarely: the broker keeps what is sent to a node that is away."""
POLL_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PendingCommand:
    command: NodeCommand
    online: bool
    presence_at: int | None
    """When the node was last born or gone; epoch milliseconds of the run."""


class Commands(Protocol):
    def pending(self) -> Sequence[PendingCommand]:
        """Those without a reply, the oldest first.

        Raises:
            Unavailable: the database cannot serve.
        """
        ...


@dataclass(frozen=True)
class _Sent:
    at_wall_ms: int
    presence_at: int | None


@dataclass(kw_only=True)
class Downlink:
    """`publish(topic, payload)` gives a message to the broker; whether that could be done now."""

    commands: Commands
    publish: Callable[[str, bytes], bool]
    clock: Clock
    _sent: dict[str, _Sent] = field(default_factory=dict)

    def run(self, stopping: Event) -> None:
        while not stopping.wait(POLL_SECONDS):
            try:
                self.send_due()
            except Unavailable as error:
                _log.warning("commands wait for the database: %s", error)

    def send_due(self) -> int:
        """Send what is due now; how many were sent."""
        pending = self.commands.pending()
        ids = {waiting.command.id for waiting in pending}
        self._sent = {command_id: sent for command_id, sent in self._sent.items() if command_id in ids}
        return sum(self._send(waiting) for waiting in pending if self._is_due(waiting))

    def _is_due(self, waiting: PendingCommand) -> bool:
        sent = self._sent.get(waiting.command.id)
        if sent is None or (waiting.online and waiting.presence_at != sent.presence_at):
            return True
        repeat = ONLINE_REPEAT_MS if waiting.online else OFFLINE_REPEAT_MS
        return not 0 <= self.clock.wall_ms() - sent.at_wall_ms < repeat

    def _send(self, waiting: PendingCommand) -> bool:
        command = waiting.command
        payload = wire.encode_control(body_of(command))
        if not self.publish(wire.topic(command.tenant, command.node, "command"), payload):
            return False
        self._sent[command.id] = _Sent(self.clock.wall_ms(), waiting.presence_at)
        return True


def body_of(command: NodeCommand) -> wire.Command:
    """As it goes over the wire."""
    if command.command == "reset_baseline":
        return wire.ResetBaseline(schema=wire.SCHEMA, id=command.id, asset=command.asset, at=command.at)
    lane, epoch, first, last = command.lane, command.epoch, command.first_seq, command.last_seq
    assert lane is not None
    assert epoch is not None
    assert first is not None
    assert last is not None
    return wire.Resend(schema=wire.SCHEMA, id=command.id, lane=lane, epoch=epoch, first_seq=first, last_seq=last)
