"""The outbox relay: delivers what was promised in a transaction, at least once, always under the same id.

A crash between delivery and `mark_sent` delivers again; the receiver knows it by the id. A worker that was suspended
past its lease can no longer mark anything. Backoff and leases run in wall time: they protect the network, whatever the
run's clock does.
"""

import asyncio
import logging
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from forewarn_cloud.clock import Clock
from forewarn_cloud.errors import Unavailable
from forewarn_cloud.notifications.delivery import Delivery, DeliveryError, Outbox, Sender, Undeliverable

BACKOFF_SECONDS: Final = (5.0, 30.0, 300.0, 1_800.0, 7_200.0, 21_600.0, 54_000.0)
"""Pauses after the first, second, ... failure: 8 tries in just under a day."""
LEASE_MS: Final = 60_000
SEND_SECONDS: Final = 30.0
"""Well within the lease, so that only a suspended worker outlives it."""
AT_ONCE: Final = 16
POLL_SECONDS: Final = 0.25
STOP_SECONDS: Final = 2.0
_JITTER: Final = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Relay:
    """One of any number of relays over the same outbox. `senders`: channel -> who carries it."""

    outbox: Outbox
    senders: Mapping[str, Sender]
    clock: Clock
    backoff_seconds: tuple[float, ...] = BACKOFF_SECONDS
    lease_ms: int = LEASE_MS
    send_seconds: float = SEND_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Deliver until `stop` is set; what is then under way has two more seconds. For a thread of its own."""
        while not stop.is_set():
            try:
                delivered = self.deliver_due(stop)
            except Unavailable as error:
                _log.warning("relay waits for the database: %s", error)
                delivered = 0
            if not delivered:
                stop.wait(POLL_SECONDS)

    def deliver_due(self, stop: threading.Event | None = None) -> int:
        """Try what is due now, at most one per recipient; how many were tried."""
        now = self.clock.wall_ms()
        if not self.outbox.is_due(now):
            return 0
        deliveries = self.outbox.lease(now, until_wall_ms=now + self.lease_ms, limit=AT_ONCE)
        if deliveries:
            asyncio.run(self._deliver_all(deliveries, stop or threading.Event()))
        return len(deliveries)

    async def _deliver_all(self, deliveries: list[Delivery], stop: threading.Event) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._deliver(delivery)) for delivery in deliveries]
            await _cut_off_after(stop, tasks)

    async def _deliver(self, delivery: Delivery) -> None:
        failure = await self._attempt(delivery)
        if failure is None:
            kept = await asyncio.to_thread(self.outbox.mark_sent, delivery, at=self.clock.now_ms())
        else:
            retry = self._retry_wall_ms(delivery, failure)
            error = _readable(failure)
            _log.warning("message %s, attempt %d: %s", delivery.id, delivery.attempt, error)
            kept = await asyncio.to_thread(self.outbox.mark_failed, delivery, error=error, retry_wall_ms=retry)
        if not kept:
            _log.warning("message %s: the lease was lost; whoever has it now decides", delivery.id)

    async def _attempt(self, delivery: Delivery) -> DeliveryError | None:
        sender = self.senders.get(delivery.channel)
        if sender is None:
            return Undeliverable(f"channel {delivery.channel!r} is not configured")
        try:
            async with asyncio.timeout(self.send_seconds):
                await sender.send(delivery)
        except DeliveryError as error:
            return error
        except asyncio.CancelledError:
            return DeliveryError("the relay was stopped before there was an answer")
        except TimeoutError:
            return DeliveryError(f"no answer within {self.send_seconds:g} s")
        except Exception as error:  # noqa: BLE001 - a defect in one channel must not hold up the others
            _log.exception("message %s: a defect in the channel %s", delivery.id, delivery.channel)
            return DeliveryError(f"an error on our side: {type(error).__name__}")
        return None

    def _retry_wall_ms(self, delivery: Delivery, failure: DeliveryError) -> int | None:
        if isinstance(failure, Undeliverable) or delivery.attempt > len(self.backoff_seconds):
            return None
        pause = self.backoff_seconds[delivery.attempt - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)
        return self.clock.wall_ms() + round(pause * 1000)


async def _cut_off_after(stop: threading.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the deliveries; cancel those that still wait for an answer `STOP_SECONDS` after `stop` was set."""
    under_way: set[asyncio.Task[None]] = set(tasks)
    while under_way and not stop.is_set():
        _, under_way = await asyncio.wait(under_way, timeout=POLL_SECONDS)
    if under_way:
        _, under_way = await asyncio.wait(under_way, timeout=STOP_SECONDS)
    for task in under_way:
        task.cancel()


def _readable(failure: DeliveryError) -> str:
    """What went wrong as one line: some of it was written by the other side."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(failure)).split())
