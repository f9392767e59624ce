"""Ingest as a whole: a connection, a hand-over, a writer."""

import threading
from pathlib import Path
from typing import Final

from forewarn_cloud.clock import Clock
from forewarn_cloud.ingest.connection import BrokerConnection, BrokerUrl
from forewarn_cloud.ingest.handover import HandOver
from forewarn_cloud.ingest.ledger import Ledger
from forewarn_cloud.ingest.writer import Writer

STOP_SECONDS: Final = 4.0


class Ingest:
    """Run `write` in a thread of its own; `start` and `stop` belong to another."""

    def __init__(
        self,
        *,
        broker: BrokerUrl,
        client_id: str,
        ledger: Ledger,
        clock: Clock,
        tenant: str,
        ca_file: Path | None = None,
    ) -> None:
        self._stopping = threading.Event()
        self._written = threading.Event()
        self._handover = HandOver()
        self._connection = BrokerConnection(
            broker,
            client_id=client_id,
            on_delivery=self._handover.put,
            room=lambda: not self._handover.full,
            ca_file=ca_file,
        )
        self._writer = Writer(
            handover=self._handover,
            ledger=ledger,
            broker=self._connection,
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

    def stop(self) -> None:
        """Take nothing more, commit and acknowledge what was taken, disconnect."""
        self._stopping.set()
        self._handover.close()
        self._written.wait(STOP_SECONDS)
        self._connection.stop()

    def publish(self, topic: str, payload: bytes) -> bool:
        """Send with QoS 1; whether a connection took it."""
        return self._connection.publish(topic, payload, qos=1)

    @property
    def connected(self) -> bool:
        return self._connection.ready

    @property
    def serving(self) -> bool:
        """Whether the database took the last batch."""
        return self._writer.serving
