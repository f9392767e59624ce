"""Ingest as a whole: a connection, a hand-over, a writer."""

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from forewarn_cloud.beside import SharedInstant
from forewarn_cloud.clock import Clock
from forewarn_cloud.ingest.connection import BrokerConnection, BrokerUrl
from forewarn_cloud.ingest.figures import IngestFigures
from forewarn_cloud.ingest.handover import HandOver
from forewarn_cloud.ingest.ledger import Ledger
from forewarn_cloud.ingest.messages import Delivery, sender_of
from forewarn_cloud.ingest.quota import Limits, Quota
from forewarn_cloud.ingest.writer import Writer

STOP_SECONDS: Final = 4.0
WATCH_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class Ingest:
    """Run `write` and `watch` in threads of their own; `start` and `stop` belong to another."""

    def __init__(
        self,
        *,
        broker: BrokerUrl,
        client_id: str,
        ledger: Ledger,
        clock: Clock,
        tenant: str,
        ca_file: Path | None = None,
        limits: Limits | None = None,
        crowded: SharedInstant | None = None,
    ) -> None:
        self._broker, self._client_id, self._ca_file = broker, client_id, ca_file
        self._quota = Quota(limits=limits or Limits())
        self._replacements = 0
        self._stopping = threading.Event()
        self._written = threading.Event()
        self._handover = HandOver()
        self._connection = self._make_connection()
        self._writer = Writer(
            handover=self._handover,
            ledger=ledger,
            broker=self,
            quota=self._quota,
            crowded=crowded or SharedInstant(),
            clock=clock,
            tenant=tenant,
            stopping=self._stopping,
        )

    def start(self) -> None:
        """Connect, now or as soon as the broker is there."""
        self._connection.start()

    def write(self) -> None:
        """Commit and acknowledge until `stop`."""
        try:
            self._writer.run()
        finally:
            self._written.set()

    def watch(self, stopping: threading.Event) -> None:
        """Replace the connection when its thread has died or is stuck. What it had not acknowledged comes again."""
        while not stopping.wait(WATCH_SECONDS):
            if not self._connection.alive and not self._stopping.is_set():
                _log.critical("the thread of the connection to the broker has died or is stuck; it is replaced")
                self._replacements += 1
                self._connection.abandon()
                self._connection = self._make_connection()
                self._connection.start()

    def stop(self) -> None:
        """Take nothing more, commit and acknowledge what was taken, disconnect."""
        self._stopping.set()
        self._handover.close()
        self._written.wait(STOP_SECONDS)
        self._connection.stop()

    def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> bool:
        """Send; whether a connection took it."""
        return self._connection.publish(topic, payload, qos=qos)

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Give the broker its receipts."""
        self._connection.acknowledge(deliveries)

    def _make_connection(self) -> BrokerConnection:
        return BrokerConnection(
            self._broker,
            client_id=self._client_id,
            on_delivery=self._take,
            on_failure=lambda delivery, error: self._writer.failed.append((delivery, error)),
            room=lambda: not self._handover.full,
            ca_file=self._ca_file,
        )

    def _take(self, delivery: Delivery) -> None:
        """Into the hand-over, unless its node floods: then it is let go. The node is told nothing and keeps it."""
        sender = sender_of(delivery.topic)
        if self._quota.is_flooding(sender):
            self._quota.let_go[sender[1]] += 1
            self._connection.acknowledge([delivery])
        else:
            self._handover.put(delivery)

    @property
    def figures(self) -> IngestFigures:
        return replace(self._writer.figures, replacements=self._replacements)

    @property
    def connected(self) -> bool:
        return self._connection.ready

    @property
    def serving(self) -> bool:
        """Whether the database took the last batch."""
        return self._writer.serving
