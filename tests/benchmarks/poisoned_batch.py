"""How long the others wait for a full batch in which there are messages that the database refuses.

The writer itself, on a real database, without a broker: from the batch to the acknowledgement of the last message of
the nodes that are not to blame.
"""

import logging
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from forewarn_cloud.adapters.ingest_sql import SqlLedger
from forewarn_cloud.adapters.sql.engine import make_engine
from forewarn_cloud.adapters.sql.migrating import migrate
from forewarn_cloud.ingest.handover import BATCH_MESSAGES, HandOver
from forewarn_cloud.ingest.messages import Delivery
from forewarn_cloud.ingest.writer import Writer
from forewarn_models import wire
from tests.cloud.clock import FixedClock
from tests.cloud.ingest.sending import NOW, TENANT, enrol, message, telemetry
from tests.conftest import find_program
from tests.faults.postgres import make_postgres
from tests.faults.refusing import BAD, refusing

POISON = (0, 1, 20)
"""Messages in the batch, each of another node."""


def measure(nodes: int, runs: int) -> dict[str, dict[str, float | str]]:
    """Seconds by database and number of poison messages, medians."""
    logging.basicConfig(filename=os.devnull)  # what is logged costs its time, too
    with tempfile.TemporaryDirectory() as folder, prepared(f"sqlite:///{folder}/cloud.db", nodes) as engine:
        found: dict[str, dict[str, float | str]] = {"sqlite": measured(engine, nodes, runs)}
    if find_program("postgres", *map(str, Path("/usr/lib/postgresql").glob("*/bin"))) is None:
        return found | {"postgresql": {"not_measured": "PostgreSQL is not installed"}}
    home = Path(tempfile.mkdtemp(prefix="forewarn-postgres-"))
    server = make_postgres(home)
    server.start()
    try:
        with prepared(server.url, nodes) as engine:
            return found | {"postgresql": measured(engine, nodes, runs)}
    finally:
        server.stop()
        shutil.rmtree(home)


@contextmanager
def prepared(url: str, nodes: int) -> Iterator[Engine]:
    engine = make_engine(url)
    migrate(engine)
    for n in range(nodes):
        enrol(engine, f"node-{n}", f"asset-{n}")
    with refusing(engine):
        yield engine
    engine.dispose()


def measured(engine: Engine, nodes: int, runs: int) -> dict[str, float | str]:
    one_batch(engine, nodes, 0, "warm-up")
    return {
        f"seconds_with_{poison}": round(
            statistics.median(one_batch(engine, nodes, poison, f"{poison}-{run}") for run in range(runs)), 3
        )
        for poison in POISON
    }


def one_batch(engine: Engine, nodes: int, poison: int, epoch: str) -> float:
    each = BATCH_MESSAGES // nodes
    to_blame = {n * nodes // poison for n in range(poison)}
    last = {f"node-{n}": each for n in range(nodes) if n not in to_blame}
    handover, stopping, broker = HandOver(), threading.Event(), Acknowledged(waiting=last)
    for seq in range(1, each + 1):
        for n in range(nodes):
            is_bad = n in to_blame and seq == each // 2 + 1
            record = telemetry(f"asset-{n}", t=BAD if is_bad else NOW + seq)
            handover.put(message(seq, record, node=f"node-{n}", epoch=epoch))
    handover.close()
    stopping.set()
    clock = FixedClock(at_ms=NOW)
    writer = Writer(
        handover=handover, ledger=SqlLedger(engine), broker=broker, clock=clock, tenant=TENANT, stopping=stopping
    )
    began = time.perf_counter()
    writer.run()
    assert writer.set_aside == poison
    return broker.all_at - began


@dataclass(kw_only=True)
class Acknowledged:
    """Where the broker is: notes when the last of those it waits for is acknowledged."""

    waiting: dict[str, int]
    all_at: float = 0.0

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        pass

    def publish(self, topic: str, payload: bytes, *, qos: int) -> bool:
        assert qos == 0
        node = wire.parse_topic(topic).node
        if self.waiting.get(node) == wire.decode_control(payload, wire.Ack).seq:
            del self.waiting[node]
            if not self.waiting:
                self.all_at = time.perf_counter()
        return True
