"""An ingest as a process of its own that kills itself at a chosen point. `python -m tests.faults.ingest_driver`

Arguments: the database's URL, the broker's port, and the point: before_commit, before_puback, before_ack or never.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from forewarn_cloud.adapters.ingest_sql import SqlLedger
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.clock import SystemClock
from forewarn_cloud.ingest.connection import BrokerUrl
from forewarn_cloud.ingest.ledger import LedgerTransaction
from forewarn_cloud.ingest.messages import Delivery
from forewarn_cloud.ingest.pipeline import Ingest
from tests.cloud.ingest.sending import TENANT

T = TypeVar("T")
READY = "ready"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Mortal(SqlLedger):
    """Dies when records have been written and before that is committed."""

    dies: bool = False

    def run(self, work: Callable[[LedgerTransaction], T]) -> T:
        def to_the_end(ledger: LedgerTransaction) -> T:
            result = work(ledger)
            if self.dies and getattr(result, "changes", None) is not None and result.changes.telemetry:  # type: ignore[attr-defined]
                die()
            return result

        return super().run(to_the_end)


class MortalIngest(Ingest):
    point = "never"

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        if self.point == "before_puback" and any("telemetry" in delivery.topic for delivery in deliveries):
            die()
        super().acknowledge(deliveries)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> bool:
        if self.point == "before_ack":
            # What the broker answers to is behind our receipts: it has taken them.
            self._connection._client.publish("driver", b"", 1).wait_for_publish(20)
            die()
        return super().publish(topic, payload, qos=qos)


def main() -> None:
    url, port, point = sys.argv[1:]
    ledger = Mortal(make_engine(url), dies=point == "before_commit")
    broker = BrokerUrl(host="127.0.0.1", port=int(port))
    ingest = MortalIngest(broker=broker, client_id="ingest", ledger=ledger, clock=SystemClock(), tenant=TENANT)
    ingest.point = point
    writing = threading.Thread(target=ingest.write)
    writing.start()
    ingest.start()
    while not ingest.connected:
        time.sleep(0.02)
    print(READY, flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    ingest.stop()
    writing.join()


if __name__ == "__main__":
    main()
